"""Many histograms of which most bins are empty, in little memory.

Rule: the histograms of a run are filled in one dense array and handed over compressed: rows
one after the other, the bins that are not 0 with their counts in each.  A row of 1,025 bins
takes 4 KB dense; the latencies of one edge fall into 50 to 200 bins, at 4 to 6 bytes each, and
never into more than there are requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SparseHistogram"]

_Positions = npt.NDArray[np.intp]
_Bins = npt.NDArray[np.uint16]
_Counts = npt.NDArray[np.unsignedinteger]
_NARROW_MAX = np.iinfo(np.uint16).max


@dataclass(frozen=True, eq=False)
class SparseHistogram:
    """Histograms by part of the run (segment, window) and by edge or class, without empty bins.

    Parameters
    ----------
    shape : tuple of int
        Parts of the run, edges or classes, bins.
    starts : ndarray[int64], shape (shape[0] * shape[1] + 1,)
        Row ``part * shape[1] + edge`` has the cells ``starts[row]`` to ``starts[row + 1]``.
    bins : ndarray[uint16], shape (cells,)
        Bin of each cell, ascending within a row.
    counts : ndarray[uint16 or uint32], shape (cells,)
        Count of each cell, > 0.

    Examples
    --------
    >>> dense = np.zeros((1, 2, 5), np.int32)
    >>> dense[0, 1, 3] = 7
    >>> SparseHistogram.from_dense(dense).cells(np.array([1]))
    (array([0]), array([3], dtype=uint16), array([7], dtype=uint16))
    """

    shape: tuple[int, int, int]
    starts: npt.NDArray[np.int64]
    bins: _Bins
    counts: _Counts

    @classmethod
    def from_dense(cls, dense: npt.NDArray[np.integer]) -> SparseHistogram:
        """Compress an array of shape (segments, edges, bins), bins < 65,536; it is copied."""
        segments, edges, bins = dense.shape
        # Segment by segment: what finds the cells takes 16 bytes a cell.
        parts = []
        for segment in range(segments):
            rows, where = np.nonzero(dense[segment])
            counts = dense[segment][rows, where].astype(np.uint32)
            parts.append((rows + segment * edges, where.astype(np.uint16), counts))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return cls.from_cells((segments, edges, bins), *columns)

    @classmethod
    def from_cells(
        cls,
        shape: tuple[int, int, int],
        rows: npt.NDArray[np.integer],
        bins: npt.NDArray[np.integer],
        counts: npt.NDArray[np.integer],
    ) -> SparseHistogram:
        """Build from cells ordered by row and bin; see `cells`."""
        starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(starts) - 1), out=starts[1:])
        narrow = counts.max(initial=0) <= _NARROW_MAX
        count_dtype = np.uint16 if narrow else np.uint32
        return cls(shape, starts, bins.astype(np.uint16), counts.astype(count_dtype))

    def dense(self) -> npt.NDArray[np.int32]:
        """Return the histograms with their empty bins, of the same shape."""
        return self.dense_rows(np.arange(len(self.starts) - 1)).reshape(self.shape)

    def dense_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Return some rows with their empty bins, shape (rows, bins)."""
        which, bins, counts = self.cells(rows)
        full = np.zeros((len(rows), self.shape[2]), np.int32)
        full[which, bins] = counts
        return full

    def cells(self, rows: npt.NDArray[np.integer]) -> tuple[_Positions, _Bins, _Counts]:
        """Return the cells of some rows: position in `rows`, bin and count of each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        which = np.repeat(np.arange(len(rows)), lengths)
        # Within a row cells are neighbours: count on from where each row starts.
        first = self.starts[rows] - (np.cumsum(lengths) - lengths)
        position = np.arange(len(which)) + first[which]
        return which, self.bins[position], self.counts[position]
