"""What a run says: tables, estimates with intervals, verdict, traces, report, storage."""

from __future__ import annotations

from meshsim.results.estimates import Estimate
from meshsim.results.precision import Precision, parse_precision, relative_half_width
from meshsim.results.result import Result
from meshsim.results.traces import Span, Trace
from meshsim.results.verdict import Verdict

__all__ = [
    "Estimate",
    "Precision",
    "Result",
    "Span",
    "Trace",
    "Verdict",
    "parse_precision",
    "relative_half_width",
]
