"""Every case of a file of known answers: one test each."""

import time

import pytest
from truth_report import Entry
from verdict import DISPUTED, NOT_YET, PASS


def test_truth(truth_case, examiner, truth_report):
    begin_s = time.perf_counter()
    verdict, about = examiner.examine(truth_case)
    entry = Entry(truth_case, verdict, about, time.perf_counter() - begin_s)
    truth_report.entries.append(entry)
    if verdict.status in (DISPUTED, NOT_YET):
        pytest.xfail(entry.line())
    assert verdict.status == PASS, entry.line()
