"""Two or more classes at one server, with or without preemption; the first is served first."""

import numpy as np
from theory_scenarios import exponential, poisson, topology, workload
from truth_cases import Case
from truth_metrics import reader_of
from truth_runs import EngineRuns
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

from meshsim import theory

#: Priorities that a traffic class can have.
_CLASSES_MAX = 4


def study(case: Case) -> Replicated:
    rates, mu = case.params["lam"], case.params["mu"]
    rates_of_service = mu if isinstance(mu, list) else [mu] * len(rates)
    if len(set(rates_of_service)) > 1:
        raise NotYet("classes of one workload that differ in service need an operation each")
    if len(rates) > _CLASSES_MAX:
        raise NotYet(f"{_CLASSES_MAX} priorities at most")
    preemptive = "non-preemptive" not in case.model
    waits = case.metric.startswith("[W")
    means = [1 / rate for rate in rates_of_service]
    seconds = [2 * mean**2 for mean in means]

    def second() -> tuple[list[float], str]:
        if preemptive:
            return theory.preemptive_sojourns(rates, means, seconds), "preemptive_sojourns"
        found = theory.priority_waits(rates, means, seconds)
        return found, "meshsim.theory.priority_waits"

    def read(runs: EngineRuns) -> np.ndarray:
        reader = reader_of("mean wait" if waits else "mean sojourn")
        return np.column_stack([reader(runs.of_class(row)) for row in range(len(rates))])

    return queue_study(
        case,
        lambda: _scenario(rates, means[0], "PREEMPTIVE_PRIORITY" if preemptive else "PRIORITY"),
        sum(rates),
        sum(rates) * means[0],
        read=read,
        second=second if waits != preemptive else None,
    )


def _scenario(rates: list[float], mean: float, discipline: str):
    classes = {
        f"class-{row}": {"to": "station", "priority": row, "arrivals": poisson(rate)}
        for row, rate in enumerate(rates)
    }
    return topology({"station": workload(exponential(mean), discipline=discipline)}, classes)
