"""M/D/1: constant service."""

from adapters.mg1 import study as general_service
from truth_cases import Case
from truth_study import Replicated


def study(case: Case) -> Replicated:
    return general_service(case)
