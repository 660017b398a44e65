"""Bulkheads as rows: those of every replica, in the order in which its workload states them."""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.server import BULKHEAD_DTYPE
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import Topology

__all__ = ["Bulkheads"]

_UNLIMITED = np.iinfo(np.int64).max


class Bulkheads:
    """The bulkheads of a topology's workloads.

    Parameters
    ----------
    topology : Topology
    """

    def __init__(self, topology: Topology) -> None:
        self._stated = [
            workload.bulkheads
            for service in topology.services.values()
            for workload in service.workloads.values()
        ]

    def place(self, workload: int, service: str) -> int:
        """Return the place of the bulkhead of calls of `service`, or NO_INDEX."""
        names = list(self._stated[workload])
        return names.index(service) if service in names else NO_INDEX

    def build(self, endpoints: Rows) -> dict[str, Rows]:
        """Return the arrays; `endpoints` are given their room.  Modified in place."""
        blocks = [self._rows(int(workload)) for workload in endpoints["workload"]]
        counts = np.array([len(block) for block in blocks], np.int32)
        endpoints["bulkhead_start"] = np.cumsum(counts) - counts
        return {
            "bulkheads": np.concatenate([np.zeros(0, BULKHEAD_DTYPE), *blocks]),
            "bulkhead_counts": np.array([len(stated) for stated in self._stated], np.int32),
        }

    def _rows(self, workload: int) -> Rows:
        stated = self._stated[workload].values()
        rows = np.zeros(len(stated), BULKHEAD_DTYPE)
        rows["head"] = rows["tail"] = NO_INDEX
        for row, bulkhead in enumerate(stated):
            waiting = bulkhead.max_waiting_calls
            rows["max_concurrent_calls"][row] = bulkhead.max_concurrent_calls
            rows["max_waiting_calls"][row] = _UNLIMITED if waiting is None else waiting
            rows["max_wait_ns"][row] = min(bulkhead.max_wait_duration, NEVER_NS)
        return rows
