"""What stands behind one name: a sidecar, and with a replica its server.

Rule: a sidecar is two listeners, one policy engine, one identity and one agent.  The workload
talks to the outbound listener on loopback and knows no policy; the mesh talks to the inbound
one.  In a mesh without proxies the outbound listener stands for the caller's client library,
and the workload itself listens to the mesh.

A killed replica resets its sockets and forgets everything; restored, it listens where it did,
with a new key, a new token and an engine that knows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.access.identity import Identity
from emulator.access.listener import Listener
from emulator.clock import Clock
from emulator.control.agent import Agent
from emulator.control.broker_url import credential_for
from emulator.decisions.engine import ProxyEngine
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy, OutboundProxy
from emulator.proxy.admission import Admission
from emulator.proxy.wire import Impairment
from emulator.results.recording import Recorder
from emulator.workload.gray import GrayFailure
from emulator.workload.server import WorkloadServer
from meshsim.controlplane.configuration import ListenerPolicy, ProxyConfiguration
from meshsim.state.codes import NO_INDEX
from meshsim.state.record import ENDPOINT_RECORD_DTYPE
from meshsim.state.server import APPLICATION_STATS
from meshsim.topology.base import Distribution
from meshsim.topology.compiled import CompiledTopology
from meshsim.units import NS_PER_S, seconds
from meshsim.workload.ramps import ramp

__all__ = ["Enrolment", "Impaired", "Replica", "Sidecar", "Surroundings"]

#: A proxy without clusters or peers must still end [real s].
_DRAIN_S = 5.0
#: So long a restarted proxy waits for its configuration before it listens all the same [real s].
_READY_S = 3.0
#: What is wrong from one zone to another: fields of a `Distribution` or None, and the loss.
Impaired = Mapping[tuple[str, str], tuple[Any, float]]
_SOUND = (None, 0.0)


@dataclass(frozen=True)
class Enrolment:
    """What a proxy needs to be let in.

    Parameters
    ----------
    password : str
        On the bus; the user is the proxy's name.
    token : str
        One-time, for its first certificate; empty if it has none.
    principal : str
        SPIFFE id; empty without mutual TLS.
    """

    password: str
    token: str = ""
    principal: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What all sidecars of a process share.

    Parameters
    ----------
    compiled : CompiledTopology
    clock : Clock
    run_seed : int
        Seed of every stream of the run.
    recorder : Recorder
    mesh : str
        Name on the bus.
    bus_url : str
    control_plane_key : bytes
    key_type : str
        Of certificates: "ecdsa-p256" or "rsa-2048".
    host : str
        Address to listen on.
    log : StimulusLog, optional
        Gets every stimulus of every engine.
    rate_limit_service : (str, int), optional
        Where it listens.
    """

    compiled: CompiledTopology
    clock: Clock
    run_seed: int
    recorder: Recorder
    mesh: str
    bus_url: str
    control_plane_key: bytes
    key_type: str = "ecdsa-p256"
    host: str = "127.0.0.1"
    log: StimulusLog | None = None
    rate_limit_service: tuple[str, int] | None = None


def _impairment(out: tuple[Any, float], back: tuple[Any, float]) -> Impairment:
    to, fro = (None if item[0] is None else Distribution(**item[0]) for item in (out, back))
    return Impairment(to, fro, out[1], back[1])


