"""Rows that fill whole cache lines.

Rule: a large mesh is bound by memory latency, so a row starts on a cache line and the fields
of one visit share a line: what every request touches comes first, what is rare last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CACHE_LINE_BYTES", "aligned", "grown", "row_dtype", "zeros"]

CACHE_LINE_BYTES = 64


def row_dtype(fields: Sequence[tuple[str, str]]) -> np.dtype[Any]:
    """Return an aligned structured dtype whose size is a whole number of cache lines.

    Parameters
    ----------
    fields : sequence of (name, format)
        In memory order.
    """
    plain = np.dtype(list(fields), align=True)
    short_bytes = -plain.itemsize % CACHE_LINE_BYTES
    # A named field, because numpy drops padding when it concatenates.
    padding = [("padding", "u1", (short_bytes,))] if short_bytes else []
    return np.dtype([*fields, *padding], align=True)


def zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros that start on a cache line; pages that nobody writes take no memory."""
    kind = np.dtype(dtype)
    size_bytes = math.prod(shape) * kind.itemsize
    memory = np.zeros(size_bytes + CACHE_LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[first : first + size_bytes].view(kind).reshape(shape)


def aligned(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `rows`, copied if need be to memory that starts on a cache line."""
    if rows.ctypes.data % CACHE_LINE_BYTES == 0 or rows.nbytes == 0:
        return rows
    placed = zeros(rows.shape, rows.dtype)
    _copy(rows, placed)
    return placed


def grown(rows: npt.NDArray[Any], added: int) -> npt.NDArray[Any]:
    """Return `rows` (one dimension) with `added` zero rows behind them, on a cache line."""
    longer = zeros((len(rows) + added,), rows.dtype)
    _copy(rows, longer[: len(rows)])
    return longer


def _copy(rows: npt.NDArray[Any], place: npt.NDArray[Any]) -> None:
    """Copy as bytes: structured rows go field by field, ten times slower."""
    place.reshape(-1).view(np.uint8)[:] = rows.reshape(-1).view(np.uint8)
