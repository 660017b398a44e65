"""Access as a table: what the evaluator answers, for every request that there can be.

Rule: a request is known by its call site and its traffic class, as its route is; the row of the
table that it names holds the answer of every workload that its service, or a destination of the
service's routes, has.  Equal rows are one.  Without access rules both arrays are empty.

A workload that only lets pass by default is told apart from one whose proxy holds rules: Envoy
counts `rbac.allowed` where there is a filter.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from meshsim.policy.authorization import Party, Request, labels_of
from meshsim.state.codes import ACCESS_UNRESTRICTED, NO_INDEX
from meshsim.topology.compiled.access import AccessMap
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.programs import CallSite, Programs
from meshsim.topology.model import Topology, TrafficClass

__all__ = ["compile_access"]


def compile_access(
    topology: Topology, layout: Layout, programs: Programs, sidecars: bool
) -> dict[str, Rows]:
    """Return `access_rows` by [call site, traffic class] and `access_outcomes`."""
    access = AccessMap(topology, sidecars)
    if not access.used:
        return {
            "access_rows": np.zeros(0, np.int32),
            "access_outcomes": np.zeros((0, 0), np.int8),
        }
    table = _Table(access, topology, layout)
    classes = list(topology.traffic.items())
    rows = np.full((len(programs.sites), max(len(classes), 1)), NO_INDEX, np.int32)
    for number, site in enumerate(programs.sites):
        for column, (name, traffic) in enumerate(classes):
            if site.workload is not None or programs.entry_calls[name] == number:
                rows[number, column] = table.row(site, name, traffic)
    return {"access_rows": rows.reshape(-1), "access_outcomes": table.build()}


class _Table:
    def __init__(self, access: AccessMap, topology: Topology, layout: Layout) -> None:
        self.access = access
        self.topology = topology
        self.layout = layout
        self.rows: dict[bytes, int] = {}

    def row(self, site: CallSite, name: str, traffic: TrafficClass) -> int:
        """Return the row of requests of class `name` at `site`; NO_INDEX if all may pass."""
        call = site.call
        target = call.to if isinstance(call, TrafficClass) else call.service
        stated = call.authority if isinstance(call, TrafficClass) else ""
        headers = {**traffic.headers, **call.headers}
        request = Request(
            method=call.method,
            path=call.path,
            host=stated or target,
            headers=labels_of({key.lower(): value for key, value in headers.items()}),
        )
        if site.workload is None:
            caller = self.access.gateway(name)
        else:
            place = self.layout.workloads[site.workload]
            caller = self.access.workload(place.service, place.workload)
        outcomes = self._outcomes(caller, target, request)
        if not outcomes.any():
            return NO_INDEX
        return self.rows.setdefault(outcomes.tobytes(), len(self.rows))

    def _outcomes(self, caller: Party, target: str, request: Request) -> Rows:
        outcomes = np.full(len(self.layout.workloads), ACCESS_UNRESTRICTED, np.int8)
        for service in self._destinations(target):
            port, port_name = self.access.port(service)
            for index in self.layout.services[service]:
                workload = self.layout.workloads[index].workload
                asked = self.access.at_port(request, port, port_name)
                decision = self.access.decide(caller, service, workload, asked)
                if not decision.allowed or self.access.filters(service, workload, asked):
                    outcomes[index] = decision.outcome
        return outcomes

    def _destinations(self, target: str) -> Iterable[str]:
        """Return the services that a request to `target`, or a copy of it, can go to."""
        policy = self.topology.policies.get(target)
        names = [target]
        for route in policy.routes if policy else ():
            names += [item.service or target for item in route.split]
            names += [item.service or target for item in route.mirrors]
        return dict.fromkeys(names)

    def build(self) -> Rows:
        blocks = [np.frombuffer(row, np.int8) for row in self.rows]
        shape = (len(self.rows), len(self.layout.workloads))
        return np.array(blocks, np.int8).reshape(shape)
