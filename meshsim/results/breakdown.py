"""Where the time goes: queueing, service, proxy and wire, per class and per edge.

Rule: a part is the time that all hops of a request spent there, divided by the requests that
ended, failed ones included.  Parallel branches add up, so the parts may exceed the latency.  A
try that was given up (a timeout) and the pause before the next have no parts, so they may fall
short of it.  Without either they sum to the mean latency.  An edge's parts are those of the
called side's own hop, not of what it calls in turn.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from meshsim.results.measured import Measured

__all__ = ["PARTS", "breakdown"]

PARTS = ("queue", "service", "proxy", "wire")
_NS_PER_MS = 1e6


def _row(of: str, caller: str, service: str, requests: int, total_ns: dict[str, int]) -> Any:
    everything = sum(total_ns.values())
    row: dict[str, Any] = {"of": of, "caller": caller, "service": service, "requests": requests}
    for part in PARTS:
        row[f"{part}_ms"] = total_ns[part] / requests / _NS_PER_MS if requests else math.nan
    for part in PARTS:
        row[f"{part}_share"] = total_ns[part] / everything if everything else math.nan
    return row


def breakdown(measured: Measured) -> pd.DataFrame:
    """Return mean time by part [ms] and its share [1], one row a traffic class and an edge."""
    rows = []
    for index, name in enumerate(measured.catalog.traffic):
        ended = sum(
            int(measured.traffic_field(field, index).sum()) for field in ("successes", "failures")
        )
        total = {part: int(measured.traffic_field(f"{part}_ns", index).sum()) for part in PARTS}
        rows.append(_row("traffic", name, "", ended, total))
    requests = measured.series_total("requests")
    parts = {part: measured.series_total(f"{part}_ns") for part in PARTS}
    for index, (caller, service) in enumerate(measured.catalog.edges):
        total = {part: int(parts[part][index]) for part in PARTS}
        rows.append(_row("edge", caller, service, int(requests[index]), total))
    return pd.DataFrame(rows)
