"""Gray failures of replicas: which requests they hit, and what they cost.

Rule: what becomes of a request is decided when it is admitted (`meshsim.workload.gray`), by its
own key and by who asks; a request that is slow is so in all its compute and sleep steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.kernel.events import NOTHING
from meshsim.rng import PURPOSE_FAULT, key_uniform, mix_in
from meshsim.state.codes import NO_INDEX
from meshsim.state.server import GRAY_DTYPE
from meshsim.workload.gray import FAILS, SLOW, gray_outcome

__all__ = ["slow_service", "turn_gray", "turn_replica_gray"]

_FAILED = 500
#: Step 0 of every memory is an END.
_END_STEP = 0


@kernel_jit
def turn_gray(state: Any, task: int, generation: int) -> int:
    """Decide whether a gray failure hits `task`, which has just been made."""
    gray = state.endpoints["gray"][state.tasks["endpoint"][task]]
    client = state.exchanges["proxy"][state.attempts["exchange"][state.tasks["attempt"][task]]]
    caller = state.proxies["endpoint"][client]
    column = state.gray_callers.shape[1] - 1  # of gateways
    if caller != NO_INDEX:
        column = state.endpoints["workload"][caller]
    state.tasks["slowed"][task] = 0
    if state.gray_callers[gray, column] == 0:
        return NOTHING
    uniform = key_uniform(mix_in(state.tasks["key"][task], (PURPOSE_FAULT << 24) + 1))
    outcome = gray_outcome(uniform, state.grays["share"][gray], state.grays["error_rate"][gray])
    if outcome == FAILS:
        state.tasks["step"][task] = _END_STEP
        state.tasks["status"][task] = _FAILED
    elif outcome == SLOW:
        state.tasks["slowed"][task] = 1
    return NOTHING


@kernel_jit
def slow_service(state: Any, task: int, duration_ns: int) -> int:
    """Return how long a step of `task` takes at its gray server [ns]."""
    if state.tasks["slowed"][task] == 0:
        return duration_ns
    gray = state.endpoints["gray"][state.tasks["endpoint"][task]]
    return int(duration_ns / state.grays["speed"][gray] + 0.5)


def turn_replica_gray(
    kernel: Any, endpoint: int, wrong: tuple[float, float, float], services: set[str]
) -> None:
    """Let `endpoint` be gray from now on.

    Parameters
    ----------
    kernel : Kernel
        Its memory is modified.
    endpoint : int
    wrong : (float, float, float)
        Share of the requests, error rate and speed of those.
    services : set of str
        Whose requests; of everybody, gateways included, if it is empty.
    """
    state = kernel.state
    callers = [
        not services or place.service in services for place in kernel.compiled.layout.workloads
    ]
    mask = np.array([[*callers, not services]], np.int8)
    state.endpoints["gray"][endpoint] = len(state.grays)
    state.tasks["slowed"][state.tasks["endpoint"] == endpoint] = 0
    rows = np.array([wrong], GRAY_DTYPE)
    known = state.gray_callers if len(state.grays) else np.zeros((0, mask.shape[1]), np.int8)
    state.replace(
        grays=np.concatenate([state.grays, rows], dtype=GRAY_DTYPE),
        gray_callers=np.concatenate([known, mask]),
    )
