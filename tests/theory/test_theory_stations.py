"""One station against its closed form.

Half-widths are three times those of a nightly run, which keeps this file under a minute; the
slow cases at the end are of full length.
"""

import math

import numpy as np
import pytest
from theory_scenarios import (
    PER_MS,
    exponential,
    hyperexponential,
    lognormal,
    ms,
    poisson,
    station,
    topology,
    workload,
)
from theory_verdict import Runs, check, check_quantile

from meshsim import theory


def test_mm1_at_half_load():
    runs = Runs(station(poisson(0.5), exponential()), 40_000)
    truth = theory.MMc(0.5, 1.0)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.5), truth.sojourn_quantile(0.5), 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.09)
    check(runs.endpoint("busy_ns") / runs.measured_ms / 1e6, 0.5, 0.03)
    # L = rho / (1 - rho), in the system; the queue alone holds rho^2 / (1 - rho).
    check(runs.endpoint("queue_ns") / runs.measured_ms / 1e6, 0.5, 0.06)


def test_mm1_at_high_load():
    runs = Runs(station(poisson(0.8), exponential()), 150_000)
    truth = theory.MMc(0.8, 1.0)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.09)


@pytest.mark.parametrize(("servers", "rate"), [(4, 3.2), (10, 9.0), (64, 57.6)])
def test_mmc(servers, rate):
    runs = Runs(station(poisson(rate), exponential(), concurrency=servers), 200_000 / rate)
    truth = theory.MMc(rate, 1.0, servers)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.09)


def test_md1():
    runs = Runs(station(poisson(0.5), "1ms"), 80_000)
    check(runs.mean(), 1.0 + theory.mg1_wait(0.5, 1.0, 1.0), 0.02)
    p99 = 1.0 + theory.md1_wait_quantile(0.5, 1.0, 0.99)
    check_quantile(runs.quantile(0.99), p99, 0.06)


def test_mg1_with_lognormal_service():
    runs = Runs(station(poisson(0.8), lognormal(1.0, scv=1.0)), 200_000)
    check(runs.mean(), 1.0 + theory.mg1_wait(0.8, 1.0, 2.0), 0.05)


def test_mg1_with_hyperexponential_service():
    service = hyperexponential((0.9, 0.5), (0.1, 5.5))
    runs = Runs(station(poisson(0.7), service), 400_000)
    second = 2 * (0.9 * 0.5**2 + 0.1 * 5.5**2)
    check(runs.mean(), 1.0 + theory.mg1_wait(0.7, 1.0, second), 0.06)


@pytest.mark.parametrize("scv", [0.25, 3.0])
def test_mg1_with_gamma_service(scv):
    service = {"gamma": {"mean": "1ms", "shape": 1 / scv}}
    runs = Runs(station(poisson(0.7), service), 200_000)
    check(runs.mean(), 1.0 + theory.mg1_wait(0.7, 1.0, 1 + scv), 0.05)


def test_gim1_with_erlang_arrivals():
    arrivals = {"renewal": {"interval": {"gamma": {"mean": "1250us", "shape": 2}}}}
    runs = Runs(station(arrivals, exponential()), 150_000)
    truth = theory.GIM1(lambda s: (1.6 / (1.6 + s)) ** 2, 0.8, 1.0)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.1)


@pytest.mark.parametrize(
    "service", ["1ms", exponential(), lognormal(1.0, scv=4.0)], ids=["D", "M", "lognormal"]
)
def test_processor_sharing_knows_only_the_mean(service):
    shared = station(
        poisson(0.7), service, discipline="PROCESSOR_SHARING", concurrency=100_000, cpu=1.0
    )
    check(Runs(shared, 150_000).mean(), theory.ps_sojourn(0.7, 1.0), 0.05)


def two_classes(discipline, high, low):
    classes = {
        "high": {"to": "station", "priority": 0, "arrivals": poisson(high)},
        "low": {"to": "station", "priority": 1, "arrivals": poisson(low)},
    }
    return topology({"station": workload(exponential(), discipline=discipline)}, classes)


def test_priority_without_preemption():
    runs = Runs(two_classes("PRIORITY", 0.5, 0.3), 200_000)
    high, low = theory.priority_waits([0.5, 0.3], [1, 1], [2, 2])
    check(runs.mean(0), 1.0 + high, 0.03)
    check(runs.mean(1), 1.0 + low, 0.06)


