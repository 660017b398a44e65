"""The verbs of a running mesh on live sockets and processes.

Rule: the same words as the simulator's `meshsim.kernel.control.MeshControl`, awaited instead of
called, and the faults that only a real mesh has: a process killed, a zone cut off, a
certificate expired, the broker gone.  Timed faults of the scenario use these verbs too.

=============================== ============================================================
verb                            what happens
=============================== ============================================================
kill, restore                   sockets reset, state gone; back on the same port, knowing nothing
kill_proxy                      the same of the sidecar alone
slow (0 pauses), fail           the workload's speed; its share of 500s
flush                           what replicas have cached is forgotten
flap                            kill and restore, again and again
withdraw                        every proxy is told to stop choosing these replicas
set_rate, set_/push_weights     the load; the weights of a split, pushed as configuration
kill_node, restart_node         kill -9 of a node process; a new one in its place
partition, heal                 packets between a zone and the rest are lost; or no more
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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emulator.clock import unix_s
from meshsim.errors import ConfigError, Problem
from meshsim.topology.model import Route, ServicePolicy, TimedFault, Topology
from meshsim.units import NS_PER_S, seconds
from meshsim.yamlfile import did_you_mean

if TYPE_CHECKING:
    from emulator.running.run import Run

__all__ = ["LiveControl", "timed_fault", "with_weights"]


class LiveControl:
    """Verbs on one emulated mesh under way.

    Live-only, so that a script for both planes does without them: `kill_proxy`, `flap`,
    `kill_node`, `restart_node`, `partition`, `heal`, `expire_certificate`, `renew_certificate`,
    `certificates`, `kill_broker`, `restart_broker`.  Simulated only: `add_replicas`,
    `remove_replicas` and `set_health`, which raise ConfigError here.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._withdrawn: set[str] = set()

    @property
    def now_s(self) -> float:
        """Model time [s]."""
        return self._run.clock.now_ns() / NS_PER_S

    async def sleep(self, model_s: float) -> None:
        """Wait for a span of model time [s]."""
        await asyncio.sleep(self._run.clock.real_s(round(model_s * NS_PER_S)))

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
        await self._run.tell("kill", self._endpoints(service, **where))

    async def kill_proxy(self, service: str | None = None, **where: Any) -> None:
        """Kill sidecars; their workloads live on, unreachable."""
        await self._run.tell("kill_proxy", self._endpoints(service, **where))

    async def restore(self, service: str | None = None, **where: Any) -> None:
        """Bring replicas back: alive, at nominal speed, with their stated error rate."""
        names = self._endpoints(service, **where)
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

    async def add_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Refuse: a live mesh has the replicas that its scenario declares.

        Raises
        ------
        ConfigError
            Always.
        """
        raise _fixed_replicas("add_replicas", service, workload, count)

    async def remove_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Refuse, as `add_replicas` does; `withdraw` and `kill` are there instead.

        Raises
        ------
        ConfigError
            Always.
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

        Raises
        ------
        ConfigError
            Always.
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

    async def set_rate(self, traffic: str, factor: float) -> None:
        """Scale the declared rate of an open-loop traffic class by `factor` >= 0."""
        classes = self._run.topology.traffic
        if traffic not in classes:
            raise _unknown("traffic class", traffic, classes)
        if classes[traffic].closed_loop is not None:
            raise ConfigError(f"{traffic}: a closed loop has users, not a rate")
        if factor < 0:
            raise ConfigError([Problem("a rate is >= 0", found=str(factor))])
        await self._run.edge.peer.ask("rate", traffic=traffic, factor=factor)

    # --- Processes, wires, identities, the bus -----------------------------------------------

    async def kill_node(self, service: str | None = None, **where: Any) -> None:
        """Kill -9 the processes that host these replicas; what they had counted is lost."""
        await self._run.kill_members(self._endpoints(service, **where))

    async def restart_node(self, service: str | None = None, **where: Any) -> None:
        """Start the killed processes of these replicas anew, on the same ports."""
        await self._run.restart_members(self._endpoints(service, **where))

    async def partition(self, zone: str) -> None:
        """Lose every packet between `zone` and the rest of the mesh."""
        layout, traffic = self._run.compiled.layout, self._run.topology.traffic
        inside = set(self._endpoints(None, zone=zone))
        outside = set(layout.endpoint_names) - inside
        unreachable = {name: sorted(outside) for name in inside}
        unreachable |= {name: sorted(inside) for name in outside}
        for name, item in traffic.items():
            gateway_zone = item.zone or layout.zones[0]
            unreachable[f"gateway-{name}"] = sorted(outside if gateway_zone == zone else inside)
        await self._run.tell_all("partition", unreachable=unreachable)

    async def heal(self) -> None:
        """End the partition."""
        await self._run.tell_all("partition", unreachable={})

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


def with_weights(topology: Topology, service: str, weights: Mapping[str, int]) -> Topology:
    """Return `topology` with new weights of every split to `service`, by subset name.

    Raises
    ------
    ConfigError
        If no split has these subsets, or the weights are negative or sum to zero.
    """
    if sum(weights.values()) <= 0 or min(weights.values()) < 0:
        raise ConfigError([Problem("weights are >= 0 and not all 0", found=str(dict(weights)))])
    policy = topology.policies.get(service, ServicePolicy())
    known = {item.subset for route in policy.routes for item in route.split if item.subset}
    unknown = set(weights) - known
    if unknown or not known:
        found = ", ".join(sorted(unknown)) or service
        raise ConfigError([Problem("no weighted split has these subsets", found=found)])
    routes = tuple(_reweighted(route, weights) for route in policy.routes)
    changed = policy.model_copy(update={"routes": routes})
    return topology.model_copy(update={"policies": {**topology.policies, service: changed}})


def _reweighted(route: Route, weights: Mapping[str, int]) -> Route:
    if not any(item.subset for item in route.split):
        return route
    split = tuple(
        item.model_copy(update={"weight": weights.get(item.subset, 0)}) if item.subset else item
        for item in route.split
    )
    return route.model_copy(update={"split": split})


async def timed_fault(mesh: LiveControl, fault: TimedFault) -> None:
    """Inject a timed fault of the scenario, and undo it after its duration."""
    await mesh.sleep(seconds(fault.at) - mesh.now_s)
    await _begin(mesh, fault)
    if fault.duration is not None:
        await mesh.sleep(seconds(fault.at + fault.duration) - mesh.now_s)
        await _end(mesh, fault)


def _where(fault: TimedFault) -> dict[str, Any]:
    return {"workload": fault.workload, "replica": fault.replica, "zone": fault.zone}


async def _begin(mesh: LiveControl, fault: TimedFault) -> None:
    match fault.kind:
        case "kill":
            await mesh.kill(fault.service, **_where(fault))
        case "slow":
            await mesh.slow(fault.service, fault.factor, **_where(fault))
        case "pause":
            await mesh.slow(fault.service, 0.0, **_where(fault))
        case "errors":
            await mesh.fail(fault.service, fault.factor, **_where(fault))
        case "flush":
            await mesh.flush(fault.service, **_where(fault))
        case "rate":
            await mesh.set_rate(fault.traffic or "", fault.factor)


async def _end(mesh: LiveControl, fault: TimedFault) -> None:
    if fault.kind == "rate":
        await mesh.set_rate(fault.traffic or "", 1.0)
    else:
        await mesh.restore(fault.service, **_where(fault))
