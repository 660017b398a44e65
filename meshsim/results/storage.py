"""A result on disk: a folder of Parquet tables and a JSON header; lossless.

Rule: what is stored is the records, not the tables made from them, so that a stored result
answers every question a fresh one does.  Each table is long: one row a cell, named by
`replication` and its other indices; histograms and flags keep only cells that are not 0.

A result appears whole or not at all: it is written to a folder beside its target and renamed.
Only a folder that holds a result is replaced.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from meshsim.errors import ConfigError, Problem
from meshsim.state.record import (
    ENDPOINT_RECORD_DTYPE,
    HOST_RECORD_DTYPE,
    PROXY_RECORD_DTYPE,
    SERIES_DTYPE,
    SPAN_DTYPE,
    WINDOW_DTYPE,
    Catalog,
    RunRecord,
)
from meshsim.state.sparse import SparseHistogram

__all__ = ["FORMAT", "load", "save"]

#: Version of the folder's layout.
FORMAT = 1
_HEADER = "result.json"
#: Index columns of each table that has cells: field of RunRecord -> names of its axes.
_AXES = {
    "windows": ("window", "traffic"),
    "window_histogram": ("window", "traffic", "bin"),
    "series": ("segment", "edge"),
    "series_histogram": ("segment", "edge", "bin"),
    "traffic_flags": ("segment", "traffic", "flag"),
    "edge_flags": ("segment", "edge", "flag"),
    "endpoints": ("segment", "endpoint"),
    "proxies": ("segment", "proxy"),
    "hosts": ("host",),
    "spans": ("row",),
}
#: Structured tables; the others hold plain counts.
_RECORD_DTYPES: dict[str, np.dtype[Any]] = {
    "windows": WINDOW_DTYPE,
    "series": SERIES_DTYPE,
    "endpoints": ENDPOINT_RECORD_DTYPE,
    "proxies": PROXY_RECORD_DTYPE,
    "hosts": HOST_RECORD_DTYPE,
    "spans": SPAN_DTYPE,
}
_SCALARS = (
    "seed",
    "replication",
    "duration_ns",
    "ended_ns",
    "counters",
    "stats",
    "limit",
    "wall_s",
    "replicas",
)


def _columns(
    array: npt.NDArray[Any] | SparseHistogram, axes: Sequence[str], position: int
) -> dict[str, npt.NDArray[Any]]:
    """Return one record's array as columns of a long table."""
    if isinstance(array, SparseHistogram):
        rows, bins, counts = array.cells(np.arange(len(array.starts) - 1))
        where = np.stack([*np.divmod(rows, max(array.shape[1], 1)), bins])
        values = {"count": counts.astype(np.int32)}
    elif array.dtype.names:
        where = np.indices(array.shape).reshape(array.ndim, -1)
        values = {name: array[name].ravel() for name in array.dtype.names}
    else:
        cells = np.nonzero(array)
        where = np.array(cells)
        values = {"count": array[cells]}
    columns = {"record": np.full(where.shape[1], position, np.int32)}
    columns |= {
        f"{axis}_index": index.astype(np.int32) for axis, index in zip(axes, where, strict=True)
    }
    return columns | values


