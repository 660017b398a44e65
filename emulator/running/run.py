"""One emulated run from its first process to its record.

Rule: everything that is started here is stopped here, in the opposite order, whatever happened.
A run has a broker, a control plane and a certificate authority in this process, and node
processes that host replicas, gateways and the load.  Load begins at model time 0, which all
processes learn shortly before; every measured request is waited for; a stop (Ctrl-C) ends the
arrivals early and still gives a record of what there was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emulator.clock import Clock, unix_s
from emulator.control.broker import Broker
from emulator.control.broker_url import credential_for, password_in
from emulator.control.controlplane import ControlPlane
from emulator.results.recording import Arrays
from emulator.running.budget import EDGE, Dilation, Share
from emulator.running.faults import LiveControl, timed_fault
from emulator.running.join import RemoteNodes, clock_offset
from emulator.running.members import Member, ProcessServer
from emulator.running.messages import Peer, PeerLost
from emulator.running.node import MESH, NodeSpec, node_main
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import Mode, configurations_of, principals_of
from meshsim.controlplane.topics import CONTROL_PLANE
from meshsim.errors import MeshsimError
from meshsim.results.measured import STOPPED_BY_HAND
from meshsim.topology.compiled import CompiledTopology
from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S

__all__ = ["Change", "Outcome", "Plan", "Progress", "Run", "Script"]

#: A user's script: a coroutine function over the running mesh.
Script = Callable[[LiveControl], Awaitable[None]]
#: Called about once a second with what the run has come to.
Progress = Callable[[Mapping[str, Any]], None]

_START_PATIENCE_S = 120.0
#: Between telling the origin of model time and its coming [real s].
_LEAD_S = 0.25
_PROGRESS_S = 1.0
_SETTLE_S = 10.0
#: Longest wait for the answer to a long question, such as the load's [real s]: a year.
_FOREVER_S = 3.2e7


@dataclass(frozen=True)
class Change:
    """A topology that the control plane is given at a model time [ns]."""

    at_ns: int
    topology: Topology


@dataclass(frozen=True)
class Plan:
    """What is to be run; all decided.

    Parameters
    ----------
    compiled : CompiledTopology
        Of the resolved scenario.
    duration_ns : int
    seed : int
    dilation : Dilation
    shares : tuple of Share
        What each process hosts; the first is the edge.
    mode : "STRICT", "PERMISSIVE" or "DISABLE"
        Mutual TLS between proxies; DISABLE in a mesh without proxies.
    broker_url : str
        Empty: embedded.
    draws : "same" or "fresh"
    key_type : str
    record : str
        Folder for the logs of stimuli, one a process; empty for none.
    changes : tuple of Change
    scripts : tuple of Script
    remote : tuple of str
        Processes that other machines host.
    host : str
        Address to listen on.
    """

    compiled: CompiledTopology
    duration_ns: int
    seed: int
    dilation: Dilation
    shares: tuple[Share, ...]
    mode: Mode = "STRICT"
    broker_url: str = ""
    draws: str = "same"
    key_type: str = "ecdsa-p256"
    record: str = ""
    changes: tuple[Change, ...] = ()
    scripts: tuple[Script, ...] = ()
    remote: tuple[str, ...] = ()
    host: str = "127.0.0.1"


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
    version : int
        Last snapshot.
    losses : list of str
        What is not in the record, one sentence each.
    """

    parts: list[Arrays] = field(default_factory=list)
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended_ns: int = 0
    stopped: str = ""
    real_s: float = 0.0
    propagation: list[dict[str, Any]] = field(default_factory=list)
    version: int = 0
    losses: list[str] = field(default_factory=list)


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
        self.members: dict[str, Member] = {}
        self.outcome = Outcome()
        self.authority: CertificateAuthority | None = None
        self._progress = progress
        self._addresses: dict[str, tuple[str, int]] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._principals: dict[str, str] = {}
        self._killed: set[str] = set()
        self._offsets_ns: dict[str, int] = {}
        self._stop = asyncio.Event()
        self._key = Ed25519PrivateKey.generate()
        self._server: ProcessServer | None = None
        layout, topology = plan.compiled.layout, plan.compiled.topology
        if plan.mode != "DISABLE":
            self._principals = principals_of(topology, layout)
            self.authority = CertificateAuthority.create(
                "cluster.local", unix_s(), key_type=plan.key_type
            )
        proxies = [*layout.endpoint_names, *(f"gateway-{name}" for name in topology.traffic)]
        stated = password_in(plan.broker_url)
        self._passwords = {n: stated or os.urandom(16).hex() for n in (*proxies, CONTROL_PLANE)}
        self._tokens = {name: os.urandom(16).hex() for name in self._principals}
        self.broker = (
            Broker.external(plan.broker_url)
            if plan.broker_url
            else Broker.embedded(MESH, self._passwords)
        )
        self.control: ControlPlane
        self.remote = RemoteNodes(plan.remote)
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
            If a process could not start, or ended although nobody killed it.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self.broker.start()
            stack.push_async_callback(self.broker.stop)
            self.remote.start(self.broker.url)
            stack.push_async_callback(self.remote.close)
            self._server = ProcessServer()
            stack.callback(self._server.close)
            stack.push_async_callback(self._stop_members)
            await asyncio.gather(*(self._start_member(share) for share in self.plan.shares))
            await stack.enter_async_context(self._control_plane())
            await self.tell_all("ready", patience_s=_START_PATIENCE_S)
            with contextlib.suppress(TimeoutError):  # no answer may straddle the new origin
                await asyncio.wait_for(self.control.settled(), _SETTLE_S)
            await self._measure()
            await self.edge.peer.ask("drain", _START_PATIENCE_S)  # callers before servers
            await self.tell_all("drain", patience_s=_START_PATIENCE_S)
            await self._collect()
        return self.outcome

    # --- Processes ---------------------------------------------------------------------------

    async def _start_member(self, share: Share) -> None:
        assert self._server is not None
        if share.process in self.plan.remote:
            member = await self.remote.member(share.process)
        else:
            # In a thread: the first one waits for the server to load the policies.
            member = await asyncio.to_thread(self._server.start, share.process, node_main)
            await member.connect()
        self.members[share.process] = member
        answer = await member.peer.ask("start", _START_PATIENCE_S, **self._spec(share).to_values())
        for name, (host, port) in answer.values["addresses"].items():
            self._addresses[name] = (host, port)

    def _spec(self, share: Share) -> NodeSpec:
        plan = self.plan
        names = [*share.endpoints, *(f"gateway-{name}" for name in share.classes)]
        return NodeSpec(
            topology=plan.compiled.topology.model_dump_json(),
            endpoints=share.endpoints,
            classes=share.classes,
            mesh=MESH,
            bus_url=self.broker.url,
            control_plane_key=self._key.public_key().public_bytes_raw().hex(),
            enrolments={name: self._enrolment(name) for name in names},
            seed=plan.seed,
            duration_ns=plan.duration_ns,
            dilation=plan.dilation.factor,
            draws=plan.draws,
            key_type=plan.key_type,
            # A process that replaces a killed one continues in a file of its own.
            record=f"{plan.record}/{share.process} {len(self.outcome.losses)}"
            if plan.record
            else "",
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

    async def kill_members(self, endpoints: Sequence[str]) -> None:
        """Kill -9 the processes that host `endpoints`."""
        for member in self.hosts_of(endpoints):
            self._killed.add(member.name)
            self.outcome.losses.append(
                f"the process '{member.name}' was killed: what it had counted is lost"
            )
            member.kill()
            await member.reap()

    async def restart_members(self, endpoints: Sequence[str]) -> None:
        """Start the killed processes that hosted `endpoints` anew."""
        for share in self.plan.shares:
            if share.process not in self._killed or not set(endpoints) & set(share.endpoints):
                continue
            self.enrol(share.endpoints)
            await self._start_member(share)
            await self._begin(self.members[share.process])
            self._killed.discard(share.process)

    async def _stop_members(self) -> None:
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    # --- Control plane -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _control_plane(self) -> AsyncIterator[None]:
        self.control = ControlPlane(
            self.broker.url,
            credential_for(self.broker.url, CONTROL_PLANE, self._passwords[CONTROL_PLANE]),
            MESH,
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
            # What was pushed before the load is timed from another origin.
            rows = self.control.propagation()
            self.outcome.propagation = [row for row in rows if row["changed_ns"] >= 0]
            self.outcome.version = self.control.version
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

    # --- The measured time -------------------------------------------------------------------

    async def _meet_clocks(self) -> None:
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

    async def _begin(self, member: Member) -> None:
        """Tell a process the origin of model time, by its own clock."""
        offset_ns = self._offsets_ns.get(member.name, 0)
        await member.peer.ask("begin", origin_ns=self.clock.origin_ns + offset_ns)

    async def _measure(self) -> None:
        """Let load run, faults happen and people watch, until every request has ended."""
        await self._meet_clocks()
        origin_ns = self.clock.real_ns() + int(_LEAD_S * NS_PER_S)
        self.clock.rebase(origin_ns)
        await asyncio.gather(*(self._begin(member) for member in self.members.values()))
        load = asyncio.ensure_future(self.edge.peer.ask("load", _FOREVER_S))
        beside = [asyncio.ensure_future(work) for work in self._beside()]
        watch = asyncio.ensure_future(self._watch())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({load, stop, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            if stop.done() and not load.done():
                self.outcome.ended_ns = min(self.clock.now_ns(), self.plan.duration_ns)
                self.outcome.stopped = STOPPED_BY_HAND
                await self.edge.peer.ask("stop_load")
            await load
            for work in beside:
                if work.done():
                    work.result()
        finally:
            started: tuple[asyncio.Future[Any], ...] = (load, watch, stop, *beside)
            for task in started:
                task.cancel()
            await asyncio.gather(*started, return_exceptions=True)
        self.outcome.ended_ns = self.outcome.ended_ns or self.plan.duration_ns
        self.outcome.real_s = (self.clock.real_ns() - origin_ns) / NS_PER_S

    def _beside(self) -> list[Coroutine[Any, Any, None]]:
        """Return what goes on beside the load: faults, scripts, changes, progress."""
        control = LiveControl(self)
        faults = [timed_fault(control, fault) for fault in self.compiled.topology.faults]
        scripts = [_run_script(script, control) for script in self.plan.scripts]
        changes = [self._change(control, change) for change in self.plan.changes]
        return [*faults, *scripts, *changes, self._tell_progress()]

    async def _change(self, control: LiveControl, change: Change) -> None:
        await control.sleep(change.at_ns / NS_PER_S - control.now_s)
        self.push(topology=change.topology)

    async def _watch(self) -> None:
        """Raise if a process ends that nobody killed."""
        while True:
            await asyncio.sleep(0.1)
            for name, member in self.members.items():
                if member.peer.lost.is_set() and name not in self._killed:
                    raise MeshsimError(f"the process '{name}' ended unexpectedly")

    async def _tell_progress(self) -> None:
        """Say once a second what the run has come to."""
        before, before_ns = 0, 0
        while True:
            await asyncio.sleep(_PROGRESS_S)
            with contextlib.suppress(PeerLost):
                answer = await self.edge.peer.ask("now")
                now = dict(answer.values)
                ended = now["completed"] + now["failed"]
                span_s = max(now["now_ns"] - before_ns, 1) / NS_PER_S
                latencies = answer.arrays.get("latencies_ns", np.zeros(0))
                p50, p99 = np.quantile(latencies, (0.5, 0.99)) if len(latencies) else (0.0, 0.0)
                now |= {"rate": (ended - before) / span_s, "p50_ms": p50 / 1e6, "p99_ms": p99 / 1e6}
                before, before_ns = ended, now["now_ns"]
                self._progress(now)

    async def _collect(self) -> None:
        """Ask every process what it recorded."""
        for name, member in self.members.items():
            if member.peer.lost.is_set():
                continue
            answer = await member.peer.ask("report", _START_PATIENCE_S)
            self.outcome.parts.append(dict(answer.arrays))
            self.outcome.reports[name] = answer.values


async def _run_script(script: Script, control: LiveControl) -> None:
    await script(control)
