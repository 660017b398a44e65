"""What a large mesh does ahead of time changes no result."""

import numpy as np
import pytest
from kernel_runs import Run, worker

from meshsim.kernel.prefetching import LARGE_HOSTS


def outcome(hosts_large):
    run = Run(
        {
            "a": worker({"compute": {"exponential": "1ms"}}, {"call": "b"}, replicas=2),
            "b": worker({"parallel": [[{"call": "c"}], [{"call": "c"}]]}, replicas=3),
            "c": worker({"sleep": {"lognormal": {"mean": "1ms", "p99": "5ms"}}}, replicas=4),
        },
        {"poisson": 600.0},
        hosts_large=hosts_large,
        mesh="istio-sidecar",
        policies={"c": {"routes": [{"timeout": "20ms", "retry": {"num_retries": 2}}]}},
    ).to(3_000)
    counters = run.state.counters
    return int(counters["events"][0]), run.state.series.copy(), run.kernel.state.windows.copy()


def test_results_do_not_depend_on_what_is_known_ahead():
    events, series, windows = outcome(1)
    plain_events, plain_series, plain_windows = outcome(LARGE_HOSTS)
    assert events == plain_events > 10_000
    np.testing.assert_array_equal(series, plain_series)
    np.testing.assert_array_equal(windows, plain_windows)


@pytest.mark.parametrize("branches", [1, 200])
def test_more_events_at_one_instant_than_can_be_upcoming(branches):
    """Branches begin at once, before those already taken out of the heap."""
    run = Run(
        {"a": {"steps": [{"parallel": [[{"sleep": "1us"}]] * branches}], "concurrency": 1000}},
        {"poisson": 2000.0},
        hosts_large=1,
    ).to(200)
    assert run.state.counters["requests"][0] > 300
