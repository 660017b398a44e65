"""The outbound proxy: a workload's (or a gateway's) requests to the services of the mesh.

Rule: the Host header names the called service; everything else is the engine's decision, carried
out by `emulator.proxy.exchange`.  Callers are trusted as far as their loopback address: there is
neither TLS nor admission on this side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import ClientContexts
from emulator.http.heads import RequestHead
from emulator.proxy.downstream import Downstream, DownstreamConnection
from emulator.proxy.exchange import OutboundExchange
from emulator.proxy.services import ExchangeRecorder, ProxyServices
from emulator.proxy.upstream import UpstreamPools

__all__ = ["OutboundProxy"]


class OutboundProxy:
    """One outbound proxy.

    Parameters
    ----------
    engine : ProxyEngine
        Decides; holds the configuration.
    clock : ModelClock
        Model time.
    contexts : ClientContexts, optional
        Who the proxy is; None: it speaks plain text.
    recorder : ExchangeRecorder, optional
        Told of each ended request.
    host : str
        Address to listen on; loopback unless the user says otherwise.
    """

    def __init__(
        self,
        engine: ProxyEngine,
        clock: ModelClock,
        contexts: ClientContexts | None = None,
        recorder: ExchangeRecorder | None = None,
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self.pools = UpstreamPools(engine, clock, contexts)
        self.downstream = Downstream(self._begin)
        self._services = ProxyServices(engine, clock, self.pools, recorder, self.downstream.ended)
        self._host = host
        self._server: asyncio.Server | None = None
        self._request_number = 0

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen on `port`, or on any; return address and port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self.downstream.protocol, self._host, port)
        self._server = server
        address, port = server.sockets[0].getsockname()[:2]
        return address, port

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, finish what is running, close; return whether all ended in time [s]."""
        self._stop_accepting()
        ended = await self.downstream.drain(timeout_s)
        self.abort()
        await self.downstream.emptied()
        return ended

    def abort(self) -> None:
        """Reset every socket at once, as if the process were killed."""
        self._stop_accepting()
        self.downstream.abort()
        self.pools.abort()

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def partition(self, names: Iterable[str]) -> None:
        """Let packets to the endpoints `names`, and to no others, be lost until told otherwise."""
        self.pools.partition(names)

    def reconfigured(self) -> None:
        """Close connections to endpoints that have left or moved; the engine has applied it."""
        self.pools.reconfigured()

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name."""
        return {**self.downstream.counters(), "upstream_cx_active": len(self.pools)}

    def _begin(self, head: RequestHead, connection: DownstreamConnection) -> OutboundExchange:
        self._request_number += 1
        exchange = OutboundExchange(head, connection, self._services, self._request_number)
        exchange.begin()
        return exchange
