"""Compressed histograms lose nothing."""

import numpy as np
import pytest

from meshsim.state.sparse import SparseHistogram


@pytest.fixture
def dense():
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 9, (6, 7, 1025)) * (rng.random((6, 7, 1025)) < 0.05)
    counts[:, 3] = 0
    return counts.astype(np.int32)


def test_dense_again_is_the_same(dense):
    sparse = SparseHistogram.from_dense(dense)
    assert np.array_equal(sparse.dense(), dense)
    assert sparse.dense().dtype == np.int32
    assert len(sparse.counts) == np.count_nonzero(dense)


def test_cells_of_some_rows_in_any_order(dense):
    sparse = SparseHistogram.from_dense(dense)
    # Rows 7 * segment + edge: (2, 5), the empty (0, 3), (0, 1).
    rows = np.array([19, 3, 1])
    which, bins, counts = sparse.cells(rows)
    found = np.zeros((3, 1025), np.int32)
    found[which, bins] = counts
    assert np.array_equal(found, dense[[2, 0, 0], [5, 3, 1]])


def test_large_counts_are_kept(dense):
    assert SparseHistogram.from_dense(dense).counts.dtype == np.uint16
    dense[1, 2, 3] = 2**31 - 1
    sparse = SparseHistogram.from_dense(dense)
    assert sparse.counts.dtype == np.uint32
    assert np.array_equal(sparse.dense(), dense)


def test_without_edges():
    sparse = SparseHistogram.from_dense(np.zeros((6, 0, 1025), np.int32))
    assert sparse.dense().shape == (6, 0, 1025)
    assert len(sparse.cells(np.zeros(0, np.intp))[0]) == 0
