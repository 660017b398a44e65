"""The running mesh as the slow world sees it: named parts, and verbs that change them.

Rule: a process holds names; the control finds rows.  What changes is the truth (endpoints,
rates); what proxies believe changes only through discovery, by which `add_replicas`, `withdraw` and
`set_health` tell every proxy at once.

The verbs are those of a mesh on real sockets as well (`emulator.running.faults.LiveControl`, which
names its own beside them), but for `add_replicas`, `remove_replicas`, `cpu_ns` and `set_health`;
there the bus decides the delays of `push_weights`.

Examples
--------
>>> def outage(env, mesh):                                     # doctest: +SKIP
...     yield env.timeout(30)
...     mesh.kill("reviews", workload="v2", replica=0)
...     yield env.timeout(10)
...     mesh.restore("reviews", workload="v2", replica=0)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np

from meshsim.errors import ConfigError, Problem
from meshsim.kernel.caching import flush_cache
from meshsim.kernel.events import CONFIGURE, pack, schedule
from meshsim.kernel.growth import push_routes, with_replicas, without_replica
from meshsim.kernel.owner import Kernel
from meshsim.kernel.verbs import count_tasks, kill_endpoint, set_rate, set_speed
from meshsim.kernel.watching import discover_health, withdraw_hosts
from meshsim.state.codes import NO_INDEX
from meshsim.state.kernel import POOLS
from meshsim.units import NS_PER_S

__all__ = ["MeshControl"]

#: Events that stopping one task schedules: its answer, its call, its worker's next task, two of
#: its node.
_EVENTS_A_TASK = 5
_STATUSES = ("HEALTHY", "DEGRADED", "UNHEALTHY")


class MeshControl:
    """Verbs on one replication under way; the clock is the environment's.

    Parameters
    ----------
    kernel : Kernel
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._nominal_speed = kernel.state.endpoints["speed"].copy()
        self._nominal_errors = kernel.state.endpoints["error_rate"].copy()
        self._removed: set[int] = set()

    def kill(
        self,
        service: str | None = None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Kill replicas: what they serve is reset, and they refuse connections.

        Parameters
        ----------
        service, workload, zone : str, optional
            What to kill; all that match.  At least one of service and zone.
        replica : int, optional
            Number of the replica within its workload, from 0.

        Raises
        ------
        ConfigError
            If nothing is meant by these names.
        """
        for endpoint in self._endpoints(service, workload, replica, zone):
            self._reserve_events(endpoint)
            kill_endpoint(self._kernel.state, endpoint)
            flush_cache(self._kernel.state, endpoint)

    def restore(
        self,
        service: str | None = None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Bring replicas back: alive, at nominal speed, with their stated error rate."""
        for endpoint in self._endpoints(service, workload, replica, zone):
            self._heal(endpoint)

    def slow(
        self,
        service: str | None = None,
        factor: float = 0.5,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Let replicas compute at `factor` times their nominal speed; 0 pauses them.

        Raises
        ------
        ConfigError
            If nothing is meant by these names, or `factor` is negative.
        """
        if factor < 0:
            raise ConfigError([Problem("a speed is >= 0", found=str(factor))])
        for endpoint in self._endpoints(service, workload, replica, zone):
            self._set_speed(endpoint, factor * float(self._nominal_speed[endpoint]))

    def fail(
        self,
        service: str | None = None,
        share: float = 1.0,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Let replicas answer a `share` of their requests with 500.

        Raises
        ------
        ConfigError
            If nothing is meant by these names, or `share` is not in [0, 1].
        """
        if not 0 <= share <= 1:
            raise ConfigError([Problem("a share is in [0, 1]", found=str(share))])
        for endpoint in self._endpoints(service, workload, replica, zone):
            self._kernel.state.endpoints["error_rate"][endpoint] = share

    def flush(
        self,
        service: str | None = None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Empty the caches of replicas.

        Raises
        ------
        ConfigError
            If nothing is meant by these names, or none of it has a cache.
        """
        endpoints = self._endpoints(service, workload, replica, zone)
        if not self._kernel.state.endpoints["cache_count"][endpoints].any():
            names = ", ".join(self._kernel.endpoint_names[row] for row in endpoints[:20])
            raise ConfigError([Problem("nothing here has a cache", found=names)])
        for endpoint in endpoints:
            flush_cache(self._kernel.state, endpoint)

    def withdraw(
        self,
        service: str | None = None,
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
        healthy: bool = False,
    ) -> None:
        """Let every proxy stop (or, with `healthy`, start again) choosing these replicas."""
        meant = self._endpoints(service, workload, replica, zone)
        withdraw_hosts(self._kernel, [row for row in meant if row not in self._removed], healthy)

    def set_health(
        self,
        service: str | None = None,
        status: str = "UNHEALTHY",
        *,
        workload: str | None = None,
        replica: int | None = None,
        zone: str | None = None,
    ) -> None:
        """Let discovery tell every proxy the health of these replicas (EDS `health_status`).

        A replica that is UNHEALTHY is not chosen, but counts as a host of its cluster, as one that
        is withdrawn does not.  One that is DEGRADED gets what the healthy hosts of a cluster cannot
        take; in a cluster without a `locality` block it is like all others.

        Parameters
        ----------
        status : {"HEALTHY", "DEGRADED", "UNHEALTHY"}

        Raises
        ------
        ConfigError
            If nothing is meant by these names, or there is no such status.
        """
        if status not in _STATUSES:
            allowed = ", ".join(_STATUSES)
            raise ConfigError([Problem("unknown health status", found=status, allowed=allowed)])
        discover_health(self._kernel, self._endpoints(service, workload, replica, zone), status)

    def add_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Add `count` equal replicas; every proxy knows them at once.

        Raises
        ------
        ConfigError
            If there is no such workload, it has no replica to copy, or `count` < 1.
        """
        endpoints = self._members(service, workload)
        if count < 1:
            raise ConfigError([Problem("at least one replica is added", found=str(count))])
        like = endpoints[0]
        for _ in range(count):
            with_replicas(self._kernel, like)
            self._nominal_speed = np.append(self._nominal_speed, self._nominal_speed[like])
            self._nominal_errors = np.append(self._nominal_errors, self._nominal_errors[like])
            # What is wrong with the replica that was copied is not wrong with the new one.
            self._heal(len(self._nominal_speed) - 1)
        self._note_replicas(service, workload)

    def remove_replicas(self, service: str, workload: str, count: int = 1) -> None:
        """Take the `count` newest replicas out of every proxy; they finish what they have.

        Raises
        ------
        ConfigError
            If there is no such workload, or it has not more than `count` replicas.
        """
        endpoints = self._members(service, workload)
        if not 0 < count < len(endpoints):
            allowed = f"1 to {len(endpoints) - 1}"
            raise ConfigError([Problem("replicas to remove", found=str(count), allowed=allowed)])
        for endpoint in endpoints[-count:]:
            without_replica(self._kernel, endpoint)
            self._removed.add(endpoint)
        self._note_replicas(service, workload)

    def cpu_ns(self, service: str, workload: str) -> dict[int, int]:
        """Return the CPU time of each replica that proxies know, by endpoint row [ns]."""
        used_ns = self._kernel.state.endpoints["cpu_ns"]
        return {endpoint: int(used_ns[endpoint]) for endpoint in self._members(service, workload)}

    def _members(self, service: str, workload: str) -> list[int]:
        """Return the endpoints of a workload that were not removed, the newest last."""
        endpoints = self._endpoints(service, workload, None, None)
        return [endpoint for endpoint in endpoints if endpoint not in self._removed]

    def _note_replicas(self, service: str, workload: str) -> None:
        count = len(self._members(service, workload))
        self._kernel.replicas.append((self._kernel.now_ns, service, workload, count))

    def set_rate(self, traffic: str, factor: float) -> None:
        """Scale the declared rate of an open-loop traffic class by `factor` >= 0."""
        row = self._row("traffic class", traffic, self._kernel.compiled.catalog.traffic)
        if self._kernel.state.traffic["think_time"][row] != NO_INDEX:
            raise ConfigError(f"{traffic}: a closed loop has users, not a rate")
        if factor < 0:
            raise ConfigError([Problem("a rate is >= 0", found=str(factor))])
        self._kernel.reserve_events(len(POOLS))
        set_rate(self._kernel.state, row, factor)

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
        rows = self._split_rows(service, weights)
        delays_ns = self._delays_ns(delays)
        version = push_routes(self._kernel, rows, weights)
        self._kernel.reserve_events(len(delays_ns))
        for proxy, delay_ns in enumerate(delays_ns):
            schedule(
                self._kernel.state, self._kernel.now_ns + delay_ns, pack(CONFIGURE, proxy, version)
            )
        return version

    def _proxy_names(self) -> list[str]:
        """Return the names of the PROXY rows, those of replicas added since included."""
        kernel = self._kernel
        declared = len(kernel.compiled.layout.endpoint_names)
        gateways = [f"gateway-{name}" for name in kernel.compiled.catalog.traffic]
        return kernel.endpoint_names[:declared] + gateways + kernel.endpoint_names[declared:]

    def _delays_ns(self, delays: Mapping[str, float] | float) -> list[int]:
        names = self._proxy_names()
        if isinstance(delays, Mapping):
            missing = [name for name in names if name not in delays]
            if missing:
                raise ConfigError([Problem("no delay is stated", found=", ".join(missing[:20]))])
            values = [delays[name] for name in names]
        else:
            values = [delays] * len(names)
        if min(values) < 0:
            raise ConfigError([Problem("a delay is >= 0", found=str(min(values)))])
        return [round(value * NS_PER_S) for value in values]

    def _split_rows(self, service: str, weights: dict[str, int]) -> list[tuple[int, int, str]]:
        """Return (ROUTE, SPLIT, subset) of the newest version that `weights` speaks of."""
        rows = [
            (route, split, subset)
            for route, split, routed, subset in self._kernel.splits
            if routed == service and subset
        ]
        unknown = set(weights) - {subset for _, _, subset in rows}
        if unknown or not rows:
            found = ", ".join(sorted(unknown)) or service
            raise ConfigError([Problem("no weighted split has these subsets", found=found)])
        if sum(weights.values()) <= 0 or min(weights.values()) < 0:
            raise ConfigError([Problem("weights are >= 0 and not all 0", found=str(weights))])
        return rows

    def _heal(self, endpoint: int) -> None:
        state = self._kernel.state
        state.endpoints["alive"][endpoint] = 1
        state.endpoints["error_rate"][endpoint] = self._nominal_errors[endpoint]
        self._set_speed(endpoint, float(self._nominal_speed[endpoint]))

    # --- Names ---

    def _set_speed(self, endpoint: int, speed: float) -> None:
        self._reserve_events(endpoint)
        set_speed(self._kernel.state, endpoint, speed)

    def _reserve_events(self, endpoint: int) -> None:
        tasks = count_tasks(self._kernel.state, endpoint)
        self._kernel.reserve_events(_EVENTS_A_TASK * tasks + 1)

    def _endpoints(
        self, service: str | None, workload: str | None, replica: int | None, zone: str | None
    ) -> list[int]:
        catalog = self._kernel.compiled.catalog
        if service is None and zone is None:
            raise ConfigError("name a service or a zone")
        if service is not None:
            self._row("service", service, tuple(dict.fromkeys(row[0] for row in catalog.endpoints)))
        found = []
        layout = self._kernel.compiled.layout
        rows = self._kernel.state.endpoints
        numbers = [0] * len(layout.workloads)
        for endpoint in range(len(rows)):  # those of the scenario, then those added since
            index = int(rows["workload"][endpoint])
            place = layout.workloads[index]
            number = numbers[index]
            numbers[index] += 1
            if (
                service in (None, place.service)
                and workload in (None, place.workload)
                and replica in (None, number)
                and zone in (None, layout.zones[rows["zone"][endpoint]])
            ):
                found.append(endpoint)
        if not found:
            wanted = f"{service or ''}/{workload or '*'}/{'*' if replica is None else replica}"
            raise ConfigError(
                [Problem("no endpoint matches", found=f"{wanted} zone {zone or '*'}")]
            )
        return found

    @staticmethod
    def _row(kind: str, name: str, names: Iterable[str]) -> int:
        known = list(names)
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                [
                    Problem(
                        f"unknown {kind}",
                        found=name,
                        allowed=", ".join(known[:20]),
                        suggestion=near[0] if near else "",
                    )
                ]
            )
        return known.index(name)
