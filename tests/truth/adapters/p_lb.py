"""Published figures of load balancers."""

from adapters import jsqd
from theory_scenarios import exponential, poisson, station
from truth_cases import Case
from truth_metrics import ratio
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

from meshsim import theory


def study(case: Case) -> Replicated:
    params = case.params
    if "sampling" in params:
        return jsqd.study(case)
    if {"c", "offered"} == params.keys() and case.metric == "P(queue)":
        return _pooled(case, params["c"], params["offered"])
    raise NotYet(f"no scenario for {case.model!r}")


def _pooled(case: Case, workers: int, offered: float) -> Replicated:
    """One queue for all servers: who waits, by Erlang's C."""
    return queue_study(
        case,
        lambda: station(poisson(offered), exponential(), concurrency=workers),
        offered,
        offered / workers,
        read=lambda runs: ratio(runs.waited, runs.count),
        spans=True,
        second=lambda: (theory.MMc(offered, 1.0, workers).wait_probability, "meshsim.theory.MMc"),
    )
