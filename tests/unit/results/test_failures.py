"""What a report says of requests that fail."""

import dataclasses
import json

import numpy as np
import pytest

from meshsim.results import Result
from meshsim.state.codes import FLAG_UH, FLAG_UT


def failed(record, share):
    """Return `record` with `share` of the responses to browse made failures by UH in the cart."""
    windows, traffic_flags, edge_flags, series = (
        getattr(record, name).copy()
        for name in ("windows", "traffic_flags", "edge_flags", "series")
    )
    for place in ("successes", "good_responses"):
        lost = (windows[place][:, 0] * share).astype(np.int64)
        windows[place][:, 0] -= lost
        if place == "successes":
            windows["failures"][:, 0] += lost
    # The front passes the error on: its own responses have no flag.
    lost = (edge_flags[:, 0, 0] * share).astype(np.int64)
    edge_flags[:, 2, FLAG_UH] = lost
    series["successes"][:, 2] -= lost
    return dataclasses.replace(
        record,
        windows=windows,
        traffic_flags=traffic_flags,
        edge_flags=edge_flags,
        series=series,
    )


@pytest.fixture(scope="module")
def broken(catalog, records):
    return Result.from_records(catalog, [failed(record, 0.9) for record in records])


def test_a_class_that_mostly_fails_is_told_under_the_verdict(broken):
    lines = broken.report().splitlines()
    assert lines[1].startswith("verdict: STABLE")
    assert lines[2].startswith("only 1")
    assert lines[2].endswith(
        " % of the requests of browse succeeded: "
        "most often UH (no healthy upstream) on front → cart."
    )
    assert lines[3] == ""
    assert lines[2] in broken._repr_html_()
    assert lines[2] in str(broken.summary())


def test_a_class_that_mostly_succeeds_is_not(catalog, records):
    result = Result.from_records(catalog, records)
    assert "succeeded" not in result.report()


def test_the_report_lists_flags_by_class_and_edge(catalog, records, broken):
    lines = Result.from_records(catalog, records).report().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("failures "))
    table = lines[start + 2 : lines.index("", start)]
    # Of the classes only buy has failures, all by UT; browse has no row.
    assert [line.split()[0] for line in table] == ["buy", "buy", "front"]
    assert table[0].split()[-2] == "UT"
    told = broken.flags()
    count = int(told[(told["service"] == "cart") & (told["flag"] == "UH")]["responses"].iloc[0])
    assert f"UH {count:,}" in broken.report()


def test_json_counts_the_flags(broken, catalog, records):
    data = json.loads(broken.to_json())
    # 10 % are deleted: the first two segments.
    kept = [record.edge_flags[2:, 2, FLAG_UH].sum() for record in broken.records]
    assert data["edges"][2]["response_flags"] == {"UH": sum(kept)}
    assert data["traffic"][0]["response_flags"] == {}
    kept = [record.traffic_flags[2:, 1, FLAG_UT].sum() for record in records]
    assert data["traffic"][1]["response_flags"] == {"UT": sum(kept)}


def test_errors_that_services_answer_have_no_flag(catalog, records):
    silent = [failed(record, 0.9) for record in records]
    for record in silent:
        record.edge_flags[:] = 0
    result = Result.from_records(catalog, silent)
    assert "no proxy made these errors: the services answer them." in result.report()
