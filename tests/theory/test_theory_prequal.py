"""Prequal against policies that know no more than the client itself, where servers differ.

The paper's testbed (Wydrowski et al., NSDI 2024, section 5): 100 clients of 100 replicas, half of
which are slow here.  Picks by probed latency and requests in flight have a lower tail than random
picks and the client's own requests in flight: of a hundred clients each sees a hundredth of what a
replica has to do.  So has it than round robin weighted by the replicas' true speeds, where each
client begins at random; but that one spreads what it sends evenly, and comes near.
"""

import pytest
from kernel_runs import Run

from meshsim.jit import JIT_ENABLED
from meshsim.stats.histogram import quantile_ns

pytestmark = pytest.mark.skipif(not JIT_ENABLED, reason="needs millions of events")

REPLICAS = 100
CLIENTS = 100
#: Half of the replicas run at half the speed: 50 * 1 + 50 * 0.5 of one core.
CAPACITY = 75.0
SECONDS = 6


def p99_ms(load, **balancing):
    """Return the 99th percentile [ms] of the latency in the last half, at a share of capacity."""
    half = {
        "replicas": REPLICAS // 2,
        "concurrency": 1000,
        "discipline": "PROCESSOR_SHARING",
        "steps": [{"compute": {"exponential": {"mean": "10ms"}}}],
    }
    rate = load * CAPACITY * 100 / CLIENTS
    places = ("same_node", "same_zone", "same_region", "cross_region")
    run = Run(
        {"s": {"workloads": {"fast": half, "slow": {**half, "speed": 0.5}}}},
        traffic={
            f"client{number}": {"to": "s", "arrivals": {"poisson": rate}}
            for number in range(CLIENTS)
        },
        network={"latency": dict.fromkeys(places, "200us")},
        policies={"s": {"load_balancing": balancing}},
        duration_ms=SECONDS * 1000,
    )
    run.kernel.advance_to(SECONDS * 10**9 // 2)
    before = run.state.window_histogram.sum(axis=(0, 1))
    run.kernel.advance_to(SECONDS * 10**9)
    return quantile_ns(run.state.window_histogram.sum(axis=(0, 1)) - before, 0.99) / 1e6


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_probes_have_a_lower_tail_than_what_a_client_knows_itself(load):
    prequal = p99_ms(load, policy="PREQUAL")
    own = p99_ms(load, policy="LEAST_REQUEST")
    blind = p99_ms(load, policy="RANDOM")
    weighted = p99_ms(load, policy="ROUND_ROBIN", weights={"fast": 2, "slow": 1})
    assert prequal < min(own, blind) / 2
    assert prequal < weighted
