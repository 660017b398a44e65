"""What a report says beside its numbers, so that nobody takes them for more than they are."""

from dataclasses import replace

import numpy as np
import pytest

from meshsim.results import Result
from meshsim.results.wording import listed
from meshsim.state.record import WINDOW_COUNT
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT


def notes(result):
    return result.report().partition("\nnotes\n")[2]


def changed(record, **columns):
    """Return `record` with some columns of its first class multiplied."""
    windows = record.windows.copy()
    for name, factor in columns.items():
        windows[name][:, 0] *= factor
    return replace(record, windows=windows)


def wide(record):
    """Return `record` with its first class forty times."""
    histogram = np.zeros((WINDOW_COUNT, 40, BIN_COUNT), np.int32)
    return replace(
        record,
        windows=np.repeat(record.windows[:, :1], 40, axis=1),
        traffic_flags=np.repeat(record.traffic_flags[:, :1], 40, axis=1),
        window_histogram=SparseHistogram.from_dense(histogram),
    )


@pytest.fixture(scope="module")
def wide_catalog(make_catalog):
    return make_catalog(traffic=tuple(f"class-{number:03}" for number in range(40)))


def test_parts_that_exceed_the_latency_are_explained(catalog, records):
    # Half of the latency is service: twice of it makes the parts half as long again.
    parallel = [changed(record, service_ns=2) for record in records]
    told = "parallel branches are added up"
    assert told not in notes(Result.from_records(catalog, records))
    explained = notes(Result.from_records(catalog, parallel))
    assert told in explained
    assert "so the parts of browse exceed the mean latency.\n" in explained


def test_memory_says_that_connections_are_left_out(make_catalog, catalog, records):
    told = "memory: of idle proxies"
    assert told not in notes(Result.from_records(catalog, records))
    without = make_catalog(connection_memory_bytes=0.0)
    assert told in notes(Result.from_records(without, records))
    emulated = Result.from_records(without, records, emulation={"plane": "asyncio"})
    assert told not in notes(emulated)


def test_an_unstable_run_says_whose_success_it_is(catalog, make_record):
    result = Result.from_records(catalog, [make_record(0, growth=2.0)])
    assert "success is that of requests that ended, not of those still waiting." in notes(result)


def test_a_verdict_counts_classes_that_it_does_not_name(wide_catalog, make_record):
    result = Result.from_records(wide_catalog, [wide(make_record(0, growth=2.0))])
    assert result.verdict.reason.startswith("the backlog of class-000, ")
    assert "class-004 and 35 more grows by " in result.verdict.reason


def test_of_many_failing_classes_a_few_are_told(wide_catalog, make_record):
    broken = changed(make_record(0), good_responses=0)
    lines = Result.from_records(wide_catalog, [wide(broken)]).report().splitlines()
    told = lines[2 : lines.index("")]
    assert [line.split()[5] for line in told[:-1]] == [f"class-00{k}" for k in range(5)]
    assert told[-1] == "and less than half of those of 35 more classes."


def test_a_list_is_cut_after_five():
    assert listed([]) == ""
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdef")) == "a, b, c, d, e and 1 more"
