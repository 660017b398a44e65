"""The endpoints of a run by name, and what is wrong with each of them at the moment.

Rule: an endpoint computes at its nominal speed times what slows it: a fault, a squeeze of its
cores, and how cold it is.  A workload that shares cores is squeezed by its limit, one with cores
of its own by its speed.  What ends a life (a kill, a way back) begins a new *era*: a process that
still has plans for the old one drops them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from meshsim.errors import ConfigError, Problem
from meshsim.kernel.caching import flush_cache
from meshsim.kernel.connection_limits import end_connections
from meshsim.kernel.cores import reshare_node, settle_node
from meshsim.kernel.growth import with_replicas, without_replica
from meshsim.kernel.naming import row_of
from meshsim.kernel.owner import Kernel
from meshsim.kernel.verbs import count_tasks, kill_endpoint, set_speed
from meshsim.state.codes import NO_INDEX

__all__ = ["Replicas"]

#: Events that stopping one task schedules: its answer, its call, its worker's next task, two of
#: its node.
_EVENTS_A_TASK = 5


class Replicas:
    """All endpoints of a kernel, those added included.

    Parameters
    ----------
    kernel : Kernel
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        endpoints = kernel.state.endpoints
        self._speed = endpoints["speed"].astype(float)
        self._errors = endpoints["error_rate"].astype(float)
        ones = np.ones(len(endpoints))
        #: Factors of the speed: a fault, a squeeze, the warmth; and the squeeze of the limit.
        self._factors = {name: ones.copy() for name in ("slow", "squeeze", "warmth")}
        self._limits = kernel.state.containers["limit_cores"].copy()
        self._eras = [0] * len(endpoints)
        #: No longer counted; and of those, unknown to proxies.
        self._departed: set[int] = set()
        self._removed: set[int] = set()

    # --- Names ---

    def find(
        self, service: str | None, workload: str | None, replica: int | None, zone: str | None
    ) -> list[int]:
        """Return the endpoints that are meant, in order.

        Raises
        ------
        ConfigError
            If nothing is.
        """
        kernel = self.kernel
        layout = kernel.compiled.layout
        if service is None and zone is None:
            raise ConfigError("name a service or a zone")
        if service is not None:
            row_of("service", service, layout.services)
            here = [layout.workloads[row].workload for row in layout.services[service]]
            if workload is not None:
                row_of(f"workload of {service}", workload, here)
        if zone is not None:
            row_of("zone", zone, layout.zones)
        found = []
        rows = kernel.state.endpoints
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
            message = f"{wanted} zone {zone or '*'}"
            raise ConfigError([Problem("no endpoint matches", found=message)])
        return found

    def members(self, service: str, workload: str) -> list[int]:
        """Return the endpoints of a workload that were not removed, the newest last."""
        return self.staying(self.find(service, workload, None, None))

    def workload(self, service: str, workload: str | None) -> str:
        """Return the name of a workload of `service`: its only one, unless it is named.

        Raises
        ------
        ConfigError
            If there is no such service or workload, or it has several and none is named.
        """
        layout = self.kernel.compiled.layout
        row_of("service", service, layout.services)
        here = [layout.workloads[row].workload for row in layout.services[service]]
        if workload is None and len(here) > 1:
            message, allowed = f"{service} has several workloads", ", ".join(here)
            raise ConfigError([Problem(message, found="none named", allowed=allowed)])
        name = here[0] if workload is None else workload
        row_of(f"workload of {service}", name, here)
        return name

    def version(
        self, service: str, workload: str, speed: float, error_rate: float | None
    ) -> dict[str, float]:
        """Return the speed and error rate of a version of a workload.

        Raises
        ------
        ConfigError
            If `speed`, a factor of the workload's, is not > 0, or `error_rate` is no share.
        """
        if speed <= 0:
            raise ConfigError([Problem("the speed of a version is > 0", found=str(speed))])
        if error_rate is not None and not 0 <= error_rate <= 1:
            raise ConfigError([Problem("a share is in [0, 1]", found=str(error_rate))])
        stated = self.kernel.compiled.topology.services[service].workloads[workload]
        errors = stated.error_rate if error_rate is None else error_rate
        return {"speed": speed * stated.speed, "error_rate": errors}

    def staying(self, endpoints: Iterable[int]) -> list[int]:
        """Return those of which proxies may still be told something: they are not on their way out.

        What was removed is no member of any cluster, and nobody must find it healthy again.
        """
        return [endpoint for endpoint in endpoints if endpoint not in self._departed]

    def names(self, endpoints: Iterable[int]) -> str:
        """Return the names of endpoints, for messages."""
        return ", ".join(self.kernel.endpoint_names[row] for row in list(endpoints)[:20])

    # --- Life ---

    def era(self, endpoint: int) -> int:
        """Return the number of the life that `endpoint` leads."""
        return self._eras[endpoint]

    def kill(self, endpoint: int) -> None:
        """End what `endpoint` does in resets; it refuses what comes, and has cached nothing."""
        self._eras[endpoint] += 1
        self._reserve_events(endpoint)
        kill_endpoint(self.kernel.state, endpoint)
        flush_cache(self.kernel.state, endpoint)
        end_connections(self.kernel.state, endpoint)

    def refuse(self, endpoint: int) -> None:
        """Let `endpoint` refuse what comes and finish what it has."""
        self.kernel.state.endpoints["alive"][endpoint] = 0

    def heal(self, endpoint: int) -> bool:
        """Bring `endpoint` back as the scenario has it; return whether it was dead."""
        self._eras[endpoint] += 1
        endpoints = self.kernel.state.endpoints
        was_dead = bool(endpoints["alive"][endpoint] == 0)
        endpoints["alive"][endpoint] = 1
        endpoints["error_rate"][endpoint] = self._errors[endpoint]
        endpoints["gray"][endpoint] = NO_INDEX
        for factors in self._factors.values():
            factors[endpoint] = 1.0
        self._set_limit(endpoint, 1.0)
        self._apply_speed(endpoint)
        return was_dead

    def fail(self, endpoint: int, share: float) -> None:
        """Let `endpoint` answer a share of its requests with 500."""
        self.kernel.state.endpoints["error_rate"][endpoint] = share

    # --- Speed ---

    def slow(self, endpoint: int, factor: float) -> None:
        """Let `endpoint` compute at `factor` times its nominal speed."""
        self._set_factor("slow", endpoint, factor)

    def warm(self, endpoint: int, factor: float) -> None:
        """Let `endpoint` compute at `factor` of its speed because it is cold."""
        self._set_factor("warmth", endpoint, factor)

    def squeeze(self, endpoint: int, share: float) -> None:
        """Leave `endpoint` a share of its cores."""
        if self.kernel.state.endpoints["container"][endpoint] == NO_INDEX:
            self._set_factor("squeeze", endpoint, share)
        else:
            self._set_limit(endpoint, share)

    def squeeze_node(self, name: str, share: float) -> None:
        """Leave what runs on node `name` a share of its cores.

        Raises
        ------
        ConfigError
            If there is no such node, or its cores are not stated, so that nobody shares them.
        """
        layout = self.kernel.compiled.layout
        index = row_of("node", name, layout.nodes)
        state = self.kernel.state
        here = (state.endpoints["node"] == index) & (state.endpoints["container"] != NO_INDEX)
        cores = self.kernel.compiled.topology.nodes[name].cores
        if cores is None or not here.any():
            message = f"node {name} has no cores that are shared"
            allowed = "a node that states its cores; or name a service"
            raise ConfigError([Problem(message, found=name, allowed=allowed)])
        node = int(state.containers["node"][state.endpoints["container"][here][0]])
        self._change_node(node, lambda: state.nodes["cores"].__setitem__(node, share * cores))

    def _set_limit(self, endpoint: int, share: float) -> None:
        state = self.kernel.state
        container = int(state.endpoints["container"][endpoint])
        if container == NO_INDEX:
            return
        limit = share * self._limits[container]
        if state.containers["limit_cores"][container] == limit:
            return
        node = int(state.containers["node"][container])

        def change() -> None:
            state.containers["limit_cores"][container] = limit
            if self._node_cores(endpoint) is None:  # a node of its own, as large as its limit
                state.nodes["cores"][node] = limit

        self._change_node(node, change)

    def _node_cores(self, endpoint: int) -> float | None:
        """Return the cores that the node of `endpoint` states, if any."""
        compiled = self.kernel.compiled
        node = int(self.kernel.state.endpoints["node"][endpoint])
        if node == NO_INDEX:
            return None
        return compiled.topology.nodes[compiled.layout.nodes[node]].cores

    def _change_node(self, node: int, change: Any) -> None:
        self.kernel.reserve_events(1)
        settle_node(self.kernel.state, node)
        change()
        reshare_node(self.kernel.state, node)

    def _set_factor(self, name: str, endpoint: int, factor: float) -> None:
        self._factors[name][endpoint] = factor
        self._apply_speed(endpoint)

    def _apply_speed(self, endpoint: int) -> None:
        speed = self._speed[endpoint]
        for factors in self._factors.values():
            speed *= factors[endpoint]
        self._reserve_events(endpoint)
        set_speed(self.kernel.state, endpoint, float(speed))

    def _reserve_events(self, endpoint: int) -> None:
        tasks = count_tasks(self.kernel.state, endpoint)
        self.kernel.reserve_events(_EVENTS_A_TASK * tasks + 1)

    # --- Number ---

    def add(self, like: int, version: Mapping[str, float] | None = None) -> int:
        """Add an endpoint like `like`, but sound, which every proxy knows; return its row.

        `version` may have another `speed` and `error_rate` for it than those of `like`.
        """
        version = version or {}
        with_replicas(self.kernel, like)
        self._speed = np.append(self._speed, version.get("speed", self._speed[like]))
        self._errors = np.append(self._errors, version.get("error_rate", self._errors[like]))
        self._factors = {name: np.append(row, 1.0) for name, row in self._factors.items()}
        self._eras.append(0)
        added = len(self._speed) - 1
        self._note_limits(like, added)
        self.heal(added)
        return added

    def _note_limits(self, like: int, added: int) -> None:
        """Give the containers of endpoint `added` the nominal limits of those of `like`."""
        state = self.kernel.state
        known = len(self._limits)
        self._limits = np.concatenate([self._limits, state.containers["limit_cores"][known:]])
        container = int(state.endpoints["container"][added])
        if container != NO_INDEX:
            self._limits[container] = self._limits[state.endpoints["container"][like]]

    def remove(self, endpoint: int) -> None:
        """Take `endpoint` out of every proxy; what it has to do, it finishes."""
        self._departed.add(endpoint)
        if endpoint not in self._removed:
            self._removed.add(endpoint)
            without_replica(self.kernel, endpoint)

    def depart(self, endpoint: int) -> None:
        """Count `endpoint` no longer; proxies know it, withdrawn, until it is removed."""
        self._departed.add(endpoint)

    def note(self, service: str, workload: str) -> None:
        """Record how many replicas a workload has from now on."""
        count = len(self.members(service, workload))
        self.kernel.replicas.append((self.kernel.now_ns, service, workload, count))
