"""The cut and the groups."""

from dataclasses import replace

import numpy as np
import pytest

from meshsim.results.measured import Measured


def test_ten_replications_are_ten_groups_behind_the_first_tenth(catalog, records):
    measured = Measured(catalog, tuple(records))
    assert measured.warm_up_s == 6.0
    assert measured.time_s == 54.0
    assert measured.time_total_s == 540.0
    assert measured.batches == (slice(6, 60),)
    assert len(measured.traffic_field("arrivals", 0)) == 10


@pytest.mark.parametrize(("replications", "groups"), [(1, 10), (2, 10), (3, 12), (4, 12), (5, 5)])
def test_few_replications_are_cut_into_batches(catalog, records, replications, groups):
    measured = Measured(catalog, tuple(records[:replications]))
    arrivals = measured.traffic_field("arrivals", 0)
    assert len(arrivals) == groups
    kept = [r.windows["arrivals"][measured.window_start :, 0].sum() for r in measured.records]
    assert arrivals.sum() == sum(kept)
    assert measured.traffic_histogram(0).sum() == arrivals.sum()


def test_every_table_uses_the_same_cut(catalog, records):
    measured = Measured(catalog, tuple(records))
    browse = measured.traffic_field("arrivals", 0).sum()
    each = np.arange(3)
    assert measured.series_field("requests", each)[0].sum() == browse
    assert measured.series_total("requests")[0] == browse
    assert measured.series_histogram(each, 0, 1).sum() == browse
    # busy 2 workers during 54 s in each of ten replications
    assert measured.cumulative("endpoints", "busy_ns")[0] == 2 * 54 * 10**9 * 10


def test_timed_faults_delete_nothing(make_catalog, records):
    measured = Measured(make_catalog(timed_faults=True), tuple(records))
    assert measured.warm_up_s == 0.0
    assert measured.cumulative("endpoints", "busy_ns")[0] == 2 * 60 * 10**9 * 10
    assert "timed faults" in measured.cut_text


def test_a_run_that_hit_a_limit_ends_where_its_records_end(catalog, records):
    windows = records[0].windows.copy()
    windows[40:] = np.zeros(20, windows.dtype)[:, None]
    endpoints = records[0].endpoints.copy()
    endpoints[-1] = 0
    limited = replace(
        records[0],
        windows=windows,
        endpoints=endpoints,
        limit="tasks limit reached at 39.5s",
        ended_ns=39_500_000_000,
    )
    measured = Measured(catalog, (limited, *records[1:]))
    assert measured.window_end == 40
    assert measured.whole_window_end == 39
    assert measured.warm_up_s == 0.0
    assert measured.time_s == 39.5
    # Segments and endpoints go on to the end of each replication.
    assert measured.segments_time_s == 39.5 + 9 * 60
    assert "stopped at a limit" in measured.cut_text
    # busy 2 workers up to the last segment reached, which ends at 30 s
    alone = Measured(catalog, (limited,))
    assert alone.cumulative("endpoints", "busy_ns")[0] == 2 * 30 * 10**9
