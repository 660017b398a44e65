"""Caches: CACHE rows of the steps that look something up, and the room of every replica.

Rule: the caches of one workload lie behind one another in what each of its replicas has cached.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.server import CACHE_DTYPE
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import Cache
from meshsim.workload.caching import popularities

__all__ = ["Caches"]


class Caches:
    """Collects CACHE rows."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._popularity: list[Rows] = []
        self._popularity_count = 0
        self._begin: dict[int, list[Rows]] = {}  # until when its keys are there, by workload

    def row(self, cache: Cache, workload: int) -> int:
        """Add a cache of `workload`; return its row."""
        start = NO_INDEX
        if cache.zipf > 0:
            start = self._popularity_count
            self._popularity.append(popularities(cache.keys, cache.zipf))
            self._popularity_count += cache.keys
        before = self._begin.setdefault(workload, [])
        offset = sum(len(keys) for keys in before)
        ttl_ns = NEVER_NS if cache.ttl is None else cache.ttl
        keys = np.zeros(cache.keys, np.int64)
        keys[: round(cache.filled * cache.keys)] = ttl_ns
        before.append(keys)
        self._rows.append((cache.keys, cache.cacheable, ttl_ns, offset, start))
        return len(self._rows) - 1

    def build(self, endpoints: Rows) -> dict[str, Rows]:
        """Return the arrays; `endpoints` are given their room.  Modified in place."""
        nothing = np.zeros(0, np.int64)
        blocks = [
            np.concatenate([nothing, *self._begin.get(int(row), ())])
            for row in endpoints["workload"]
        ]
        counts = np.array([len(block) for block in blocks], np.int64)
        endpoints["cache_count"] = counts
        endpoints["cache_start"] = np.cumsum(counts) - counts
        return {
            "caches": np.array(self._rows, CACHE_DTYPE),
            "popularity": np.concatenate([np.zeros(0), *self._popularity]),
            "cached_until_ns": np.concatenate([nothing, *blocks]),
        }
