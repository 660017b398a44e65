"""Arrivals, traffic classes and wire latencies as rows.

Rule: the wire is a table of distributions by pair of zones,
with one more row for two endpoints on one node; a link of the scenario overrides the table.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.codes import NO_INDEX
from meshsim.state.kernel import TRAFFIC_DTYPE
from meshsim.state.workload import IMPAIRMENT_DTYPE
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.programs import Programs
from meshsim.topology.model import Topology
from meshsim.workload.arrivals import build_arrivals

__all__ = ["compile_traffic"]


def compile_traffic(
    topology: Topology, layout: Layout, programs: Programs, draws: Draws
) -> dict[str, Rows]:
    """Return the arrays `traffic`, `arrivals`, `distributions`, `values` and `wire`."""
    classes = topology.traffic
    traffic = np.zeros(len(classes), TRAFFIC_DTYPE)
    traffic["think_time"] = NO_INDEX
    intervals = []
    for index, (name, item) in enumerate(classes.items()):
        traffic["call"][index] = programs.entry_calls[name]
        traffic["proxy"][index] = len(layout.endpoint_names) + index
        traffic["priority"][index] = item.priority
        if item.closed_loop is not None:
            traffic["think_time"][index] = draws.row(item.closed_loop.think_time)
        renewal = item.arrivals.renewal if item.arrivals else None
        intervals.append(draws.row(renewal.interval if renewal else None))
    wire = _wire(topology, layout, draws)
    distributions, values = draws.build()
    arrivals, values = build_arrivals(
        [item.arrivals for item in classes.values()], intervals, values
    )
    return {
        "traffic": traffic,
        "arrivals": arrivals,
        "distributions": distributions,
        "values": values,
        "wire": wire,
        "impairments": np.zeros(0, IMPAIRMENT_DTYPE),
    }


def _wire(topology: Topology, layout: Layout, draws: Draws) -> Rows:
    latency = topology.network.latency
    count = len(layout.zones)
    wire = np.zeros((count + 1, count), np.int32)
    for one in range(count):
        for other in range(count):
            if one == other:
                distribution = latency.same_zone
            elif layout.regions[one] == layout.regions[other]:
                distribution = latency.same_region
            else:
                distribution = latency.cross_region
            wire[one, other] = draws.row(distribution)
    zone_index = {name: index for index, name in enumerate(layout.zones)}
    for link in topology.network.links:
        one, other = (zone_index[name] for name in link.zones)
        wire[one, other] = wire[other, one] = draws.row(link.latency)
    wire[count, :] = draws.row(latency.same_node)
    return wire
