"""What one replication leaves behind: the raw material of a Result, the same for every plane.

Time is cut twice.  *Windows* are `WINDOW_COUNT` equal parts of the run, kept per traffic class
with full histograms.  *Segments* are runs of windows, few enough to keep a histogram for each
edge; warm-up deletion cuts at a segment boundary, so that every table uses the same cut.

A request belongs to the window of its (intended) arrival.  Arrivals go on after the end of the
measured time until every measured request has ended, so no tail is cut off; those later
arrivals are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meshsim.state.sparse import SparseHistogram

__all__ = [
    "ENDPOINT_RECORD_DTYPE",
    "HOST_RECORD_DTYPE",
    "PROXY_RECORD_DTYPE",
    "SEGMENT_COUNT",
    "SEGMENT_STARTS",
    "SERIES_DTYPE",
    "SPAN_DTYPE",
    "WINDOW_COUNT",
    "WINDOW_DTYPE",
    "Catalog",
    "RunRecord",
]

WINDOW_COUNT = 60
#: First window of each segment: 0, 5, 10, 20, 30, 50 % of the run.
SEGMENT_STARTS = (0, 3, 6, 12, 18, 30)
SEGMENT_COUNT = len(SEGMENT_STARTS)

WINDOW_DTYPE = np.dtype(
    [
        # of the requests that arrived in this window:
        ("arrivals", "i8"),
        ("successes", "i8"),  # status < 500
        ("failures", "i8"),
        ("latency_sum_ns", "i8"),  # of successes, from the intended arrival
        ("queue_ns", "i8"),  # time of all their hops by kind; parallel branches add up
        ("service_ns", "i8"),
        ("proxy_ns", "i8"),
        ("wire_ns", "i8"),
        # by the clock:
        ("responses", "i8"),  # ended in this window
        ("good_responses", "i8"),
        ("in_flight_ns", "i8"),  # integral of requests in flight
    ],
    align=True,
)

#: One (segment, edge) cell, a cache line long.  An edge is (caller service or traffic class,
#: called service).
SERIES_DTYPE = np.dtype(
    [
        ("requests", "i4"),  # exchanges ended, by arrival of their root in the segment
        ("successes", "i4"),
        ("retries", "i8"),
        ("latency_sum_ns", "i8"),  # of successes, as the caller's proxy (or caller) sees them
        ("queue_ns", "i8"),
        ("service_ns", "i8"),
        ("proxy_ns", "i8"),
        ("wire_ns", "i8"),
        ("bytes", "i8"),
    ],
    align=True,
)

#: Cumulative counters of one endpoint at the end of a segment.
ENDPOINT_RECORD_DTYPE = np.dtype(
    [
        ("requests", "i8"),  # admitted or refused
        ("rejected", "i8"),  # queue full
        ("reneged", "i8"),  # left the queue: out of patience
        ("completed", "i8"),
        ("busy_ns", "i8"),  # integral of busy workers
        ("cpu_ns", "i8"),  # work done
        ("queue_ns", "i8"),  # integral of the queue length
        ("in_system", "i8"),  # at this moment: queued and being served
    ],
    align=True,
)

PROXY_RECORD_DTYPE = np.dtype(
    [
        ("requests", "i8"),  # exchanges routed (outbound) or accepted (inbound)
        ("cpu_ns", "i8"),
        ("connections", "i8"),  # open upstream connections at this moment
        ("rbac_allowed", "i8"),  # inbound requests that access rules let in
        ("rbac_denied", "i8"),  # and refused
    ],
    align=True,
)

HOST_RECORD_DTYPE = np.dtype(
    [
        ("proxy", "i4"),
        ("endpoint", "i4"),
        ("requests", "i8"),
        ("errors", "i8"),
        ("latency_sum_ns", "i8"),
    ],
    align=True,
)

SPAN_DTYPE = np.dtype(
    [
        ("trace", "i8"),
        ("span", "i8"),
        ("parent_span", "i8"),  # 0 for a root
        ("edge", "i4"),
        ("endpoint", "i4"),  # of the last attempt, or NO_INDEX
        ("status", "i4"),
        ("response_flag", "i4"),
        ("tries", "i4"),
        ("start_ns", "i8"),
        ("end_ns", "i8"),
        ("queue_ns", "i8"),
        ("service_ns", "i8"),
        ("proxy_ns", "i8"),
        ("wire_ns", "i8"),
    ],
    align=True,
)


@dataclass(frozen=True)
class Catalog:
    """Names of the rows of every table; index i of a name is index i of the table."""

    scenario: str
    mesh: str
    topology_hash: str
    traffic: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]  # (caller service or traffic class, service)
    edge_is_entry: tuple[bool, ...]  # True: the caller is a traffic class
    endpoints: tuple[tuple[str, str, str], ...]  # (service, workload, endpoint name)
    endpoint_concurrency: tuple[int, ...]
    endpoint_zones: tuple[str, ...]
    proxies: tuple[tuple[str, str], ...]  # (kind, name); empty for profile none
    proxy_memory_bytes: float  # of one idle proxy
    connection_memory_bytes: float
    timed_faults: bool
    trigger: bool  # a fault declared as a trigger
    #: (what happens, begin [ns], end [ns] or NO_INDEX if it stays) of each timed fault.
    fault_spans: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """One replication.

    Shapes: S segments, W windows, T traffic classes, E edges, N endpoints, P proxies.
    """

    seed: int
    replication: int
    duration_ns: int
    #: When it stopped measuring: `duration_ns`, or earlier if the run was stopped at a limit.
    ended_ns: int
    windows: npt.NDArray[np.void]  # WINDOW_DTYPE (W, T)
    window_histogram: SparseHistogram  # (W, T, BIN_COUNT), successes, latency
    series: npt.NDArray[np.void]  # SERIES_DTYPE (S, E)
    series_histogram: SparseHistogram  # (S, E, SERIES_BIN_COUNT)
    traffic_flags: npt.NDArray[np.int64]  # (S, T, FLAG_COUNT)
    edge_flags: npt.NDArray[np.int64]  # (S, E, FLAG_COUNT)
    endpoints: npt.NDArray[np.void]  # ENDPOINT_RECORD_DTYPE (S, N), cumulative
    proxies: npt.NDArray[np.void]  # PROXY_RECORD_DTYPE (S, P), cumulative
    hosts: npt.NDArray[np.void]  # HOST_RECORD_DTYPE (n_hosts,), whole run
    spans: npt.NDArray[np.void]  # SPAN_DTYPE (n_spans,)
    #: requests, events, exchanges, attempts, peak rows of each pool, unfinished (measured
    #: requests that had not ended when the run was stopped)
    counters: dict[str, int] = field(default_factory=dict)
    #: Envoy's counters that are not 0, of the whole run: proxy -> name -> count.
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Empty, or why the run ended early ("exchanges limit reached at 12.4s").
    limit: str = ""
    wall_s: float = 0.0  # inside advance
    #: (time [ns], service, workload, replicas that proxies know) of each change of their number.
    replicas: tuple[tuple[int, str, str, int], ...] = ()
