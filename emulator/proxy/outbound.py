"""The outbound proxy: a workload's (or a gateway's) requests to the services of the mesh.

Rule: the Host header names the called service; everything else is the engine's decision, carried
out by `emulator.proxy.exchange`.  Callers are trusted as far as their loopback address: there is
neither TLS nor admission on this side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.connection import ClientContexts
from emulator.http.heads import RequestHead
from emulator.proxy.accepting import AcceptingProxy
from emulator.proxy.downstream_connection import DownstreamConnection
from emulator.proxy.exchange import OutboundExchange
from emulator.proxy.health_checks import HealthChecks
from emulator.proxy.mirror import Copies
from emulator.proxy.probes import Probes
from emulator.proxy.rate_limits import RateLimits
from emulator.proxy.services import ExchangeRecorder, ProxyServices
from emulator.proxy.upstream import UpstreamPools
from emulator.proxy.wire import Impairment, Wire

__all__ = ["OutboundProxy"]


class OutboundProxy(AcceptingProxy):
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
    rate_limit_service : (str, int), optional
        Where the rate limit service listens; without one, it has failed for whoever asks.
    """

    def __init__(
        self,
        engine: ProxyEngine,
        clock: ModelClock,
        contexts: ClientContexts | None = None,
        recorder: ExchangeRecorder | None = None,
        *,
        host: str = "127.0.0.1",
        rate_limit_service: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(self._begin, host)
        self._wire = Wire(clock, crc32(engine.name.encode()))
        self.pools = UpstreamPools(engine, clock, contexts, self._wire)
        self._checks = HealthChecks(engine, clock, contexts, self._wire)
        self._probes = Probes(engine, clock, contexts, self._wire)
        counted = (self.downstream.ended, self.downstream.counts)
        self._limits = RateLimits(clock, rate_limit_service)
        self._services = ProxyServices(
            engine, clock, self.pools, self._limits, self._probes, recorder, *counted, self._copy
        )
        self._copies = Copies(self._services)
        self._request_number = 0

    def _abort_upstream(self) -> None:
        self._copies.abort()
        self._checks.abort()
        self._probes.abort()
        self._limits.abort()
        self.pools.abort()

    def partition(self, names: Iterable[str]) -> None:
        """Let packets to the endpoints `names`, and to no others, be lost until told otherwise."""
        names = tuple(names)
        self.pools.partition(names)
        self._checks.partition(names)
        self._probes.partition(names)

    def impair(self, wrong: Mapping[str, Impairment]) -> None:
        """Make the network to the endpoints named worse, and to no others."""
        self._wire.impair(wrong)
        self.pools.rewired()

    def reconfigured(self) -> None:
        """Close connections to endpoints that have left or moved; the engine has applied it.

        Health checks of those that are new begin.
        """
        self.pools.reconfigured()
        self._checks.reconfigured()
        self._probes.reconfigured()

    def counters(self) -> dict[str, int]:
        """Return what happened so far, by name."""
        engine = self._services.engine
        counts = {
            **self.downstream.counters(),
            "upstream_cx_active": len(self.pools),
            "lb_invalid_picks": engine.invalid_picks(),
        }
        for cluster, values in engine.health_counters().items():
            counts |= {f"cluster.{cluster}.{name}": value for name, value in values.items()}
        counts |= engine.totals() | engine.filter_counters()
        return counts | engine.probe_counters()

    def _copy(self, *values: Any) -> None:
        self._copies.send(*values)

    def _begin(self, head: RequestHead, connection: DownstreamConnection) -> OutboundExchange:
        self._request_number += 1
        exchange = OutboundExchange(head, connection, self._services, self._request_number)
        exchange.begin()
        return exchange
