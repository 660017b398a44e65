"""The sweep: success rates, failure percentages, the way back in, what is forgiven."""

import numpy as np
import pytest
from health_rows import NS_PER_S, OUTLIERS, Watched

from meshsim.state.codes import NEVER_NS, RESET_CONNECT_FAILURE

HALF = {**OUTLIERS, "max_ejection_percent": 50}


def rates(cluster, percents, volume=100):
    """Let each host have `volume` requests of which so many percent succeed."""
    for host, percent in enumerate(percents):
        failed = volume - round(volume * percent / 100)
        for number in range(volume):
            # Failures apart, so that no run of them ejects.
            cluster.result(host, 500 if number % 2 == 0 and number // 2 < failed else 200)


def test_an_ejection_ends_at_the_first_sweep_after_it():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, at_s=3, times=5)
    assert cluster.at(39.999) == [0, 2, 3]  # 33 s would do, but the sweeps are at 30 and 40
    assert cluster.at(40) == [0, 1, 2, 3]


def test_an_ejection_on_the_grid_ends_on_it():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, at_s=10, times=5)
    assert cluster.at(39.9) == [0, 2, 3]
    assert cluster.at(40) == [0, 1, 2, 3]


def test_ejections_in_a_row_last_longer_and_are_forgiven_one_a_sweep():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, at_s=0, times=5)
    assert cluster.at(30) == [0, 1, 2, 3]
    cluster.result(1, 500, at_s=31, times=5)  # before the sweep at 40 could forgive the first
    assert cluster.at(90) == [0, 2, 3]  # 31 + 60 = 91
    assert cluster.at(100) == [0, 1, 2, 3]
    assert cluster.healths["back_off"][1] == 2
    cluster.at(110)
    assert cluster.healths["back_off"][1] == 1
    cluster.at(120)
    assert cluster.healths["back_off"][1] == 0
    assert cluster.groups["due_ns"][0] == NEVER_NS


def test_back_off_stops_growing_at_the_maximum():
    cluster = Watched(4, **{**HALF, "max_ejection_time_ns": 60 * NS_PER_S})
    time_s = 0.0
    for _ in range(6):
        cluster.result(1, 500, at_s=time_s, times=5)
        time_s = cluster.groups["due_ns"][0] / NS_PER_S
        while 1 not in cluster.at(time_s):
            time_s += 10
    # Envoy: it grows while back_off * base < maximum + base, so to 3.
    assert cluster.healths["back_off"][1] == 3


def test_coming_back_forgets_the_runs():
    cluster = Watched(4, **HALF)
    cluster.result(1, 500, times=5 + 4)  # those after the ejection were under way
    cluster.at(30)
    cluster.result(1, 500, at_s=31, times=4)
    assert cluster.ejected == []
    cluster.result(1, 500, at_s=31)
    assert cluster.ejected == [1]


def test_success_rate_threshold_of_a_known_set():
    # 94.4 - 1.9 * 11.5343...: the published worked example of this rule has 72.484836.
    cluster = Watched(10, **OUTLIERS)
    rates(cluster, [100, 98, 97, 99, 60, 96, 98, 100, 99, 97])
    cluster.at(10)
    assert cluster.groups["success_rate_average"][0] == pytest.approx(94.4, rel=1e-12)
    assert cluster.groups["success_rate_threshold"][0] == pytest.approx(72.484836, rel=1e-8)
    assert cluster.ejected == [4]
    assert cluster.enforced() == {"success_rate": 1}


def test_envoys_own_example():
    # source/common/upstream/outlier_detection_impl.cc: {50, 100 x 4} gives 52 at a factor of 1.9.
    cluster = Watched(5, **HALF)
    rates(cluster, [50, 100, 100, 100, 100])
    cluster.at(10)
    assert cluster.groups["success_rate_threshold"][0] == pytest.approx(52.0, rel=1e-12)
    assert cluster.ejected == [0]


@pytest.mark.parametrize(("hosts", "volume"), [(4, 100), (5, 99)])
def test_too_few_hosts_or_requests_are_not_judged(hosts, volume):
    cluster = Watched(hosts, **HALF)
    rates(cluster, [50] + [100] * (hosts - 1), volume)
    cluster.at(10)
    assert cluster.detected() == {}
    assert cluster.groups["success_rate_threshold"][0] == -1


def test_a_sweep_judges_its_own_interval():
    cluster = Watched(5, **HALF)
    rates(cluster, [50, 100, 100, 100, 100], 60)
    cluster.at(10)
    for host in range(5):
        cluster.result(host, 200, at_s=11, times=60)
    cluster.at(20)
    assert cluster.detected() == {}


def test_failure_percentage():
    rule = {**HALF, "success_rate_minimum_hosts": 100, "enforcing_failure_percentage": 100}
    rule |= {"consecutive_5xx": 0, "consecutive_gateway_failure": 0}
    cluster = Watched(5, **rule)
    for host, failures in enumerate((42, 43, 0, 0, 0)):  # 84 % and 86 % of 50
        cluster.result(host, 500, times=failures)
        cluster.result(host, 200, times=50 - failures)
    cluster.at(10)
    assert cluster.enforced() == {"failure_percentage": 1}
    assert cluster.ejected == [1]


def test_local_origin_is_judged_apart():
    rule = {**HALF, "split_external_local_origin_errors": 1}
    cluster = Watched(5, **{**rule, "consecutive_local_origin_failure": 0})
    for host in range(5):
        for number in range(100):
            if host == 3 and number % 2:
                cluster.result(host, reset=RESET_CONNECT_FAILURE)
            else:
                cluster.connected(host)
                cluster.result(host, 200)
    cluster.at(10)
    assert cluster.enforced() == {"local_origin_success_rate": 1}
    assert cluster.ejected == [3]


def test_sweeps_are_counted_from_the_origin():
    cluster = Watched(4, **HALF)
    cluster.groups["origin_ns"] = 7 * NS_PER_S
    cluster.result(1, 500, at_s=8, times=5)
    assert cluster.at(46.9) == [0, 2, 3]  # 38 s would do; the sweeps are at 37 and 47
    assert cluster.at(47) == [0, 1, 2, 3]


def test_an_idle_cluster_has_nothing_due():
    cluster = Watched(4, **HALF)
    assert cluster.groups["due_ns"][0] == NEVER_NS
    cluster.result(1, 200, at_s=12)
    assert cluster.groups["due_ns"][0] == 20 * NS_PER_S
    cluster.at(1_000_000)
    assert cluster.groups["due_ns"][0] == NEVER_NS


@pytest.mark.parametrize(("share", "run", "wanted"), [(0.5, 3, 14.0), (0.3, 2, 130 / 9)])
def test_mean_requests_to_an_ejection(share, run, wanted):
    """Expected length until a run of k with independent failures: (1 - p**k) / ((1 - p) p**k).

    1,500 ejections: the standard error of the mean is below wanted / sqrt(1500), as the length
    has a standard deviation below its mean; four of them either way.
    """
    random = np.random.default_rng(7)
    cluster = Watched(1, **{**OUTLIERS, "consecutive_5xx": run, "max_ejection_percent": 100})
    requests = 0
    for _ in range(1500):
        while not cluster.ejected:
            cluster.result(0, 500 if random.random() < share else 200)
            requests += 1
        cluster.hosts["unhealthy"] = 0
        cluster.healths["consecutive_5xx"] = 0
    assert requests / 1500 == pytest.approx(wanted, rel=4 / np.sqrt(1500))
