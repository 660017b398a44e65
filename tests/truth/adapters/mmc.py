"""M/M/c: c workers of one server and one queue."""

from theory_scenarios import exponential, poisson, station
from truth_cases import Case
from truth_metrics import is_wait, quantile_of
from truth_scenarios import queue_study
from truth_study import Replicated

from meshsim import theory


def study(case: Case) -> Replicated:
    rate, service, workers, unit_ms = _parameters(case.params)
    truth = theory.MMc(rate, 1 / service, workers)
    return queue_study(
        case,
        lambda: station(poisson(rate), exponential(service), concurrency=workers),
        rate,
        rate * service / workers,
        unit_ms=unit_ms,
        second=lambda: (_by_formula(truth, case.metric) / unit_ms, "meshsim.theory.MMc"),
    )


def _parameters(params: dict) -> tuple[float, float, int, float]:
    """Return (arrival rate [1/ms], mean service [ms], workers, the case's unit [ms])."""
    workers = params.get("c", 1)
    if "lam_rps" in params:
        return params["lam_rps"] / 1000, params["service_mean_ms"], workers, 1.0
    return params["lam"], 1 / params["mu"], workers, 1.0


def _by_formula(truth: theory.MMc, metric: str) -> float:
    q = quantile_of(metric)
    if q is not None and not is_wait(metric):
        return truth.sojourn_quantile(q)
    if metric.startswith("mean"):
        return truth.wait_mean if is_wait(metric) else truth.sojourn_mean
    if metric.startswith("P(wait"):
        return truth.wait_probability
    return float("nan")
