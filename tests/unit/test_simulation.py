"""Replications of a scenario: arguments, processes, faults, verdicts."""

from pathlib import Path

import numpy as np
import pytest
from kernel_runs import Run, worker

import meshsim as ms
from meshsim.errors import ConfigError
from meshsim.results import Result
from meshsim.state.record import WINDOW_COUNT
from meshsim.topology import with_values
from meshsim.topology.model import Topology

NO_WIRE = dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), "0s")
STORM = Path(__file__).parents[2] / "topologies" / "retry-storm.yaml"


def scenario(arrivals=None, body=None, **fields) -> Topology:
    return Topology.model_validate(
        {
            "name": "test",
            "mesh": "none",
            "network": {"latency": NO_WIRE},
            "services": {"a": {"workloads": {"v1": body or worker({"compute": "1ms"})}}},
            "traffic": {
                "load": {"to": "a", "arrivals": arrivals or {"renewal": {"interval": "10ms"}}}
            },
            **fields,
        }
    )


def simulate(topology, duration="1s", **options):
    return ms.simulate(topology, duration, progress=False, **options)


def outcomes(record):
    """Return successes and failures of the one class, by window."""
    return record.windows["successes"][:, 0], record.windows["failures"][:, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"duration": "soon"},
        {"duration": 0},
        {"duration": "3ns"},
        {"replications": 0},
        {"seed": -1},
        {"seed": 2**62},
        {"mesh": "istoi"},
        {"precision": "p99"},
    ],
    ids=str,
)
def test_wrong_arguments_are_told(options):
    with pytest.raises(ConfigError):
        simulate(scenario(), **options)


def test_a_scenario_without_traffic_is_refused():
    with pytest.raises(ConfigError, match="traffic"):
        simulate(scenario(traffic={}))


def test_what_is_measured():
    result = simulate(scenario(), replications=2)
    assert [record.replication for record in result.records] == [0, 1]
    record = result.records[0]
    # arrivals at 10, 20, ..., 1000 ms: the last one is at the end of the measured time
    assert record.windows["arrivals"].sum() == 100
    assert outcomes(record)[0].sum() == 100
    assert record.counters["unfinished"] == 0
    assert record.limit == ""
    assert record.endpoints["busy_ns"][-1].tolist() == [99_000_000]
    assert str(result.verdict) == "stable"


def test_measured_requests_are_followed_to_their_end():
    body = worker({"compute": "100ms"}, concurrency=99)
    record = simulate(scenario(body=body), replications=1).records[0]
    assert outcomes(record)[0].sum() == 100
    assert record.windows["latency_sum_ns"].sum() == 100 * 100_000_000


def test_one_process_in_every_replication():
    seen = []

    def outage(env, mesh):
        yield env.timeout(0.5)
        mesh.kill("a", workload="v1", replica=0)
        yield env.timeout(0.2)
        mesh.restore("a")
        seen.append(env.now)

    result = simulate(scenario(), replications=3, processes=[outage])
    assert seen == [pytest.approx(0.7)] * 3
    for record in result.records:
        good, bad = outcomes(record)
        # arrivals after 500 ms up to 700 ms; events of the kernel come first at equal times:
        # the request of 500 ms is killed in service, that of 700 ms refused
        assert bad.sum() == 21
        assert good.sum() == 79


def test_user_processes_see_time_and_may_scale_out():
    def scale_out(env, mesh):
        yield env.timeout(0.25)
        mesh.add_replicas("a", "v1", 3)

    body = worker({"compute": "1ms"})
    result = simulate(scenario({"poisson": 500.0}, body), replications=1, processes=[scale_out])
    record = result.records[0]
    # The first replica serves a quarter of 500 requests, then a quarter of the other three
    # quarters: 219 with a standard deviation of 15.  Those that were added have no names.
    assert abs(record.endpoints["requests"][-1].sum() - 219) < 60
    assert abs(record.windows["successes"].sum() - 500) < 90
    assert result.hosts()["requests"].sum() >= record.endpoints["requests"][-1].sum()


@pytest.mark.parametrize(
    ("fault", "failures"),
    [
        ({"kind": "kill", "service": "a"}, 21),
        # the requests of 500 to 700 ms; events of the kernel come first at equal times
        ({"kind": "errors", "service": "a", "factor": 1.0}, 20),
    ],
    ids=["kill", "errors"],
)
def test_timed_faults_begin_and_end(fault, failures):
    faults = [{**fault, "at": "500ms", "duration": "200ms"}]
    record = simulate(scenario(faults=faults), replications=1).records[0]
    assert outcomes(record)[1].sum() == failures


