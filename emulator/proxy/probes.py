"""Probes of one proxy: how loaded are the hosts that it may send to (PREQUAL).

Rule: the engine says whom to ask (`meshsim.policy.load_balancing.prequal`), and is told what came.
A probe is a real request to the host's inbound proxy; nobody waits for it.  Its answer says how
many requests are in flight at the server and what one would take there.  One that has not come
by the age at which it would be dropped is lost, and so is any other answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.decisions.probing import Probe
from emulator.http.connection import ClientContexts, UpstreamConnection
from emulator.http.heads import PROBE_AGENT
from emulator.proxy.asking import Asking, Reply
from emulator.proxy.context import decimal
from emulator.proxy.wire import Wire

__all__ = ["Probes"]

_GOOD = 200
_RIF_MAX = 2**31 - 1


class Probes:
    """All probes of one proxy.

    Parameters
    ----------
    engine, clock, contexts, wire
        Of `Asking`.
    """

    def __init__(
        self, engine: ProxyEngine, clock: ModelClock, contexts: ClientContexts | None, wire: Wire
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._asking = Asking(engine, clock, contexts, wire, PROBE_AGENT)
        self.partition = self._asking.partition
        self._idle: dict[int, list[UpstreamConnection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._aborted = False

    def send(self, probes: Iterable[Probe]) -> None:
        """Ask whom a pick said."""
        for probe in probes:
            task = asyncio.get_running_loop().create_task(self._ask(probe))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def reconfigured(self) -> None:
        """Close the connections to hosts that have left or moved."""
        for host in list(self._idle):
            if not self._engine.is_member(host):
                for connection in self._idle.pop(host):
                    connection.close()

    def abort(self) -> None:
        """Ask nobody any more."""
        self._aborted = True
        for task in self._tasks:
            task.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _ask(self, probe: Probe) -> None:
        pool, slot, number, host = probe
        kept = self._idle.get(host)
        connection = kept.pop() if kept else None
        timeout_ns = self._engine.probe_timeout_ns(pool)
        try:
            reply, connection = await self._asking.ask(host, connection, "/", timeout_ns)
        except OSError:
            self._engine.probe_lost(pool, slot, number)
            return
        told = _read(reply)
        if told is None:
            self._engine.probe_lost(pool, slot, number)
        else:
            self._engine.probed(pool, slot, number, *told, self._clock.now_ns())
        if connection is not None and not self._aborted and self._engine.is_member(host):
            self._idle.setdefault(host, []).append(connection)
        elif connection is not None:
            connection.close()


def _read(reply: Reply) -> tuple[int, int] | None:
    """Return requests in flight and latency [ns] of an answer; None if it is none."""
    rif = decimal(reply.headers.get(b"x-meshsim-rif"))
    latency_ns = decimal(reply.headers.get(b"x-meshsim-latency-ns"))
    if reply.status != _GOOD or not 0 <= rif <= _RIF_MAX or latency_ns < 0:
        return None
    return rif, latency_ns
