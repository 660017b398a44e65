"""The running mesh as the slow world sees it: named parts, and verbs that change them.

Rule: a process holds names; the control finds rows.  What changes is the truth (endpoints,
rates); what proxies believe changes only through discovery, by which `add_replicas`, `withdraw` and
`set_health` tell every proxy at once.

The verbs are those of a mesh on real sockets as well (`emulator.running.faults.LiveControl`, which
names its own beside them), but for `add_replicas`, `remove_replicas`, `cpu_ns` and `set_health`;
there the bus decides the delays of `push_weights`.  What takes time (`drain`, `flap`, `roll_out`,
a ramp of `set_rate`) has begun when the verb returns; yield what it returned to wait for its end.

Examples
--------
>>> def outage(env, mesh):                                     # doctest: +SKIP
...     yield env.timeout(30)
...     mesh.kill("reviews", workload="v2", replica=0)
...     yield env.timeout(10)
...     mesh.restore("reviews", workload="v2", replica=0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simpy.events import Event

from meshsim.controlplane.rollout import DEFAULT_LIMIT, rollout
from meshsim.errors import ConfigError, Problem
from meshsim.kernel.caching import flush_cache
from meshsim.kernel.environment import MeshEnvironment
from meshsim.kernel.events import CONFIGURE, pack, schedule
from meshsim.kernel.gray import turn_replica_gray
from meshsim.kernel.growth import push_routes
from meshsim.kernel.lasting import Lasting, Process, check_grace, check_spans
from meshsim.kernel.naming import row_of
from meshsim.kernel.network import Network
from meshsim.kernel.owner import Kernel
from meshsim.kernel.pushes import delays_ns, split_rows
from meshsim.kernel.replicas import Replicas
from meshsim.kernel.watching import discover_health, withdraw_hosts
from meshsim.state.codes import NO_INDEX
from meshsim.topology.base import Distribution

__all__ = ["MeshControl"]

_STATUSES = ("HEALTHY", "DEGRADED", "UNHEALTHY")


class MeshControl:
    """Verbs on one replication under way; the clock is the environment's.

    Parameters
    ----------
    kernel : Kernel
    env : MeshEnvironment
        Of that kernel; what takes time runs in it.

    Notes
    -----
    Every verb raises ConfigError, before anything has happened, if nothing is meant by its names or
    a number is not in its range.
    """

    def __init__(self, kernel: Kernel, env: MeshEnvironment) -> None:
        self._kernel = kernel
        self._env = env
        self._replicas = Replicas(kernel)
        self._lasting = Lasting(self._env, self._replicas)
        self._network = Network(kernel)

    # --- Replicas ---

    def kill(self, service: str | None = None, **where: Any) -> None:
        """Kill replicas: what they serve is reset, and they refuse connections.

        What they had cached is gone.  Sidecars live on and know what they knew; live ones do not.

        Parameters
        ----------
        service : str, optional
        **where
            `workload` (str), `replica` (int, its number within the workload, from 0), `zone`
            (str): all that match.  At least one of service and zone.
        """
        for endpoint in self._find(service, **where):
            self._replicas.kill(endpoint)

    def restore(self, service: str | None = None, **where: Any) -> None:
        """Bring replicas back as the scenario has them; who was dead is cold (`cold_start`)."""
        for endpoint in self._find(service, **where):
            self._lasting.bring_back(endpoint)

    def flap(
        self,
        service: str | None = None,
        *,
        times: int = 3,
        down_s: float = 1.0,
        up_s: float = 1.0,
        **where: Any,
    ) -> Event:
        """Kill and restore replicas `times` times; spans of model time [s], >= 0."""
        check_spans(down_s=down_s, up_s=up_s)
        return self._begin(self._lasting.flap(self._find(service, **where), times, down_s, up_s))

    def drain(
        self,
        service: str | None = None,
        *,
        grace_s: float = 30.0,
        pre_stop_s: float = 0.0,
        **where: Any,
    ) -> Event:
        """End replicas as Kubernetes ends pods, so that no request need fail.

        Every proxy is told at once to choose them no more (`withdraw`).  After `pre_stop_s` they
        refuse what comes and finish what they have; what is left after `grace_s` is reset.
        `restore` and ``withdraw(..., healthy=True)`` bring them back.

        Parameters
        ----------
        service, **where
            As for `kill`.
        grace_s : float
            Kubernetes' terminationGracePeriodSeconds, from now [s], >= 0.
        pre_stop_s : float
            Of these, how long the preStop hook runs [s].
        """
        check_grace(grace_s, pre_stop_s)
        endpoints = self._replicas.staying(self._find(service, **where))
        withdraw_hosts(self._kernel, endpoints, healthy=False)
        return self._begin(self._lasting.drain(endpoints, grace_s, pre_stop_s))

    def slow(self, service: str | None = None, factor: float = 0.5, **where: Any) -> None:
        """Let replicas compute at `factor` times their nominal speed; 0 pauses them."""
        if factor < 0:
            raise ConfigError([Problem("a speed is >= 0", found=str(factor))])
        for endpoint in self._find(service, **where):
            self._replicas.slow(endpoint, factor)

    def fail(self, service: str | None = None, share: float = 1.0, **where: Any) -> None:
        """Let replicas answer a `share` of their requests with 500."""
        _check_share(share)
        for endpoint in self._find(service, **where):
            self._replicas.fail(endpoint, share)

    def gray(
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

        Parameters
        ----------
        share : float
            Of the requests that are hit, in [0, 1].
        factor : float
            Speed of what is hit and does not fail [1], > 0.
        error_rate : float
            Share of what is hit that fails with 500, in [0, 1].
        callers : sequence of str
            Services whose requests alone are hit; everybody's if it is empty.
        """
        _check_share(share)
        _check_share(error_rate)
        if factor <= 0:
            raise ConfigError([Problem("a speed is > 0", found=str(factor), allowed="slow, to 0")])
        for name in callers:
            row_of("service", name, self._kernel.compiled.layout.services)
        for endpoint in self._find(service, **where):
            turn_replica_gray(self._kernel, endpoint, (share, error_rate, factor), set(callers))

    def squeeze(
        self,
        service: str | None = None,
        share: float = 0.5,
        *,
        node: str | None = None,
        **where: Any,
    ) -> None:
        """Leave a node, or replicas, a share of their cores; 1 gives them back.

        The cores of a node are shared by all that runs on it, sidecars too.  A replica is squeezed
        by its CPU limit; one with cores of its own computes at `share` of its speed.

        Parameters
        ----------
        service, **where
            As for `kill`; unless there is a `node`.
        share : float
            Of the cores that the scenario states [1], 0 < share <= 1.
        node : str, optional
            One that states its `cores`.
        """
        _check_share(share)
        if share == 0:
            raise ConfigError([Problem("a share of cores is > 0", found="0", allowed="slow, to 0")])
        if node is not None:
            self._replicas.squeeze_node(node, share)
            return
        for endpoint in self._find(service, **where):
            self._replicas.squeeze(endpoint, share)

    def flush(self, service: str | None = None, **where: Any) -> None:
        """Empty the caches of replicas; ConfigError if nothing that is meant has one."""
        endpoints = self._find(service, **where)
        if not self._kernel.state.endpoints["cache_count"][endpoints].any():
            found = self._replicas.names(endpoints)
            raise ConfigError([Problem("nothing here has a cache", found=found)])
        for endpoint in endpoints:
            flush_cache(self._kernel.state, endpoint)

    # --- Zones and wires ---

    def lose_zone(self, zone: str) -> None:
        """Lose a zone with all its replicas and their proxies, as if its power failed.

        Nobody is told: packets to and from it are lost (`partition`), so that callers notice by
        their timeouts, not by a reset.  ``restore(zone=...)`` and ``heal(zone=...)`` undo it.

        Raises
        ------
        ConfigError
            If there is no such zone, or nothing runs in it.
        """
        endpoints = self._find(None, zone=zone)
        self.partition(zone)
        for endpoint in endpoints:
            self._replicas.kill(endpoint)

    def partition(self, zone: str) -> None:
        """Lose every packet between `zone` and the rest of the mesh.

        Raises
        ------
        ConfigError
            If there is no such zone.
        """
        self._network.cut_off(zone)

    def impair(
        self,
        zones: Sequence[str],
        *,
        latency: str | Distribution | None = None,
        loss: float = 0.0,
        one_way: bool = False,
    ) -> None:
        """Make the network between two zones worse (`meshsim.workload.impairments`).

        Parameters
        ----------
        zones : (str, str)
            From the first to the second, and back; twice the same for within a zone.
        latency : str or Distribution, optional
            Added to each message, one way: "50ms".
        loss : float
            Share of the packets, in [0, 1].
        one_way : bool
            Only from the first zone to the second.

        Raises
        ------
        ConfigError
            If these are no two zones, or a number is none.
        """
        _check_share(loss)
        extra = None if latency is None else Distribution.model_validate(latency)
        self._network.impair(zones, extra, loss, one_way=one_way)

    def heal(self, *, zones: Sequence[str] | None = None, zone: str | None = None) -> None:
        """End what `impair` did between two `zones`, or `partition` to a `zone`; or all of it."""
        if zones is not None:
            self._network.mend(zones)
        if zone is not None:
            self._network.join(zone)
        if zones is None and zone is None:
            self._network.heal()

    # --- What proxies are told ---

    def withdraw(self, service: str | None = None, *, healthy: bool = False, **where: Any) -> None:
        """Let every proxy stop (or, with `healthy`, start again) choosing these replicas."""
        endpoints = self._replicas.staying(self._find(service, **where))
        withdraw_hosts(self._kernel, endpoints, healthy)

    def set_health(
        self, service: str | None = None, status: str = "UNHEALTHY", **where: Any
    ) -> None:
        """Let discovery tell every proxy the health of these replicas (EDS `health_status`).

        A replica that is UNHEALTHY is not chosen, but counts as a host of its cluster, as one that
        is withdrawn does not.  One that is DEGRADED gets what the healthy hosts of a cluster cannot
        take; in a cluster without a `locality` block it is like all others.

        Parameters
        ----------
        status : {"HEALTHY", "DEGRADED", "UNHEALTHY"}
        """
        if status not in _STATUSES:
            allowed = ", ".join(_STATUSES)
            raise ConfigError([Problem("unknown health status", found=status, allowed=allowed)])
        endpoints = self._replicas.staying(self._find(service, **where))
        discover_health(self._kernel, endpoints, status)

    def add_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Add `count` equal replicas; every proxy knows them at once.

        Raises
        ------
        ConfigError
            If there is no such workload, it has no replica to copy, or `count` < 1.
        """
        like = self._replicas.members(service, workload)[0]
        if count < 1:
            raise ConfigError([Problem("at least one replica is added", found=str(count))])
        for _ in range(count):
            # What is wrong with the replica that is copied is not wrong with the new one.
            self._lasting.start_cold(self._replicas.add(like))
        self._replicas.note(service, workload)

    def remove_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Take the `count` newest replicas out of every proxy; they finish what they have.

        Raises
        ------
        ConfigError
            If there is no such workload, or it has not more than `count` replicas.
        """
        endpoints = self._replicas.members(service, workload)
        if not 0 < count < len(endpoints):
            allowed = f"1 to {len(endpoints) - 1}"
            raise ConfigError([Problem("replicas to remove", found=str(count), allowed=allowed)])
        for endpoint in endpoints[-count:]:
            self._replicas.remove(endpoint)
        self._replicas.note(service, workload)

    def roll_out(
        self,
        service: str,
        workload: str | None = None,
        *,
        max_surge: int | str = DEFAULT_LIMIT,
        max_unavailable: int | str = DEFAULT_LIMIT,
        readiness_s: float = 0.0,
        grace_s: float = 30.0,
        pre_stop_s: float = 0.0,
        speed: float = 1.0,
        error_rate: float | None = None,
    ) -> Event:
        """Replace every replica of a workload, as a Kubernetes Deployment does (RollingUpdate).

        Parameters
        ----------
        service, workload : str
            The workload may be left out if the service has one only.
        max_surge, max_unavailable : int or str
            Replicas beyond and below their number, or a percentage, which is rounded up and down.
        readiness_s : float
            From the creation of a replica until proxies know it [s], >= 0.
        grace_s, pre_stop_s : float
            How the old ones end: see `drain`.
        speed : float
            Of the new ones, times the workload's [1], > 0.
        error_rate : float, optional
            Of the new ones; otherwise the workload's.

        Returns
        -------
        simpy.Process
            Has begun; to wait for its end (when the old ones are gone), yield it.

        Raises
        ------
        ConfigError
            If there is no such workload, a limit or a span is none, or it is being rolled out.
        """
        check_grace(grace_s, pre_stop_s)
        check_spans(readiness_s=readiness_s)
        where = service, self._replicas.workload(service, workload)
        limits = rollout(len(self._replicas.members(*where)), max_surge, max_unavailable)
        spans_s = {"readiness_s": readiness_s, "grace_s": grace_s, "pre_stop_s": pre_stop_s}
        version = self._replicas.version(*where, speed, error_rate)
        return self._begin(self._lasting.roll_out(where, limits, spans_s, version))

    def cpu_ns(self, service: str, workload: str) -> dict[int, int]:
        """Return the CPU time of each replica that proxies know, by endpoint row [ns]."""
        used_ns = self._kernel.state.endpoints["cpu_ns"]
        members = self._replicas.members(service, workload)
        return {endpoint: int(used_ns[endpoint]) for endpoint in members}

    # --- Traffic ---

    def set_rate(self, traffic: str, factor: float, *, ramp_s: float = 0.0) -> Event | None:
        """Scale the declared rate of an open-loop traffic class by `factor` >= 0.

        Parameters
        ----------
        traffic : str
        factor : float
            >= 0 [1]; 1 is the declared rate.
        ramp_s : float
            In how much time it gets there from what it is now, evenly [s], >= 0.

        Returns
        -------
        simpy.Process or None
            The ramp, which has begun; to wait for its end, yield it.

        Raises
        ------
        ConfigError
            If there is no such class, it is a closed loop, or a number is negative.
        """
        row = row_of("traffic class", traffic, self._kernel.compiled.catalog.traffic)
        if self._kernel.state.traffic["think_time"][row] != NO_INDEX:
            raise ConfigError(f"{traffic}: a closed loop has users, not a rate")
        if factor < 0:
            raise ConfigError([Problem("a rate is >= 0", found=str(factor))])
        check_spans(ramp_s=ramp_s)
        if ramp_s > 0:
            return self._begin(self._lasting.ramp_rate(row, factor, ramp_s))
        self._lasting.set_rate(row, factor)
        return None

    def set_weights(self, service: str, weights: dict[str, int]) -> None:
        """Set the weights of every split to `service`, by subset name, in every proxy at once.

        Raises
        ------
        ConfigError
            If no split has these subsets, or the weights sum to zero.
        """
        self.push_weights(service, weights)

    def push_weights(
        self, service: str, weights: dict[str, int], delays: Mapping[str, float] | float = 0.0
    ) -> int:
        """Send new weights of every split to `service` to all proxies.

        Each goes on with what it believes until its own delay is over.

        Parameters
        ----------
        service : str
        weights : dict of str to int
            By subset name; a subset that is not named gets 0.
        delays : float or mapping of str to float
            From now until a proxy routes by them [s], >= 0; by name of the proxy (the
            endpoint's, or ``gateway-<class>``), every one of them, or one for all.

        Returns
        -------
        int
            Version of the routes, counted from 0.  A proxy that holds a later one keeps it.

        Raises
        ------
        ConfigError
            If no split has these subsets, the weights sum to zero, or a delay is missing or
            negative.
        """
        rows = split_rows(self._kernel, service, weights)
        waits_ns = delays_ns(self._kernel, delays)
        version = push_routes(self._kernel, rows, weights)
        self._kernel.reserve_events(len(waits_ns))
        for proxy, delay_ns in enumerate(waits_ns):
            schedule(
                self._kernel.state, self._kernel.now_ns + delay_ns, pack(CONFIGURE, proxy, version)
            )
        return version

    # --- Helpers ---

    def _find(
        self,
        service: str | None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> list[int]:
        return self._replicas.find(service, workload, replica, zone)

    def _begin(self, process: Process) -> Event:
        """Begin what takes time."""
        begun: Event = self._env.process(process)
        return begun


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError([Problem("a share is in [0, 1]", found=str(share))])
