"""What one replica has cached, by the rule and the draws of `meshsim.workload.caching`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from emulator.workload.tasks import ProgramStep
from meshsim.workload.caching import NOT_CACHEABLE, asked_key, kept_until_ns

__all__ = ["ReplicaCache"]


class ReplicaCache:
    """The caches of one replica, as they begin.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Of a compiled topology; read only.
    endpoint : ENDPOINT row
        Of the replica.
    """

    def __init__(self, arrays: Mapping[str, Any], endpoint: Any) -> None:
        self._caches, self._popularity = arrays["caches"], arrays["popularity"]
        start = int(endpoint["cache_start"])
        end = start + int(endpoint["cache_count"])
        self._until_ns = arrays["cached_until_ns"][start:end].copy()

    def _place(self, task_key: np.uint64, step: ProgramStep) -> int:
        key = int(asked_key(self._caches, self._popularity, step.call, task_key, step.ordinal))
        return key if key == NOT_CACHEABLE else int(self._caches["offset"][step.call]) + key

    def has(self, task_key: np.uint64, step: ProgramStep, now_ns: int) -> bool:
        """Return whether it holds at `now_ns` what the task of `task_key` asks for at `step`."""
        place = self._place(task_key, step)
        return place != NOT_CACHEABLE and bool(self._until_ns[place] > now_ns)

    def keep(self, task_key: np.uint64, step: ProgramStep, now_ns: int) -> None:
        """Keep what the task of `task_key` has found at `now_ns`."""
        place = self._place(task_key, step)
        if place != NOT_CACHEABLE:
            self._until_ns[place] = kept_until_ns(self._caches, step.call, now_ns)

    def flush(self) -> None:
        """Forget everything."""
        self._until_ns[:] = 0
