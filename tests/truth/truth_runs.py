"""Replications of a scenario on the real kernel, kept as small as the metrics need.

The unit of time is a millisecond.  The first fifth of every replication is warm-up and deleted:
runs are hundreds of relaxation times long, and begin empty.

`engine_runs` goes through `meshsim.simulate` and keeps counters and histograms by class;
`span_runs` keeps what must be seen of single requests, from the kernel's own trace of each.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from truth_cases import seed_of
from truth_metrics import NS_PER_MS, ratio

import meshsim
from meshsim.kernel.control import MeshControl
from meshsim.kernel.environment import MeshEnvironment
from meshsim.kernel.faults import fault_process
from meshsim.kernel.owner import Kernel
from meshsim.meshes import profile, resolve
from meshsim.state.record import SEGMENT_STARTS, SPAN_DTYPE, WINDOW_COUNT, WINDOW_DTYPE
from meshsim.stats.histogram import BIN_COUNT, bin_bounds_ns
from meshsim.topology.compiled import CompiledTopology, compile_topology
from meshsim.topology.model import Topology
from meshsim.topology.profile import MeshProfile
from meshsim.topology.validate import validated
from meshsim.units import NS_PER_S

#: Windows of the sixty before this one are warm-up.
FIRST_WINDOW = 12
KEPT_SHARE = 1 - FIRST_WINDOW / WINDOW_COUNT
#: Requests in the system that are told apart.
_LEVELS = 4096
#: Times at which the endpoints of one replication are looked at.
_LOOKS = 200
#: Replications whose records are held at once.
_AT_ONCE = 80
#: Requests that may wait in a replication that is meant to collapse.
_QUEUED_MAX = 1 << 21
#: Requests of one traced replication at most: some 130 bytes each.
SPANS_MAX = 600_000


def requests_wanted(load: float, variability: float = 1.0, q: float = 0.0) -> int:
    """Return how many requests one replication shall have, to see the quantile `q`.

    A queue forgets its state within some 2 (ca2 + cs2) / (1 - load)^2 requests; a replication is
    two hundred times as long, so that a fifth is more warm-up than needed and means are nearly
    normal.  Long waits come in clumps as long: beyond p99 there shall be as many of them.
    """
    gap = max(1 - load, 0.02)
    rarity = max(0.01 / (1 - q), 1.0)
    return max(40_000, round(800 * max(variability, 1.0) * rarity / gap**2))


@dataclass
class EngineRuns:
    """Counters by replication (and window field), histograms after warm-up, of all classes."""

    windows: np.ndarray  # (R, T) of sums of WINDOW_DTYPE fields after warm-up
    histograms: np.ndarray  # (R, T, BIN_COUNT)
    endpoint_requests: np.ndarray  # (R, N): served by each endpoint after warm-up
    measured_ms: float
    batches: int = 1

    def joined(self, other: "EngineRuns") -> "EngineRuns":
        return EngineRuns(
            np.concatenate([self.windows, other.windows]),
            np.concatenate([self.histograms, other.histograms]),
            np.concatenate([self.endpoint_requests, other.endpoint_requests]),
            self.measured_ms,
            self.batches + other.batches,
        )

    def of_class(self, traffic: int) -> "EngineRuns":
        """Return the runs as one traffic class sees them."""
        only = slice(traffic, traffic + 1)
        return replace(self, windows=self.windows[:, only], histograms=self.histograms[:, only])

    def field(self, name: str) -> np.ndarray:
        return self.windows[name].sum(axis=1)

    @property
    def ended(self) -> np.ndarray:
        return self.field("successes") + self.field("failures")

    @property
    def histogram(self) -> np.ndarray:
        return self.histograms.sum(axis=1)

    def mean(self) -> np.ndarray:
        """Mean latency of successes [ms]."""
        return ratio(self.field("latency_sum_ns"), self.field("successes")) / NS_PER_MS

    def failed(self) -> np.ndarray:
        """Share of requests that failed."""
        return ratio(self.field("failures"), self.ended)

    def throughput(self) -> np.ndarray:
        """Good responses per millisecond."""
        return self.field("good_responses") / self.measured_ms


def engine_runs(
    topology: Topology,
    duration_ms: float,
    seed: int,
    replications: int,
    first_window: int = FIRST_WINDOW,
    **options: Any,
) -> EngineRuns:
    """Simulate `replications` of a scenario and keep what is after warm-up.

    The first window kept begins a segment of the records (0, 3, 6, 12, 18 or 30).
    """
    if replications > _AT_ONCE:  # records are large: they are reduced in portions
        options["first_window"] = first_window
        first = engine_runs(topology, duration_ms, seed, _AT_ONCE, **options)
        rest = replications - _AT_ONCE
        others = engine_runs(topology, duration_ms, seed_of(seed, 1), rest, **options)
        return replace(first.joined(others), batches=1)
    result = meshsim.simulate(
        topology,
        duration=f"{round(duration_ms)}ms",
        replications=replications,
        seed=seed,
        traces=0,
        progress=False,
        **options,
    )
    assert [record.limit for record in result.records] == [""] * replications
    windows = np.zeros((replications, len(result.catalog.traffic)), WINDOW_DTYPE)
    histograms = np.zeros((*windows.shape, BIN_COUNT), np.int64)
    for row, record in enumerate(result.records):
        for name in WINDOW_DTYPE.names:
            windows[name][row] = record.windows[name][first_window:].sum(axis=0)
        histograms[row] = record.window_histogram.dense()[first_window:].sum(axis=0)
    before = SEGMENT_STARTS.index(first_window)
    served = [np.diff(r.endpoints["requests"], axis=0, prepend=0)[before:] for r in result.records]
    measured_ms = duration_ms * (1 - first_window / WINDOW_COUNT)
    return EngineRuns(windows, histograms, np.array(served).sum(axis=1), measured_ms)


@dataclass
class Values:
    """Whatever else is kept of each replication: rows of one array."""

    values: np.ndarray  # (R, ...)
    batches: int = 1

    def joined(self, other: "Values") -> "Values":
        return Values(np.concatenate([self.values, other.values]), self.batches + other.batches)


@dataclass
class Several:
    """Runs of several scenarios that are compared, side by side."""

    runs: list[Any]

    @property
    def batches(self) -> int:
        return self.runs[0].batches

    def joined(self, other: "Several") -> "Several":
        pairs = zip(self.runs, other.runs, strict=True)
        return Several([mine.joined(new) for mine, new in pairs])


@dataclass
class SpanRuns:
    """What single root requests tell, by replication; rows are replications."""

    count: np.ndarray
    waited: np.ndarray
    wait_sums: np.ndarray  # (R, 2): sum and sum of squares [ms]
    latency_sums: np.ndarray
    wait_histogram: np.ndarray  # (R, BIN_COUNT)
    histogram: np.ndarray
    in_system: np.ndarray  # (R, _LEVELS): time with so many requests in the system [ns]
    extra: np.ndarray  # (R, n): what an adapter reads itself
    batches: int = 1

    def joined(self, other: "SpanRuns") -> "SpanRuns":
        names = [field.name for field in fields(self) if field.name != "batches"]
        parts = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in names]
        return SpanRuns(*parts, self.batches + other.batches)

    @property
    def time_ns(self) -> np.ndarray:
        """Time after warm-up [ns]."""
        return self.in_system.sum(axis=1)

    def moments(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return count, sum and sum of squares of "wait" or "latency" [ms]."""
        sums = getattr(self, f"{name}_sums")
        return self.count, sums[:, 0], sums[:, 1]


