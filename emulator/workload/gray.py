"""The gray failure of one replica, by the rule and the draws of `meshsim.workload.gray`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.workload.tasks import END_STEP, Task
from meshsim.rng import PURPOSE_FAULT, key_uniform, mix_in
from meshsim.workload.gray import FAILS, SLOW, gray_outcome

__all__ = ["GrayFailure"]

_FAILED = 500


@dataclass(frozen=True)
class GrayFailure:
    """What is wrong with a replica that is well for health checks.

    Parameters
    ----------
    share : float
        Of the requests that are hit, 0 to 1.
    error_rate : float
        Of those, the share that fails, 0 to 1.
    speed : float
        Of the others that are hit, > 0.
    """

    share: float
    error_rate: float
    speed: float

    def turn(self, task: Task) -> None:
        """Decide whether it hits `task`, which has just been admitted."""
        key = np.uint64(mix_in(task.key, (PURPOSE_FAULT << 24) + 1))
        outcome = gray_outcome(float(key_uniform(key)), self.share, self.error_rate)
        if outcome == FAILS:
            task.step = END_STEP
            task.status = _FAILED
        elif outcome == SLOW:
            task.pace = self.speed