class Sidecar:
    """The outbound side of one proxy, with what decides and what identifies it.

    Parameters
    ----------
    name : str
        Of the endpoint, or ``gateway-<class>``.
    index : int
        Of the proxy in the compiled topology.
    surroundings : Surroundings
    enrolment : Enrolment
    """

    def __init__(
        self, name: str, index: int, surroundings: Surroundings, enrolment: Enrolment
    ) -> None:
        self.name = name
        self.index = index
        self.surroundings = surroundings
        self.listener: Listener | None = None
        self.identity: Identity | None = None
        if enrolment.principal:
            self.identity = Identity(enrolment.principal, surroundings.key_type)
        self.engine = ProxyEngine(name, index, surroundings.run_seed, surroundings.log)
        self.outbound = OutboundProxy(
            self.engine,
            surroundings.clock,
            self.identity,
            surroundings.recorder,
            rate_limit_service=surroundings.rate_limit_service,
        )
        self.agent = Agent(
            name,
            surroundings.mesh,
            surroundings.bus_url,
            credential_for(surroundings.bus_url, name, enrolment.password),
            surroundings.control_plane_key,
            surroundings.clock,
            identity=self.identity,
            token=enrolment.token,
            on_configuration=self._configure,
        )
        self._running: asyncio.Task[None] | None = None
        #: Endpoints to which packets are lost: by a fault, and by that or access rules.
        self._cut_off: frozenset[str] = frozenset()
        self._unreachable: frozenset[str] = frozenset()

    def _configure(self, configuration: ProxyConfiguration) -> None:
        """Take a configuration; what raises ConfigError here is refused as a whole."""
        self.engine.apply(configuration, self.surroundings.clock.now_ns())
        self.outbound.reconfigured()
        self.cut_off()
        if self.listener is not None:
            self.listener.update(policy=configuration.listener)

    def cut_off(self, names: Iterable[str] | None = None) -> None:
        """Lose every packet to the endpoints `names`, and to those that access rules name.

        None keeps those that were named last.
        """
        self._cut_off = self._cut_off if names is None else frozenset(names)
        access = self.engine.configuration.listener.access
        dropped = () if access is None else access.unreachable
        if (unreachable := self._cut_off | frozenset(dropped)) != self._unreachable:
            self._unreachable = unreachable
            self.outbound.partition(unreachable)

    def impair(self, impaired: Impaired) -> None:
        """Make the network to the endpoints of other nodes as bad as that between their zones."""
        layout = self.surroundings.compiled.layout
        proxies = self.surroundings.compiled.arrays["proxies"]
        zone, node = int(proxies["zone"][self.index]), int(proxies["node"][self.index])
        wrong = {}
        for name, at, on in zip(
            layout.endpoint_names, layout.endpoint_zone, layout.endpoint_node, strict=True
        ):
            out = impaired.get((layout.zones[zone], layout.zones[at]))
            back = impaired.get((layout.zones[at], layout.zones[zone]))
            if (out or back) and not (on == node != NO_INDEX):
                wrong[name] = _impairment(out or _SOUND, back or _SOUND)
        self.outbound.impair(wrong)

    async def start(self, port: int = 0) -> tuple[str, int]:
        """Listen to the workload; return where.  The agent begins to ask for configuration."""
        address = await self.outbound.start(port)
        self._running = asyncio.ensure_future(self.agent.run())
        return address

    async def drain(self) -> bool:
        """Finish what is running; return whether it ended in time."""
        return await self.outbound.drain(_DRAIN_S)

    def abort(self) -> None:
        """Reset every socket."""
        self.outbound.abort()

    async def stop(self) -> None:
        """Leave the bus, and end the proxy's log."""
        if self._running is not None:
            self.agent.stop()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            self.engine.close()

    def host_rows(self) -> list[tuple[int, int, int, int, int]]:
        """Return (proxy, endpoint, requests, errors, latency sum [ns]) of hosts that were used."""
        names = self.surroundings.compiled.layout.endpoint_names
        return [
            (self.index, names.index(row.endpoint), row.requests, row.errors, row.latency_sum_ns)
            for row in self.engine.host_rows()
            if row.requests
        ]

    def version(self) -> int:
        """Return the newest version of any type that is in effect."""
        return max(self.agent.configuration.versions.values(), default=0)

    def reconnect(self) -> None:
        """Close idle connections to upstream hosts, so that the next request makes one."""
        self.outbound.pools.close_idle()