def compiled(topology: Topology, mesh: MeshProfile | None = None) -> CompiledTopology:
    """Return a scenario as the kernel takes it, with proxies other than its mesh's, if said."""
    resolved = resolve(validated(topology))
    return compile_topology(resolved, mesh or profile(resolved.mesh))


def side_by_side(work: Callable[[int], Any], count: int) -> list[Any]:
    """Return what `work` makes of each number below `count`; the kernel holds no lock."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, count)) as pool:
        return list(pool.map(work, range(count)))


def traced(
    scenario: CompiledTopology,
    duration_ns: int,
    spans_max: int,
    seed: int,
    number: int,
    processes: Sequence[Any] = (),
) -> tuple[np.ndarray, Kernel]:
    """Run one replication; return the spans of all requests that arrived in it, and the kernel."""
    kernel = Kernel(scenario, seed, number, duration_ns, sample_share=1.0)
    kernel.state.replace(spans=np.zeros(spans_max, SPAN_DTYPE))
    env = MeshEnvironment(kernel)
    control = MeshControl(kernel, env)
    for process in processes:
        env.process(process(env, control))
    for window in range(WINDOW_COUNT):
        env.run(until=duration_ns * (window + 1) // WINDOW_COUNT / NS_PER_S)
        kernel.end_window(window)
    env.draining = True
    step_s = duration_ns / NS_PER_S / WINDOW_COUNT
    while kernel.measured_in_flight and not kernel.limit:
        env.run(until=env.now + step_s)
    assert kernel.limit == ""
    count = int(kernel.state.counters["spans"][0])
    assert count <= spans_max, "more requests than room for their spans"
    return kernel.state.spans[:count], kernel


def span_runs(
    topology: Topology,
    requests: int,
    rate: float,
    seed: int,
    replications: int,
    *,
    extra: Callable[[np.ndarray, Kernel], Any] = lambda spans, kernel: (),
    **options: Any,
) -> SpanRuns:
    """Trace every request of `replications` of a scenario of `requests` at `rate` [1/ms]."""
    scenario = compiled(topology)
    requests = min(requests, SPANS_MAX)
    duration_ns = round(requests / rate * NS_PER_MS)
    spans_max = math.ceil(1.5 * requests) + 10_000

    def one(number: int) -> tuple[Any, ...]:
        spans, kernel = traced(scenario, duration_ns, spans_max, seed, number, **options)
        return _summary(spans, duration_ns, kernel, extra)

    columns = zip(*side_by_side(one, replications), strict=True)
    return SpanRuns(*(np.array(column) for column in columns))


def _summary(spans: np.ndarray, duration_ns: int, kernel: Kernel, extra: Any) -> tuple[Any, ...]:
    begin_ns = duration_ns * FIRST_WINDOW // WINDOW_COUNT
    roots = spans[spans["parent_span"] == 0]
    kept = roots[roots["start_ns"] >= begin_ns]
    wait_ns = kept["queue_ns"]
    good = kept["status"] < 500
    latency_ns = (kept["end_ns"] - kept["start_ns"])[good]
    return (
        len(kept),
        np.count_nonzero(wait_ns > 0),
        _power_sums(wait_ns),
        _power_sums(latency_ns),
        _histogram(wait_ns),
        _histogram(latency_ns),
        _time_at_levels(roots["start_ns"], roots["end_ns"], begin_ns, duration_ns),
        np.asarray(extra(kept, kernel), float),
    )


def _power_sums(times_ns: np.ndarray) -> tuple[float, float]:
    times = times_ns / NS_PER_MS
    return float(times.sum()), float((times**2).sum())


def _histogram(times_ns: np.ndarray) -> np.ndarray:
    """Return `times_ns` on the grid of the library's histograms."""
    bins = np.searchsorted(bin_bounds_ns(BIN_COUNT), times_ns, side="right") - 1
    return np.bincount(np.clip(bins, 0, BIN_COUNT - 1), minlength=BIN_COUNT)


