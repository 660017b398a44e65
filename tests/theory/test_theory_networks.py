"""Several stations: in series, nested, and behind a load balancer."""

import pytest
from simpy_chain import CHAIN, CHAIN_RATE, Tier, simulate_chain
from theory_scenarios import balanced, chain, exponential, poisson, topology, workload
from theory_verdict import Runs, check, check_quantile, error_of

from meshsim import theory


@pytest.mark.parametrize(
    ("rate", "service_rates"), [(0.5, [1.0, 2.0, 1.25]), (0.8, [2.0, 1.7, 1.5, 1.3, 1.1])]
)
def test_tandem(rate, service_rates):
    tiers = [(1 / service_rate, 1, 1) for service_rate in service_rates]
    runs = Runs(chain(rate, tiers, "RANDOM", hold=False), 60_000)
    truth = theory.tandem(rate, service_rates)
    check(runs.mean(), truth.mean, 0.045)
    check_quantile(runs.quantile(0.99), truth.quantile(0.99), 0.09)


def test_tandem_that_ends_in_several_workers():
    runs = Runs(chain(0.5, [(1.0, 1, 1), (4.0, 1, 3)], "RANDOM", hold=False), 100_000)
    expected = theory.jackson_sojourn([0.5, 0], [[0, 1], [0, 0]], [1.0, 0.25], [1, 3])
    check(runs.mean(), expected, 0.03)


def test_chain_behind_random_load_balancing():
    # 200 requests a second; gateway 2 ms, A x4 14 ms, B x4 12 ms: 80 ms by Jackson's theorem.
    runs = Runs(chain(0.2, [(2.0, 1, 1), (14.0, 4, 1), (12.0, 4, 1)], "RANDOM", False), 400_000)
    truth = theory.Hypoexponential((0.5 - 0.2, 1 / 14 - 0.05, 1 / 12 - 0.05))
    assert truth.mean == pytest.approx(80.0)
    check(runs.mean(), truth.mean, 0.03)
    for q in (0.5, 0.9, 0.99):
        check_quantile(runs.quantile(q), truth.quantile(q), 0.06)


def test_random_and_round_robin_split():
    random = Runs(balanced(3.2, 4, "RANDOM"), 100_000)
    round_robin = Runs(balanced(3.2, 4, "ROUND_ROBIN"), 100_000)
    one_queue, erlang = theory.MMc(0.8, 1.0), theory.round_robin_split(3.2, 1.0, 4)
    check(random.mean(), one_queue.sojourn_mean, 0.03)
    check(round_robin.mean(), erlang.sojourn_mean, 0.03)
    check_quantile(round_robin.quantile(0.99), erlang.sojourn_quantile(0.99), 0.09)
    gain = random.mean() / round_robin.mean()
    check(gain, one_queue.sojourn_mean / erlang.sojourn_mean, 0.06)


def test_round_robin_over_ten():
    runs = Runs(balanced(7.0, 10, "ROUND_ROBIN"), 30_000)
    check(runs.mean(), theory.round_robin_split(7.0, 1.0, 10).sojourn_mean, 0.03)


@pytest.mark.parametrize("servers", [2, 3])
def test_two_choices_of_few(servers):
    runs = Runs(balanced(0.8 * servers, servers, "LEAST_REQUEST"), 100_000 / servers)
    expected = theory.power_of_choices_sojourn(0.8 * servers, servers, truncation=40)
    check(runs.mean(), expected, 0.03)


def test_two_choices_of_ten():
    # No closed form: a simulation of the chain of queue lengths, 1.8e8 events, error 0.0008.
    # Drawing two distinct hosts would give some 5 % less, as would many-server asymptotics.
    runs = Runs(balanced(8.0, 10, "LEAST_REQUEST"), 30_000)
    check(runs.mean(), 2.1621372, 0.01, bias=0.005)


def test_two_choices_of_a_thousand():
    runs = Runs(balanced(500.0, 1000, "LEAST_REQUEST"), 300)
    check(runs.mean(), theory.supermarket_sojourn(0.5), 0.01, bias=0.01)


def test_full_scan_of_two_is_join_the_shortest_queue():
    runs = Runs(balanced(1.6, 2, "LEAST_REQUEST", selection_method="FULL_SCAN"), 60_000)
    # Forty draws with replacement miss one of two servers once in 1e12.
    expected = theory.power_of_choices_sojourn(1.6, 2, choices=40, truncation=60)
    check(runs.mean(), expected, 0.03)


