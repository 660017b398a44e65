"""What a server tells those who probe it: its requests in flight, and what they would take.

Rule: `meshsim.policy.load_balancing.prequal` remembers and estimates; one row is this server's.
"""

from __future__ import annotations

import numpy as np

from meshsim.policy.load_balancing.prequal import estimate_latency_ns, on_answered
from meshsim.state.prequal import BUCKET_SAMPLES, PREQUAL_SERVER_DTYPE, RIF_BUCKETS

__all__ = ["LoadEstimates"]

_ROW = 0


class LoadEstimates:
    """The latencies that one server remembers by the requests in flight that they met."""

    def __init__(self) -> None:
        self._forget()
        # Compiled functions are loaded by their first call: no request is to wait.
        self.remember(0, 0)
        self.latency_ns(0)
        self._forget()

    def _forget(self) -> None:
        self._servers = np.zeros((1, RIF_BUCKETS), PREQUAL_SERVER_DTYPE)
        self._samples = np.zeros((1, RIF_BUCKETS * BUCKET_SAMPLES), np.int64)

    def remember(self, rif: int, latency_ns: int) -> None:
        """Remember a request that met `rif` others and took `latency_ns` [model ns]."""
        on_answered(self._servers, self._samples, _ROW, rif, latency_ns)

    def latency_ns(self, rif: int) -> int:
        """Return the latency to expect with `rif` requests in flight [model ns]."""
        return int(estimate_latency_ns(self._servers, self._samples, _ROW, rif))