def _time_at_levels(
    starts_ns: np.ndarray, ends_ns: np.ndarray, begin_ns: int, end_ns: int
) -> np.ndarray:
    """Return how long each number of requests was in the system between two times [ns]."""
    times = np.concatenate([starts_ns, ends_ns])
    steps = np.repeat([1, -1], [len(starts_ns), len(ends_ns)])
    order = np.argsort(times, kind="stable")
    times, levels = times[order], np.cumsum(steps[order])
    edges = np.clip(np.concatenate([times, [end_ns]]), begin_ns, end_ns)
    # At one instant arrivals come first; before the first of all the system is empty.
    spent = np.bincount(np.clip(levels, 0, _LEVELS - 1), np.diff(edges), _LEVELS)
    spent[0] += max(int(times[0]) - begin_ns, 0)
    return spent


def snapshot_runs(
    topology: Topology, duration_ms: float, begin_ms: float, seed: int, replications: int
) -> Values:
    """Return the share of endpoints with each number of requests, shape (R, _LEVELS).

    All endpoints are looked at, many times after `begin_ms`, equally far apart.
    """
    scenario = compiled(topology)
    times = np.linspace(begin_ms, duration_ms, _LOOKS) * NS_PER_MS

    def one(number: int) -> np.ndarray:
        kernel = Kernel(scenario, seed, number, round(duration_ms * NS_PER_MS))
        counts = np.zeros(_LEVELS)
        for time in times:
            assert kernel.advance_to(round(time))
            rows = kernel.state.endpoints
            present = np.minimum(rows["busy"] + rows["queued"], _LEVELS - 1)
            counts += np.bincount(present, minlength=_LEVELS)
        return counts / counts.sum()

    return Values(np.array(side_by_side(one, replications)))


