"""Published figures of retries: what clients win by them, and what load they make."""

import numpy as np
from theory_scenarios import poisson, topology
from truth_cases import Case
from truth_metrics import ratio
from truth_runs import EngineRuns
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

_MANY = 1_000_000
#: The figures' setting: so many clients, each for so long at such a rate [1/ms].
_CLIENTS = 100
_DURATION_MS = 10_000
_RATE = 0.01
_AT_ONCE = {"base_interval": "1us", "max_interval": "1us"}


def study(case: Case) -> Replicated:
    if case.model == "three retries":
        return _clients(case, case.params["p"], 3)
    raise NotYet(f"no policy for {case.model!r}")


def _clients(case: Case, fails: float, retries: int) -> Replicated:
    retry = {"num_retries": retries, "retry_on": ["5xx"], **_AT_ONCE}
    body = {"concurrency": _MANY, "error_rate": fails, "steps": [{"compute": "1us"}]}
    clients = {
        f"client-{number}": {"to": "station", "arrivals": poisson(_RATE)}
        for number in range(_CLIENTS)
    }
    return queue_study(
        case,
        lambda: topology({"station": body}, clients, {"station": {"routes": [{"retry": retry}]}}),
        _CLIENTS * _RATE,
        0.0,
        requests=round(_CLIENTS * _RATE * _DURATION_MS),
        visits=2.0,
        read=_success_and_load,
        first_window=0,
    )


def _success_and_load(runs: EngineRuns) -> np.ndarray:
    """Share of requests that succeed, and tries a request."""
    return np.column_stack([1 - runs.failed(), ratio(runs.endpoint_requests[:, 0], runs.ended)])
