"""How many replicas there were: every change of their number in a run.

Rule: a change counts when proxies know of it.  Replications differ, so a sentence gives the range
over all of them and the median at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pandas as pd

from meshsim.state.record import RunRecord
from meshsim.units import NS_PER_S

__all__ = ["sentences", "table"]


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return one row a change: replication, time_s, service, workload, replicas."""
    rows = [
        (record.replication, time_ns / NS_PER_S, service, workload, count)
        for record in records
        for time_ns, service, workload, count in record.replicas
    ]
    return pd.DataFrame(rows, columns=["replication", "time_s", "service", "workload", "replicas"])


def sentences(records: Sequence[RunRecord]) -> list[str]:
    """Return one sentence for each workload whose number of replicas changed."""
    changes = table(records)
    said = []
    for (service, workload), rows in changes.groupby(["service", "workload"], sort=True):
        last = rows.groupby("replication")["replicas"].last().tolist()
        said.append(
            f"replicas of {service}/{workload}: {rows['replicas'].min()} to "
            f"{rows['replicas'].max()} after {len(rows)} changes in {len(last)} of "
            f"{len(records)} replications; {statistics.median(last):g} at the end (median)"
        )
    return said