def test_preemptive_priority():
    runs = Runs(two_classes("PREEMPTIVE_PRIORITY", 0.5, 0.3), 200_000)
    high, low = theory.preemptive_sojourns([0.5, 0.3], [1, 1], [2, 2])
    # The first class never sees the second.
    assert high == pytest.approx(theory.MMc(0.5, 1.0).sojourn_mean)
    check(runs.mean(0), high, 0.03)
    check(runs.mean(1), low, 0.06)


@pytest.mark.parametrize(
    ("rate", "servers", "mean", "law"),
    [(12.0, 10, 1.0, "exponential"), (1.2, 1, 2.0, "constant"), (55.0, 50, 5.0, "exponential")],
)
def test_patience(rate, servers, mean, law):
    patience = exponential(mean) if law == "exponential" else ms(mean)
    runs = Runs(
        station(poisson(rate), exponential(), concurrency=servers, patience=patience),
        200_000 / rate,
    )
    abandoned, wait, _ = theory.patience(rate, 1.0, servers, mean, law)
    check(runs.failed(), abandoned, 0.05)
    waits = runs.endpoint("queue_ns") / runs.endpoint("requests") / 1e6
    check(waits, wait, 0.05)


@pytest.mark.parametrize(("rate", "servers", "waiting"), [(0.8, 1, 9), (3.6, 4, 8), (9.0, 5, 5)])
def test_queue_limit_of_the_server(rate, servers, waiting):
    bounded = station(poisson(rate), exponential(), concurrency=servers, queue_limit=waiting)
    runs = Runs(bounded, 60_000 / rate)
    truth = theory.MMcK(rate, 1.0, servers, servers + waiting)
    check(runs.failed(), truth.blocking, 0.09)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.09)


@pytest.mark.parametrize(("rate", "servers", "waiting"), [(0.8, 1, 9), (3.6, 4, 8), (9.0, 5, 5)])
def test_circuit_breakers_of_an_http1_pool(rate, servers, waiting):
    # Requests beyond max_connections wait in the proxy's pool, beyond max_pending they fail.
    limits = {"max_connections": servers, "max_pending_requests": waiting}
    pool = station(poisson(rate), exponential(), {"circuit_breakers": limits}, concurrency=servers)
    runs = Runs(pool, 60_000 / rate)
    truth = theory.MMcK(rate, 1.0, servers, servers + waiting)
    check(runs.failed(), truth.blocking, 0.09)
    check(runs.mean(), truth.sojourn_mean, 0.03)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.09)


@pytest.mark.parametrize("service", ["1ms", exponential(), lognormal(1.0, scv=4.0)], ids=str)
def test_max_requests_is_erlang_b_whatever_the_service(service):
    limited = station(
        poisson(8.0), service, {"circuit_breakers": {"max_requests": 10}}, concurrency=64
    )
    runs = Runs(limited, 10_000)
    check(runs.failed(), theory.erlang_b(10, 8.0), 0.06)
    check(runs.mean(), 1.0, 0.03)


def test_modulated_poisson_arrivals():
    phases = [
        {"rate": 1.5 * PER_MS, "mean_sojourn": "5ms"},
        {"rate": 0.1 * PER_MS, "mean_sojourn": "5ms"},
    ]
    runs = Runs(station({"modulated_poisson": {"phases": phases}}, exponential()), 150_000)
    check(runs.mean(), theory.mmpp_mm1_sojourn([1.5, 0.1], [5.0, 5.0], 1.0), 0.06)


@pytest.mark.parametrize(("size", "law", "second"), [(4, "fixed", 16.0), (4, "geometric", 28.0)])
def test_batches(size, law, second):
    arrivals = {"batch": {"rate": 0.7 * PER_MS, "size": size, "size_distribution": law}}
    runs = Runs(station(arrivals, exponential()), 200_000)
    check(runs.mean(), theory.batch_mm1_sojourn(0.7, 1.0, size, second), 0.06)


def pauses_of(seed):
    """Return a process that pauses the server: up for 100 ms on average, down for 5."""

    def pauses(env, mesh):
        rng = np.random.default_rng(seed)
        while True:
            yield env.timeout(rng.exponential(0.100))
            mesh.slow("station", 0.0)
            yield env.timeout(rng.exponential(0.005))
            mesh.restore("station")

    return pauses