def _write_tables(folder: Path, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Write the tables; return the shape and type of each, by table and record."""
    layout: dict[str, Any] = {}
    for field, axes in _AXES.items():
        arrays = [getattr(record, field) for record in records]
        parts = [pa.table(_columns(array, axes, index)) for index, array in enumerate(arrays)]
        pq.write_table(pa.concat_tables(parts), folder / f"{field}.parquet", compression="zstd")
        layout[field] = {
            "shapes": [list(array.shape) for array in arrays],
            "dtype": _plain_dtype(arrays[0]),
        }
    return layout


def _plain_dtype(array: npt.NDArray[Any] | SparseHistogram) -> str:
    """Return the type of an array of counts; empty where it follows from the table."""
    if isinstance(array, SparseHistogram) or array.dtype.names:
        return ""
    return array.dtype.str


def save(
    path: str | os.PathLike[str],
    catalog: Catalog,
    records: Sequence[RunRecord],
    extra: dict[str, Any],
) -> None:
    """Write a result to the folder `path`.

    Parameters
    ----------
    path : path-like
        Folder to make; an older result there is replaced.
    catalog : Catalog
    records : sequence of RunRecord
    extra : dict
        JSON-able: what belongs to the result beside its records.

    Raises
    ------
    ConfigError
        If `path` exists and is not a result.
    """
    target = Path(path)
    if target.exists() and not (target / _HEADER).is_file():
        raise ConfigError([Problem("exists and is not a result; not replaced", file=str(target))])
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = work / "fresh"
        fresh.mkdir()
        header = {
            "format": FORMAT,
            "catalog": dataclasses.asdict(catalog),
            "records": [{name: getattr(record, name) for name in _SCALARS} for record in records],
            "tables": _write_tables(fresh, records),
            **extra,
        }
        text = json.dumps(header, indent=1, default=_plain)
        (fresh / _HEADER).write_text(text + "\n", encoding="utf-8")
        _replace(target, fresh, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`; if that fails, `target` is as it was."""
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise


def _plain(value: Any) -> Any:
    """Turn a numpy scalar into what JSON has."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot be stored: {value!r}")


def _array(
    table: pa.Table, field: str, shape: list[int], dtype: str, position: int
) -> npt.NDArray[Any] | SparseHistogram:
    """Rebuild one record's array from its rows of the long table."""
    record_dtype = _RECORD_DTYPES.get(field)
    rows = table["record"].to_numpy() == position
    if field.endswith("_histogram"):
        part, row, bins = (table[f"{axis}_index"].to_numpy()[rows] for axis in _AXES[field])
        counts = table["count"].to_numpy()[rows]
        place = part.astype(np.intp) * shape[1] + row
        return SparseHistogram.from_cells((shape[0], shape[1], shape[2]), place, bins, counts)
    array = np.zeros(shape, record_dtype if record_dtype is not None else np.dtype(dtype))
    where = tuple(table[f"{axis}_index"].to_numpy()[rows] for axis in _AXES[field])
    if record_dtype is None:
        array[where] = table["count"].to_numpy()[rows]
        return array
    for name in record_dtype.names or ():
        array[name][where] = table[name].to_numpy()[rows]
    return array


def _tuples(value: Any) -> Any:
    """Turn the lists of JSON into the tuples of a catalog."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = Problem(f"not a stored result: {error}", file=str(folder))
        raise ConfigError([problem]) from error
    if header.get("format") != FORMAT:
        found, allowed = str(header.get("format")), str(FORMAT)
        problem = Problem("stored by another version", str(folder), found=found, allowed=allowed)
        raise ConfigError([problem])
    return header


def load(path: str | os.PathLike[str]) -> tuple[Catalog, tuple[RunRecord, ...], dict[str, Any]]:
    """Read what `save` wrote: catalog, records and the extra part of the header.

    Raises
    ------
    ConfigError
        If the folder holds no result of this format.
    """
    folder = Path(path)
    header = _read_header(folder)
    arrays: list[dict[str, Any]] = [{} for _ in header["records"]]
    try:
        for field in _AXES:
            table = pq.read_table(folder / f"{field}.parquet")
            layout = header["tables"][field]
            for position, shape in enumerate(layout["shapes"]):
                array = _array(table, field, shape, layout["dtype"], position)
                arrays[position][field] = array
    except (OSError, KeyError, pa.ArrowException) as error:
        problem = Problem(f"damaged result: {error}", file=str(folder))
        raise ConfigError([problem]) from error
    records = tuple(
        RunRecord(**{name: _tuples(value) for name, value in scalars.items()}, **fields)
        for scalars, fields in zip(header["records"], arrays, strict=True)
    )
    catalog = Catalog(**{key: _tuples(value) for key, value in header["catalog"].items()})
    known = ("format", "catalog", "records", "tables")
    return catalog, records, {key: value for key, value in header.items() if key not in known}
