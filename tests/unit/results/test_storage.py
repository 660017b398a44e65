"""Stored results are whole, lossless, and replace nothing else."""

from dataclasses import fields

import numpy as np
import pytest

from meshsim.errors import ConfigError
from meshsim.results import Result, storage
from meshsim.state.sparse import SparseHistogram


@pytest.fixture(scope="module")
def result(catalog, records):
    return Result.from_records(
        catalog, records[:2], notices=["a"], defaults={"b": "c"}, records_empty=records[2:3]
    )


def same(first, second):
    for field in fields(first):
        left, right = getattr(first, field.name), getattr(second, field.name)
        if isinstance(left, SparseHistogram):
            same(left, right)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape, field.name
            assert np.array_equal(left, right), field.name
        else:
            assert left == right, field.name


def test_what_is_loaded_equals_what_was_saved(result, tmp_path):
    result.save(tmp_path / "run")
    loaded = Result.load(tmp_path / "run")
    assert loaded.catalog == result.catalog
    assert loaded.notices == ("a",)
    assert dict(loaded.defaults) == {"b": "c"}
    assert loaded.version == result.version
    assert len(loaded.records_empty) == 1
    for left, right in zip(
        (*result.records, *result.records_empty),
        (*loaded.records, *loaded.records_empty),
        strict=True,
    ):
        same(left, right)
    assert loaded.report() == result.report()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_result_is_replaced_and_anything_else_is_not(result, tmp_path):
    result.save(tmp_path / "run")
    result.save(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="exists and is not a result"):
        result.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_result_and_nothing_else(result, tmp_path, monkeypatch):
    result.save(tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(storage.pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path / "run")
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a stored result"):
        Result.load(tmp_path)
    (tmp_path / "result.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="stored by another version; found 99; allowed: 1"):
        Result.load(tmp_path)


def test_a_damaged_result_is_refused(result, tmp_path):
    result.save(tmp_path / "run")
    (tmp_path / "run" / "series.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match="damaged result"):
        Result.load(tmp_path / "run")
