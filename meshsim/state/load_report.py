"""Load reports (ORCA): what servers measure of themselves, and what a proxy makes of it.

LOAD_REPORT rows belong to ENDPOINT rows, REPORTED_WEIGHT rows to HOST rows and
REPORTED_CLUSTER rows to CLUSTER rows, each by the same number; all empty where nobody weighs by
reports.
"""

from __future__ import annotations

import numpy as np

#: The rule of a cluster that weighs by reports.
REPORT_RULE_DTYPE = np.dtype(
    [
        ("blackout_period_ns", "i8"),
        ("weight_expiration_period_ns", "i8"),
        ("weight_update_period_ns", "i8"),
        ("error_utilization_penalty", "f8"),
    ],
    align=True,
)

LOAD_REPORT_DTYPE = np.dtype(
    [
        ("since_ns", "i8"),  # the period under way began here
        ("busy_ns", "i8"),  # busy_ns, completed and errors of the server then
        ("completed", "i8"),
        ("errors_then", "i8"),
        ("errors", "i8"),  # responses with status >= 500, so far
        ("utilization", "f8"),  # of the last period: share of the workers, 0 to 1
        ("rps", "f8"),  # responses a second; 0: there was no period yet
        ("eps", "f8"),  # errors a second
    ],
    align=True,
)

REPORTED_WEIGHT_DTYPE = np.dtype(
    [
        ("weight", "f8"),  # by the last report
        ("updated_ns", "i8"),
        ("since_ns", "i8"),  # of the first report since there was none; NEVER_NS: there is none
        ("scratch", "f8"),
        ("counts", "i4"),  # 1: at the last update it counted
    ],
    align=True,
)

REPORTED_CLUSTER_DTYPE = np.dtype([("due_ns", "i8")], align=True)  # when weights are due again
