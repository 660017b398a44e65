"""Rows that fill whole cache lines.

Rule: a large mesh is bound by memory latency, so a row starts on a cache line and the fields
of one visit share a line: what every request touches comes first, what is rare last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CACHE_LINE_BYTES", "aligned", "row_dtype"]

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


def aligned(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `rows`, copied if need be to memory that starts on a cache line."""
    if rows.ctypes.data % CACHE_LINE_BYTES == 0 or rows.nbytes == 0:
        return rows
    memory = np.zeros(rows.nbytes + CACHE_LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE_BYTES
    place = memory[first : first + rows.nbytes]
    place[:] = rows.reshape(-1).view(np.uint8)  # as bytes: rows are copied field by field
    return place.view(rows.dtype).reshape(rows.shape)
