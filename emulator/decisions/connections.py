"""The connections of one proxy: who may wait for one, who may open one, who may send.

Rule: as `emulator.decisions.engine`, of which this is a part: `meshsim.policy.circuit_breakers`
decides, and every question and every change is a stimulus.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from emulator.decisions.holdings import Holdings
from emulator.decisions.stimuli import StimulusLog
from meshsim.policy.circuit_breakers import (
    can_open_connection,
    can_send_request,
    can_wait,
    on_connection_closed,
    on_connection_opened,
    on_pending_added,
    on_pending_removed,
    wants_connection,
)
from meshsim.topology.compiled.layout import Rows

__all__ = ["ConnectionDecisions"]


class ConnectionDecisions(ABC):
    """What a `ProxyEngine` decides of connections."""

    index: int
    _log: StimulusLog | None
    _holdings: Holdings
    _clusters: Rows
    _configs: Rows
    _cluster_of: list[int]
    _connections_open: Rows

    @abstractmethod
    def _note(self, stimulus: str, *values: Any) -> None:
        """Write a stimulus: its arguments, then its result."""

    def can_wait(self, host: int) -> bool:
        """Decide whether one more request may wait for a connection to `host`."""
        allowed = bool(can_wait(self._clusters, self._cluster_of[host], self._configs))
        self._note("can_wait", host, allowed)
        return allowed

    def wants_connection(self, host: int, connecting: int) -> bool:
        """Return whether those that wait for `host` want one more than `connecting`."""
        return bool(wants_connection(self._holdings.pending[host], connecting))

    def can_open(self, host: int) -> int:
        """Decide whether `host` may get one more connection: OPEN_* of the circuit breakers."""
        open_of_host = int(self._connections_open[host])
        cluster = self._cluster_of[host]
        allowed = int(can_open_connection(self._clusters, cluster, self._configs, open_of_host))
        self._note("can_open", host, allowed)
        return allowed

    def can_send(self, host: int) -> bool:
        """Decide whether one more request may be active in the cluster of `host`."""
        allowed = bool(can_send_request(self._clusters, self._cluster_of[host], self._configs))
        if self._log is not None:
            truth = "true" if allowed else "false"
            self._log.write(f'[{self.index},"can_send",{host},{truth}]')
        return allowed

    def opened(self, host: int) -> None:
        """Count a connection to `host` from the moment it starts to connect."""
        self._connections_open[host] += 1
        on_connection_opened(self._clusters, self._cluster_of[host])
        self._note("opened", host, None)

    def closed(self, host: int) -> None:
        """Discount a connection to `host`."""
        self._connections_open[host] -= 1
        on_connection_closed(self._clusters, self._cluster_of[host])
        self._note("closed", host, None)

    def pending_added(self, host: int) -> None:
        """Count a request that starts to wait for a connection to `host`."""
        self._holdings.pending[host] += 1
        on_pending_added(self._clusters, self._cluster_of[host])
        self._note("pending_added", host, None)

    def pending_removed(self, host: int) -> None:
        """Discount a request that no longer waits for a connection to `host`."""
        self._holdings.pending[host] -= 1
        on_pending_removed(self._clusters, self._cluster_of[host])
        self._note("pending_removed", host, None)
