"""The owner of one replication's memory: makes it, advances it, grows it, reads it out.

Rule: only the owner holds arrays; the rest of the program holds names and ids.  Growth doubles
a pool outside the compiled loop, up to `rows_max`; a run that needs more ends with its limit
named, and what it measured until then.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshsim.errors import ConfigError
from meshsim.kernel.advance import EVENTS, GROW, WAKE, advance
from meshsim.kernel.boundaries import close_window, settle_endpoints
from meshsim.kernel.buckets import BUCKET_SHIFT
from meshsim.kernel.compilation import handler_table
from meshsim.kernel.concurrency import begin_controllers, settle_controllers
from meshsim.kernel.connection_limits import longer_buckets, no_buckets
from meshsim.kernel.events import NOTHING
from meshsim.kernel.hash_tables import with_places
from meshsim.kernel.idle import begin_idle_queues
from meshsim.kernel.memory import KernelState, Rows
from meshsim.kernel.prefetching import LARGE_HOSTS
from meshsim.kernel.sources import begin_traffic
from meshsim.kernel.statistics import stats
from meshsim.kernel.turns import begin_turns
from meshsim.kernel.watching import begin_health, settle_all
from meshsim.rng import PURPOSE_ARRIVAL, PURPOSE_IDLE, PURPOSE_PICK, make_streams, mix, mix_in
from meshsim.state.codes import FLAG_COUNT, FLAG_NONE, NEVER_NS, NO_INDEX
from meshsim.state.exchange import ATTEMPT_DTYPE, CONNECTION_DTYPE, EXCHANGE_DTYPE
from meshsim.state.kernel import (
    BUCKET_COUNT,
    BUCKET_MAX,
    COUNTERS_DTYPE,
    EVENT_DTYPE,
    POOLS,
    UPCOMING_MAX,
)
from meshsim.state.record import (
    ENDPOINT_RECORD_DTYPE,
    HOST_RECORD_DTYPE,
    PROXY_RECORD_DTYPE,
    SEGMENT_COUNT,
    SEGMENT_STARTS,
    SERIES_DTYPE,
    SPAN_DTYPE,
    WINDOW_COUNT,
    WINDOW_DTYPE,
    RunRecord,
)
from meshsim.state.rows import grown, zeros
from meshsim.state.server import TASK_DTYPE
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT, SERIES_BIN_COUNT
from meshsim.topology.compiled import CompiledTopology
from meshsim.units import seconds

__all__ = ["ROWS_MAX", "Kernel"]

#: Rows of one pool at most: a million hops in flight, about 1 GB a replication under way.
ROWS_MAX = 1 << 20
_ROWS_MIN = 1 << 10
_SPANS_MAX = 20_000
#: Events between two looks at the interrupt flag and the progress bar.
_EVENTS_A_SLICE = 2_000_000

_POOL_DTYPES = {
    "exchanges": EXCHANGE_DTYPE,
    "attempts": ATTEMPT_DTYPE,
    "tasks": TASK_DTYPE,
    "connections": CONNECTION_DTYPE,
}


class Kernel:
    """One replication under way.

    Parameters
    ----------
    compiled : CompiledTopology
        Copied; several kernels may share it.
    seed, replication : int
        Together they decide every draw; 0 <= seed < 2**62, replication >= 0.
    duration_ns : int
        Measured time [ns], > 0.
    sample_share : float
        Share of the requests to keep as traces.
    rows_max : int
        Limit of each pool of rows.
    hosts_large : int
        HOST rows from which events are known ahead (`meshsim.kernel.prefetching`); no result
        depends on it.
    events_a_slice : int
        Events between two calls of `on_slice`, >= 1.
    on_slice : callable, optional
        Called between slices of the compiled loop with the simulated time [ns].
    wall_clock : callable
        Seconds of the machine's clock, to measure the compiled loop; without it no time passes.
    """

    def __init__(
        self,
        compiled: CompiledTopology,
        seed: int,
        replication: int,
        duration_ns: int,
        *,
        sample_share: float = 0.0,
        rows_max: int = ROWS_MAX,
        hosts_large: int = LARGE_HOSTS,
        events_a_slice: int = _EVENTS_A_SLICE,
        on_slice: Callable[[int], None] | None = None,
        wall_clock: Callable[[], float] = float,
    ) -> None:
        self.compiled = compiled
        self.duration_ns = duration_ns
        self.seed = seed
        self.replication = replication
        self.rows_max = rows_max
        self._events_a_slice = events_a_slice
        self.limit = ""
        #: Grow with replicas that are added.
        self.endpoint_names = list(compiled.layout.endpoint_names)
        self.config_names = list(compiled.config_names)
        #: (ROUTE, SPLIT, routed service, subset) of the newest version of the routes.
        self.splits = list(compiled.splits)
        #: (time [ns], service, workload, replicas that proxies know) of each change.
        self.replicas: list[tuple[int, str, str, int]] = []
        self._on_slice = on_slice
        self._wall_clock = wall_clock
        self._wall_s = 0.0
        self._segments_endpoints: list[Rows] = []
        self._segments_proxies: list[Rows] = []
        self._margin = compiled.fan_out
        self.state = self._allocate(sample_share, hosts_large)
        begin_idle_queues(self.state)
        begin_turns(self)
        users = self._closed_loop_users()
        self.reserve_events(len(users) + int(users.sum()))
        begin_traffic(self.state, users)
        begin_health(self)
        begin_controllers(self)

    # --- Memory ---

    def _allocate(self, sample_share: float, hosts_large: int) -> KernelState:
        compiled = self.compiled
        arrays = {name: rows.copy() for name, rows in compiled.arrays.items()}
        counters = np.zeros(1, COUNTERS_DTYPE)
        arrays["table"] = with_places(arrays["table"], arrays["hash_sets"])
        size = max(_ROWS_MIN, 4 * self._margin)
        for pool, (name, dtype) in zip(POOLS, _POOL_DTYPES.items(), strict=True):
            arrays[name] = zeros((size,), dtype)
            _chain_free(arrays[name], 0, NO_INDEX)
            counters[f"{pool}_free_count"] = size
        arrays.update(no_buckets(arrays["limits"], size))
        arrays["events"] = np.zeros(size, EVENT_DTYPE)
        arrays.update(_calendar(counters, len(arrays["hosts"]) >= hosts_large))
        counters["follow_up"] = NOTHING
        counters["next_span"] = 1
        counters["route_block"] = len(arrays["routes_by_traffic"])
        counters["sample_threshold"] = np.uint64(min(sample_share, 1.0) * (2**64 - 2**11))
        self._seed(arrays)
        traffic, edges = len(arrays["traffic"]), len(compiled.catalog.edges)
        arrays["windows"] = np.zeros((WINDOW_COUNT, traffic), WINDOW_DTYPE)
        arrays["window_histogram"] = zeros((WINDOW_COUNT, traffic, BIN_COUNT), np.int32)
        arrays["series"] = np.zeros((SEGMENT_COUNT, edges), SERIES_DTYPE)
        arrays["series_histogram"] = zeros((SEGMENT_COUNT, edges, SERIES_BIN_COUNT), np.int32)
        arrays["traffic_flags"] = np.zeros((SEGMENT_COUNT, traffic, FLAG_COUNT), np.int64)
        arrays["edge_flags"] = np.zeros((SEGMENT_COUNT, edges, FLAG_COUNT), np.int64)
        arrays["spans"] = np.zeros(_SPANS_MAX if sample_share > 0 else 1, SPAN_DTYPE)
        arrays["counters"] = counters
        return KernelState(handler_table(), **arrays)

    def _seed(self, arrays: dict[str, Rows]) -> None:
        """Give every stream and every class the key of (seed, replication)."""
        base = np.uint64(mix_in(np.uint64(mix(np.uint64(self.seed))), self.replication))
        self.stream_seed = run_seed = int(base >> np.uint64(2))
        arrays["arrival_streams"] = make_streams(run_seed, PURPOSE_ARRIVAL, len(arrays["traffic"]))
        arrays["pick_streams"] = make_streams(run_seed, PURPOSE_PICK, len(arrays["proxies"]))
        servers = len(arrays["oracle_endpoints"])
        arrays["idle_streams"] = make_streams(run_seed, PURPOSE_IDLE, servers)
        for row in range(len(arrays["traffic"])):
            arrays["traffic"]["key"][row] = mix_in(base, row)

    def _closed_loop_users(self) -> Rows:
        loops = [item.closed_loop for item in self.compiled.topology.traffic.values()]
        return np.array([loop.users if loop else 0 for loop in loops], np.int64)

    def _grow(self) -> bool:
        """Double every pool that is short of room; return False at the limit."""
        counters = self.state.counters
        short = {
            name: pool
            for pool, name in zip(POOLS, _POOL_DTYPES, strict=True)
            if counters[f"{pool}_free_count"][0] < self._margin
        }
        if self._event_count + self._margin > len(self.state.events):
            short["events"] = ""
        for name in short:  # before anything is allocated or changed
            allowed = max(self.rows_max, 2 * _ROWS_MIN)
            if name == "events":  # thinking users have one each, and are not in flight
                allowed += 4 * int(self._closed_loop_users().sum())
            if 2 * len(getattr(self.state, name)) > allowed:
                at_s = seconds(int(counters["now_ns"][0]))
                self.limit = f"limit of {self.rows_max} {name} reached at {at_s:.3f} s"
                return False
        for name, pool in short.items():
            rows = getattr(self.state, name)
            longer = grown(rows, len(rows))
            if pool:
                self._chain(pool, longer[len(rows) :], first=len(rows))
            self.state.replace(**{name: longer})
        if "connections" in short:
            self.state.replace(**longer_buckets(self.state))
        return True

    @property
    def _event_count(self) -> int:
        """Events for which the heap must have room."""
        counters = self.state.counters
        return int(counters["event_count"][0] + counters["bucket_events"][0]) + UPCOMING_MAX

    def _chain(self, pool: str, added: Rows, first: int) -> None:
        """Put new rows of `pool`, numbered from `first`, on its free list."""
        counters = self.state.counters
        _chain_free(added, first, int(counters[f"{pool}_free"][0]))
        counters[f"{pool}_free"] = first
        counters[f"{pool}_free_count"] += len(added)

    def reserve_events(self, count: int) -> None:
        """Make room for `count` more events beside the usual margin."""
        short = self._event_count + count + self._margin
        short -= len(self.state.events)
        if short > 0:
            self.state.replace(events=grown(self.state.events, short))

    # --- Time ---

    @property
    def now_ns(self) -> int:
        """Virtual time [ns]."""
        return int(self.state.counters["now_ns"][0])

    def advance_to(self, until_ns: int, *, draining: bool = False) -> bool:
        """Handle every event up to and including `until_ns`.

        Returns
        -------
        bool
            False if the run cannot go on (`limit` says why).
        """
        while not self.limit:
            begin_s = self._wall_clock()
            reason = advance(self.state, until_ns, self._events_a_slice, self._margin, draining)
            self._wall_s += self._wall_clock() - begin_s
            if reason == GROW:
                self._grow()
            elif reason in (EVENTS, WAKE):
                if self._on_slice is not None:
                    self._on_slice(self.now_ns)
            else:
                return True
        return False

    @property
    def measured_in_flight(self) -> int:
        """Measured requests that have not ended."""
        return int(self.state.counters["measured_in_flight"][0])

    # --- Reading out ---

    def end_window(self, window: int) -> None:
        """Close `window` at its end; the clock stands there."""
        close_window(self.state)
        if window + 1 == WINDOW_COUNT or window + 1 in SEGMENT_STARTS:
            self._snapshot()

    def _snapshot(self) -> None:
        settle_endpoints(self.state)
        endpoints = self.state.endpoints
        rows = np.zeros(len(endpoints), ENDPOINT_RECORD_DTYPE)
        for name in ("requests", "rejected", "reneged", "completed", "busy_ns", "cpu_ns"):
            rows[name] = endpoints[name]
        rows["queue_ns"] = endpoints["queue_ns"]
        rows["in_system"] = endpoints["busy"] + endpoints["queued"]
        self._segments_endpoints.append(rows)
        count = len(self.compiled.catalog.proxies)
        proxies = np.zeros(count, PROXY_RECORD_DTYPE)
        if count:
            for name in ("requests", "cpu_ns", "rbac_allowed", "rbac_denied"):
                proxies[name] = self.state.proxies[name][:count]
            owners = self.state.clusters["proxy"]
            np.add.at(
                proxies["connections"],
                owners[owners < count],
                self.state.clusters["connections_active"][owners < count],
            )
        self._segments_proxies.append(proxies)

    def record(self) -> RunRecord:
        """Return what the run left behind; the kernel is not used afterwards."""
        self._check_picks()
        while len(self._segments_endpoints) < SEGMENT_COUNT:  # stopped by a limit
            self._snapshot()
        state = self.state
        settle_all(self)
        settle_controllers(self)
        # Only flagged exchanges are counted as they end; the rest are those without a flag.
        flagged = state.edge_flags[:, :, 1:].sum(axis=2)
        state.edge_flags[:, :, FLAG_NONE] = state.series["requests"] - flagged
        names = ("events", "requests", "exchanges", "attempts", "invalid", "spans")
        counters = {name: int(state.counters[name][0]) for name in names}
        counters["unfinished"] = self.measured_in_flight
        for name in _POOL_DTYPES:
            counters[f"{name}_rows"] = len(getattr(state, name))
        endpoint_count = len(self.compiled.catalog.endpoints)
        return RunRecord(
            seed=self.seed,
            replication=self.replication,
            duration_ns=self.duration_ns,
            ended_ns=min(self.now_ns, self.duration_ns) if self.limit else self.duration_ns,
            windows=state.windows,
            window_histogram=self._take_histogram("window_histogram"),
            series=state.series,
            series_histogram=self._take_histogram("series_histogram"),
            traffic_flags=state.traffic_flags,
            edge_flags=state.edge_flags,
            endpoints=np.array([rows[:endpoint_count] for rows in self._segments_endpoints]),
            proxies=np.array(self._segments_proxies),
            hosts=self._host_records(),
            spans=state.spans[: min(int(state.counters["spans"][0]), len(state.spans))].copy(),
            counters=counters,
            stats=stats(state, self._proxy_names),
            limit=self.limit,
            replicas=tuple(self.replicas),
            wall_s=self._wall_s,
        )

    @property
    def _proxy_names(self) -> list[str]:
        """Names of the proxies of the scenario; without a mesh, of the clients in their place."""
        catalog = self.compiled.catalog
        clients = [*(name for _, _, name in catalog.endpoints), *catalog.traffic]
        return [name for _, name in catalog.proxies] or clients

    def _check_picks(self) -> None:
        """Refuse a run whose custom load balancer answered what it must not.

        Raises
        ------
        ConfigError
        """
        clusters = self.state.clusters
        if clusters["invalid_picks"].any():
            row = int(np.argmax(clusters["invalid_picks"]))
            service, _ = self.config_names[clusters["config"][row]]
            times = int(clusters["invalid_picks"].sum())
            message = f"the custom load balancer of {service} returned no position of a member"
            allowed = "0 to len(members) - 1, or NO_HOST"
            raise ConfigError(f"{message}; found: {times} times, allowed: {allowed}")

    def _take_histogram(self, name: str) -> SparseHistogram:
        """Return the histograms `name` compressed, and free the dense ones at once."""
        dense = getattr(self.state, name)
        self.state.replace(**{name: dense[:, :0].copy()})
        return SparseHistogram.from_dense(dense)

    def _host_records(self) -> Rows:
        """Return a record a host that was used, of the proxies and endpoints of the scenario.

        Replicas that were added have no name in the catalog: they are in the numbers of edges.
        """
        hosts = self.state.hosts
        names = self.compiled.arrays
        proxies = self.state.clusters["proxy"][hosts["cluster"]]
        used = (hosts["requests_total"] > 0) & (hosts["endpoint"] < len(names["endpoints"]))
        used &= proxies < len(names["proxies"])
        rows = np.zeros(int(used.sum()), HOST_RECORD_DTYPE)
        rows["proxy"] = proxies[used]
        rows["endpoint"] = hosts["endpoint"][used]
        rows["requests"] = hosts["requests_total"][used]
        rows["errors"] = hosts["errors_total"][used]
        rows["latency_sum_ns"] = hosts["latency_sum_ns"][used]
        return rows


def _calendar(counters: Rows, large: bool) -> dict[str, Rows]:
    """Return the places of events beside the heap; a small mesh has no buckets."""
    counters["bucket_until_ns"] = 0 if large else NEVER_NS
    counters["bucket_shift"] = BUCKET_SHIFT
    buckets = BUCKET_COUNT if large else 0
    return {
        "upcoming": np.zeros(UPCOMING_MAX, EVENT_DTYPE),
        "buckets": zeros((buckets, BUCKET_MAX), EVENT_DTYPE),
        "bucket_counts": np.zeros(buckets, np.int32),
    }


def _chain_free(rows: Rows, first: int, behind: int) -> None:
    """Chain free `rows`, numbered from `first`, to one another; `behind` follows the last."""
    rows["next"] = np.arange(first + 1, first + len(rows) + 1)
    rows["next"][-1] = behind
