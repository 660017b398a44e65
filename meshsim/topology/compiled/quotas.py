"""Global rate limits as rows: what a rate limit service counts, and what of it a request meets.

Rule: a service counts by domain, descriptor and the values that its entries found, for all
proxies together, so equal ones are one row, whichever route names them.
"""

from __future__ import annotations

import numpy as np

from meshsim.policy.routing import RequestAttributes
from meshsim.state.codes import NO_INDEX
from meshsim.state.filters import QUOTA_COUNTS_DTYPE, QUOTA_DTYPE, QUOTA_WINDOW_DTYPE
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.filters import seen_headers, told_apart
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import GlobalRateLimit
from meshsim.units import NS_PER_S

__all__ = ["Quotas"]

_UNITS_NS = {
    "SECOND": NS_PER_S,
    "MINUTE": 60 * NS_PER_S,
    "HOUR": 3_600 * NS_PER_S,
    "DAY": 86_400 * NS_PER_S,
}


class Quotas:
    """Collects the global rate limits of all routes; equal ones are one row.

    Parameters
    ----------
    draws : Draws
        Collects the latencies of services.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._windows: dict[tuple[object, ...], int] = {}
        self._quotas: dict[tuple[int, ...], int] = {}
        self._listed: list[int] = []
        self._fields: list[tuple[int, ...]] = []

    def row(self, stated: GlobalRateLimit | None, request: RequestAttributes) -> int:
        """Return the QUOTA row of requests like `request`, or NO_INDEX if nothing is asked."""
        if stated is None:
            return NO_INDEX
        headers = seen_headers(request)
        windows = []
        for item in stated.descriptors:
            values = told_apart(item.entries, headers)
            if values is not None:
                names = tuple(sorted(item.entries.items()))
                counted = (stated.domain, names, values, item.unit, item.requests_per_unit)
                windows.append(self._windows.setdefault(counted, len(self._windows)))
        if not windows:  # Envoy asks nothing without a descriptor
            return NO_INDEX
        settings = (
            self._draws.row(stated.latency),
            int(bool(stated.failure_mode_deny)),
            stated.rate_limited_status or 429,
            stated.status_on_error or 500,
            stated.timeout or 0,
        )
        key = (*settings, *windows)
        if key not in self._quotas:
            self._quotas[key] = len(self._quotas)
            self._fields.append((len(self._listed), len(windows), *settings))
            self._listed += windows
        return self._quotas[key]

    def build(self, proxy_count: int) -> dict[str, Rows]:
        """Return `quotas`, `quota_windows`, `windows_of_quotas` and `quota_counts`."""
        counted = np.zeros(len(self._windows), QUOTA_WINDOW_DTYPE)
        for (_, _, _, unit, requests_per_unit), row in self._windows.items():
            counted["unit_ns"][row] = _UNITS_NS[str(unit)]
            counted["requests_per_unit"][row] = requests_per_unit
        return {
            "quotas": np.array(self._fields, QUOTA_DTYPE),
            "windows_of_quotas": np.array(self._listed, np.int32),
            "quota_windows": counted,
            "quota_counts": np.zeros(proxy_count if self._fields else 0, QUOTA_COUNTS_DTYPE),
        }
