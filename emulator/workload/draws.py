"""Random draws of one server's tasks, by the keys of the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.rng import key_uniform, mix_in
from meshsim.workload.distributions import sample_ns

__all__ = ["TaskDraws", "coin"]


def coin(key: np.uint64, value: int) -> float:
    """Return the uniform draw in [0, 1) that belongs to `value` of the task with `key`."""
    # Compiled code hands uint64 over as int, and takes a small int for a signed one.
    return float(key_uniform(np.uint64(mix_in(key, value))))


class TaskDraws:
    """Draws of service times and patience.

    Parameters
    ----------
    arrays : mapping
        Of the compiled topology.
    """

    def __init__(self, arrays: Any) -> None:
        self._distributions = arrays["distributions"]
        self._values = arrays["values"]
        # Compiled draws are loaded by their first call, in some 10 ms: no request is to wait.
        coin(np.uint64(0), 0)
        if len(self._distributions):
            self.draw_ns(0, np.uint64(0), 0)

    def draw_ns(self, distribution: int, key: np.uint64, value: int) -> int:
        """Return the draw of a distribution that belongs to `value` of the task with `key` [ns]."""
        draw_key = np.uint64(mix_in(key, value))
        return int(sample_ns(self._distributions, self._values, distribution, draw_key))
