"""Staffing: the least capacity that keeps a promise.

The answer is `meshsim.theory`'s; the kernel must bear it out: with the answer it may not break
the promise, with one less it may not keep it (99.9 % intervals of short runs).
"""

from collections.abc import Callable

import numpy as np
import verdict
from theory_scenarios import exponential, poisson, station
from truth_cases import Case, seed_of
from truth_metrics import quantile, ratio, ratio_of_means, reader_of
from truth_runs import Several, engine_runs, requests_wanted, span_runs
from truth_scenarios import replications_within
from truth_study import Exact, NotYet, Replicated, key_of

from meshsim import theory

_MANY = 1_000_000
_CAPACITY_MAX = 1_000_000
_CONFIDENCE = 0.999
_REPLICATIONS = 10
_REQUESTS = 40_000
#: No whole number: what is answered if the kernel contradicts.
_CONTRADICTED = float("nan")

Measure = Callable[[int], np.ndarray]


def study(case: Case) -> Exact | Replicated:
    params = case.params
    if "max_block" in params:
        return _search(_blocking(params), *_measured_blocking(params))
    if "wait_bound" in params:
        return _search(_late_waits(params), *_measured_waits(params))
    if "p99_slo" in params:
        return _search(_slow_sojourns(params), *_measured_sojourns(params))
    if "pool" in case.model:
        return _pooling(case)
    raise NotYet(f"no scenario for {case.model!r}")


def _search(kept: Callable[[int], bool], measure: Measure, promise: float, least: int) -> Exact:
    """Return the least capacity from `least` on that keeps the promise, if the kernel agrees."""

    def compute() -> float:
        capacity = least
        while not kept(capacity):
            capacity += 1
            if capacity > _CAPACITY_MAX:
                raise NotYet("no capacity below a million keeps the promise")
        agrees = _lowest(measure(capacity)) <= promise
        if capacity > least:
            agrees = agrees and _highest(measure(capacity - 1)) > promise
        return float(capacity) if agrees else _CONTRADICTED

    return Exact(compute, f"borne out by {_REPLICATIONS} x {_REQUESTS} requests at two capacities")


def _lowest(values: np.ndarray) -> float:
    return float(values.mean() - verdict.t_error(values, _CONFIDENCE))


def _highest(values: np.ndarray) -> float:
    return float(values.mean() + verdict.t_error(values, _CONFIDENCE))


def _blocking(params: dict) -> Callable[[int], bool]:
    return lambda servers: theory.erlang_b(servers, params["offered"]) <= params["max_block"]


def _measured_blocking(params: dict) -> tuple[Measure, float, int]:
    rate = params["offered"]

    def measure(servers: int) -> np.ndarray:
        policy = {"circuit_breakers": {"max_requests": servers}}
        scenario = station(poisson(rate), exponential(), policy, concurrency=_MANY)
        return engine_runs(scenario, _REQUESTS / rate, 1, _REPLICATIONS).failed()

    return measure, params["max_block"], 1


def _late_waits(params: dict) -> Callable[[int], bool]:
    rate, mu, bound = params["lam"], params["mu"], params["wait_bound"]

    def kept(servers: int) -> bool:
        # The wait of those who wait is exponential at the spare rate.
        late = theory.MMc(rate, mu, servers).wait_probability
        return late * np.exp(-(servers * mu - rate) * bound) <= params["max_prob"]

    return kept


def _least_stable(params: dict) -> int:
    return int(params["lam"] / params["mu"]) + 1


def _measured_waits(params: dict) -> tuple[Measure, float, int]:
    rate, mu = params["lam"], params["mu"]
    words = f"P(W>{params['wait_bound']})"

    def measure(servers: int) -> np.ndarray:
        scenario = station(poisson(rate), exponential(1 / mu), concurrency=servers)
        runs = span_runs(scenario, _REQUESTS, rate, 1, _REPLICATIONS)
        if params["wait_bound"] == 0:
            return ratio(runs.waited, runs.count)
        return reader_of(words)(runs)

    return measure, params["max_prob"], _least_stable(params)


def _slow_sojourns(params: dict) -> Callable[[int], bool]:
    rate, mu, promise = params["lam"], params["mu"], params["p99_slo"]
    return lambda servers: theory.MMc(rate, mu, servers).sojourn_quantile(0.99) <= promise


def _measured_sojourns(params: dict) -> tuple[Measure, float, int]:
    rate, mu = params["lam"], params["mu"]

    def measure(servers: int) -> np.ndarray:
        scenario = station(poisson(rate), exponential(1 / mu), concurrency=servers)
        runs = engine_runs(scenario, _REQUESTS / rate, 1, _REPLICATIONS)
        return quantile(runs.histogram, 0.99)

    return measure, params["p99_slo"], _least_stable(params)


def _pooling(case: Case) -> Replicated:
    """Return the ratio of mean waits of ten queues of ten workers and of one of a hundred."""
    load = case.params["rho"]
    parted, pooled = case.params.get("parted", 10), case.params.get("pooled", 100)
    # Waits are rare in the large pool: it needs most of the requests.
    requests = requests_wanted(load)

    def run(seed: int, replications: int) -> Several:
        sides = []
        for workers, share in ((parted, 1), (pooled, 20)):
            rate = load * workers
            scenario = station(poisson(rate), exponential(), concurrency=workers)
            wanted = share * requests
            sides.append(engine_runs(scenario, wanted / rate, seed_of(seed, workers), replications))
        return Several(sides)

    def read(both: Several) -> np.ndarray:
        return ratio_of_means(*both.runs, "queue_ns")

    def second() -> tuple[float, str]:
        waits = [theory.MMc(load * c, 1.0, c).wait_mean for c in (parted, pooled)]
        return waits[0] / waits[1], "meshsim.theory.MMc"

    return Replicated(
        key=key_of(case),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(21 * requests),
        about=f"{requests} and {20 * requests} requests each",
        second=second,
        cheap=False,
    )
