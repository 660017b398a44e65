"""One process of the mesh: replicas with their sidecars, or the gateways with the load.

Rule: a node decides nothing by itself; it does what the harness asks, one verb at a time
(`Node.verbs`), and answers.  It ends when it is told to or when the harness is gone.

The order of a run: `start` (listen, say where), `ready` (every proxy has its configuration and
certificate), `begin` (model time gets its origin), `load` (the edge: until every measured
request has ended), `report` (what was recorded), `stop`.  In between: `now`, faults, `drain`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from emulator.clock import Clock
from emulator.control.broker_url import EMBEDDED_MESH
from emulator.decisions.engine import run_seed_of
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy
from emulator.results.recording import Recorder
from emulator.running.definitions import unpack
from emulator.running.lag import LagProbe
from emulator.running.messages import Answer
from emulator.running.node_spec import NodeSpec, compiled_of
from emulator.running.replica import Enrolment, Impaired, Replica, Sidecar, Surroundings
from emulator.workload.gray import GrayFailure
from emulator.workload.loadgen import LoadGenerator
from meshsim.controlplane.configuration import gateway_name
from meshsim.errors import MeshsimError
from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S

__all__ = ["Node"]

#: A proxy that a broker has not taken by then, or that has no configuration, says why [real s].
_BUS_PATIENCE_S = 20.0
_READY_PATIENCE_S = 90.0
#: A short run may have begun on a busy machine: its requests get so long to end [model ns].
_DRAIN_MIN_NS = 10 * NS_PER_S


class Node:
    """What one process hosts.

    Parameters
    ----------
    name : str
        For messages to people.
    own : mapping, optional
        Fields of `NodeSpec` that this machine decides, whatever the harness says.
    """

    def __init__(self, name: str, own: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self._own = dict(own or {})
        self.stopped = asyncio.Event()
        self._replicas: dict[str, Replica] = {}
        self._gateways: dict[str, Sidecar] = {}
        self._loads: dict[str, LoadGenerator] = {}
        self._probe = LagProbe()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cpu_begin_s = 0.0
        self._cpu_end_s: float | None = None
        self._segments_ended = 0
        self._open_at_begin: dict[str, int] = {}
        self._log: StimulusLog | None = None
        #: Endpoints that a proxy cannot reach, by proxy.
        self._unreachable: dict[str, list[str]] = {}
        #: (latency as JSON, loss) by (from zone, to zone).
        self._impaired: Impaired = {}

    @property
    def verbs(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Answer]]]:
        """What the harness may ask, by name."""
        return {
            "start": self._start,
            "time": self._time,
            "ready": self._ready,
            "begin": self._begin,
            "load": self._load,
            "stop_load": self._stop_load,
            "now": self._now,
            "kill": self._kill,
            "kill_proxy": self._kill_proxy,
            "restore": self._restore,
            "slow": self._slow,
            "fail": self._fail,
            "flush": self._flush,
            "gray": self._gray,
            "refuse": self._refuse,
            "squeeze": self._squeeze,
            "rate": self._rate,
            "impair": self._impair,
            "partition": self._partition,
            "certificates": self._certificates,
            "expire": self._expire,
            "renew": self._renew,
            "drain": self._drain,
            "report": self._report,
            "stop": self._stop,
        }

    # --- Life --------------------------------------------------------------------------------

    async def _start(self, values: dict[str, Any]) -> Answer:
        """Build and start everything; return addresses of endpoints."""
        spec = NodeSpec.from_values({**values, **self._own})
        topology = Topology.model_validate_json(spec.topology)
        unpack(spec.policies)
        compiled = compiled_of(topology)
        self.spec, self.compiled = spec, compiled
        self.clock = Clock(spec.dilation)
        self.recorder = Recorder(compiled.catalog, spec.duration_ns)
        self._log = StimulusLog(spec.record) if spec.record else None
        self._surroundings = Surroundings(
            compiled,
            self.clock,
            run_seed_of(spec.seed),
            self.recorder,
            spec.mesh,
            spec.bus_url,
            bytes.fromhex(spec.control_plane_key),
            spec.key_type,
            spec.host,
            self._log,
            spec.rate_limit_service,
        )
        addresses = {}
        for name in spec.endpoints:
            replica = Replica(
                name,
                self._surroundings,
                sidecars=compiled.profile.sidecars,
                port=spec.ports.get(name, 0),
            )
            self._replicas[name] = replica
            addresses[name] = await replica.start(Enrolment(**spec.enrolments[name]))
            self._watch(replica)
        for name in spec.classes:
            await self._start_gateway(name)
        return Answer({"addresses": addresses})

    async def _start_gateway(self, name: str) -> None:
        spec, gateway = self.spec, gateway_name(name)
        index = len(self.compiled.layout.endpoint_names) + list(
            self.compiled.topology.traffic
        ).index(name)
        sidecar = Sidecar(gateway, index, self._surroundings, Enrolment(**spec.enrolments[gateway]))
        self._gateways[gateway] = sidecar
        address = await sidecar.start()
        self._loads[name] = LoadGenerator(
            self.compiled,
            name,
            address,
            self.clock,
            self.recorder,
            seed=spec.seed,
            duration_ns=spec.duration_ns,
            draws="same" if spec.draws == "same" else "fresh",
            sample_share=spec.sample_share,
            drain_min_ns=_DRAIN_MIN_NS,
        )
        self._watch_proxy(gateway, lambda: _proxy_record(sidecar, None))

    def _watch(self, replica: Replica) -> None:
        """Let the recorder read this replica's counters at the end of each segment."""
        self.recorder.watch_endpoint(replica.index, replica.record)
        record = functools.partial(_replica_record, replica)
        self._watch_proxy(replica.name, record)

    def _watch_proxy(self, name: str, record: Callable[[], tuple[int, ...]]) -> None:
        for index, (_, proxy) in enumerate(self.compiled.catalog.proxies):
            if proxy == name:
                self.recorder.watch_proxy(index, record)

    def _sidecars(self) -> dict[str, Sidecar]:
        alive = {name: item.sidecar for name, item in self._replicas.items() if item.sidecar}
        return {**alive, **self._gateways}

    async def _ready(self, values: dict[str, Any]) -> Answer:
        """Return when every proxy can serve."""
        del values
        agents = [sidecar.agent for sidecar in self._sidecars().values()]
        if self.spec.mesh != EMBEDDED_MESH:  # the embedded broker takes everybody, in its time
            await asyncio.gather(*(agent.bus.reach(_BUS_PATIENCE_S) for agent in agents))
        ready = asyncio.gather(*(agent.ready() for agent in agents))
        try:
            async with asyncio.timeout(_READY_PATIENCE_S):
                await ready
        except TimeoutError:
            lacking = next(agent for agent in agents if not agent.is_ready)
            why = lacking.last_refusal or lacking.bus.last_error or "nothing came over the bus"
            raise MeshsimError(f"{lacking.proxy} has no configuration: {why}") from None
        return Answer()

    async def _time(self, values: dict[str, Any]) -> Answer:
        """Return this machine's monotonic clock [ns]."""
        del values
        return Answer({"real_ns": Clock.real_ns()})

    async def _begin(self, values: dict[str, Any]) -> Answer:
        """Give model time its origin, and begin to measure the loop."""
        self.clock.rebase(values["origin_ns"])
        loop = asyncio.get_running_loop()
        for segment, end_ns in enumerate(self.recorder.segment_ends_ns()):
            self.clock.call_at(loop, end_ns, self._end_segment, segment)
        self._probe.start()
        self._cpu_begin_s = _cpu_s()
        self._open_at_begin = _open_now()
        return Answer()

    def _end_segment(self, segment: int) -> None:
        self.recorder.snapshot(segment, self.clock.now_ns())
        self._segments_ended = segment + 1
        if segment + 1 == len(self.recorder.segment_ends_ns()):
            self._end_measuring()

    def _end_measuring(self) -> None:
        if self._cpu_end_s is None:
            self._cpu_end_s = _cpu_s()
            self._probe.stop()

    async def _load(self, values: dict[str, Any]) -> Answer:
        """Run the load until every measured request has ended."""
        del values
        await asyncio.gather(*(load.run() for load in self._loads.values()))
        return Answer()

    async def _stop_load(self, values: dict[str, Any]) -> Answer:
        """End the arrivals; `load` returns when what is under way has ended."""
        del values
        for load in self._loads.values():
            load.stop()
        return Answer()

    async def _now(self, values: dict[str, Any]) -> Answer:
        """Return counts so far, recent latencies, and the configuration version in effect."""
        del values
        now = dict(self.recorder.now())
        latencies = now.pop("latencies_ns")
        now["now_ns"] = self.clock.now_ns()
        now["version"] = min((item.version() for item in self._sidecars().values()), default=0)
        return Answer(now, {"latencies_ns": latencies})

    async def _drain(self, values: dict[str, Any]) -> Answer:
        """Finish what is running and stop listening."""
        del values
        self._end_measuring()
        sidecars = [item.drain() for item in self._gateways.values()]
        replicas = [item.drain() for item in self._replicas.values()]
        ended = await asyncio.gather(*sidecars, *replicas)
        return Answer({"ended": all(ended)})

    async def _report(self, values: dict[str, Any]) -> Answer:
        """Return everything recorded."""
        del values
        self._end_measuring()
        now_ns = self.clock.now_ns()
        for segment in range(self._segments_ended, len(self.recorder.segment_ends_ns())):
            self.recorder.snapshot(segment, now_ns)  # the run was stopped early
        sidecars = self._sidecars()
        for sidecar in sidecars.values():
            self.recorder.hosts(sidecar.host_rows())
        return Answer(
            {
                "lag_ms": self._probe.quantiles_ms(),
                "open": {"at_begin": self._open_at_begin, "at_end": _open_now()},
                "cpu_s": (self._cpu_end_s or _cpu_s()) - self._cpu_begin_s,
                "counters": {n: dict(r.counters()) for n, r in self._replicas.items()}
                | {n: dict(s.outbound.counters()) for n, s in self._gateways.items()},
                "digests": {name: item.engine.digest() for name, item in sidecars.items()},
            },
            self.recorder.arrays(),
        )

    async def _stop(self, values: dict[str, Any]) -> Answer:
        """Release everything; the process ends after the answer."""
        del values
        await self.close()
        return Answer()

    async def close(self) -> None:
        """Release every socket and task; closing twice does no harm."""
        self._end_measuring()
        for replica in self._replicas.values():
            await replica.kill()
        for sidecar in self._gateways.values():
            sidecar.abort()
            await sidecar.stop()
        self._gateways.clear()
        if self._log is not None:
            self._log.close()
        self.stopped.set()

    # --- Faults ------------------------------------------------------------------------------

    def _named(self, values: dict[str, Any]) -> list[Replica]:
        return [self._replicas[name] for name in values["endpoints"]]

    async def _kill(self, values: dict[str, Any]) -> Answer:
        """Kill replicas: sockets reset, state gone."""
        for replica in self._named(values):
            await replica.kill()
        return Answer()

    async def _kill_proxy(self, values: dict[str, Any]) -> Answer:
        """Kill sidecars; their workloads live on."""
        for replica in self._named(values):
            await replica.kill_proxy()
        return Answer()

    async def _restore(self, values: dict[str, Any]) -> Answer:
        """Bring replicas back: alive, at nominal speed, with their stated error rate."""
        for replica in self._named(values):
            enrolment = values["enrolments"].get(replica.name)
            if not replica.is_alive and enrolment is not None:
                await replica.start(Enrolment(**enrolment))
                assert replica.sidecar is not None
                replica.sidecar.cut_off(self._unreachable.get(replica.name, ()))
                replica.sidecar.impair(self._impaired)
            replica.heal()
        return Answer()

    async def _slow(self, values: dict[str, Any]) -> Answer:
        """Let replicas compute at a factor of their nominal speed; 0 pauses them."""
        for replica in self._named(values):
            replica.slow(values["factor"])
        return Answer()

    async def _fail(self, values: dict[str, Any]) -> Answer:
        """Let replicas answer a share of their requests with 500."""
        for replica in self._named(values):
            replica.fail(values["share"])
        return Answer()

    async def _refuse(self, values: dict[str, Any]) -> Answer:
        """Let replicas take no new work; this ends when they have, or when they are killed."""
        timeout_s = self.clock.real_s(values["patience_ns"])
        for replica in self._named(values):
            refusing = asyncio.ensure_future(replica.refuse(timeout_s))
            self._tasks.add(refusing)
            refusing.add_done_callback(self._tasks.discard)
        return Answer()

    async def _squeeze(self, values: dict[str, Any]) -> Answer:
        """Leave replicas a share of their own cores, and of those of their node."""
        for replica in self._named(values):
            replica.squeeze(values["share"], values["node_share"])
        return Answer()

    async def _flush(self, values: dict[str, Any]) -> Answer:
        """Empty the caches of replicas."""
        for replica in self._named(values):
            replica.flush()
        return Answer()

    async def _gray(self, values: dict[str, Any]) -> Answer:
        """Let a gray failure hit requests of replicas."""
        gray = GrayFailure(values["share"], values["error_rate"], values["speed"])
        for replica in self._named(values):
            replica.turn_gray(gray)
        return Answer()

    async def _rate(self, values: dict[str, Any]) -> Answer:
        """Scale the rate of a traffic class."""
        self._loads[values["traffic"]].set_rate(values["factor"])
        return Answer()

    async def _partition(self, values: dict[str, Any]) -> Answer:
        """Cut the proxies named off the endpoints named; an empty list heals."""
        self._unreachable = values["unreachable"]
        for name, sidecar in self._sidecars().items():
            sidecar.cut_off(self._unreachable.get(name, ()))
        return Answer()

    async def _impair(self, values: dict[str, Any]) -> Answer:
        """Make the network between pairs of zones worse, and between no others."""
        self._impaired = {(at, to): (latency, loss) for at, to, latency, loss in values["pairs"]}
        for sidecar in self._sidecars().values():
            sidecar.impair(self._impaired)
        return Answer()

    async def _certificates(self, values: dict[str, Any]) -> Answer:
        """Return the certificates in use, PEM."""
        found = {}
        for name in values["endpoints"]:
            sidecar = self._sidecars().get(name)
            if sidecar is not None and sidecar.identity is not None:
                found[name] = (sidecar.identity.certificate_pem or b"").decode()
        return Answer({"certificates": found})

    async def _expire(self, values: dict[str, Any]) -> Answer:
        """Present expired certificates from the next connection on."""
        for name, certificate in values["certificates"].items():
            sidecar = self._sidecars().get(name)
            if sidecar is not None and sidecar.identity is not None:
                sidecar.identity.expire(certificate.encode())
                sidecar.reconnect()
        return Answer()

    async def _renew(self, values: dict[str, Any]) -> Answer:
        """Present valid certificates again."""
        for name in values["endpoints"]:
            sidecar = self._sidecars().get(name)
            if sidecar is not None and sidecar.identity is not None:
                sidecar.identity.restore()
        return Answer()


def _replica_record(replica: Replica) -> tuple[int, ...]:
    return _proxy_record(replica.sidecar, replica.inbound)


def _proxy_record(sidecar: Sidecar | None, inbound: InboundProxy | None) -> tuple[int, ...]:
    """Return the fields of `PROXY_RECORD_DTYPE`; CPU is known of processes only."""
    counters = {} if sidecar is None else sidecar.outbound.counters()
    judged = Counter[str]() if inbound is None else inbound.downstream.counts
    requests, connections = (
        counters.get(name, 0) for name in ("downstream_rq_total", "upstream_cx_active")
    )
    return requests, 0, connections, judged["rbac_allowed"], judged["rbac_denied"]


def _cpu_s() -> float:
    """Return the CPU time of this process so far [s]."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _open_now() -> dict[str, int]:
    """Return how many tasks and descriptors this process has: before and after, what it leaks."""
    return {"tasks": len(asyncio.all_tasks()), "descriptors": len(os.listdir("/dev/fd"))}