@pytest.mark.parametrize(
    ("rate", "caller", "workers", "callee", "callee_workers"),
    [(0.6, 1.0, 3, 1.0, 1), (0.6, 2.0, 2, 1.0, 1), (2.0, 1.0, 6, 1.0, 3), (0.4, 1.0, 1, 1.0, 3)],
)
def test_caller_that_holds_its_worker(rate, caller, workers, callee, callee_workers):
    tiers = [(1 / caller, 1, workers), (1 / callee, 1, callee_workers)]
    runs = Runs(chain(rate, tiers, "RANDOM", hold=True), 80_000 / rate)
    expected = theory.nested_possession_sojourn(
        rate, caller, workers, callee, callee_workers, truncation=500
    )
    check(runs.mean(), expected, 0.05)


def test_closed_loop_through_a_caller_that_holds_its_worker():
    # Never short of requests: the caller's workers are the customers of a closed network.
    users, workers = 200, 5
    bodies = {
        "front": workload(exponential(2.0), "back", concurrency=workers, hold_worker=True),
        "back": workload(exponential(1.0), concurrency=2),
    }
    loop = {"users": users, "think_time": "0s"}
    closed = topology(bodies, {"load": {"to": "front", "closed_loop": loop}})
    throughput, _ = theory.closed_network(workers, 2.0, [1.0], [2])
    check(Runs(closed, 20_000).throughput(), throughput, 0.03)


def test_parallel_calls_end_with_the_slowest():
    # Three leaves with a worker for each request: the maximum of three exponentials.
    bodies = {f"leaf{i}": workload(exponential(), concurrency=10_000) for i in range(3)}
    branches = [[{"call": name}] for name in bodies]
    bodies["root"] = {"concurrency": 10_000, "steps": [{"parallel": branches}]}
    fan_out = topology(bodies, {"load": {"to": "root", "arrivals": poisson(1.0)}})
    runs = Runs(fan_out, 30_000)
    check(runs.mean(), 1 + 1 / 2 + 1 / 3, 0.01)
    # F(t) = (1 - exp(-t))**3 at its 99 % point.
    check_quantile(runs.quantile(0.99), 5.7038, 0.03)


@pytest.mark.parametrize(
    ("policy", "hold"), [("ROUND_ROBIN", False), ("RANDOM", True), ("ROUND_ROBIN", True)]
)
def test_chain_against_the_simpy_reference(policy, hold):
    # No closed form: two simulators that share no code must agree on the mean of the chain.
    # Held workers are busy for longer: one each at the gateway and at A would not do.
    tiers = (Tier(0.002, workers=32), Tier(0.014, 4, workers=4), CHAIN[2]) if hold else CHAIN
    reference = []
    for seed in range(1, 11):
        run = simulate_chain(tiers, CHAIN_RATE, 6000, policy, hold, seed) * 1000
        reference.append(run[len(run) // 5 :].mean())
    in_ms = [(tier.mean * 1000, tier.replicas, tier.workers) for tier in tiers]
    ours = Runs(chain(CHAIN_RATE / 1000, in_ms, policy, hold), 150_000).mean()
    mean = sum(reference) / len(reference)
    assert error_of(reference, 0.95) <= 0.05 * mean, "inconclusive, run longer"
    assert error_of(ours, 0.95) <= 0.05 * mean, "inconclusive, run longer"
    bound = (error_of(reference, 0.999) ** 2 + error_of(ours, 0.999) ** 2) ** 0.5
    assert abs(ours.mean() - mean) <= bound


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "halfwidth"), [(0.9, 0.01), (0.95, 0.02)])
def test_two_choices_of_a_thousand_in_full_length(rho, halfwidth):
    runs = Runs(balanced(1000 * rho, 1000, "LEAST_REQUEST"), 600)
    check(runs.mean(), theory.supermarket_sojourn(rho), halfwidth, bias=0.02)


@pytest.mark.slow
def test_two_choices_of_twenty_in_full_length():
    runs = Runs(balanced(18.0, 20, "LEAST_REQUEST"), 60_000)
    check(runs.mean(), 2.8479459, 0.01, bias=0.005)


@pytest.mark.slow
def test_round_robin_in_full_length():
    runs = Runs(balanced(3.6, 4, "ROUND_ROBIN"), 500_000)
    check(runs.mean(), theory.round_robin_split(3.6, 1.0, 4).sojourn_mean, 0.015)
