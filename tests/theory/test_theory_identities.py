"""Identities that hold on every sample path, exactly: no tolerance, no statistics."""

import numpy as np
import pytest
from theory_scenarios import balanced, chain, exponential, poisson, station, topology, workload
from theory_verdict import Runs

from meshsim.stats.histogram import quantile_ns

#: A run that starts and ends empty: arrivals in the first half of 40 s only.
BURST_MS = 40_000
RAMP = {
    "piecewise": {
        "points": [
            {"at": "0s", "rate": 0},
            {"at": "10s", "rate": 1500},
            {"at": "20s", "rate": 0},
        ]
    }
}


def burst(**fields):
    """Return a chain whose second station is overloaded for a while."""
    bodies = {
        "front": workload(exponential(0.4), "back", concurrency=2),
        "back": workload(exponential(1.0), **fields),
    }
    return topology(bodies, {"load": {"to": "front", "arrivals": RAMP}})


VARIANTS = {
    "plain": {},
    "limited": {"queue_limit": 20},
    "impatient": {"patience": exponential(5.0)},
    "failing": {"error_rate": 0.1},
    "shared": {"discipline": "PROCESSOR_SHARING", "concurrency": 10_000, "cpu": 1.0},
}


@pytest.fixture(scope="module", params=VARIANTS)
def record(request):
    """One replication of a burst, from empty to empty."""
    (only,) = Runs(burst(**VARIANTS[request.param]), BURST_MS, replications=1).records
    return only


def test_little(record):
    windows = record.windows
    if windows["failures"].sum():
        pytest.skip("the latency of failures is not summed")
    assert windows["in_flight_ns"].sum() == windows["latency_sum_ns"].sum()


def test_requests_are_conserved(record):
    windows = record.windows
    assert windows["arrivals"].sum() > 10_000
    assert record.counters["unfinished"] == 0
    ended = windows["successes"] + windows["failures"]
    assert np.array_equal(windows["arrivals"], ended)
    # By the clock: what has arrived so far is answered or in flight.
    in_flight = np.cumsum(windows["arrivals"]) - np.cumsum(windows["responses"])
    assert in_flight.min() >= 0
    assert in_flight[-1] == 0


def test_endpoints_conserve_requests_at_every_moment(record):
    rows = record.endpoints
    front, back = (rows["requests"] - rows["rejected"] - rows["reneged"] - rows["completed"]).T
    assert np.array_equal(back, rows["in_system"][:, 1])
    # The front gives its worker back during a call, so a request is then at the back alone.
    assert np.array_equal(front, rows["in_system"][:, 0] + back)
    assert front[-1] == back[-1] == 0
    assert back.max() > 1


def test_histogram_holds_every_success(record):
    assert np.array_equal(
        record.window_histogram.dense().sum(axis=2, dtype=np.int64), record.windows["successes"]
    )


def test_latency_is_queue_and_service(record):
    windows = record.windows
    if windows["failures"].sum():
        pytest.skip("the parts of failures are summed, their latency is not")
    parts = sum(windows[part] for part in ("queue_ns", "service_ns", "proxy_ns", "wire_ns"))
    assert np.array_equal(parts, windows["latency_sum_ns"])
    assert windows["proxy_ns"].sum() == windows["wire_ns"].sum() == 0


def test_busy_time_is_service_time():
    (record,) = Runs(burst(), BURST_MS, replications=1).records
    assert record.endpoints["busy_ns"][-1].sum() == record.windows["service_ns"].sum()
    assert record.endpoints["queue_ns"][-1].sum() == record.windows["queue_ns"].sum()


def test_regular_arrivals_never_wait():
    # D/D/1 at 80 %: a completion and an arrival never meet out of order.
    regular = station({"renewal": {"interval": "1ms"}}, "800us")
    (record,) = Runs(regular, 10_000, replications=1).records
    assert record.windows["successes"].sum() == pytest.approx(10_000, abs=1)
    assert record.windows["latency_sum_ns"].sum() == 800_000 * record.windows["successes"].sum()


def test_departure_and_arrival_at_one_instant():
    # Load 100 %, every service ends exactly when the next request comes: it must not wait.
    regular = station({"renewal": {"interval": "1ms"}}, "1ms")
    (record,) = Runs(regular, 10_000, replications=1).records
    assert record.windows["latency_sum_ns"].sum() == 1_000_000 * record.windows["successes"].sum()