@pytest.mark.parametrize(("factor", "served_ms"), [(0.5, 20), (0.1, 100)])
def test_a_timed_slow_down(factor, served_ms):
    body = worker({"compute": "10ms"}, concurrency=99)
    faults = [{"kind": "slow", "service": "a", "factor": factor, "at": "0s"}]
    record = simulate(scenario(body=body, faults=faults), replications=1).records[0]
    assert record.windows["latency_sum_ns"].sum() == 100 * served_ms * 1_000_000


def test_a_timed_pause_and_a_timed_rate():
    faults = [
        {"kind": "pause", "service": "a", "at": "495ms", "duration": "100ms"},
        {"kind": "rate", "traffic": "load", "factor": 0.0, "at": "905ms"},
    ]
    record = simulate(scenario(faults=faults), replications=1).records[0]
    assert record.windows["arrivals"].sum() == 90
    # ten requests arrive at 500, ..., 590 during the pause; they are served from 595 on, one a
    # ms: the k-th (k = 0..9) waits 95 - 10 k + k; those of 600 and after wait for the rest:
    # at 600 five are left (5 ms), then none
    assert record.endpoints["queue_ns"][-1].sum() + record.windows["service_ns"].sum() > 0
    latency_ms = record.windows["latency_sum_ns"].sum() / 1e6
    waited = sum(95 - 10 * k + k for k in range(10)) + 5
    assert latency_ms == pytest.approx(90 + waited, abs=1e-3)


def test_precision_doubles_the_replications():
    topology = scenario({"poisson": 500.0}, worker({"compute": {"exponential": "1ms"}}))
    result = simulate(topology, "2s", replications=3, precision="mean:3%")
    assert result.replications > 3
    assert result.replications % 3 == 0
    estimate = result.estimate("load", "mean")
    assert (estimate.high - estimate.low) / 2 <= 0.03 * estimate.value


def test_traces_are_kept_of_the_first_replication():
    result = simulate(scenario({"poisson": 1000.0}), replications=2, traces=50)
    assert 20 < len(result.records[0].spans) < 90  # Poisson of mean 50
    assert len(result.records[1].spans) == 0
    assert len(simulate(scenario(), replications=1, traces=0).records[0].spans) == 0


# --- Overload -------------------------------------------------------------------------------


def test_a_queue_that_grows_ends_at_the_limit_of_rows():
    """M/M/1 at three times its capacity, with 4096 rows a pool."""
    body = worker({"compute": {"exponential": "1ms"}})
    run = Run({"a": body}, {"poisson": 3000.0}, rows_max=4096, duration_ms=60_000)
    for window in range(WINDOW_COUNT):
        if not run.kernel.advance_to((window + 1) * 10**9):
            break
        run.kernel.end_window(window)
    record = run.kernel.record()
    assert "limit of 4096 " in record.limit
    # it grows by 2000/s: about 4096 requests after 2 s, give or take four standard deviations
    assert run.kernel.now_ns == pytest.approx(2.05e9, rel=0.15)
    verdict = Result.from_records(run.compiled.catalog, [record]).verdict
    assert (str(verdict), "limit of 4096" in verdict.reason) == ("unstable", True)


def test_a_queue_that_grows_is_unstable_before_any_limit():
    result = simulate(scenario({"poisson": 1500.0}), "5s", replications=2)
    assert str(result.verdict) == "unstable"
    assert result.verdict.growth_rps == pytest.approx(500, rel=0.2)


# --- Metastability --------------------------------------------------------------------------


def test_a_retry_storm_outlives_its_trigger():
    result = simulate(ms.load(STORM), "20s", replications=4)
    assert str(result.verdict) == "metastable", result.verdict.reason
    late = np.array([record.windows["good_responses"][30:].sum() for record in result.records])
    calm = np.array([r.windows["good_responses"][30:].sum() for r in result.records_empty])
    assert (calm > 500).all()
    assert (late < 0.2 * calm).all()


def test_without_its_trigger_it_is_stable():
    calm = ms.load(STORM).model_copy(update={"faults": ()})
    assert str(simulate(calm, "20s", replications=4).verdict) == "stable"


def test_without_retries_the_trigger_leaves_nothing_behind():
    storm = ms.load(STORM)
    tamed = storm.model_copy(update={"policies": {}})
    # The backlog of 280 requests is worked off at 40/s: by 11 s, in the first half.
    assert str(simulate(tamed, "40s", replications=4).verdict) == "stable"


def test_a_retry_budget_ends_the_storm():
    budget = "policies.store.circuit_breakers.retry_budget.budget_percent"
    tamed = with_values(ms.load(STORM), {budget: "20"})
    # With a fifth more attempts, 72/s, the backlog shrinks by 28/s: gone before the last half.
    assert str(simulate(tamed, "60s", replications=4).verdict) == "stable"
