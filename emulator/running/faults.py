"""The verbs of a running mesh on live sockets and processes.

Rule: the same words as the simulator's `meshsim.kernel.control.MeshControl`, awaited instead of
called, and the faults that only a real mesh has: a process killed, a certificate expired, the
broker gone.  Timed faults of the scenario use these verbs too.

=============================== ============================================================
verb                            what happens
=============================== ============================================================
kill, restore                   sockets reset, state gone; back on the same port, knowing nothing
kill_proxy                      the same of the sidecar alone
slow (0 pauses), fail           the workload's speed; its share of 500s
flush                           what replicas have cached is forgotten
flap                            kill and restore, again and again
drain                           withdrawn, refusing what comes, killed after a grace period
roll_out                        drained and restored, so many at a time
squeeze                         a share of the cores
gray                            a share of the requests is slow or fails, health checks do not
withdraw                        every proxy is told to stop choosing these replicas
set_rate                        the load, at once or in a ramp
set_/push_weights               the weights of a split, pushed as configuration
kill_node, restart_node         kill -9 of a node process; a new one in its place
partition, lose_zone            packets between a zone and the rest are lost; its replicas too
impair, heal                    latency and loss between two zones; the network is sound again
expire_certificate, renew_...   an expired certificate on every new connection; a valid one
kill_broker, restart_broker     the embedded broker
certificates                    what the proxies hold by now
=============================== ============================================================

`LiveControl` says which of them are live-only.  Replicas have processes and ports from the start,
so the simulator's `add_replicas` and `remove_replicas` are refused here; so is `set_health`, as the
control plane names endpoints or does not, and says nothing of their health.

Examples
--------
>>> async def outage(mesh):                                     # doctest: +SKIP
...     await mesh.sleep(30)
...     await mesh.kill("reviews", workload="v2", replica=0)
...     await mesh.sleep(10)
...     await mesh.restore("reviews", workload="v2", replica=0)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emulator.clock import unix_s
from emulator.running.network import LiveNetwork
from emulator.running.rollouts import restart_in_turn
from emulator.running.weights import with_weights
from meshsim.errors import ConfigError, Problem
from meshsim.topology.base import Distribution
from meshsim.topology.faults import TimedFault, verbs_at_begin, verbs_at_end
from meshsim.units import NS_PER_S, seconds
from meshsim.workload.ramps import ramp
from meshsim.yamlfile import did_you_mean

if TYPE_CHECKING:
    from emulator.running.run import Run

__all__ = ["LiveControl", "timed_fault"]


class LiveControl:
    """Verbs on one emulated mesh under way.

    Live-only, so that a script for both planes does without them: `kill_proxy`, `kill_node`,
    `restart_node`, `expire_certificate`, `renew_certificate`, `certificates`, `kill_broker`,
    `restart_broker`.  Simulated only: `add_replicas`, `remove_replicas` and `set_health`, which
    raise ConfigError here.  Parameters that are not explained are the simulator's, and so is what
    is refused.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._withdrawn: set[str] = set()
        self._network = LiveNetwork(run)
        #: Of traffic classes: the factor of the rate, and how often it was set.
        self._rates: dict[str, float] = {}
        self._rates_set: dict[str, int] = {}
        #: How often each replica was killed or brought back.
        self._lives: Counter[str] = Counter()

    @property
    def now_s(self) -> float:
        """Model time [s]."""
        return self._run.clock.now_ns() / NS_PER_S

    async def sleep(self, model_s: float) -> None:
        """Wait for a span of model time [s]."""
        await asyncio.sleep(self._run.clock.real_s(max(round(model_s * NS_PER_S), 0)))

    # --- Replicas ----------------------------------------------------------------------------

    async def kill(self, service: str | None = None, **where: Any) -> None:
        """Kill replicas: what they serve is reset, and they refuse connections.

        Parameters
        ----------
        service : str, optional
        **where
            `workload` (str), `replica` (int), `zone` (str): all that match.  At least one of
            service and zone.

        Raises
        ------
        ConfigError
            If nothing is meant by these names.
        """
        names = self._endpoints(service, **where)
        self._lives.update(names)
        await self._run.tell("kill", names)

    async def kill_proxy(self, service: str | None = None, **where: Any) -> None:
        """Kill sidecars; their workloads live on, unreachable."""
        await self._run.tell("kill_proxy", self._endpoints(service, **where))

    async def restore(self, service: str | None = None, **where: Any) -> None:
        """Bring replicas back: alive, at nominal speed, with their stated error rate and cores.

        One that was dead is cold at first, if its workload has a `cold_start`.
        """
        names = self._endpoints(service, **where)
        self._lives.update(names)
        await self._run.tell("restore", names, enrolments=self._run.enrol(names))

    async def slow(self, service: str | None = None, factor: float = 0.5, **where: Any) -> None:
        """Let replicas compute at `factor` times their nominal speed; 0 pauses them."""
        if factor < 0:
            raise ConfigError([Problem("a speed is >= 0", found=str(factor))])
        await self._run.tell("slow", self._endpoints(service, **where), factor=factor)

    async def fail(self, service: str | None = None, share: float = 1.0, **where: Any) -> None:
        """Let replicas answer a `share` of their requests with 500."""
        if not 0 <= share <= 1:
            raise ConfigError([Problem("a share is in [0, 1]", found=str(share))])
        await self._run.tell("fail", self._endpoints(service, **where), share=share)

    async def gray(
        self,
        service: str | None = None,
        share: float = 1.0,
        *,
        factor: float = 1.0,
        error_rate: float = 0.0,
        callers: Sequence[str] = (),
        **where: Any,
    ) -> None:
        """Let replicas be well for health checks, but not for a share of their requests.

        `callers` are simulated only: a workload does not know who asks.
        """
        if callers:
            allowed = "everybody's requests; meshsim.simulate for those of some"
            found = ", ".join(callers)
            raise ConfigError([Problem("callers are simulated only", found=found, allowed=allowed)])
        if not (0 <= share <= 1 and 0 <= error_rate <= 1 and factor > 0):
            found = f"share {share}, error_rate {error_rate}, factor {factor}"
            raise ConfigError([Problem("shares are in [0, 1], a speed > 0", found=found)])
        names = self._endpoints(service, **where)
        await self._run.tell("gray", names, share=share, error_rate=error_rate, speed=factor)

    async def squeeze(
        self,
        service: str | None = None,
        share: float = 0.5,
        *,
        node: str | None = None,
        **where: Any,
    ) -> None:
        """Leave a node, or replicas, a share of their cores; 1 gives them back.

        Workloads are squeezed as in the simulator, but for two limits: replicas of one node do not
        share its cores with one another here, and sidecars have the machine's.
        """
        if not 0 < share <= 1:
            raise ConfigError([Problem("a share of cores is in (0, 1]", found=str(share))])
        names = self._endpoints(service, **where) if node is None else self._on_node(node)
        shares = (share, 1.0) if node is None else (1.0, share)
        await self._run.tell("squeeze", names, share=shares[0], node_share=shares[1])

    def _on_node(self, node: str) -> list[str]:
        """Return the endpoints on a node whose cores are stated."""
        layout, nodes = self._run.compiled.layout, self._run.topology.nodes
        if node not in nodes:
            raise _unknown("node", node, nodes)
        if nodes[node].cores is None:
            allowed = "a node that states its cores; or name a service"
            message = f"node {node} has no cores that are shared"
            raise ConfigError([Problem(message, found=node, allowed=allowed)])
        rows = layout.endpoint_node.tolist()
        index = layout.nodes.index(node)
        return [name for name, row in zip(layout.endpoint_names, rows, strict=True) if row == index]

    async def drain(
        self,
        service: str | None = None,
        *,
        grace_s: float = 30.0,
        pre_stop_s: float = 0.0,
        **where: Any,
    ) -> None:
        """End replicas as Kubernetes ends pods, so that no request need fail.

        The control plane tells every proxy to choose them no more (`withdraw`).  After
        `pre_stop_s` they stop listening and answer what they have with ``connection: close``;
        what is left after `grace_s` is reset.  `restore` and ``withdraw(..., healthy=True)`` bring
        them back.  A proxy that has not heard in time is refused: that is what a preStop hook is
        for.
        """
        if not 0 <= pre_stop_s <= grace_s:
            found = f"pre_stop_s {pre_stop_s}, grace_s {grace_s}"
            raise ConfigError([Problem("pre_stop_s is a part of grace_s", found=found)])
        names = self._endpoints(service, **where)
        lives = {name: self._lives[name] for name in names}
        begin_s = self.now_s
        await self.withdraw(service, **where)
        await self.sleep(pre_stop_s)
        patience_ns = round((grace_s - pre_stop_s) * NS_PER_S)
        await self._run.tell("refuse", self._same(lives), patience_ns=patience_ns)
        await self.sleep(begin_s + grace_s - self.now_s)
        names = self._same(lives)
        self._lives.update(names)
        await self._run.tell("kill", names)

    def _same(self, lives: Mapping[str, int]) -> list[str]:
        """Return those that have been neither killed nor brought back since."""
        return [name for name, life in lives.items() if self._lives[name] == life]

    async def flush(self, service: str | None = None, **where: Any) -> None:
        """Empty the caches of replicas.

        Raises
        ------
        ConfigError
            If nothing is meant by these names, or none of it has a cache.
        """
        names = self._endpoints(service, **where)
        layout = self._run.compiled.layout
        rows = [layout.endpoint_names.index(name) for name in names]
        if not self._run.compiled.arrays["endpoints"]["cache_count"][rows].any():
            raise ConfigError([Problem("nothing here has a cache", found=", ".join(names[:20]))])
        await self._run.tell("flush", names)

    async def flap(
        self,
        service: str | None = None,
        *,
        times: int = 3,
        down_s: float = 1.0,
        up_s: float = 1.0,
        **where: Any,
    ) -> None:
        """Kill and restore replicas `times` times; spans of model time [s]."""
        for _ in range(times):
            await self.kill(service, **where)
            await self.sleep(down_s)
            await self.restore(service, **where)
            await self.sleep(up_s)

    async def roll_out(self, service: str, workload: str | None = None, **how: Any) -> None:
        """Restart the replicas of a workload in place, so many at a time.

        A live mesh has the replicas that its scenario declares, so that none is created beyond
        them: `max_surge` is 0 here, whatever is said, and `max_unavailable` at least 1.

        `readiness_s` counts from the end of the old replica.
        """
        self._endpoints(service, workload=workload)
        places = [at for at in self._run.compiled.layout.workloads if at.service == service]
        if workload is None and len(places) > 1:
            allowed = ", ".join(at.workload for at in places)
            message = f"{service} has several workloads"
            raise ConfigError([Problem(message, found="none named", allowed=allowed)])
        place = next(at for at in places if workload in (None, at.workload))
        await restart_in_turn(self, place, **how)

    async def add_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Refuse: a live mesh has the replicas that its scenario declares.

        It always raises ConfigError.
        """
        raise _fixed_replicas("add_replicas", service, workload, count)

    async def remove_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Refuse, as `add_replicas` does; `withdraw` and `kill` are there instead.

        It always raises ConfigError.
        """
        raise _fixed_replicas("remove_replicas", service, workload, count)

    # --- What proxies are told ---------------------------------------------------------------

    async def withdraw(
        self, service: str | None = None, *, healthy: bool = False, **where: Any
    ) -> None:
        """Let every proxy stop (or, with `healthy`, start again) choosing these replicas."""
        names = self._endpoints(service, **where)
        self._withdrawn = self._withdrawn - set(names) if healthy else self._withdrawn | set(names)
        self._run.push(withdrawn=frozenset(self._withdrawn))

    async def set_health(
        self, service: str | None = None, status: str = "UNHEALTHY", **where: Any
    ) -> None:
        """Refuse: live proxies judge health themselves; `withdraw` and `fail` are there instead.

        It always raises ConfigError.
        """
        message = "set_health is simulated only: discovery says nothing of the health of endpoints"
        allowed = "withdraw, fail and kill; health checks and outlier detection see those"
        found = f"{status} for {service or where}"
        raise ConfigError([Problem(message, found=found, allowed=allowed)])

    async def set_weights(self, service: str, weights: Mapping[str, int]) -> None:
        """Push new weights of every split to `service`, by subset name.

        Raises
        ------
        ConfigError
            If no split has these subsets, or the weights sum to zero.
        """
        await self.push_weights(service, weights)

    async def push_weights(self, service: str, weights: Mapping[str, int]) -> int:
        """Push new weights as `set_weights` does; return the version they will be in.

        The simulator is told how late each proxy learns of it; here the control plane's debounce,
        the bus and the proxies decide, and the result's `propagation` says.
        """
        return self._run.push(topology=with_weights(self._run.topology, service, weights))

    async def set_rate(self, traffic: str, factor: float, *, ramp_s: float = 0.0) -> None:
        """Scale the declared rate of an open-loop traffic class by `factor` >= 0.

        It gets there evenly over `ramp_s` of model time [s]; another call ends the ramp.
        """
        classes = self._run.topology.traffic
        if traffic not in classes:
            raise _unknown("traffic class", traffic, classes)
        if classes[traffic].closed_loop is not None:
            raise ConfigError(f"{traffic}: a closed loop has users, not a rate")
        if factor < 0:
            raise ConfigError([Problem("a rate is >= 0", found=str(factor))])
        if ramp_s < 0:
            raise ConfigError([Problem("ramp_s is a span of time", found=str(ramp_s))])
        self._rates_set[traffic] = mine = self._rates_set.get(traffic, 0) + 1
        begin_s = self.now_s
        for offset_s, value in ramp(self._rates.get(traffic, 1.0), factor, ramp_s):
            await self.sleep(begin_s + offset_s - self.now_s)
            if self._rates_set[traffic] != mine:
                return
            self._rates[traffic] = value
            await self._run.edge.peer.ask("rate", traffic=traffic, factor=value)

    # --- Processes, wires, identities, the bus -----------------------------------------------

    async def kill_node(self, service: str | None = None, **where: Any) -> None:
        """Kill -9 the processes that host these replicas; what they had counted is lost."""
        await self._run.kill_members(self._endpoints(service, **where))

    async def restart_node(self, service: str | None = None, **where: Any) -> None:
        """Start the killed processes of these replicas anew, on the same ports."""
        await self._run.restart_members(self._endpoints(service, **where))

    async def partition(self, zone: str) -> None:
        """Lose every packet between `zone` and the rest of the mesh."""
        await self._network.cut_off(zone)

    async def lose_zone(self, zone: str) -> None:
        """Lose a zone with all its replicas and their proxies, as if its power failed.

        Packets to and from it are lost (`partition`), so that nobody is reset.
        ``restore(zone=...)`` and ``heal(zone=...)`` undo it.
        """
        self._endpoints(None, zone=zone)
        await self.partition(zone)
        await self.kill(zone=zone)

    async def impair(
        self,
        zones: Sequence[str],
        *,
        latency: str | Distribution | None = None,
        loss: float = 0.0,
        one_way: bool = False,
    ) -> None:
        """Make the network between two zones worse (`meshsim.workload.impairments`).

        What a proxy sends to an endpoint, and what comes back, is late; endpoints of one node do
        not use the network.
        """
        if not 0 <= loss <= 1:
            raise ConfigError([Problem("a share is in [0, 1]", found=str(loss))])
        extra = None if latency is None else Distribution.model_validate(latency)
        await self._network.impair(zones, extra, loss, one_way=one_way)

    async def heal(self, *, zones: Sequence[str] | None = None, zone: str | None = None) -> None:
        """End what `impair` did between two `zones`, or `partition` to a `zone`; or all of it."""
        if zones is not None:
            await self._network.mend(zones)
        if zone is not None:
            await self._network.join(zone)
        if zones is None and zone is None:
            await self._network.heal()

    async def certificates(self, service: str | None = None, **where: Any) -> dict[str, str]:
        """Return the certificate that each of these proxies holds by now, PEM, own one first."""
        found: dict[str, str] = {}
        for member, names in self._run.hosts_of(self._endpoints(service, **where)).items():
            answer = await member.peer.ask("certificates", endpoints=names)
            found |= answer.values["certificates"]
        return found

    async def expire_certificate(self, service: str | None = None, **where: Any) -> None:
        """Let replicas present an expired certificate on every new connection."""
        authority = self._run.authority
        if authority is None:
            raise ConfigError("this mesh has no certificates: mutual TLS is off")
        for member, names in self._run.hosts_of(self._endpoints(service, **where)).items():
            answer = await member.peer.ask("certificates", endpoints=names)
            expired = {
                name: authority.expired(chain.encode(), unix_s()).decode()
                for name, chain in answer.values["certificates"].items()
            }
            await member.peer.ask("expire", certificates=expired)

    async def renew_certificate(self, service: str | None = None, **where: Any) -> None:
        """Let replicas present a valid certificate again."""
        await self._run.tell("renew", self._endpoints(service, **where))

    async def kill_broker(self) -> None:
        """Break the embedded broker: connections reset, everything forgotten."""
        await self._run.broker.kill()

    async def restart_broker(self) -> None:
        """Start the embedded broker again, on the same port."""
        await self._run.broker.start()

    # --- Names -------------------------------------------------------------------------------

    def _endpoints(
        self,
        service: str | None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> list[str]:
        """Return the names of the endpoints that match."""
        layout = self._run.compiled.layout
        if service is None and zone is None:
            raise ConfigError("name a service or a zone")
        if service is not None and service not in layout.services:
            raise _unknown("service", service, layout.services)
        found = []
        for row, name in enumerate(layout.endpoint_names):
            place = layout.workloads[layout.endpoint_workload[row]]
            if (
                service in (None, place.service)
                and workload in (None, place.workload)
                and replica in (None, row - place.first_endpoint)
                and zone in (None, layout.zones[layout.endpoint_zone[row]])
            ):
                found.append(name)
        if not found:
            number = "*" if replica is None else replica
            wanted = f"{service or ''}/{workload or '*'}/{number} zone {zone or '*'}"
            raise ConfigError([Problem("no endpoint matches", found=wanted)])
        return found


def _fixed_replicas(verb: str, service: str, workload: str, count: int) -> ConfigError:
    message = f"{verb} is simulated only: the replicas of a live mesh are those of its scenario"
    allowed = "withdraw, kill and restore; meshsim.simulate for a mesh that scales"
    found = f"{count} of {service}/{workload}"
    return ConfigError([Problem(message, found=found, allowed=allowed)])


def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> ConfigError:
    allowed, near = ", ".join(list(known)[:20]), did_you_mean(name, known)
    return ConfigError([Problem(f"unknown {kind}", found=name, allowed=allowed, suggestion=near)])


async def timed_fault(mesh: LiveControl, fault: TimedFault) -> None:
    """Inject a timed fault of the scenario, and undo it after its duration."""
    await mesh.sleep(seconds(fault.at) - mesh.now_s)
    for verb in verbs_at_begin(fault):
        await getattr(mesh, verb.name)(**verb.values)
    if fault.duration is not None:
        await mesh.sleep(seconds(fault.at + fault.duration) - mesh.now_s)
        for verb in verbs_at_end(fault):
            await getattr(mesh, verb.name)(**verb.values)
