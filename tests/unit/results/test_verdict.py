"""Verdicts, on hand-made records."""

from dataclasses import replace

import pytest

from meshsim.results import Result


def test_a_constant_backlog_is_stable(catalog, records):
    verdict = Result.from_records(catalog, records).verdict
    assert str(verdict) == "stable"
    assert verdict.growth_rps == 0.0


@pytest.mark.parametrize("replications", [1, 5])
def test_a_growing_backlog_is_unstable_and_its_latency_withheld(catalog, make_record, replications):
    grown = [make_record(k, growth=2.0) for k in range(replications)]
    result = Result.from_records(catalog, grown)
    assert result.verdict.name == "unstable"
    # two a window of 1 s in each of two classes
    assert result.verdict.growth_rps == pytest.approx(4.0, rel=0.05)
    assert result.estimate("browse", "p50").withheld.startswith("unstable: the backlog of browse")
    assert result.traffic()["goodput_rps"]["browse"] == pytest.approx(90, rel=0.05)


def test_reaching_a_limit_is_unstable(catalog, records):
    limited = [replace(record, limit="tasks limit reached at 12.4s") for record in records]
    verdict = Result.from_records(catalog, limited).verdict
    assert verdict.name == "unstable"
    assert "tasks limit reached at 12.4s" in verdict.reason


def family(make_record, goodput_factor):
    """Five replications whose goodput is scaled in all windows."""
    changed = []
    for k in range(5):
        record = make_record(k)
        windows = record.windows.copy()
        windows["good_responses"] = (windows["good_responses"] * goodput_factor).astype(int)
        changed.append(replace(record, windows=windows))
    return changed


def test_settling_at_a_lower_goodput_after_the_trigger_is_metastable(make_catalog, make_record):
    empty, after = family(make_record, 1.0), family(make_record, 0.4)
    catalog = make_catalog(trigger=True, timed_faults=True)
    verdict = Result.from_records(catalog, after, records_empty=empty).verdict
    assert verdict.name == "metastable"
    assert "when started empty" in verdict.reason


def test_metastable_is_never_claimed_without_a_trigger(catalog, make_record):
    empty, after = family(make_record, 1.0), family(make_record, 0.4)
    assert Result.from_records(catalog, after, records_empty=empty).verdict.name == "stable"


def test_metastable_is_not_claimed_without_the_runs_started_empty(make_catalog, make_record):
    after = family(make_record, 0.4)
    assert Result.from_records(make_catalog(trigger=True), after).verdict.name == "stable"


def test_recovery_after_the_trigger_is_stable(make_catalog, make_record):
    empty, after = family(make_record, 1.0), family(make_record, 1.0)
    catalog = make_catalog(trigger=True, timed_faults=True)
    assert Result.from_records(catalog, after, records_empty=empty).verdict.name == "stable"


def test_a_backlog_that_drains_after_the_trigger_is_not_metastable(make_catalog, make_record):
    # Serving what the trigger left raises goodput for a while: 20 % over that of an empty start.
    empty, after = family(make_record, 1.0), family(make_record, 1.2)
    catalog = make_catalog(trigger=True, timed_faults=True)
    assert Result.from_records(catalog, after, records_empty=empty).verdict.name == "stable"
