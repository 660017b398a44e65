"""One emulated run from its first process to its record.

Rule: everything that is started here is stopped here, in the opposite order, whatever happened.
A run has a broker, a control plane and a certificate authority in this process, and node
processes that host replicas, gateways and the load.  A stop (Ctrl-C) before load began ends the
start; later it ends the arrivals early and still gives a record of what there was
(`emulator.running.measuring`).  Who cannot reach the broker says so, soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emulator.clock import Clock, unix_s
from emulator.control.broker import Broker
from emulator.control.broker_url import EMBEDDED_MESH, credential_for, new_mesh, password_in
from emulator.control.controlplane import ControlPlane
from emulator.control.rate_limits import RateLimitServer
from emulator.decisions.rate_limit_service import RateLimitService
from emulator.decisions.stimuli import StimulusLog
from emulator.results.recording import Arrays
from emulator.running.budget import EDGE, Share
from emulator.running.definitions import packed
from emulator.running.join import RemoteNodes, clock_offset
from emulator.running.measuring import Measuring
from emulator.running.members import Member, ProcessServer
from emulator.running.messages import Answer, Peer, PeerLost
from emulator.running.node_process import node_main
from emulator.running.node_spec import NodeSpec
from emulator.running.plan import Plan
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import configurations_of, gateway_name, principals_of
from meshsim.controlplane.topics import CONTROL_PLANE
from meshsim.errors import MeshsimError
from meshsim.topology.compiled import CompiledTopology
from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S

__all__ = ["Outcome", "Progress", "Run", "proxies_of"]

#: Called about once a second with what the run has come to.
Progress = Callable[[Mapping[str, Any]], None]

_START_PATIENCE_S = 120.0
#: A broker that has not taken the control plane by then is reported.
_BUS_PATIENCE_S = 10.0
_SETTLE_S = 10.0
#: For what is retained on a broker to be taken off it.
_CLEAR_S = 3.0
#: Before load begins, model time is this far below 0 [real ns]: a year.
_BEFORE_LOAD_NS = 365 * 86_400 * NS_PER_S


@dataclass
class Outcome:
    """What a run left behind.

    Parameters
    ----------
    parts : list of Arrays
        What each process recorded.
    reports : dict of str to mapping
        By process: lag, CPU time, counters of proxies, digests.
    ended_ns : int
        When measuring stopped [model ns].
    stopped : str
        Why it ended early; empty if it did not.
    real_s : float
        From the first arrival to the end of the last [s].
    propagation : list
        Of `ControlPlane.propagation`.
    concerned : dict of int to int
        How many proxies each snapshot that was made during the load concerned.
    version : int
        Last snapshot.
    losses : list of str
        What is not in the record, one sentence each.
    failure : (str, exception), optional
        Which work of the user's failed, and how.
    """

    parts: list[Arrays] = field(default_factory=list)
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended_ns: int = 0
    stopped: str = ""
    real_s: float = 0.0
    propagation: list[dict[str, Any]] = field(default_factory=list)
    concerned: dict[int, int] = field(default_factory=dict)
    version: int = 0
    losses: list[str] = field(default_factory=list)
    failure: tuple[str, BaseException] | None = None


class Run:
    """One emulated mesh under way.

    Parameters
    ----------
    plan : Plan
    progress : callable
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan = plan
        self.compiled = plan.compiled
        #: As last pushed.
        self.topology = plan.compiled.topology
        self.clock = Clock(plan.dilation.factor)
        self.clock.rebase(self.clock.real_ns() + _BEFORE_LOAD_NS)
        #: Whether load has begun, so that there is something to tell.
        self.has_begun = False
        #: Name on the bus.
        self.mesh = new_mesh() if plan.broker_url else EMBEDDED_MESH
        self.members: dict[str, Member] = {}
        self.outcome = Outcome()
        self.authority: CertificateAuthority | None = None
        self.progress = progress
        self._addresses: dict[str, tuple[str, int]] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._principals: dict[str, str] = {}
        self._killed: set[str] = set()
        self._offsets_ns: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._key = Ed25519PrivateKey.generate()
        self._server: ProcessServer | None = None
        if plan.mode != "DISABLE":
            self._principals = principals_of(self.topology, plan.compiled.layout)
            self.authority = CertificateAuthority.create(
                self.topology.access.trust_domain,
                unix_s(),
                key_type=plan.key_type,
                ttl_s=plan.certificate_ttl_s,
            )
        proxies = proxies_of(plan.compiled)
        stated = password_in(plan.broker_url)
        self._passwords = {n: stated or os.urandom(16).hex() for n in (*proxies, CONTROL_PLANE)}
        self._tokens = {name: os.urandom(16).hex() for name in self._principals}
        self.broker = (
            Broker.external(plan.broker_url)
            if plan.broker_url
            else Broker.embedded(self.mesh, self._passwords)
        )
        self.control: ControlPlane
        self._limits_address = ("", 0)
        self.remote = RemoteNodes(plan.remote, self.mesh)
        if not plan.broker_url:
            self.remote.admit(self.broker)

    # --- From outside ------------------------------------------------------------------------

    def stop(self) -> None:
        """End the arrivals; `run` then drains and returns.  To be called in the run's loop."""
        self._stop.set()

    @property
    def edge(self) -> Member:
        """The process of the gateways and the load."""
        return self.members[EDGE]

    async def run(self) -> Outcome:
        """Run from start to end.

        Raises
        ------
        MeshsimError
            If the mesh could not start or was stopped before load began, or the process of the
            load has ended.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._unless_stopped(self._start(stack))
            await Measuring(self, self._stop).run()
            await self.edge.peer.ask("drain", _START_PATIENCE_S)  # callers before servers
            await self._each("drain")
            for name, answer in (await self._each("report")).items():
                self.outcome.parts.append(dict(answer.arrays))
                self.outcome.reports[name] = answer.values
        return self.outcome

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; if stopped meanwhile, end it and raise."""
        doing, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({doing, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise MeshsimError("interrupted before load began")
            doing.result()
        finally:
            await _end(doing, stop)

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything; `stack` gets what ends it."""
        self._limits_address = await stack.enter_async_context(self._rate_limits())
        await self.broker.start()
        stack.push_async_callback(self.broker.stop)
        stack.push_async_callback(self.remote.close)
        await self.remote.start(self.broker.url, _BUS_PATIENCE_S)
        self._server = ProcessServer()
        stack.callback(self._server.close)
        stack.push_async_callback(self._stop_members)
        starts = [asyncio.ensure_future(self._start_member(item)) for item in self.plan.shares]
        try:
            done, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            for start in done:
                start.result()
        finally:
            await _end(*starts)
        await stack.enter_async_context(self._control_plane())
        # The embedded broker takes everybody, but in this very loop, and so in its time.
        embedded = not self.plan.broker_url
        await self.control.bus.reach(_START_PATIENCE_S if embedded else _BUS_PATIENCE_S)
        await self.tell_all("ready", patience_s=_START_PATIENCE_S)
        with contextlib.suppress(TimeoutError):  # no answer may straddle the new origin
            async with asyncio.timeout(_SETTLE_S):
                await self.control.settled()

    # --- Processes ---------------------------------------------------------------------------

    async def _start_member(self, share: Share) -> None:
        assert self._server is not None
        if share.process in self.plan.remote:
            member = await self.remote.member(share.process)
        else:
            member = await self._server.launch(share.process, node_main)
        self.members[share.process] = member
        answer = await member.start(_START_PATIENCE_S, **self._spec(share).to_values())
        for name, (host, port) in answer.values["addresses"].items():
            self._addresses[name] = (host, port)

    def _spec(self, share: Share) -> NodeSpec:
        plan = self.plan
        names = [*share.endpoints, *(f"gateway-{name}" for name in share.classes)]
        return NodeSpec(
            topology=plan.compiled.topology.model_dump_json(),
            endpoints=share.endpoints,
            classes=share.classes,
            mesh=self.mesh,
            bus_url=self.broker.url,
            control_plane_key=self._key.public_key().public_bytes_raw().hex(),
            enrolments={name: self._enrolment(name) for name in names},
            seed=plan.seed,
            duration_ns=plan.duration_ns,
            dilation=plan.dilation.factor,
            draws=plan.draws,
            key_type=plan.key_type,
            host=plan.host,
            # A process that replaces a killed one continues in a file of its own.
            record=f"{plan.record}/{share.process} {len(self.outcome.losses)}"
            if plan.record
            else "",
            policies=packed(plan.compiled.topology),
            rate_limit_service=self._limits_address,
            ports={name: self._addresses[name][1] for name in names if name in self._addresses},
        )

    def _enrolment(self, proxy: str) -> dict[str, str]:
        return {
            "password": self._passwords[proxy],
            "token": self._tokens.get(proxy, ""),
            "principal": self._principals.get(proxy, ""),
        }

    def enrol(self, proxies: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return fresh enrolments: what was killed has lost its key."""
        for name in proxies:
            if name in self._principals:
                self._tokens[name] = os.urandom(16).hex()
                self.control.enrolment.expect(name, self._tokens[name])
        return {name: self._enrolment(name) for name in proxies}

    def hosts_of(self, endpoints: Sequence[str]) -> dict[Member, list[str]]:
        """Return which living process hosts which of `endpoints`."""
        found: dict[Member, list[str]] = {}
        for share in self.plan.shares:
            names = [name for name in endpoints if name in share.endpoints]
            if names and not self.members[share.process].peer.lost.is_set():
                found[self.members[share.process]] = names
        return found

    async def tell(self, verb: str, endpoints: Sequence[str], **values: Any) -> None:
        """Ask the processes that host `endpoints` to do `verb` to them."""
        hosts = self.hosts_of(endpoints).items()
        await asyncio.gather(
            *(member.peer.ask(verb, endpoints=names, **values) for member, names in hosts)
        )

    async def tell_all(self, verb: str, patience_s: float = 60.0, **values: Any) -> None:
        """Ask every living process to do `verb`."""
        alive = [item for item in self.members.values() if not item.peer.lost.is_set()]
        await asyncio.gather(*(item.peer.ask(verb, patience_s, **values) for item in alive))

    async def _each(self, verb: str) -> dict[str, Answer]:
        """Ask every living process to do `verb`; return the answers of those that still could."""
        for name in self.lost_members():
            self.note_loss(name, "ended unexpectedly")
        alive = {name: item for name, item in self.members.items() if not item.peer.lost.is_set()}
        asked = (item.peer.ask(verb, _START_PATIENCE_S) for item in alive.values())
        answers = dict(
            zip(alive, await asyncio.gather(*asked, return_exceptions=True), strict=True)
        )
        found = {}
        for name, answer in answers.items():
            if isinstance(answer, Answer):
                found[name] = answer
            elif isinstance(answer, PeerLost) and name != EDGE:
                self.note_loss(name, "ended unexpectedly")
            else:
                raise answer
        return found

    def lost_members(self) -> list[str]:
        """Return processes that have ended although nobody killed them."""
        return [
            name
            for name, member in self.members.items()
            if member.peer.lost.is_set() and name not in self._killed
        ]

    def note_loss(self, name: str, how: str) -> None:
        """Take note that a process is gone."""
        if name not in self._killed:
            self._killed.add(name)
            self.outcome.losses.append(f"the process '{name}' {how}: what it had counted is lost")

    async def kill_members(self, endpoints: Sequence[str]) -> None:
        """Kill -9 the processes that host `endpoints`."""
        for member in self.hosts_of(endpoints):
            self.note_loss(member.name, "was killed")
            member.kill()
            await member.reap()

    async def restart_members(self, endpoints: Sequence[str]) -> None:
        """Start the killed processes that hosted `endpoints` anew."""
        for share in self.plan.shares:
            if share.process not in self._killed or not set(endpoints) & set(share.endpoints):
                continue
            self.enrol(share.endpoints)
            await self._start_member(share)
            await self.begin(self.members[share.process])
            self._killed.discard(share.process)

    @contextlib.asynccontextmanager
    async def _rate_limits(self) -> AsyncIterator[tuple[str, int]]:
        """Run the rate limit service, which is where this says."""
        record = self.plan.record
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(StimulusLog(f"{record}/rate limits")) if record else None
            service = RateLimitService(len(proxies_of(self.compiled)), log)
            server = RateLimitServer(service, self.clock, self.plan.host)
            try:
                yield await server.start()
            finally:
                await server.stop()
                service.close()

    async def _stop_members(self) -> None:
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    # --- Control plane -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _control_plane(self) -> AsyncIterator[None]:
        self.control = ControlPlane(
            self.broker.url,
            credential_for(
                self.broker.url, CONTROL_PLANE, self._passwords[CONTROL_PLANE], self.mesh
            ),
            self.mesh,
            self._configurations(),
            self._key,
            self.clock,
            certificate_authority=self.authority,
            principals=self._principals,
            tokens=self._tokens,
            retain=self.broker.retains,
        )
        running = asyncio.ensure_future(self.control.run())
        try:
            yield
        finally:
            # Before the load model time is negative: what was pushed then is no change.
            rows = self.control.propagation()
            self.outcome.propagation = [row for row in rows if row["changed_ns"] >= 0]
            before = self.outcome.version
            concerned = self.control.concerned.items()
            self.outcome.concerned = {k: count for k, count in concerned if k > before}
            self.outcome.version = self.control.version
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLEAR_S):
                    await self.control.clear_retained()
            self.control.stop()
            await asyncio.gather(running, return_exceptions=True)

    def _configurations(self) -> Any:
        addresses = {k: v for k, v in self._addresses.items() if k not in self._withdrawn}
        return configurations_of(
            self.topology,
            self.compiled.layout,
            addresses,
            sidecars=self.compiled.profile.sidecars,
            mode=self.plan.mode,
        )

    def push(
        self, *, topology: Topology | None = None, withdrawn: frozenset[str] | None = None
    ) -> int:
        """Let the control plane push another topology, or without these endpoints.

        Returns
        -------
        int
            Number of the snapshot it will be in.
        """
        self.topology = self.topology if topology is None else topology
        self._withdrawn = self._withdrawn if withdrawn is None else withdrawn
        return self.control.update(self._configurations())

    # --- Clocks ------------------------------------------------------------------------------

    async def meet_clocks(self) -> None:
        """Find out how far the clocks of other machines are ahead."""
        for name in self.plan.remote:
            peer = self.members[name].peer

            async def ask(peer: Peer = peer) -> int:
                return int((await peer.ask("time")).values["real_ns"])

            offset_ns, error_ns = await clock_offset(ask)
            self._offsets_ns[name] = offset_ns
            self.outcome.losses.append(
                f"'{name}' is on another machine: its clock was set to {error_ns / 1e6:.3g} ms."
            )

    async def begin(self, member: Member) -> None:
        """Tell a process the origin of model time, by its own clock."""
        offset_ns = self._offsets_ns.get(member.name, 0)
        await member.peer.ask("begin", origin_ns=self.clock.origin_ns + offset_ns)


def proxies_of(compiled: CompiledTopology) -> list[str]:
    """Return the names of all proxies: endpoints, then gateways."""
    gateways = (gateway_name(name) for name in compiled.topology.traffic)
    return [*compiled.layout.endpoint_names, *gateways]


async def _end(*futures: asyncio.Future[Any]) -> None:
    """Cancel what is not done, and wait for it."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
