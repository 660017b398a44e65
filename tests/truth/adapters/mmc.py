"""M/M/c: c workers of one server and one queue."""

import math
from collections.abc import Callable

from scipy.stats import poisson as poisson_law
from theory_scenarios import exponential, poisson, station
from truth_cases import Case
from truth_metrics import is_wait, quantile_of, threshold_of
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
        second=_by_formula(truth, case.metric, unit_ms),
    )


def _parameters(params: dict) -> tuple[float, float, int, float]:
    """Return (arrival rate [1/ms], mean service [ms], workers, the case's unit [ms])."""
    workers = params.get("c", 1)
    if "lam_rps" in params:
        return params["lam_rps"] / 1000, params["service_mean_ms"], workers, 1.0
    return params["lam"], 1 / params["mu"], workers, 1.0


def _by_formula(
    truth: theory.MMc, metric: str, unit_ms: float
) -> Callable[[], tuple[float, str]] | None:
    """Return what theory says of a metric in the case's unit, if it does."""
    if "P(N" in metric or "number in" in metric:
        found = _number_in_system(truth, metric)
    elif metric.startswith("P("):
        found = _probability(truth, metric, unit_ms)
    else:
        found = _time(truth, metric)
        found = None if found is None else found / unit_ms
    return None if found is None else lambda: (found, "meshsim.theory.MMc")


def _time(truth: theory.MMc, metric: str) -> float | None:
    """Return a time [ms]; waits of those who wait are exponential at the spare rate."""
    spare = truth.servers * truth.service_rate - truth.arrival_rate
    waiting, q = truth.wait_probability, quantile_of(metric)
    if q is not None and is_wait(metric):
        return max(0.0, math.log(waiting / (1 - q)) / spare)
    if q is not None:
        return truth.sojourn_quantile(q)
    if metric.startswith("mean"):
        return truth.wait_mean if is_wait(metric) else truth.sojourn_mean
    if metric.startswith("std"):
        variance = waiting * (2 - waiting) / spare**2
        return math.sqrt(variance + (0 if is_wait(metric) else truth.service_rate**-2))
    return None


def _probability(truth: theory.MMc, metric: str, unit_ms: float) -> float | None:
    time = threshold_of(metric)
    if time is None:
        return None
    if not is_wait(metric):
        return 1 - truth.sojourn_cdf(time * unit_ms)
    spare = truth.servers * truth.service_rate - truth.arrival_rate
    return truth.wait_probability * math.exp(-spare * time * unit_ms)


def _number_in_system(truth: theory.MMc, metric: str) -> float:
    """Return the mean number, or how often there are at least so many."""
    if "P(N" not in metric:
        return truth.arrival_rate * truth.sojourn_mean
    offered, servers = truth.arrival_rate / truth.service_rate, truth.servers
    level = int(threshold_of(metric) or 0)
    if level >= servers:
        return truth.wait_probability * (offered / servers) ** (level - servers)
    # Below that the numbers are as likely to each other as those of a Poisson law.
    below = poisson_law.cdf(level - 1, offered) / poisson_law.cdf(servers - 1, offered)
    return float(1 - (1 - truth.wait_probability) * below)
