"""M/M/1, first come first served."""

from adapters.mmc import study as many_servers
from truth_cases import Case
from truth_study import Replicated


def study(case: Case) -> Replicated:
    return many_servers(case)