def same(one, other):
    return all(
        np.array_equal(getattr(one, table), getattr(other, table))
        for table in ("windows", "series", "endpoints", "hosts")
    ) and np.array_equal(one.window_histogram.dense(), other.window_histogram.dense())


def test_same_seed_same_run():
    scenario = balanced(3.2, 4, "LEAST_REQUEST")
    one, other = (Runs(scenario, 2000, seed=7, replications=2).records for _ in range(2))
    assert all(same(a, b) for a, b in zip(one, other, strict=True))
    assert not same(one[0], one[1])
    assert not same(one[0], Runs(scenario, 2000, seed=8, replications=1).records[0])


def test_first_replication_does_not_depend_on_their_number():
    scenario = balanced(3.2, 4, "RANDOM")
    (alone,) = Runs(scenario, 1000, replications=1).records
    assert same(alone, Runs(scenario, 1000, replications=3).records[0])


def with_neighbour(neighbour):
    bodies = {"station": workload(exponential())}
    classes = {"load": {"to": "station", "arrivals": poisson(0.7)}}
    if neighbour:
        bodies["other"] = workload(exponential(), replicas=3)
        classes["noise"] = {"to": "other", "arrivals": poisson(2.0)}
    return topology(bodies, classes)


def test_an_unrelated_service_changes_nothing():
    (alone,) = Runs(with_neighbour(False), 5000, replications=1).records
    (beside,) = Runs(with_neighbour(True), 5000, replications=1).records
    assert np.array_equal(alone.windows[:, 0], beside.windows[:, 0])
    assert np.array_equal(
        alone.window_histogram.dense()[:, 0], beside.window_histogram.dense()[:, 0]
    )


def test_arrivals_do_not_depend_on_the_policy():
    runs = [
        Runs(balanced(3.2, 4, policy), 2000, replications=1).records[0]
        for policy in ("RANDOM", "ROUND_ROBIN", "LEAST_REQUEST")
    ]
    arrivals = [record.windows["arrivals"] for record in runs]
    assert np.array_equal(arrivals[0], arrivals[1])
    assert np.array_equal(arrivals[0], arrivals[2])
    # Nor do service times: the same requests bring the same work to other hosts.
    services = [record.windows["service_ns"] for record in runs]
    assert np.array_equal(services[0], services[1])


@pytest.mark.parametrize("faster", [1.05, 2.0])
def test_a_faster_server_makes_no_request_slower(faster):
    (slow,) = Runs(station(poisson(0.8), exponential()), 20_000, replications=1).records
    (fast,) = Runs(
        station(poisson(0.8), exponential(), speed=faster), 20_000, replications=1
    ).records
    assert np.array_equal(slow.windows["arrivals"], fast.windows["arrivals"])
    # Of the requests of every window, none is slower: every count of slow ones is smaller.
    beyond_slow = slow.window_histogram.dense()[:, 0, ::-1].cumsum(axis=1)
    beyond_fast = fast.window_histogram.dense()[:, 0, ::-1].cumsum(axis=1)
    assert (beyond_fast <= beyond_slow).all()
    assert fast.windows["latency_sum_ns"].sum() < slow.windows["latency_sum_ns"].sum()


def test_another_worker_makes_no_request_slower():
    one, two = (
        Runs(station(poisson(0.8), exponential(), concurrency=c), 20_000, replications=1).records[0]
        for c in (1, 2)
    )
    assert (two.windows["latency_sum_ns"] <= one.windows["latency_sum_ns"]).all()


def test_time_has_no_scale():
    # A thousand times slower arrivals and services: latencies a thousand times longer.
    def run(scale, duration_ms):
        scenario = chain(0.5 / scale, [(1.0 * scale, 1, 1), (0.8 * scale, 1, 1)], "RANDOM", False)
        return Runs(scenario, duration_ms, replications=1).records[0]

    short, long = run(1, 2_000), run(1000, 2_000_000)
    total = short.windows["successes"].sum()
    assert abs(long.windows["successes"].sum() - total) <= 1
    for q in (0.1, 0.5, 0.9):
        pair = [quantile_ns(r.window_histogram.dense().sum(axis=(0, 1)), q) for r in (short, long)]
        assert pair[1] / pair[0] == pytest.approx(1000, rel=0.01)
    mean = [r.windows["latency_sum_ns"].sum() / r.windows["successes"].sum() for r in (short, long)]
    assert mean[1] / mean[0] == pytest.approx(1000, rel=2 / total * 10)
