"""What both sides of a proxy do with their callers: listen, drain, be killed.

Rule: a drain stops accepting, lets what is running end, and resets what has not ended in time; a
kill resets every socket at once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from emulator.proxy.downstream import Begin, Downstream

__all__ = ["AcceptingProxy"]


class AcceptingProxy(ABC):
    """One side of a proxy, as its callers see it.

    Parameters
    ----------
    begin : callable
        Of `Downstream`.
    host : str
        Address to listen on; loopback unless the user says otherwise.
    """

    def __init__(self, begin: Begin, host: str) -> None:
        self.downstream = Downstream(begin)
        self._host = host
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen on `port`, or on any; return address and port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.downstream.protocol, self._host, port)
        return self._host, self._server.sockets[0].getsockname()[1]

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
        self._abort_upstream()

    @abstractmethod
    def _abort_upstream(self) -> None:
        """Reset every connection that is not a caller's."""

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