@dataclass
class Clocked:
    """What happened in each second of the clock, by replication: nothing is deleted."""

    good: np.ndarray  # (R, seconds): responses that are no failures
    attempts: np.ndarray  # (R, seconds): tries that began
    batches: int = 1

    def joined(self, other: "Clocked") -> "Clocked":
        return Clocked(
            np.concatenate([self.good, other.good]),
            np.concatenate([self.attempts, other.attempts]),
            self.batches + other.batches,
        )

    def goodput(self, begin_s: int, end_s: int) -> np.ndarray:
        """Good responses a second between two times [s]."""
        return self.good[:, begin_s:end_s].mean(axis=1)

    def tries(self, begin_s: int, end_s: int) -> np.ndarray:
        """Tries a second between two times [s]."""
        return self.attempts[:, begin_s:end_s].mean(axis=1)


def clocked_runs(topology: Topology, duration_s: float, seed: int, replications: int) -> Clocked:
    """Look at `replications` of a scenario, with its timed faults, every second."""
    scenario = compiled(topology)
    seconds = math.ceil(duration_s)

    def one(number: int) -> np.ndarray:
        looks = np.zeros((seconds + 1, 2))

        def look(kernel: Kernel, second: int) -> None:
            good = kernel.state.windows["good_responses"].sum()
            looks[second] = good, kernel.state.counters["attempts"][0]

        _by_second(scenario, seconds, seed, number, look)
        return np.diff(looks, axis=0)

    counts = np.array(side_by_side(one, replications))
    return Clocked(counts[:, :, 0], counts[:, :, 1])


def ended_runs(
    topology: Topology,
    duration_s: float,
    seed: int,
    replications: int,
    read: Callable[[Kernel], float],
) -> Values:
    """Return what `read` makes of the kernel at the end of each replication."""
    scenario = compiled(topology)

    def one(number: int) -> float:
        kernel = _by_second(scenario, math.ceil(duration_s), seed, number, lambda *_: None)
        return float(read(kernel))

    return Values(np.array(side_by_side(one, replications)))


def _by_second(
    scenario: CompiledTopology,
    seconds: int,
    seed: int,
    number: int,
    look: Callable[[Kernel, int], None],
) -> Kernel:
    """Run one replication of `seconds`, all of it in one window, and look at each of them."""
    kernel = Kernel(scenario, seed, number, seconds * NS_PER_S, rows_max=_QUEUED_MAX)
    env = MeshEnvironment(kernel)
    control = MeshControl(kernel, env)
    for fault in scenario.topology.faults:
        env.process(fault_process(env, control, fault))
    for second in range(1, seconds + 1):
        env.run(until=second)
        look(kernel, second)
    assert kernel.limit == ""
    return kernel
