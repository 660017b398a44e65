"""Rows on cache lines: how they are laid out, placed and grown."""

import numpy as np
import pytest

from meshsim.state.rows import CACHE_LINE_BYTES, aligned, grown, row_dtype, zeros

ROW = row_dtype([("first", "i4"), ("second", "i8"), ("third", "f8")])


def rows(count):
    made = np.zeros(count, ROW)
    made["first"] = np.arange(count)
    made["second"] = -np.arange(count)
    made["third"] = np.arange(count) / 7
    return made


@pytest.mark.parametrize("shape", [(1,), (1_000,), (3, 5), (2, 3, 4)])
def test_zeros_start_on_a_cache_line(shape):
    made = zeros(shape, ROW)
    assert made.shape == shape
    assert made.dtype == ROW
    assert made.ctypes.data % CACHE_LINE_BYTES == 0
    assert not made.view(np.uint8).any()


def test_no_rows_are_no_rows():
    assert zeros((0,), ROW).shape == (0,)
    assert grown(rows(0), 0).shape == (0,)


def test_aligned_rows_are_the_same_rows():
    memory = np.zeros(10 * ROW.itemsize + 8, np.uint8)
    apart = memory[8:].view(ROW)  # 8 bytes off a multiple of 16
    apart[:] = rows(10)
    placed = aligned(apart)
    assert placed.ctypes.data % CACHE_LINE_BYTES == 0
    assert placed.tobytes() == rows(10).tobytes()
    assert aligned(placed) is placed


def test_grown_rows_keep_theirs_and_end_in_zeros():
    longer = grown(rows(10), 5)
    assert longer.ctypes.data % CACHE_LINE_BYTES == 0
    assert longer[:10].tobytes() == rows(10).tobytes()
    assert longer[10:].tobytes() == np.zeros(5, ROW).tobytes()


def test_a_row_fills_whole_cache_lines():
    assert ROW.itemsize == CACHE_LINE_BYTES
    assert row_dtype([(f"word_{number}", "i8") for number in range(9)]).itemsize == 128
