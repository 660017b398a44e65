"""Small scenarios run on the kernel, with every request traced and every invariant checked."""

from dataclasses import dataclass, replace

import numpy as np

from meshsim.kernel.control import MeshControl
from meshsim.kernel.environment import MeshEnvironment
from meshsim.kernel.invariants import validate
from meshsim.kernel.owner import Kernel
from meshsim.kernel.prefetching import LARGE_HOSTS
from meshsim.meshes import profile, resolve
from meshsim.state.codes import FLAG_NAMES
from meshsim.topology.compiled import compile_topology
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated

NS_PER_MS = 1_000_000
MS_PER_S = 1000
NO_WIRE = {
    "latency": dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), "0s")
}


def wire(latency):
    """Return a network where every hop takes `latency` one way."""
    return {
        "latency": dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), latency)
    }


def worker(*steps, **fields):
    """Return a workload of one worker."""
    return {"concurrency": 1, "steps": list(steps), **fields}


def recorded(*times):
    return {"recorded": {"times": list(times)}}


@dataclass(frozen=True)
class Span:
    """One exchange; times in ms."""

    edge: str
    trace: int
    start: float
    end: float
    status: int
    flag: str
    tries: int
    endpoint: str
    queue: float
    service: float
    proxy: float
    wire: float


class Run:
    """A kernel under way over a scenario given as services, each a workload or several.

    `services` maps a name to a workload, or to {"workloads": ...}; `arrivals` go to the first
    service unless `traffic` says otherwise; `cost` is that of the proxies, if not the mesh's.
    """

    def __init__(
        self,
        services,
        arrivals=None,
        *,
        traffic=None,
        seed=1,
        replication=0,
        rows_max=1 << 16,
        duration_ms=100_000,
        events_a_slice=2_000_000,
        on_slice=None,
        hosts_large=LARGE_HOSTS,
        cost=None,
        **fields,
    ):
        declared = {
            name: body if "workloads" in body else {"workloads": {"v1": body}}
            for name, body in services.items()
        }
        if traffic is None:
            traffic = {"load": {"to": next(iter(services)), "arrivals": arrivals}}
        self.topology = resolve(
            validated(
                Topology.model_validate(
                    {
                        "name": "test",
                        "mesh": "none",
                        "network": NO_WIRE,
                        "services": declared,
                        "traffic": traffic,
                        **fields,
                    }
                )
            )
        )
        mesh = profile(self.topology.mesh)
        if cost is not None:
            mesh = replace(mesh, cost=cost)
        self.compiled = compile_topology(self.topology, mesh)
        self.kernel = Kernel(
            self.compiled,
            seed,
            replication,
            duration_ms * NS_PER_MS,
            sample_share=1.0,
            rows_max=rows_max,
            events_a_slice=events_a_slice,
            on_slice=on_slice,
            hosts_large=hosts_large,
        )
        self.env = MeshEnvironment(self.kernel)
        self.control = MeshControl(self.kernel, self.env)

    @property
    def state(self):
        return self.kernel.state

    def to(self, time_ms):
        """Advance to `time_ms`, check the invariants, and return this run."""
        self.advance(time_ms)
        problems = validate(self.state)
        assert not problems, problems
        return self

    def advance(self, time_ms):
        """Advance to `time_ms`, and no further than there is."""
        if time_ms / MS_PER_S > self.env.now:
            self.env.run(until=time_ms / MS_PER_S)
        self.kernel.advance_to(round(time_ms * NS_PER_MS))

    def spans(self, edge=None):
        """Return the ended exchanges of `edge` ("caller>service"; None: of all), by start."""
        state = self.state
        catalog = self.compiled.catalog
        rows = state.spans[: int(state.counters["spans"][0])]
        found = []
        for row in rows:
            name = ">".join(catalog.edges[row["edge"]])
            endpoint = self.kernel.endpoint_names[row["endpoint"]] if row["endpoint"] >= 0 else ""
            times = (
                row[key] / NS_PER_MS for key in ("queue_ns", "service_ns", "proxy_ns", "wire_ns")
            )
            found.append(
                Span(
                    name,
                    int(row["trace"]),
                    row["start_ns"] / NS_PER_MS,
                    row["end_ns"] / NS_PER_MS,
                    int(row["status"]),
                    FLAG_NAMES[row["response_flag"]],
                    int(row["tries"]),
                    endpoint,
                    *times,
                )
            )
        found = [span for span in found if edge in (None, span.edge)]
        return sorted(found, key=lambda span: (span.start, span.trace))

    def outcomes(self, edge=None):
        """Return (start, end, status, flag) of each ended exchange, by start."""
        return [(span.start, span.end, span.status, span.flag) for span in self.spans(edge)]

    def ends(self, edge=None):
        return [span.end for span in self.spans(edge)]

    def endpoint(self, name):
        """Return the ENDPOINT row of a name as a dict."""
        row = self.state.endpoints[self.kernel.endpoint_names.index(name)]
        return {field: row[field].tolist() for field in row.dtype.names}

    def idle(self):
        """Return whether every pool is unused."""
        counters = self.state.counters
        return all(
            counters[f"{pool}_free_count"][0] == len(getattr(self.state, f"{pool}s"))
            for pool in ("exchange", "attempt", "task")
        )


def served(run):
    """Return the number of requests served by each endpoint."""
    return dict(
        zip(
            run.kernel.endpoint_names,
            np.asarray(run.state.endpoints["requests"]).tolist(),
            strict=True,
        )
    )
