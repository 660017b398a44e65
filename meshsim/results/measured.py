"""Which part of the records is measured, and how it falls into independent groups.

Rule: one warm-up cut for every table, at a segment boundary: the latest cut that any traffic
class asks for (`meshsim.stats.warm_up`).  Nothing is deleted in a scenario with timed faults, where
what happens at the start is part of the question, nor from a run that was stopped at a limit.

Groups are the replications if there are `PAIRED_MINIMUM` or more.  With fewer, a replication
is cut into batches of windows, so that traffic classes have at least `_GROUPS_WANTED` groups;
edges, whose histograms are kept by segment only, use the kept segments as batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from meshsim.state.record import SEGMENT_STARTS, WINDOW_COUNT, Catalog, RunRecord
from meshsim.stats.histogram import BIN_COUNT, SERIES_BIN_COUNT
from meshsim.stats.warm_up import PAIRED_MINIMUM, SIGNIFICANCE, Cut, kept_from
from meshsim.units import NS_PER_S

__all__ = ["STOPPED_BY_FAILURE", "STOPPED_BY_HAND", "Measured"]

#: `RunRecord.limit` begins like this if a person, or a failure of what carries an emulated mesh,
#: ended the run: that is no finding.
STOPPED_BY_HAND = "stopped by hand"
STOPPED_BY_FAILURE = "stopped by a failure"
_GROUPS_WANTED = 10


@dataclass(frozen=True)
class Measured:
    """The measured part of the replications of one scenario.

    Parameters
    ----------
    catalog : Catalog
    records : tuple of RunRecord
        One a replication, at least one, all of one duration.
    """

    catalog: Catalog
    records: tuple[RunRecord, ...]

    @cached_property
    def windows(self) -> npt.NDArray[np.void]:
        """Window records of all replications, WINDOW_DTYPE (replications, windows, classes)."""
        return np.stack([record.windows for record in self.records])

    @property
    def stopped(self) -> bool:
        """Whether a replication ended early, at a limit or by hand."""
        return any(record.limit for record in self.records)

    @cached_property
    def cut(self) -> Cut:
        """First segment kept, the same for every table."""
        if self.catalog.timed_faults or self.stopped or not self.catalog.traffic:
            return Cut(0, True)
        level = SIGNIFICANCE / len(self.catalog.traffic)
        cuts = [
            kept_from(
                self.windows["latency_sum_ns"][:, :, traffic],
                self.windows["successes"][:, :, traffic],
                SEGMENT_STARTS,
                level,
            )
            for traffic in range(len(self.catalog.traffic))
        ]
        return Cut(max(cut.segment for cut in cuts), all(cut.settled for cut in cuts))

    @property
    def window_start(self) -> int:
        """First window kept."""
        return SEGMENT_STARTS[self.cut.segment]

    @cached_property
    def window_end(self) -> int:
        """One past the last window that every replication reached, perhaps in part.

        Only a run that hit a limit ends early; its later windows are empty.
        """
        return max(math.ceil(self._ended_s / self.window_s), self.window_start + 1)

    @cached_property
    def whole_window_end(self) -> int:
        """One past the last window that every replication passed to its end."""
        ended = min(record.ended_ns * WINDOW_COUNT // record.duration_ns for record in self.records)
        return int(ended)

    @property
    def _ended_s(self) -> float:
        """When the first replication to be stopped was; else the duration [s]."""
        return min(record.ended_ns for record in self.records) / NS_PER_S

    @property
    def window_s(self) -> float:
        """Length of a window [s]."""
        return self.records[0].duration_ns / NS_PER_S / WINDOW_COUNT

    @property
    def warm_up_s(self) -> float:
        """Time deleted at the start of each replication [s]."""
        return self.window_start * self.window_s

    @property
    def time_s(self) -> float:
        """Measured time of the windows of one replication [s]."""
        end_s = min(self.window_end * self.window_s, self._ended_s)
        return end_s - self.window_start * self.window_s

    @property
    def time_total_s(self) -> float:
        """Measured time of the windows of all replications together [s]."""
        return self.time_s * len(self.records)

    @property
    def segments_time_s(self) -> float:
        """Measured time of the segments of all replications, each to its own end [s].

        Segments cannot be cut where the first replication was stopped, windows are.
        """
        ended_s = sum(record.ended_ns for record in self.records) / NS_PER_S
        return ended_s - len(self.records) * self.warm_up_s

    @cached_property
    def batches(self) -> tuple[slice, ...]:
        """Runs of windows that make one group each, the same in every replication."""
        kept = self.window_end - self.window_start
        count = 1
        if len(self.records) < PAIRED_MINIMUM:
            count = max(1, min(kept, math.ceil(_GROUPS_WANTED / len(self.records))))
        edges = self.window_start + np.arange(count + 1) * kept // count
        return tuple(slice(int(a), int(b)) for a, b in pairwise(edges))

    @property
    def method(self) -> str:
        """How intervals over windows were made, in words."""
        replications = len(self.records)
        if replications >= PAIRED_MINIMUM:
            return f"{replications} replications, t; quantiles pooled, Woodruff"
        total = replications * len(self.batches)
        noun = "replication" if replications == 1 else "replications"
        return f"{total} batches of {replications} {noun}, t; quantiles pooled, Woodruff"

    @property
    def cut_text(self) -> str:
        """The warm-up rule as applied, in words."""
        if self.catalog.timed_faults:
            return "nothing deleted: the scenario has timed faults"
        if self.stopped:
            return "nothing deleted: the run was stopped at a limit"
        share = 100 * self.window_start // WINDOW_COUNT
        text = f"first {self.warm_up_s:.3g} s deleted ({share} %)"
        if not self.cut.settled:
            text += "; latency had not settled, run longer"
        return text

    def traffic_field(self, field: str, traffic: int) -> npt.NDArray[np.int64]:
        """Sum a window field over each group, shape (groups,)."""
        values = self.windows[field][:, :, traffic]
        return np.concatenate([values[:, batch].sum(axis=1) for batch in self.batches])

    def traffic_histogram(self, traffic: int) -> npt.NDArray[np.int64]:
        """Latency histogram of each group, shape (groups, BIN_COUNT)."""
        return np.stack(
            [
                self._histogram(record, traffic, batch)
                for batch in self.batches
                for record in self.records
            ]
        )

    def by_replication(self, traffic: int) -> npt.NDArray[np.int64]:
        """Latency histogram of each replication, shape (replications, BIN_COUNT)."""
        kept = slice(self.window_start, self.window_end)
        return np.stack([self._histogram(record, traffic, kept) for record in self.records])

    def timeline_histogram(self, traffic: int) -> npt.NDArray[np.int64]:
        """Latency histogram of each window, shape (WINDOW_COUNT, BIN_COUNT)."""
        rows = np.arange(WINDOW_COUNT) * len(self.catalog.traffic) + traffic
        total = np.zeros((WINDOW_COUNT, BIN_COUNT), np.int64)
        for record in self.records:
            total += record.window_histogram.dense_rows(rows)
        return total

    def _histogram(self, record: RunRecord, traffic: int, windows: slice) -> npt.NDArray[np.int64]:
        """Latency histogram of one record over `windows`, shape (BIN_COUNT,)."""
        rows = np.arange(windows.start, windows.stop) * len(self.catalog.traffic) + traffic
        _, bins, counts = record.window_histogram.cells(rows)
        total = np.zeros(BIN_COUNT, np.int64)
        np.add.at(total, bins.astype(np.intp), counts.astype(np.int64))
        return total

    def _segments(self) -> list[slice]:
        count = len(SEGMENT_STARTS)
        if len(self.records) >= PAIRED_MINIMUM:
            return [slice(self.cut.segment, count)]
        return [slice(segment, segment + 1) for segment in range(self.cut.segment, count)]

    @property
    def series_groups(self) -> int:
        """Number of groups of edges."""
        return len(self._segments()) * len(self.records)

    def series_field(self, field: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Sum a series field over each group.

        Parameters
        ----------
        field : str
        rows : ndarray[intp], shape (edges,)
            The row that each edge is counted in: several edges may share one.  Read only.

        Returns
        -------
        ndarray[int64], shape (rows, groups)
        """
        groups = [
            record.series[field][segments].sum(axis=0)
            for segments in self._segments()
            for record in self.records
        ]
        total = np.zeros((int(rows.max(initial=-1)) + 1, len(groups)), np.int64)
        np.add.at(total, rows, np.stack(groups, axis=1))
        return total

    def series_histogram(
        self, rows: npt.NDArray[np.intp], first: int, end: int
    ) -> npt.NDArray[np.int64]:
        """Return the latency histograms of the rows from `first` up to `end`.

        Parameters
        ----------
        rows : ndarray[intp], shape (edges,)
            The row that each edge is counted in.  Read only.
        first, end : int
            Few rows at a time: each takes 8 KB a group.

        Returns
        -------
        ndarray[int64], shape (end - first, groups, SERIES_BIN_COUNT)
        """
        edges = np.flatnonzero((rows >= first) & (rows < end))
        groups = self.series_groups
        cells = np.zeros((end - first) * groups * SERIES_BIN_COUNT, np.int64)
        group = 0
        for segments in self._segments():
            for record in self.records:
                for segment in range(segments.start, segments.stop):
                    place = segment * len(rows) + edges
                    which, bins, counts = record.series_histogram.cells(place)
                    row = rows[edges][which] - first
                    cell = (row * groups + group) * SERIES_BIN_COUNT + bins
                    np.add.at(cells, cell, counts.astype(np.int64))
                group += 1
        return cells.reshape(end - first, groups, SERIES_BIN_COUNT)

    def series_total(self, field: str) -> npt.NDArray[np.int64]:
        """Sum a series field over the measured part of all replications, shape (edges,)."""
        kept = [record.series[field][self.cut.segment :].sum(axis=0) for record in self.records]
        total: npt.NDArray[np.int64] = np.sum(kept, axis=0)
        return total

    def cumulative(self, table: str, field: str) -> npt.NDArray[np.int64]:
        """Return the gain of a cumulative counter of `endpoints` or `proxies`, (rows,).

        Summed over the replications, over their measured part.
        """
        total = np.zeros(getattr(self.records[0], table).shape[1], np.int64)
        for record in self.records:
            values = getattr(record, table)[field]
            # The counters only grow; a run stopped at a limit leaves its last segments empty.
            total += values.max(axis=0)
            if self.cut.segment:
                total -= values[self.cut.segment - 1]
        return total
