"""What is counted on live traffic: the same tables as a simulation's, in the same cells.

Rule: a request is recorded in the window of its intended arrival, when it ends; its hops, which
may be seen by other processes, in the segment of that window: the intended arrival travels in
the header ``x-meshsim-arrival``.  Requests that arrive after the measured time are served, so
that the measured ones end as they would, but not recorded.  Latency and its histograms are of
successes (status below 500), from the intended arrival.  Only the integral of requests in flight
and the responses by the clock belong to the window in which they happen.

Each process records what it sees; `merge` adds the parts up, and `run_record` makes of the sum
what `meshsim.results.Result` is made from.  What a proxy and the wire take cannot be told apart
from outside: both are in ``proxy_ns``, and ``wire_ns`` is 0.

A recorder keeps plain integers in dictionaries, because writing one field of an array from
Python takes as long as the whole of the rest; they become arrays once, at the end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emulator.results.outcome import ExchangeOutcome
from meshsim.state.codes import FLAG_COUNT, FLAG_NONE, NO_INDEX
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
    Catalog,
    RunRecord,
)
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT, SERIES_BIN_COUNT, bin_index, series_bin_index

__all__ = ["COUNTERS", "Arrays", "ExchangeOutcome", "Recorder", "merge", "run_record"]

#: What a recorder hands over: a flat dictionary of arrays without objects.
Arrays = dict[str, npt.NDArray[Any]]

_SUCCESS_BELOW = 500
#: Most traces kept by one process, as in a simulation.
_SPANS_MAX = 20_000
#: Latencies kept between two looks at `Recorder.now`.
_RECENT_MAX = 10_000
#: Keys are 64 bits; the columns of a span are signed.
_SPAN_MASK = (1 << 63) - 1

#: Order of the array ``counters``.
COUNTERS = (
    "sent",  # root requests, measured or not
    "completed",  # of these: answered below 500
    "failed",  # of these: answered otherwise, or not at all
    "unfinished",  # measured root requests that had not ended when the load stopped waiting
    "cut",  # the same of those that arrived after the measured time
    "exchanges",  # ended requests of outbound proxies
    "attempts",  # their tries, as far as they were decided on
    "foreign",  # exchanges that belong to no request of the load generator
    "spans",  # exchanges of sampled requests, kept or not
)
_WINDOW_FIELDS = WINDOW_DTYPE.names or ()
_SERIES_FIELDS = SERIES_DTYPE.names or ()
_ARRIVALS, _SUCCESSES, _FAILURES, _LATENCY, _QUEUE, _SERVICE, _PROXY = range(7)
_RESPONSES, _GOOD_RESPONSES, _IN_FLIGHT = range(8, 11)


class Recorder:
    """What one process has seen of a run.

    Parameters
    ----------
    catalog : Catalog
        Names of everything; the same in all processes of a run.
    duration_ns : int
        Measured time [ns], at least `WINDOW_COUNT`.
    """

    def __init__(self, catalog: Catalog, duration_ns: int) -> None:
        self.catalog = catalog
        self.duration_ns = duration_ns
        self._ends_ns = [duration_ns * (i + 1) // WINDOW_COUNT for i in range(WINDOW_COUNT)]
        self._segment_of = [bisect_right(SEGMENT_STARTS, w) - 1 for w in range(WINDOW_COUNT)]
        self._traffic = {name: index for index, name in enumerate(catalog.traffic)}
        self._endpoints = {names[2]: index for index, names in enumerate(catalog.endpoints)}
        self._edges = _edges_by_proxy(catalog)
        self._windows: dict[int, list[int]] = {}
        self._window_bins: Counter[int] = Counter()
        self._series: dict[int, list[int]] = {}
        self._series_bins: Counter[int] = Counter()
        self._traffic_flags: Counter[int] = Counter()
        self._edge_flags: Counter[int] = Counter()
        self._spans: list[tuple[int, ...]] = []
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._recent: deque[int] = deque(maxlen=_RECENT_MAX)
        self._endpoint_sources: list[tuple[int, Callable[[int], tuple[int, ...]]]] = []
        self._proxy_sources: list[tuple[int, Callable[[], tuple[int, ...]]]] = []
        self._endpoint_rows = np.zeros(
            (SEGMENT_COUNT, len(catalog.endpoints)), ENDPOINT_RECORD_DTYPE
        )
        self._proxy_rows = np.zeros((SEGMENT_COUNT, len(catalog.proxies)), PROXY_RECORD_DTYPE)
        self._hosts = np.zeros(0, HOST_RECORD_DTYPE)
        # Compiled functions are loaded by their first call, in some 10 ms: not under way.
        series_bin_index(bin_index(0))

    # --- Requests ----------------------------------------------------------------------------

    def window_of(self, time_ns: int) -> int:
        """Return the window that holds `time_ns`; `WINDOW_COUNT` after the measured time."""
        return bisect_left(self._ends_ns, time_ns)

    def _window(self, window: int, traffic: int) -> list[int]:
        cell = window * len(self._traffic) + traffic
        row = self._windows.get(cell)
        if row is None:
            row = self._windows[cell] = [0] * len(_WINDOW_FIELDS)
        return row

    def arrived(self, traffic: str, arrived_ns: int) -> None:
        """Count a root request of class `traffic`, meant to be sent at `arrived_ns`."""
        self._counters["sent"] += 1
        window = self.window_of(arrived_ns)
        if window < WINDOW_COUNT:
            self._window(window, self._traffic[traffic])[_ARRIVALS] += 1

    def request(
        self, traffic: str, arrived_ns: int, ended_ns: int, status: int, response_flag: int
    ) -> None:
        """Record the end of a root request that `arrived` was told of.

        Parameters
        ----------
        traffic : str
            Its class.
        arrived_ns, ended_ns : int
            Intended arrival and last byte of the response, or the loss of it [model ns].
        status : int
            Of the response; 0 if there was none.
        response_flag : int
            `FLAG_*` code.
        """
        column = self._traffic[traffic]
        good = 0 < status < _SUCCESS_BELOW
        latency_ns = ended_ns - arrived_ns
        self._counters["completed" if good else "failed"] += 1
        self._recent.append(latency_ns)
        self._account_in_flight(column, arrived_ns, ended_ns)
        clock_window = self.window_of(ended_ns)
        if clock_window < WINDOW_COUNT:
            row = self._window(clock_window, column)
            row[_RESPONSES] += 1
            row[_GOOD_RESPONSES] += good
        window = self.window_of(arrived_ns)
        if window == WINDOW_COUNT:
            return
        row = self._window(window, column)
        cell = self._segment_of[window] * len(self._traffic) + column
        self._traffic_flags[cell * FLAG_COUNT + response_flag] += 1
        if good:
            row[_SUCCESSES] += 1
            row[_LATENCY] += latency_ns
            cell = window * len(self._traffic) + column
            self._window_bins[cell * BIN_COUNT + bin_index(latency_ns)] += 1
        else:
            row[_FAILURES] += 1

    def unfinished(self, traffic: str, arrived_ns: int) -> None:
        """Count a root request that has not ended although the load stops waiting."""
        measured = self.window_of(arrived_ns) < WINDOW_COUNT
        self._counters["unfinished" if measured else "cut"] += 1
        if measured:
            self._account_in_flight(self._traffic[traffic], arrived_ns, self.duration_ns)

    def _account_in_flight(self, traffic: int, begin_ns: int, end_ns: int) -> None:
        """Add one request's stay to the integral of requests in flight, window by window."""
        end_ns = min(end_ns, self.duration_ns)
        while begin_ns < end_ns:
            # A window begins just after the end of the one before.
            window = bisect_right(self._ends_ns, begin_ns)
            until_ns = min(end_ns, self._ends_ns[window])
            self._window(window, traffic)[_IN_FLIGHT] += until_ns - begin_ns
            begin_ns = until_ns

    def exchange(self, outcome: ExchangeOutcome) -> None:
        """Record an ended request of an outbound proxy in its edge and its class."""
        self._counters["exchanges"] += 1
        self._counters["attempts"] += outcome.retry_count + 1
        edge = self._edges.get((outcome.proxy, outcome.service))
        traffic = self._traffic.get(outcome.traffic)
        if edge is None or traffic is None or outcome.arrived_ns < 0:
            self._counters["foreign"] += 1
            return
        window = self.window_of(outcome.arrived_ns)
        if window == WINDOW_COUNT:
            return
        cell = self._segment_of[window] * len(self.catalog.edges) + edge
        self._record_series(cell, outcome)
        row = self._window(window, traffic)
        row[_QUEUE] += outcome.queue_ns
        row[_SERVICE] += outcome.service_ns
        row[_PROXY] += outcome.other_ns
        if outcome.parent:
            self._record_span(edge, traffic, outcome)

    def _record_series(self, cell: int, outcome: ExchangeOutcome) -> None:
        row = self._series.get(cell)
        if row is None:
            row = self._series[cell] = [0] * len(_SERIES_FIELDS)
        # In the order of SERIES_DTYPE.
        row[0] += 1
        if 0 < outcome.status < _SUCCESS_BELOW:
            latency_ns = outcome.ended_ns - outcome.started_ns
            row[1] += 1
            row[3] += latency_ns
            self._series_bins[cell * SERIES_BIN_COUNT + series_bin_index(latency_ns)] += 1
        row[2] += outcome.retry_count
        row[4] += outcome.queue_ns
        row[5] += outcome.service_ns
        row[6] += outcome.other_ns
        row[8] += outcome.request_bytes + outcome.response_bytes
        if outcome.response_flag != FLAG_NONE:
            self._edge_flags[cell * FLAG_COUNT + outcome.response_flag] += 1

    def _record_span(self, edge: int, traffic: int, outcome: ExchangeOutcome) -> None:
        """Keep the span of a sampled exchange; when the table is full it is only counted."""
        self._counters["spans"] += 1
        if len(self._spans) >= _SPANS_MAX:
            return
        self._spans.append(
            (
                outcome.number * len(self._traffic) + traffic,
                int(outcome.key or "0", 16) & _SPAN_MASK,
                int(outcome.parent, 16) & _SPAN_MASK,
                edge,
                self._endpoints.get(outcome.endpoint, NO_INDEX),
                outcome.status,
                outcome.response_flag,
                outcome.retry_count + 1,
                outcome.started_ns,
                outcome.ended_ns,
                outcome.queue_ns,
                outcome.service_ns,
                outcome.other_ns,
                0,
            )
        )

    # --- Servers and proxies -----------------------------------------------------------------

    def watch_endpoint(self, endpoint: int, source: Callable[[int], tuple[int, ...]]) -> None:
        """Ask `source` for the counters of row `endpoint` at the end of each segment.

        It is given the model time [ns] and answers in the order of `ENDPOINT_RECORD_DTYPE`.
        A row may have several, one after the other: a replica that came back counts from 0.
        """
        self._endpoint_sources.append((endpoint, source))

    def watch_proxy(self, proxy: int, source: Callable[[], tuple[int, ...]]) -> None:
        """Ask `source` for the fields of `PROXY_RECORD_DTYPE` of row `proxy` likewise."""
        self._proxy_sources.append((proxy, source))

    def segment_ends_ns(self) -> tuple[int, ...]:
        """Return when each segment ends [model ns]."""
        ends = (*SEGMENT_STARTS[1:], WINDOW_COUNT)
        return tuple(self._ends_ns[window - 1] for window in ends)

    def snapshot(self, segment: int, now_ns: int) -> None:
        """Note the counters of what is watched at the end of `segment`."""
        for endpoint, source in self._endpoint_sources:
            _add_values(self._endpoint_rows[segment, endpoint], source(now_ns))
        if len(self.catalog.proxies):
            for proxy, counters in self._proxy_sources:
                _add_values(self._proxy_rows[segment, proxy], counters())

    def hosts(self, rows: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Note (proxy, endpoint, requests, errors, latency sum [ns]) of hosts that were used."""
        self._hosts = np.concatenate([self._hosts, np.array(list(rows), HOST_RECORD_DTYPE)])

    # --- Reading out -------------------------------------------------------------------------

    def now(self) -> dict[str, Any]:
        """Return the counts so far, and the latencies since the last call.

        Returns
        -------
        dict
            ``sent``, ``completed``, ``failed`` and ``latencies_ns`` (ndarray[int64]: of root
            requests that ended, the latest 10,000).
        """
        recent = np.array(self._recent, np.int64)
        self._recent.clear()
        counts = {name: self._counters[name] for name in ("sent", "completed", "failed")}
        return counts | {"latencies_ns": recent}

    def arrays(self) -> Arrays:
        """Return everything recorded as arrays, to be sent to another process and merged."""
        classes, edges = len(self.catalog.traffic), len(self.catalog.edges)
        return {
            "windows": _table(self._windows, (WINDOW_COUNT, classes), WINDOW_DTYPE),
            "series": _table(self._series, (SEGMENT_COUNT, edges), SERIES_DTYPE),
            "window_bins": _pairs(self._window_bins),
            "series_bins": _pairs(self._series_bins),
            "traffic_flags": _flags(self._traffic_flags, classes),
            "edge_flags": _flags(self._edge_flags, edges),
            "endpoints": self._endpoint_rows.copy(),
            "proxies": self._proxy_rows.copy(),
            "hosts": self._hosts.copy(),
            "spans": np.array(self._spans, SPAN_DTYPE),
            "counters": np.array([self._counters[name] for name in COUNTERS], np.int64),
        }


def _add_values(row: Any, values: Iterable[int]) -> None:
    for name, value in zip(row.dtype.names, values, strict=True):
        row[name] += value


def _edges_by_proxy(catalog: Catalog) -> dict[tuple[str, str], int]:
    """Return the row of each (calling proxy, called service)."""
    edges: dict[tuple[str, str], int] = {}
    for index, (caller, target) in enumerate(catalog.edges):
        if catalog.edge_is_entry[index]:
            edges[f"gateway-{caller}", target] = index
            continue
        for service, _, endpoint in catalog.endpoints:
            if service == caller:
                edges[endpoint, target] = index
    return edges


def _table(
    rows: Mapping[int, list[int]], shape: tuple[int, int], dtype: np.dtype[Any]
) -> npt.NDArray[np.void]:
    table = np.zeros(shape[0] * shape[1], dtype)
    for cell, values in rows.items():
        table[cell] = tuple(values)
    return table.reshape(shape)


def _pairs(counts: Counter[int]) -> npt.NDArray[np.int64]:
    """Return (cell, count) of each cell in order, shape (cells, 2)."""
    return np.array(sorted(counts.items()), np.int64).reshape(-1, 2)


def _flags(counts: Counter[int], columns: int) -> npt.NDArray[np.int64]:
    table = np.zeros(SEGMENT_COUNT * columns * FLAG_COUNT, np.int64)
    for cell, count in counts.items():
        table[cell] = count
    return table.reshape(SEGMENT_COUNT, columns, FLAG_COUNT)


def _added(tables: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the sum of equal tables, field by field."""
    if tables[0].dtype.names is None:
        total: npt.NDArray[Any] = np.sum(tables, axis=0)
        return total
    total = np.zeros_like(tables[0])
    for name in tables[0].dtype.names:
        for table in tables:
            total[name] += table[name]
    return total


def _added_pairs(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    cells = np.concatenate(parts)
    unique, place = np.unique(cells[:, 0], return_inverse=True)
    counts = np.zeros(len(unique), np.int64)
    np.add.at(counts, place, cells[:, 1])
    return np.stack([unique, counts], axis=1)


def merge(parts: Sequence[Arrays]) -> Arrays:
    """Return the sum of what several processes recorded.

    Parameters
    ----------
    parts : sequence of Arrays
        Of `Recorder.arrays`, of one catalog and duration; at least one.

    Returns
    -------
    Arrays
    """
    joined = ("hosts", "spans")
    paired = ("window_bins", "series_bins")
    total: Arrays = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if name in joined:
            total[name] = np.concatenate(columns)
        elif name in paired:
            total[name] = _added_pairs(columns)
        else:
            total[name] = _added(columns)
    return total


def _histogram(
    pairs: npt.NDArray[np.int64], parts: int, columns: int, bins: int
) -> SparseHistogram:
    rows, place = np.divmod(pairs[:, 0], bins)
    return SparseHistogram.from_cells((parts, columns, bins), rows, place, pairs[:, 1])


def run_record(
    arrays: Arrays,
    catalog: Catalog,
    duration_ns: int,
    *,
    seed: int,
    replication: int = 0,
    ended_ns: int | None = None,
    limit: str = "",
    wall_s: float = 0.0,
    stats: dict[str, dict[str, int]] | None = None,
) -> RunRecord:
    """Return the record of one run from the merged arrays of its processes.

    Parameters
    ----------
    arrays : Arrays
        Of `merge`, or of a single recorder.
    catalog : Catalog
    duration_ns : int
        Measured time [ns].
    seed, replication : int
    ended_ns : int, optional
        When measuring stopped, if before `duration_ns` [ns].
    limit : str
        Why it stopped early; empty if it did not.
    wall_s : float
        Real time that the run took [s].
    stats : dict, optional
        Envoy's counters by proxy and name.

    Returns
    -------
    RunRecord
    """
    classes, edges = len(catalog.traffic), len(catalog.edges)
    edge_flags = arrays["edge_flags"].copy()
    # Only flagged exchanges are counted as they end; the rest are those without a flag.
    edge_flags[:, :, FLAG_NONE] = arrays["series"]["requests"] - edge_flags[:, :, 1:].sum(axis=2)
    counters = {name: int(count) for name, count in zip(COUNTERS, arrays["counters"], strict=True)}
    counters["requests"] = counters["sent"]
    return RunRecord(
        seed=seed,
        replication=replication,
        duration_ns=duration_ns,
        ended_ns=duration_ns if ended_ns is None else min(ended_ns, duration_ns),
        windows=arrays["windows"],
        window_histogram=_histogram(arrays["window_bins"], WINDOW_COUNT, classes, BIN_COUNT),
        series=arrays["series"],
        series_histogram=_histogram(arrays["series_bins"], SEGMENT_COUNT, edges, SERIES_BIN_COUNT),
        traffic_flags=arrays["traffic_flags"],
        edge_flags=edge_flags,
        endpoints=arrays["endpoints"],
        proxies=arrays["proxies"],
        hosts=arrays["hosts"],
        spans=arrays["spans"],
        counters=counters,
        stats=stats or {},
        limit=limit,
        wall_s=wall_s,
    )
