"""Outlier detection: runs of failures, lengths of ejections, success rates, on rows by hand."""

import numpy as np
from health_rows import OUTLIERS, Watched
from truth_cases import Case
from truth_runs import Values
from truth_study import Exact, NotYet, Replicated, key_of

from meshsim.policy.outlier_detection import ejection_time_ns
from meshsim.units import NS_PER_S

#: Ejections of one replication.
_EJECTIONS = 300
_VOLUME = 100


def study(case: Case) -> Exact | Replicated:
    params = case.params
    if "consecutive" in params:
        return _run_length(case)
    if "success_rates" in params:
        return Exact(
            lambda: _success_rates(params), "one sweep", second=lambda: _by_definition(params)
        )
    if "n" in params and "base_s" in params:
        return Exact(lambda: _ejection_s(params), "the rule of one ejection")
    raise NotYet(f"no scenario for {case.model!r}")


def _run_length(case: Case) -> Replicated:
    """Return the mean number of requests until a run of failures ejects the only host."""
    share, length = case.params["p"], case.params["consecutive"]
    rule = {**OUTLIERS, "consecutive_5xx": length, "max_ejection_percent": 100}

    def once(seed: int) -> float:
        random = np.random.default_rng(seed)
        cluster = Watched(1, **rule)
        requests = 0
        for _ in range(_EJECTIONS):
            while not cluster.ejected:
                cluster.result(0, 500 if random.random() < share else 200)
                requests += 1
            cluster.hosts["unhealthy"] = 0
            cluster.healths["consecutive_5xx"] = 0
        return requests / _EJECTIONS

    def run(seed: int, replications: int) -> Values:
        return Values(np.array([once(seed * 10_000 + number) for number in range(replications)]))

    def second() -> tuple[float, str]:
        return (1 - share**length) / ((1 - share) * share**length), "run-length formula"

    about = f"{_EJECTIONS} ejections each"
    return Replicated(
        key_of(case), run, lambda runs: runs.values, 0.0, 1280, about, cheap=False, second=second
    )


def _ejection_s(params: dict) -> float:
    """Return the length of the n-th ejection in a row, without jitter [s]."""
    rule = {
        **OUTLIERS,
        "base_ejection_time_ns": round(params["base_s"] * NS_PER_S),
        "max_ejection_time_ns": round(params.get("max_s", 300) * NS_PER_S),
    }
    rules = Watched(1, **rule).rules
    return ejection_time_ns(rules, 0, params["n"], 0) / NS_PER_S


def _success_rates(params: dict) -> tuple[float, int]:
    """Return the threshold [percent], and how many hosts one sweep ejects."""
    rates = params["success_rates"]
    rule = {**OUTLIERS, "max_ejection_percent": 100}
    if "factor" in params:
        rule["success_rate_stdev_factor"] = round(params["factor"] * 1000)
    cluster = Watched(len(rates), **rule)
    volume = _volume(rates)
    cluster.healths["external_requests"] = volume
    cluster.healths["external_successes"] = np.round(np.array(rates) * volume / 100)
    cluster.groups["due_ns"] = rule["interval_ns"]
    cluster.at(rule["interval_ns"] / NS_PER_S)
    return float(cluster.groups["success_rate_threshold"][0]), len(cluster.ejected)


def _by_definition(params: dict) -> tuple[list[float], str]:
    rates = np.array(params["success_rates"], float)
    threshold = float(np.mean(rates) - params.get("factor", 1.9) * np.std(rates))
    return [threshold, float((rates < threshold).sum())], "mean and standard deviation by numpy"


def _volume(rates: list[float]) -> int:
    """Return a number of requests of which every rate is a whole number."""
    volume = _VOLUME
    while any(abs(rate * volume / 100 - round(rate * volume / 100)) > 1e-9 for rate in rates):
        volume *= 10
    return volume
