"""What is compared: cuts, quantiles, distances, the stage in series."""

import numpy as np
import pytest

from meshsim.simulation import simulate
from meshsim.state.record import WINDOW_COUNT
from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns, bin_index
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated
from meshsim.validation.measurement import (
    WARM_UP_WINDOWS,
    Latencies,
    measure,
    pooled,
)

NS_PER_MS = 1_000_000
#: A bin is at most 1/128 of its value wide.
BIN = 1 / 128


def latencies(*values_ms):
    counts = np.zeros(BIN_COUNT, np.int64)
    for value in values_ms:
        counts[bin_index(int(value * NS_PER_MS))] += 1
    return Latencies.from_counts(counts)


def test_quantiles_and_mean_are_those_of_the_values_up_to_a_bin():
    values = np.arange(1, 101)
    found = latencies(*values)
    assert found.quantile(0.5) == pytest.approx(50e6, rel=BIN)
    assert found.quantile(0.99) == pytest.approx(99e6, rel=BIN)
    assert found.mean == pytest.approx(values.mean() * 1e6, rel=BIN)


def test_no_sample_is_unknown():
    empty = latencies()
    assert not empty.known
    assert np.isnan(empty.quantile(0.5))
    assert not Latencies.from_json(empty.to_json()).known


def test_distances_of_a_shift():
    first, second = latencies(10, 20, 30, 40), latencies(10, 20, 30, 80)
    assert first.distance(first) == first.transport(first) == 0
    assert first.distance(second) == pytest.approx(0.25)
    # One of four values moves by 40 ms; each is known to a bin.
    assert first.transport(second) == pytest.approx(10e6, rel=2 * BIN)


def test_a_stage_in_series_adds_its_delays():
    before = latencies(*range(10, 60))
    after = before.after([2e6] * 5)
    assert after.quantile(0.5) - before.quantile(0.5) == pytest.approx(2e6, rel=0.05)
    spread = before.after([0.0, 40e6])
    assert spread.mean - before.mean == pytest.approx(20e6, rel=0.01)
    assert spread.quantile(0.99) > before.quantile(0.99) + 35e6


def test_a_stage_may_take_back_what_is_counted_elsewhere():
    before = latencies(*range(10, 60))
    assert before.after([-1e6]).mean - before.mean == pytest.approx(-1e6, rel=0.05)


def test_latencies_survive_json():
    before = latencies(1, 5, 5, 300)
    after = Latencies.from_json(before.to_json())
    np.testing.assert_allclose(after.shares, before.shares, atol=1e-12)


@pytest.fixture(scope="module")
def result():
    plain = {
        "name": "x",
        "services": {"a": {"workloads": {"v1": {"steps": [{"sleep": "5ms"}], "error_rate": 0.25}}}},
        "traffic": {"load": {"to": "a", "arrivals": {"renewal": {"interval": "10ms"}}}},
    }
    return simulate(validated(Topology.model_validate(plain)), "6s", 2, progress=False)


def test_the_warm_up_is_cut_at_a_fixed_window(result):
    found = measure(result)["load"]
    # 6 s, of which 50 windows of 60 are kept, in two replications.
    assert found.time_s == pytest.approx(2 * 5.0)
    kept = result.measured.windows["arrivals"][:, WARM_UP_WINDOWS:WINDOW_COUNT]
    assert found.arrivals == kept.sum() == pytest.approx(1000, abs=2)
    assert found.successes + found.failures == found.arrivals
    assert found.error_fraction == pytest.approx(0.25, abs=0.06)  # 4 sigma of 1000 coins
    assert found.throughput_rps == pytest.approx(75, abs=6)


def test_an_interval_covers_the_quantile_and_runs_are_pooled(result):
    found = measure(result)["load"]
    interval = found.interval(0.5)
    assert interval.low <= found.latencies.quantile(0.5) <= interval.high
    both = pooled([found, found])
    assert (both.arrivals, both.time_s) == (2 * found.arrivals, 2 * found.time_s)
    assert both.latencies.distance(found.latencies) == 0


def test_bins_of_a_measurement_are_the_records_own(result):
    assert len(measure(result)["load"].latencies.shares) == len(bin_bounds_ns(BIN_COUNT))


def test_what_access_rules_refuse_is_counted_of_the_whole_mesh():
    call = {"service": "b", "path": "/admin"}
    rule = {"operations": [{"paths": ["/admin"]}]}
    plain = {
        "name": "x",
        "services": {
            "a": {"workloads": {"v1": {"steps": [{"call": call, "optional": True},
                                                 {"call": {"service": "b"}}]}}},
            "b": {"workloads": {"v1": {"steps": [{"sleep": "1ms"}]}}},
        },
        "policies": {name: {"routes": [{"retry": {"num_retries": 0}}]} for name in "ab"},
        "access": {"policies": [{"name": "no", "action": "DENY", "rules": [rule],
                                 "selector": {"services": ["b"]}}]},
        "traffic": {"load": {"to": "a", "arrivals": {"renewal": {"interval": "10ms"}}}},
    }  # fmt: skip
    refused = simulate(validated(Topology.model_validate(plain)), "1s", 1, progress=False)
    found = measure(refused)["load"]
    assert found.denied_fraction == pytest.approx(0.5, abs=0.01)
    assert pooled([found, found]).denied == 2 * found.denied > 100


def test_without_access_rules_nothing_is_judged(result):
    assert np.isnan(measure(result)["load"].denied_fraction)
