"""Perfect knowledge of the queues, against theory and simulated references.

Each case runs the kernel with one client that sees the servers, exponential service of mean 1 ms
and one worker each; sojourn times are in units of it.  Tolerances: 4 standard errors of the mean
over replications, each a batch, plus what the reference states.
"""

import math

import numpy as np
import pytest
from kernel_runs import Run

from meshsim.jit import JIT_ENABLED

pytestmark = pytest.mark.skipif(not JIT_ENABLED, reason="needs millions of events")


def sojourns(servers, load, balancing, *, seconds, replications=8, clients=1):
    """Return the mean sojourn [service times] of each replication, and the last kernel."""
    means = []
    for replication in range(replications):
        back = {
            "replicas": servers,
            "concurrency": 1,
            "steps": [{"compute": {"exponential": {"mean": "1ms"}}}],
        }
        rate = load * servers * 1000 / clients
        run = Run(
            {"s": back},
            traffic={
                f"load{number}": {"to": "s", "arrivals": {"poisson": rate}}
                for number in range(clients)
            },
            policies={"s": {"load_balancing": balancing}},
            replication=replication,
            duration_ms=seconds * 1000,
        )
        run.kernel.advance_to(seconds * 10**9 // 5)
        before = totals(run)
        run.kernel.advance_to(seconds * 10**9)
        requests, latency_ns = totals(run) - before
        means.append(latency_ns / requests / 1e6)
    return np.array(means), run


def totals(run):
    hosts = run.state.hosts
    answered = hosts["requests_total"] - hosts["requests_active"]
    return np.array([answered.sum(), hosts["latency_sum_ns"].sum()], float)


def close(means, expected, relative):
    error = means.std(ddof=1) / math.sqrt(len(means))
    assert abs(means.mean() - expected) < 4 * error + relative * expected


@pytest.mark.parametrize(
    ("servers", "load", "distinct", "expected"),
    # Simulated references of the Markov chain, 1.8e8 events each.
    [(10, 0.8, False, 2.1621372), (20, 0.8, False, 2.0511636), (20, 0.8, True, 2.0069912)],
)
def test_the_shorter_of_two_queues(servers, load, distinct, expected):
    balancing = {"policy": "ORACLE_SHORTEST_QUEUE", "distinct_choices": distinct}
    means, _ = sojourns(servers, load, balancing, seconds=30)
    close(means, expected, 0.005)


def test_many_servers_approach_the_supermarket_model():
    # Mitzenmacher: s_k = load ** ((d**k - 1) / (d - 1)); T = sum of s_k / load.
    means, _ = sojourns(1000, 0.5, {"policy": "ORACLE_SHORTEST_QUEUE"}, seconds=1, replications=4)
    close(means, 1.265686, 0.01)


def test_idle_servers_that_tell():
    # Lu et al. 2011: rho / (1 - rho) = r * (1 - load), r = servers / clients;
    # T = 1 / (1 - load * (1 - rho)).  A band of -3.5 % to +1 % of it.
    servers, clients, load = 500, 50, 0.9
    ratio = servers / clients * (1 - load)
    share = ratio / (1 + ratio)
    expected = 1 / (1 - load * (1 - share))
    means, run = sojourns(
        servers,
        load,
        {"policy": "ORACLE_IDLE_QUEUE"},
        seconds=2,
        replications=3,
        clients=clients,
    )
    assert 0.965 * expected < means.mean() < 1.01 * expected
    found = run.state.oracle_clusters["idle_picks"].sum() / run.state.hosts["requests_total"].sum()
    assert found == pytest.approx(share, rel=0.05)


def test_the_older_the_view_the_longer_the_queues():
    def mean(policy, **fields):
        means, _ = sojourns(20, 0.8, {"policy": policy, **fields}, seconds=10, replications=3)
        return means.mean()

    fresh = mean("ORACLE_SHORTEST_QUEUE")
    stale = mean("ORACLE_STALE_QUEUE", view_interval="1ms")
    staler = mean("ORACLE_STALE_QUEUE", view_interval="20ms")
    # With all hosts herding on the view that looked shortest, worse than knowing nothing.
    herd = mean("ORACLE_STALE_QUEUE", view_interval="20ms", selection_method="FULL_SCAN")
    assert fresh < stale < staler < herd
    assert herd > 1 / (1 - 0.8)
