"""The side of a proxy that faces its callers: all their connections, counted and drained.

Rule: a drain closes what is idle at once and the rest with its response; what becomes of each
request is counted once (`emulator.proxy.downstream_connection` reads and writes them).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from emulator.http.heads import RequestHead
from emulator.proxy.downstream_connection import DownstreamConnection, Exchange
from meshsim.state.codes import FLAG_NAMES, FLAG_NONE

__all__ = ["Begin", "Downstream"]

Begin = Callable[[RequestHead, DownstreamConnection], Exchange]


class Downstream:
    """All connections of callers to one listener, what became of their requests, and draining.

    Parameters
    ----------
    begin : callable
        Called with the head of each request and its connection; returns who serves it.
    max_connections : int
        Connections held at once; more are closed as they come, and counted.

    Attributes
    ----------
    on_lost : callable, optional
        Told the number of each connection that ends before the listener does.
    """

    def __init__(self, begin: Begin, max_connections: int = 10_000) -> None:
        self.begin = begin
        self.draining = False
        self.max_connections = max_connections
        self.connections: set[DownstreamConnection] = set()
        self.counts: Counter[str] = Counter()
        self.on_lost: Callable[[int], object] | None = None
        self._empty = asyncio.Event()

    def protocol(self) -> DownstreamConnection:
        """Return the protocol of a new connection."""
        return DownstreamConnection(self)

    def lost(self, connection: DownstreamConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        if self.on_lost is not None and not self.draining:
            self.on_lost(connection.number)
        if not self.connections:
            self._empty.set()

    def began(self) -> None:
        """Count a request."""
        self.counts["downstream_rq_total"] += 1

    def ended(self, response_flag: int) -> None:
        """Count the end of a request, once each."""
        if response_flag == FLAG_NONE:
            self.counts["downstream_rq_completed"] += 1
        else:
            self.counts["downstream_rq_failed_" + FLAG_NAMES[response_flag]] += 1

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name.

        `downstream_rq_total` is `downstream_rq_completed`, all `downstream_rq_failed_<flag>` and
        `downstream_rq_active`; `refused_<status>` never became requests.
        """
        ended = sum(
            count
            for name, count in self.counts.items()
            if name.startswith(("downstream_rq_completed", "downstream_rq_failed_"))
        )
        return {
            **self.counts,
            "downstream_cx_active": len(self.connections),
            "downstream_rq_active": self.counts["downstream_rq_total"] - ended,
        }

    async def drain(self, timeout_s: float) -> bool:
        """Finish what is running and close; return whether all ended in `timeout_s`.

        The caller has stopped accepting.  Connections without a request are closed at once, the
        others with their response, which says ``connection: close``.
        """
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()
        try:
            async with asyncio.timeout(timeout_s):
                await self.emptied()
        except TimeoutError:
            return False
        return True

    async def emptied(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    def abort(self) -> None:
        """Reset every connection; requests under way are given up as if the callers had gone."""
        self.draining = True
        for connection in list(self.connections):
            connection.reset()