def test_server_that_pauses_at_random():
    means = [
        Runs(
            station(poisson(0.5), exponential()),
            40_000,
            seed,
            replications=1,
            processes=[pauses_of(seed)],
        ).mean()[0]
        for seed in range(1, 11)
    ]
    check(means, theory.paused_mm1_sojourn(0.5, 1.0, 100.0, 5.0), 0.05)


def test_rate_that_changes_in_the_run():
    # Half of the time at double the rate: each half is an M/M/1 of its own.
    def double(env, mesh):
        yield env.timeout(30)
        mesh.set_rate("load", 2.0)

    runs = Runs(station(poisson(0.35), exponential()), 60_000, processes=[double])
    check(runs.between(0.2, 0.5), theory.MMc(0.35, 1.0).sojourn_mean, 0.05)
    check(runs.between(0.52, 1.0), theory.MMc(0.7, 1.0).sojourn_mean, 0.05)


def test_piecewise_rate_that_is_constant_is_poisson():
    arrivals = {"piecewise": {"points": [{"at": "0s", "rate": 0.5 * PER_MS}]}}
    runs = Runs(station(arrivals, exponential()), 60_000)
    check(runs.mean(), theory.MMc(0.5, 1.0).sojourn_mean, 0.03)


@pytest.mark.parametrize(
    ("users", "think", "service", "workers"), [(20, 1.0, 0.1, 1), (40, 4.0, 0.5, 4)]
)
def test_closed_loop(users, think, service, workers):
    closed = topology(
        {"station": workload(exponential(service), concurrency=workers)},
        {
            "load": {
                "to": "station",
                "closed_loop": {"users": users, "think_time": exponential(think)},
            }
        },
    )
    throughput, response = theory.closed_network(users, think, [service], [workers])
    runs = Runs(closed, 50_000 / throughput)
    check(runs.mean(), response, 0.03)
    check(runs.throughput(), throughput, 0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "halfwidth"), [(0.5, 0.01), (0.9, 0.03), (0.95, 0.03)])
def test_mm1_in_full_length(rate, halfwidth):
    customers = {0.5: 2e5, 0.9: 1.5e6, 0.95: 6e6}[rate]
    runs = Runs(station(poisson(rate), exponential()), customers / rate)
    truth = theory.MMc(rate, 1.0)
    check(runs.mean(), truth.sojourn_mean, halfwidth)
    check_quantile(runs.quantile(0.99), truth.sojourn_quantile(0.99), 0.05)
    if rate < 0.95:  # there p99.9 would take some 1e9 requests
        check_quantile(runs.quantile(0.999), truth.sojourn_quantile(0.999), 0.06)


@pytest.mark.slow
def test_rare_slow_requests_in_full_length():
    # One request in a thousand is a hundred times slower; it makes the queue of the others.
    service = hyperexponential((0.999, 0.1), (0.001, 10.0))
    rate = 7.2793449
    runs = Runs(station(poisson(rate), service), 5e6 / rate)
    mean, second = 0.999 * 0.1 + 0.001 * 10, 2 * (0.999 * 0.01 + 0.001 * 100)
    check(runs.mean(), mean + theory.mg1_wait(rate, mean, second), 0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("arrival_scv", "service_scv"), [(0.25, 0.5), (4.0, 3.0), (1 / 3, 1 / 3)])
@pytest.mark.parametrize("law", ["gamma", "lognormal"])
def test_gg1_lies_within_its_bounds(arrival_scv, service_scv, law):
    def distribution(mean, scv):
        if law == "gamma":
            return {"gamma": {"mean": ms(mean), "shape": 1 / scv}}
        return lognormal(mean, scv)

    arrivals = {"renewal": {"interval": distribution(1.25, arrival_scv)}}
    runs = Runs(station(arrivals, distribution(1.0, service_scv)), 500_000)
    wait = runs.mean() - 1.0
    low, high = theory.gg1_wait_bounds(0.8, 1.0, arrival_scv, service_scv)
    half = 3.25 * wait.std(ddof=1) / math.sqrt(len(wait))  # t(0.995, 9)
    assert low <= wait.mean() + half
    assert wait.mean() - half <= high
