"""Caches of replicas: looked up by their tasks, filled by a miss that ended well, flushed.

Rule: what a replica has cached is ``cached_until_ns[cache_start:][:cache_count]``, a time for
each key of each of its workload's caches; a key is there until that time.  Which key a task asks
for is drawn by its own key (`meshsim.workload.caching`), so that filling asks for the same again.
A process that dies takes its caches with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.kernel.events import NOTHING
from meshsim.workload.caching import NOT_CACHEABLE, asked_key, kept_until_ns

__all__ = ["append_cache", "fill_cache", "flush_cache", "is_cached"]


@kernel_jit
def _place(state: Any, task: int) -> int:
    """Return the place of what `task`, at a cache, asks for, or NOT_CACHEABLE."""
    step = state.tasks["step"][task]
    cache = state.steps["call"][step]
    key = asked_key(
        state.caches,
        state.popularity,
        cache,
        state.tasks["key"][task],
        state.steps["ordinal"][step],
    )
    if key == NOT_CACHEABLE:
        return NOT_CACHEABLE
    start = state.endpoints["cache_start"][state.tasks["endpoint"][task]]
    return int(start + state.caches["offset"][cache] + key)


@kernel_jit
def is_cached(state: Any, task: int, generation: int) -> int:
    """Return 1 if `task` finds in its replica's cache what it asks for, else 0."""
    place = _place(state, task)
    if place == NOT_CACHEABLE:
        return 0
    return 1 if state.cached_until_ns[place] > state.counters["now_ns"][0] else 0


@kernel_jit
def fill_cache(state: Any, task: int, generation: int) -> int:
    """Keep what the miss of `task` has found."""
    place = _place(state, task)
    if place != NOT_CACHEABLE:
        cache = state.steps["call"][state.tasks["step"][task]]
        now_ns = state.counters["now_ns"][0]
        state.cached_until_ns[place] = kept_until_ns(state.caches, cache, now_ns)
    return NOTHING


def flush_cache(state: Any, endpoint: int) -> None:
    """Forget what `endpoint` has cached."""
    start, count = (int(state.endpoints[name][endpoint]) for name in ("cache_start", "cache_count"))
    state.cached_until_ns[start : start + count] = 0


def append_cache(state: Any, added: Any) -> None:
    """Give the ENDPOINT row `added` empty caches of its own."""
    added["cache_start"] = len(state.cached_until_ns)
    empty = np.zeros(int(added["cache_count"][0]), np.int64)
    state.replace(cached_until_ns=np.concatenate([state.cached_until_ns, empty]))
