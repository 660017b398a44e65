"""Global rate limits as rows: what a rate limit service counts, and what of it a request meets.

Rule: a service counts by domain, descriptor and the values that its entries found, for all
proxies together, so equal ones are one row, whichever route names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from meshsim.policy.routing import RequestAttributes
from meshsim.state.codes import NO_INDEX
from meshsim.state.filters import QUOTA_COUNTS_DTYPE, QUOTA_DTYPE, QUOTA_WINDOW_DTYPE
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.filters import headers_read, seen_headers, told_apart
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.programs import CallSite
from meshsim.topology.compiled.users import naming_headers, requests_by_user
from meshsim.topology.model import GlobalRateLimit, Topology, TrafficClass
from meshsim.units import NS_PER_S

__all__ = ["Counted", "Quotas", "fitting_descriptors", "quota_settings", "window_rows"]

_UNITS_NS = {
    "SECOND": NS_PER_S,
    "MINUTE": 60 * NS_PER_S,
    "HOUR": 3_600 * NS_PER_S,
    "DAY": 86_400 * NS_PER_S,
}


#: What a service counts apart: the entries of a descriptor, the values that they found, the unit
#: and the requests of one.
Counted: TypeAlias = tuple[tuple[tuple[str, str], ...], tuple[str, ...], str, int]


def fitting_descriptors(stated: GlobalRateLimit, request: RequestAttributes) -> list[Counted]:
    """Return what of a service's counts `request` meets, in the order of the descriptors.

    Parameters
    ----------
    stated : GlobalRateLimit
    request : RequestAttributes
        Header names in any case.
    """
    headers = seen_headers(request)
    found: list[Counted] = []
    for item in stated.descriptors:
        values = told_apart(item.entries, headers)
        if values is not None:
            names = tuple(sorted(item.entries.items()))
            found.append((names, values, item.unit, item.requests_per_unit))
    return found


def quota_settings(stated: GlobalRateLimit) -> tuple[int, int, int, int]:
    """Return failure_mode_deny, status, status_on_error and timeout_ns of QUOTA_DTYPE."""
    return (
        int(bool(stated.failure_mode_deny)),
        stated.rate_limited_status or 429,
        stated.status_on_error or 500,
        stated.timeout or 0,
    )


def window_rows(counted: Iterable[Counted]) -> Rows:
    """Return QUOTA_WINDOW rows, nothing counted yet."""
    fields = [(_UNITS_NS[unit], requests, 0, 0) for _, _, unit, requests in counted]
    return np.array(fields, QUOTA_WINDOW_DTYPE)


class Quotas:
    """Collects the global rate limits of all routes; equal ones are one row.

    Parameters
    ----------
    topology : Topology
    draws : Draws
        Collects the latencies of services.
    """

    def __init__(self, topology: Topology, draws: Draws) -> None:
        self._naming = naming_headers(topology)
        self._draws = draws
        self._windows: dict[tuple[str, Counted], int] = {}
        self._quotas: dict[tuple[Any, ...], int] = {}
        self._listed: list[int] = []
        self._fields: list[tuple[int, ...]] = []

    def row(self, stated: GlobalRateLimit | None, site: CallSite, traffic: TrafficClass) -> int:
        """Return the first QUOTA row of requests, or NO_INDEX if nothing is ever asked."""
        if stated is None:
            return NO_INDEX
        requests = requests_by_user(site, traffic, self._naming, headers_read(stated))
        windows = [self._rows_of(stated, request) for request in requests]
        if not any(windows):  # Envoy asks nothing without a descriptor
            return NO_INDEX
        settings = (self._draws.row(stated.latency), *quota_settings(stated))
        key = (*settings, *map(tuple, windows))
        if key not in self._quotas:
            self._quotas[key] = len(self._fields)
            for rows in windows:
                self._fields.append((len(self._listed), len(rows), *settings, len(windows)))
                self._listed += rows
        return self._quotas[key]

    def _rows_of(self, stated: GlobalRateLimit, request: RequestAttributes) -> list[int]:
        """Return the QUOTA_WINDOW rows that `request` counts in."""
        return [
            self._windows.setdefault((stated.domain, counted), len(self._windows))
            for counted in fitting_descriptors(stated, request)
        ]

    def build(self, proxy_count: int) -> dict[str, Rows]:
        """Return `quotas`, `quota_windows`, `windows_of_quotas` and `quota_counts`."""
        return {
            "quotas": np.array(self._fields, QUOTA_DTYPE),
            "windows_of_quotas": np.array(self._listed, np.int32),
            "quota_windows": window_rows(counted for _, counted in self._windows),
            "quota_counts": np.zeros(proxy_count if self._fields else 0, QUOTA_COUNTS_DTYPE),
        }