class Replica:
    """One endpoint: its server, and the sidecar in front of it.

    Parameters
    ----------
    name : str
        Of the endpoint.
    surroundings : Surroundings
    sidecars : bool
        Whether the mesh has proxies.
    port : int
        To listen on; 0 takes a free one.
    """

    def __init__(
        self, name: str, surroundings: Surroundings, *, sidecars: bool, port: int = 0
    ) -> None:
        compiled = surroundings.compiled
        self.name = name
        self.surroundings = surroundings
        self.index = compiled.layout.endpoint_names.index(name)
        place = compiled.layout.workloads[compiled.layout.endpoint_workload[self.index]]
        self.workload = compiled.topology.services[place.service].workloads[place.workload]
        self.has_inbound = sidecars and self.workload.meshed
        self.sidecar: Sidecar | None = None
        self.server: WorkloadServer | None = None
        self.inbound: InboundProxy | None = None
        #: Kept over restarts: of the inbound proxy, the workload, and the outbound proxy.
        self._port = port if self.has_inbound else 0
        self._server_port = 0 if self.has_inbound else port
        self._outbound = ("127.0.0.1", 0)
        self._started = False
        self._warming: asyncio.Task[None] | None = None
        self._before: tuple[int, ...] = (0,) * len(ENDPOINT_RECORD_DTYPE.names or ())

    @property
    def is_alive(self) -> bool:
        """Whether it serves."""
        return self.sidecar is not None and self.server is not None

    async def start(self, enrolment: Enrolment) -> tuple[str, int]:
        """Start what is not alive, on the ports of the first time.

        Returns
        -------
        (str, int)
            Where the mesh reaches it.
        """
        surroundings = self.surroundings
        sidecar = self.sidecar
        if sidecar is None:
            sidecar = self.sidecar = Sidecar(self.name, self.index, surroundings, enrolment)
            self._outbound = await sidecar.start(self._outbound[1])
        if self.server is None:
            self.server = WorkloadServer(
                surroundings.compiled, self.index, surroundings.clock, self._outbound
            )
            address = "127.0.0.1" if self.has_inbound else surroundings.host
            if self._started:  # a process that died has lost what it had cached, and is cold
                self.server.flush()
                self._start_cold(self.server)
            self._started = True
            self._server_port = await self.server.start(host=address, port=self._server_port)
        if not self.has_inbound:
            return surroundings.host, self._server_port
        if self.inbound is None:
            if self._port:  # a restart: a proxy that is not ready refuses connections
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_READY_S):
                        await sidecar.agent.ready()
            self.inbound = self._make_inbound(sidecar)
            _, self._port = await self.inbound.start(self._port)
        return surroundings.host, self._port

    def _make_inbound(self, sidecar: Sidecar) -> InboundProxy:
        surroundings = self.surroundings
        policy = ListenerPolicy("STRICT" if sidecar.identity is not None else "DISABLE")

        def make_listener(factory: Any) -> Listener:
            clock = surroundings.clock
            sidecar.listener = Listener(policy, sidecar.identity, factory, clock, name=self.name)
            return sidecar.listener

        engine = sidecar.engine
        admission = Admission(engine, surroundings.clock)
        return InboundProxy(
            self.name,
            self._server_port,
            make_listener,
            host=surroundings.host,
            admit=admission.admit,
            disconnected=admission.disconnected,
            access=engine.inbound,
        )

    def _start_cold(self, server: WorkloadServer) -> None:
        """Let `server`, which starts again, be slow at first, if its workload is."""
        cold = self.workload.cold_start
        if cold is None:
            return
        exponential = cold.shape == "EXPONENTIAL"
        steps = ramp(cold.initial_speed, 1.0, seconds(cold.duration), exponential=exponential)
        server.warm(steps[0][1])
        self._warming = asyncio.ensure_future(self._warm_up(server, steps))

    async def _warm_up(self, server: WorkloadServer, steps: Sequence[tuple[float, float]]) -> None:
        clock = self.surroundings.clock
        begin_ns = clock.now_ns()
        for offset_s, factor in steps:
            left_ns = begin_ns + round(offset_s * NS_PER_S) - clock.now_ns()
            await asyncio.sleep(clock.real_s(max(left_ns, 0)))
            server.warm(factor)

    async def refuse(self, timeout_s: float) -> None:
        """Take no new connection or request, and finish what is running, in `timeout_s`."""
        if self.inbound is not None:
            await self.inbound.drain(timeout_s)
        elif self.server is not None:
            await self.server.drain(timeout_s)

    async def drain(self) -> bool:
        """Finish what is running, callers' side first; return whether all ended in time."""
        ended = [await self.inbound.drain(_DRAIN_S)] if self.inbound is not None else []
        if self.server is not None:
            ended.append(await self.server.drain(_DRAIN_S))
        if self.sidecar is not None:
            ended.append(await self.sidecar.drain())
        return all(ended)

    async def kill(self) -> None:
        """Reset every socket and forget everything."""
        if self._warming is not None:
            self._warming.cancel()
            self._warming = None
        if self.server is not None:
            self._before = self.record(self.surroundings.clock.now_ns())
            self.server.abort()
            self.server = None
        await self.kill_proxy()

    async def kill_proxy(self) -> None:
        """Reset every socket of the sidecar and forget its state; the workload lives on."""
        inbound, sidecar = self.inbound, self.sidecar
        self.inbound = self.sidecar = None
        if inbound is not None:
            inbound.abort()
        if sidecar is not None:
            if sidecar.listener is not None:
                sidecar.listener.abort()
            sidecar.abort()
            await sidecar.stop()

    def record(self, now_ns: int) -> tuple[int, ...]:
        """Return its counters in the order of `ENDPOINT_RECORD_DTYPE`, earlier lives included."""
        if self.server is None:
            return self._before
        # The last field, how many are in the system, is no sum and has died with them.
        *counts, in_system = self.server.record(now_ns)
        return *(a + b for a, b in zip(self._before, counts, strict=False)), in_system

    def slow(self, factor: float) -> None:
        """Compute at `factor` times the nominal speed; 0 pauses."""
        if self.server is not None:
            self.server.set_speed(factor)

    def fail(self, share: float) -> None:
        """Answer a share of the requests with 500."""
        if self.server is not None:
            self.server.set_error_rate(share)

    def flush(self) -> None:
        """Forget what is cached."""
        if self.server is not None:
            self.server.flush()

    def squeeze(self, share: float, node_share: float) -> None:
        """Have a share of its own cores, and of those of its node."""
        if self.server is not None:
            self.server.squeeze(share, node_share)

    def turn_gray(self, gray: GrayFailure) -> None:
        """Let requests, but no health checks, be hit by a gray failure."""
        if self.server is not None:
            self.server.set_gray(gray)

    def heal(self) -> None:
        """Compute at nominal speed on all its cores, with the stated error rate."""
        if self.server is not None:
            self.server.set_speed(1.0)
            self.server.squeeze(1.0, 1.0)
            self.server.set_error_rate(None)
            self.server.set_gray(None)

    def counters(self) -> Mapping[str, int]:
        """Return the counters of both proxies, for reports."""
        values: dict[str, int] = {}
        if self.sidecar is not None:
            values |= {f"outbound.{k}": v for k, v in self.sidecar.outbound.counters().items()}
        if self.inbound is not None:
            values |= {f"inbound.{k}": v for k, v in self.inbound.counters().items()}
        if self.sidecar is not None:
            engine = self.sidecar.engine
            filters = engine.filter_counters(inbound=True) | engine.gate.counters()
            values |= {f"inbound.{k}": v for k, v in filters.items()}
        if self.server is not None:
            station = self.server.station
            counts = {name: getattr(station, name) for name in APPLICATION_STATS}
            counts |= station.bulkheads.counters()
            values |= {f"application.{name}": count for name, count in counts.items()}
        return values
