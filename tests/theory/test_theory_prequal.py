"""Prequal against policies that know no more than the client itself, where servers differ.

The paper's testbed (Wydrowski et al., NSDI 2024, section 5: many clients of many replicas, half
of which are slow): selection by probed latency and requests in flight has a lower tail than round
robin, random and the client's own requests in flight, whose 99th percentiles grow without bound
as soon as the slow replicas have more than they can do, while the fast ones idle.
"""

import pytest
from kernel_runs import Run

from meshsim.jit import JIT_ENABLED
from meshsim.stats.histogram import quantile_ns

pytestmark = pytest.mark.skipif(not JIT_ENABLED, reason="needs millions of events")

REPLICAS = 20
CLIENTS = 20
#: Half of the replicas run at half the speed: 10 * 1 + 10 * 0.5 of one core.
CAPACITY = 15.0
SECONDS = 8


def p99_ms(load, replication=0, **balancing):
    """Return the 99th percentile of the latency [ms] at a share of the whole capacity."""
    half = {
        "replicas": REPLICAS // 2,
        "concurrency": 1000,
        "discipline": "PROCESSOR_SHARING",
        "steps": [{"compute": {"exponential": {"mean": "10ms"}}}],
    }
    rate = load * CAPACITY * 100 / CLIENTS
    run = Run(
        {"s": {"workloads": {"fast": half, "slow": {**half, "speed": 0.5}}}},
        traffic={
            f"client{number}": {"to": "s", "arrivals": {"poisson": rate}}
            for number in range(CLIENTS)
        },
        network={
            "latency": dict.fromkeys(
                ("same_node", "same_zone", "same_region", "cross_region"), "200us"
            )
        },
        policies={"s": {"load_balancing": balancing}},
        replication=replication,
        duration_ms=SECONDS * 1000,
    )
    run.kernel.advance_to(SECONDS * 10**9)
    return quantile_ns(run.state.window_histogram.sum(axis=(0, 1)), 0.99)[0] / 1e6


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_probes_have_a_lower_tail_than_what_a_client_knows_itself(load):
    prequal = p99_ms(load, policy="PREQUAL")
    own = p99_ms(load, policy="LEAST_REQUEST")
    blind = p99_ms(load, policy="ROUND_ROBIN")
    # Slow replicas get load * 15 / 20 of their share each, more than the half that they can do.
    assert prequal < own / 2 < blind / 2


def test_weights_by_speed_are_still_worse_than_probes():
    """Weighted round robin with the true speeds, the best that balancing of load can be told."""
    weights = {"fast": 2, "slow": 1}
    weighted = p99_ms(0.9, policy="ROUND_ROBIN", weights=weights)
    assert p99_ms(0.9, policy="PREQUAL") < weighted


def test_more_probes_are_better_than_fewer():
    few, more = (p99_ms(0.9, policy="PREQUAL", r_probe=rate, r_remove=0.25) for rate in (0.5, 3))
    assert more < few
