"""Fork-join: every request goes to n stations at one instant and ends with the last."""

from theory_scenarios import exponential, poisson, topology, workload
from truth_cases import Case
from truth_scenarios import queue_study
from truth_study import Replicated

_MANY = 1_000_000


def study(case: Case) -> Replicated:
    count, rate, mu = (case.params[name] for name in ("n", "lam", "mu"))
    load = rate / mu

    def nelson_tantawi() -> tuple[float, str]:
        return (12 - load) / 8 / (mu - rate), "Nelson and Tantawi 1988, exact for two"

    return queue_study(
        case,
        lambda: _scenario(count, rate, 1 / mu),
        rate,
        load,
        visits=count,
        second=nelson_tantawi if count == 2 else None,
    )


def _scenario(count: int, rate: float, mean: float):
    leaves = {f"leaf-{row}": workload(exponential(mean)) for row in range(count)}
    branches = [[{"call": name}] for name in leaves]
    root = {"concurrency": _MANY, "steps": [{"parallel": branches}]}
    return topology({"root": root, **leaves}, {"load": {"to": "root", "arrivals": poisson(rate)}})
