"""Every case of a file of known answers: one test each."""

import time

import pytest
from truth_report import Entry
from verdict import DISPUTED, FAIL, NOT_YET, PASS, Verdict


def test_truth(truth_case, examiner, truth_report):
    begin_s = time.perf_counter()
    try:
        verdict, about = examiner.examine(truth_case)
    except Exception as error:
        # The report has a line of every case, also of one that broke its study.
        verdict, about = Verdict(FAIL, f"{type(error).__name__}: {error}".splitlines()[0]), ""
        raise
    finally:
        entry = Entry(truth_case, verdict, about, time.perf_counter() - begin_s)
        truth_report.entries.append(entry)
    if verdict.status in (DISPUTED, NOT_YET):
        pytest.xfail(entry.line())
    assert verdict.status == PASS, entry.line()
