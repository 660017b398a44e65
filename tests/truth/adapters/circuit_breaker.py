"""Concurrency limits of a client proxy: pools of connections, requests in flight."""

import numpy as np
from theory_scenarios import exponential, poisson, station
from truth_cases import Case, seed_of
from truth_laws import Law, constant_law, exponential_law, lognormal_law
from truth_metrics import quantile_of
from truth_runs import Several, SpanRuns, engine_runs
from truth_scenarios import queue_study, replications_within
from truth_study import NotYet, Replicated, key_of

from meshsim import theory

#: Above any number of requests at once.
_MANY = 100_000


def study(case: Case) -> Replicated:
    params = case.params
    if "max_connections" in params:
        return _pool(case)
    if "offered" in params:
        return _blocked(case)
    if "rate_x_latency" in params:
        return _in_flight(case)
    raise NotYet(f"no scenario for {case.model!r}")


def _pool(case: Case) -> Replicated:
    """Requests beyond max_connections wait for one; beyond max_pending_requests they fail."""
    params = case.params
    rate, mu = params["lam"], params["mu"]
    servers, waiting = params["max_connections"], params["max_pending"]
    limits = {"max_connections": servers, "max_pending_requests": waiting}
    truth = theory.MMcK(rate, mu, servers, servers + waiting)

    def second() -> tuple[float, str]:
        q = quantile_of(case.metric)
        if q is not None:
            return truth.sojourn_quantile(q), "meshsim.theory.MMcK"
        found = truth.sojourn_mean if case.metric.startswith("mean") else truth.blocking
        return found, "meshsim.theory.MMcK"

    return queue_study(
        case,
        lambda: station(
            poisson(rate), exponential(1 / mu), {"circuit_breakers": limits}, concurrency=servers
        ),
        rate,
        0.0,
        requests=max(50_000, 500 * (servers + waiting)),
        second=second,
    )


def _laws(text: str) -> list[Law]:
    """Return the laws that a text such as "exp, deterministic AND lognormal scv4" names."""
    known = {
        "exp": exponential_law(1.0),
        "deterministic": constant_law(1.0),
        "lognormal": lognormal_law(1.0, 4.0),
    }
    return [law for name, law in known.items() if name in text] or [known["exp"]]


def _blocked(case: Case) -> Replicated:
    """Return the share refused by max_requests, one column a law of service."""
    servers, rate = case.params["c"], case.params["offered"]
    laws = _laws(case.params.get("service", "exp"))
    limits = {"circuit_breakers": {"max_requests": servers}}
    requests = max(50_000, round(500 * rate))

    def run(seed: int, replications: int) -> Several:
        return Several(
            [
                engine_runs(
                    station(poisson(rate), law.declared, limits, concurrency=_MANY),
                    requests / rate,
                    seed_of(seed, row),
                    replications,
                )
                for row, law in enumerate(laws)
            ]
        )

    return Replicated(
        key=key_of(case),
        run=run,
        read=lambda variants: np.column_stack([runs.failed() for runs in variants.runs]),
        load=0.0,
        replications_max=replications_within(requests * len(laws)),
        about=f"{len(laws)} laws, {requests} requests each",
        second=lambda: (theory.erlang_b(servers, rate), "meshsim.theory.erlang_b"),
    )


def _in_flight(case: Case) -> Replicated:
    """Return the quantile of the number in flight without limits."""
    rate = case.params["rate_x_latency"]
    q = quantile_of(case.metric)
    if q is None:
        raise NotYet(f"no quantile in the metric {case.metric!r}")

    def read(runs: SpanRuns) -> np.ndarray:
        spent = runs.in_system
        shares = np.cumsum(spent, axis=1) / spent.sum(axis=1, keepdims=True)
        return np.argmax(shares >= q, axis=1).astype(float)

    return queue_study(
        case,
        lambda: station(poisson(rate), exponential(), concurrency=_MANY),
        rate,
        0.0,
        requests=200_000,
        spans=True,
        read=read,
    )
