"""M/G/1, first come first served."""

from theory_scenarios import poisson, station
from truth_cases import Case
from truth_laws import service_law
from truth_metrics import is_wait
from truth_scenarios import queue_study
from truth_study import Replicated

from meshsim import theory


def study(case: Case) -> Replicated:
    params = case.params
    law = service_law(params)
    rate = params["lam"]

    def pollaczek_khinchine() -> tuple[float, str]:
        wait = theory.mg1_wait(rate, law.mean, law.second_moment)
        return wait if is_wait(case.metric) else wait + law.mean, "meshsim.theory.mg1_wait"

    return queue_study(
        case,
        lambda: station(poisson(rate), law.declared, concurrency=params.get("c", 1)),
        rate,
        rate * law.mean,
        variability=(1 + law.scv) / 2,
        second=pollaczek_khinchine if case.metric.startswith("mean") else None,
        cheap=law.scv <= 4,
    )
