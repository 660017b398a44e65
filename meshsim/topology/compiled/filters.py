"""Filters as rows: faults, limits with their buckets, and mirrors.

Rule: what a filter looks at in a request is text, so which buckets a request takes tokens of is
found here, once for each kind of request, and remembered as row numbers; whoever runs the
engine (the compiler of a scenario, a live proxy) fills rows here.  Buckets are numbered within
their proxy, those of a limit per connection within that limit, in the order in which they are
first named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from meshsim.errors import ConfigError, Problem
from meshsim.policy.rate_limit import fill_bucket
from meshsim.policy.reset_headers import TOLD_MAX_S, reset_seconds
from meshsim.policy.routing import RequestAttributes
from meshsim.state.codes import NO_INDEX
from meshsim.state.concurrency import GRADIENT_RULE_DTYPE
from meshsim.state.filters import (
    BUCKET_DTYPE,
    DIRECTION_COUNT,
    FAULT_COUNTS_DTYPE,
    FAULT_DTYPE,
    FILTER_DTYPE,
    INBOUND_DTYPE,
    LIMIT_COUNTS_DTYPE,
    LIMIT_DTYPE,
    MIRROR_DTYPE,
    REFILL_CONTINUOUS,
    REFILL_TICKS,
)
from meshsim.topology.compiled.concurrency import blank_controllers, gradient_rule
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.programs import CallSite
from meshsim.topology.compiled.users import naming_headers, requests_by_user
from meshsim.topology.model import (
    Fault,
    GlobalRateLimit,
    LocalRateLimit,
    TokenBucket,
    Topology,
    TrafficClass,
)

__all__ = [
    "BucketName",
    "FilterRows",
    "Filters",
    "bucket_rows",
    "fitting_buckets",
    "headers_read",
    "seen_headers",
    "told_apart",
]

_REFILLS = {"TICKS": REFILL_TICKS, "CONTINUOUS": REFILL_CONTINUOUS}
_UNLIMITED = np.iinfo(np.int64).max
#: In place of a descriptor's number: the default bucket of a limit.
_DEFAULT = -1

#: Number of the descriptor, and the values that tell its buckets apart.
BucketName: TypeAlias = tuple[int, tuple[str, ...]]
#: Called service and number of the route whose limit it is.
_Owner: TypeAlias = tuple[str, int]
#: Who has buckets: the proxies of a caller (workload, or ~class), or in a tuple the connections to
#: the inbound proxies of a workload.
_Holder: TypeAlias = int | tuple[int]
#: Buckets that a connection may have: thousands of connections have them at once.
_CONNECTION_BUCKETS_MAX = 256
#: In place of a route's number: the limit of the service's inbound proxies.
_INBOUND = -1


def seen_headers(request: RequestAttributes) -> dict[str, str]:
    """Return what descriptors look at: headers in lower case, ``:path`` and the like."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers[":path"] = request.path.partition("?")[0]
    headers[":method"] = request.method
    headers[":authority"] = request.authority
    return headers


def headers_read(limit: LocalRateLimit | GlobalRateLimit) -> set[str]:
    """Return the headers that a limit looks at, in lower case; ``:path`` and the like too."""
    return {name.lower() for item in limit.descriptors for name in item.entries}


def fitting_buckets(
    limit: LocalRateLimit, request: RequestAttributes
) -> list[tuple[BucketName, TokenBucket]]:
    """Return the buckets that `request` takes tokens of, in order.

    Those of descriptors come first, the one that fills slowest before the others; the default
    bucket is the last (Envoy, local_ratelimit_impl.cc: requestAllowed; measured on 1.40.0).

    Parameters
    ----------
    limit : LocalRateLimit
    request : RequestAttributes
        Header names in any case.
    """
    headers = seen_headers(request)
    found: list[tuple[BucketName, TokenBucket]] = []
    for number, descriptor in enumerate(limit.descriptors):
        values = told_apart(descriptor.entries, headers)
        if values is not None:
            found.append(((number, values), descriptor.token_bucket))
    found.sort(key=lambda item: _fill_rate(item[1]))
    return [*found, ((_DEFAULT, ()), limit.token_bucket)]


def told_apart(entries: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the values that tell the buckets of a descriptor apart; None if it does not fit."""
    pairs = [(headers.get(name.lower()), wanted) for name, wanted in entries.items()]
    if any(value is None or wanted not in ("*", value) for value, wanted in pairs):
        return None
    return tuple(value or "" for value, wanted in pairs if wanted == "*")


def _fill_rate(bucket: TokenBucket) -> float:
    return (bucket.tokens_per_fill or 1) / bucket.fill_interval


def bucket_rows(buckets: Sequence[tuple[TokenBucket, str | None]]) -> Rows:
    """Return BUCKET rows, full, of (bucket, how it is refilled).

    A rate is kept in lowest terms (100,000 a day is one each 864 ms), so that large quotas fit.
    """
    rows = np.zeros(len(buckets), BUCKET_DTYPE)
    for row, (bucket, refill) in enumerate(buckets):
        kind = _REFILLS[refill or "CONTINUOUS"]
        per_fill, interval_ns = bucket.tokens_per_fill or 1, bucket.fill_interval
        divisor = math.gcd(per_fill, interval_ns) if kind == REFILL_CONTINUOUS else 1
        rows["max_tokens"][row] = bucket.max_tokens
        rows["tokens_per_fill"][row] = per_fill // divisor
        rows["fill_interval_ns"][row] = interval_ns // divisor
        rows["refill"][row] = kind
        fill_bucket(rows, row)
    return rows


def _share(percentage: float | None) -> float:
    return 1.0 if percentage is None else percentage / 100


class FilterRows:
    """Collects the rows of filters; equal ones are one row."""

    def __init__(self) -> None:
        self._filters: dict[tuple[int, ...], int] = {}
        self._faults: dict[tuple[float, ...], int] = {}
        self._limits: dict[tuple[Any, ...], int] = {}
        self._limit_fields: list[tuple[float, ...]] = []
        self._limit_buckets: list[int] = []
        self._mirrors: list[tuple[float, int, int]] = []

    @property
    def mirrors_max(self) -> int:
        """The most mirrors that one route has."""
        return max((row[3] for row in self._filters), default=0)

    def fault(self, fault: Fault | None) -> int:
        """Return the FAULT row of `fault`, or NO_INDEX."""
        if fault is None:
            return NO_INDEX
        delay, abort, pace = fault.delay, fault.abort, fault.response_rate_limit
        most = fault.max_active_faults
        values = (
            _share(delay.percentage) if delay else 0.0,
            delay.fixed_delay if delay else 0,
            _share(abort.percentage) if abort else 0.0,
            abort.http_status if abort else 0,
            _UNLIMITED if most is None else most,
            _share(pace.percentage) if pace else 0.0,
            pace.limit_kbps if pace else 0,
        )
        return self._faults.setdefault(values, len(self._faults))

    def limit(
        self,
        limit: LocalRateLimit,
        places_by_user: Sequence[Sequence[int]],
        of_connections: tuple[int, int] = (0, 0),
    ) -> int:
        """Return the first LIMIT row of requests that take tokens of these buckets.

        Those of each user have a row, one behind the other.

        Parameters
        ----------
        limit : LocalRateLimit
        places_by_user : sequence of sequence of int
            In their order, counted from the first of the proxy, or of the connection.
        of_connections : (int, int)
            First row and number of the full buckets that a connection begins with.
        """
        values = (
            *of_connections,
            limit.status or 429,
            int(limit.marks),
            int(limit.tells_reset),
            min(reset_seconds(limit.retry_after, False, 0), TOLD_MAX_S),
            _share(limit.filter_enabled),
            _share(limit.filter_enforced),
        )
        key = (*values, *map(tuple, places_by_user))
        if key not in self._limits:
            self._limits[key] = len(self._limit_fields)
            for places in places_by_user:
                start, users = len(self._limit_buckets), len(places_by_user)
                self._limit_buckets += places
                self._limit_fields.append((start, len(places), *values, users))
        return self._limits[key]

    def mirrors(self, mirrors: Sequence[tuple[float | None, int, int]]) -> tuple[int, int]:
        """Add (percentage, ROUTE row, CLUSTER row) of each; return first row and count."""
        start = len(self._mirrors)
        self._mirrors += [(_share(share), route, cluster) for share, route, cluster in mirrors]
        return start, len(mirrors)

    def filters(self, fault: int, limit: int, quota: int, mirrors: tuple[int, int]) -> int:
        """Return the FILTER row of a route with these, or NO_INDEX if it has none."""
        if fault == limit == quota == NO_INDEX and mirrors[1] == 0:
            return NO_INDEX
        return self._filters.setdefault((fault, limit, quota, *mirrors), len(self._filters))

    def build(self) -> dict[str, Rows]:
        """Return `filters`, `faults`, `limits`, `limit_buckets` and `mirrors`."""
        return {
            "filters": np.array(list(self._filters), FILTER_DTYPE),
            "faults": np.array(list(self._faults), FAULT_DTYPE),
            "limits": np.array(self._limit_fields, LIMIT_DTYPE),
            "limit_buckets": np.array(self._limit_buckets, np.int32),
            "mirrors": np.array(self._mirrors, MIRROR_DTYPE),
        }


class Filters:
    """The filters of all proxies of a topology.

    Parameters
    ----------
    topology : Topology

    Attributes
    ----------
    rows : FilterRows
    """

    def __init__(self, topology: Topology) -> None:
        self.rows = FilterRows()
        self._topology = topology
        self._naming = naming_headers(topology)
        # By holder; of each bucket its place.
        self._buckets: dict[_Holder, dict[tuple[_Owner, BucketName], int]] = {}
        self._fills: dict[_Holder, list[tuple[TokenBucket, str | None]]] = {}
        #: What connections begin with, one limit after the other.
        self._full: list[Rows] = []
        self._inbound: list[tuple[int, int]] = []
        self._gradient_rules: list[Rows] = []
        self._controllers = blank_controllers(0)
        self._inbound_limits: list[Rows] = []

    def limit(
        self,
        caller: int,
        owner: tuple[str, int],
        limit: LocalRateLimit | None,
        site: CallSite,
        traffic: TrafficClass,
    ) -> int:
        """Return the first LIMIT row of requests, or NO_INDEX.

        Parameters
        ----------
        caller : int
            Workload, or ~class.
        owner : (str, int)
            Called service and number of the route with this limit.
        limit : LocalRateLimit or None
        site : CallSite
            Of the requests.
        traffic : TrafficClass
            Of the requests.
        """
        if limit is None:
            return NO_INDEX
        return self.rows.limit(limit, self._places_by_user(caller, owner, limit, site, traffic))

    def _places_by_user(
        self,
        holder: _Holder,
        owner: _Owner,
        limit: LocalRateLimit,
        site: CallSite,
        traffic: TrafficClass,
    ) -> list[list[int]]:
        """Return which buckets the requests of each user take tokens of."""
        requests = requests_by_user(site, traffic, self._naming, headers_read(limit))
        return [self._places(holder, owner, limit, request) for request in requests]

    def _places(
        self, holder: _Holder, owner: _Owner, limit: LocalRateLimit, request: RequestAttributes
    ) -> list[int]:
        """Return which buckets of a proxy or connection a request takes tokens of, in order."""
        known = self._buckets.setdefault(holder, {})
        places = []
        for name, bucket in fitting_buckets(limit, request):
            if (owner, name) not in known:
                known[owner, name] = len(known)
                self._fills.setdefault(holder, []).append((bucket, limit.refill))
            places.append(known[owner, name])
        return places

    def inbound(self, layout: Layout, sites: Sequence[CallSite], sidecars: bool) -> Rows:
        """Return the INBOUND row by endpoint, or NO_INDEX."""
        rows = np.full(len(layout.endpoint_names), NO_INDEX, np.int32)
        size = 0
        for index, place in enumerate(layout.workloads):
            policy = self._topology.policies[place.service]
            limit, adaptive = policy.rate_limit, policy.adaptive_concurrency
            workload = self._topology.services[place.service].workloads[place.workload]
            if (limit is None and adaptive is None) or not (sidecars and workload.meshed):
                continue
            table = self._inbound_table(index, place.service, limit, sites)
            rule = NO_INDEX if adaptive is None else len(self._gradient_rules)
            if adaptive is not None:
                self._gradient_rules.append(gradient_rule(adaptive))
            last = place.first_endpoint + place.replicas
            rows[place.first_endpoint : last] = len(self._inbound)
            self._inbound.append((size if len(table) else NO_INDEX, rule))
            self._inbound_limits.append(table)
            size += len(table)
        if self._gradient_rules:
            self._controllers = blank_controllers(len(rows))
            used = rows != NO_INDEX
            rules = np.array([rule for _, rule in self._inbound], np.int32)
            self._controllers[0]["rule"][used] = rules[rows[used]]
        return rows

    def _inbound_table(
        self, caller: int, service: str, limit: LocalRateLimit | None, sites: Sequence[CallSite]
    ) -> Rows:
        """Return the LIMIT row of every kind of request; empty without a limit.

        NO_INDEX: no such request comes in.
        """
        if limit is None:
            return np.zeros(0, np.int32)
        owner = (service, _INBOUND)
        by_connection = limit.local_rate_limit_per_downstream_connection
        holder: _Holder = (caller,) if by_connection else caller
        found = [
            self._places_by_user(holder, owner, limit, site, traffic)
            if self._comes_in(site, traffic, service)
            else []
            for site in sites
            for traffic in self._topology.traffic.values()
        ]
        begun_with = self._begun_with(holder, service) if by_connection else (0, 0)
        rows = [
            self.rows.limit(limit, places, begun_with) if places else NO_INDEX for places in found
        ]
        return np.array(rows, np.int32)

    def _comes_in(self, site: CallSite, traffic: TrafficClass, service: str) -> bool:
        """Return whether requests of `traffic` at `site` may be sent to `service`."""
        if isinstance(site.call, TrafficClass):
            target = site.call.to
            if site.call is not traffic:
                return False
        else:
            target = site.call.service
        routes = self._topology.policies[target].routes
        named = {item.service for chosen in routes for item in chosen.split}
        named.update(item.service for chosen in routes for item in chosen.mirrors)
        return service in {target, *named}

    def _begun_with(self, holder: _Holder, service: str) -> tuple[int, int]:
        """Return first row and number of the buckets that a connection begins with.

        Raises
        ------
        ConfigError
            If there are too many.
        """
        full = bucket_rows(self._fills.get(holder, []))
        if len(full) > _CONNECTION_BUCKETS_MAX:
            problem = Problem(
                "each connection would have too many buckets",
                path=f"policies.{service}.rate_limit.descriptors",
                found=str(len(full)),
                allowed=f"{_CONNECTION_BUCKETS_MAX} at most",
            )
            raise ConfigError([problem])
        first = sum(len(rows) for rows in self._full)
        self._full.append(full)
        return first, len(full)

    def build(
        self, callers: Iterable[tuple[int, int, int]], proxy_count: int
    ) -> tuple[dict[str, Rows], Rows, Rows]:
        """Return the arrays; and by proxy its first BUCKET row, and their number.

        Parameters
        ----------
        callers : iterable of (int, int, int)
            Caller, first proxy, number of proxies.
        proxy_count : int
        """
        start = np.zeros(proxy_count, np.int32)
        count = np.zeros(proxy_count, np.int32)
        blocks = [bucket_rows(())]
        total = 0
        for caller, first_proxy, replicas in callers:
            rows = bucket_rows(self._fills.get(caller, []))
            for proxy in range(first_proxy, first_proxy + replicas):
                start[proxy], count[proxy] = total, len(rows)
                blocks.append(rows)
                total += len(rows)
        arrays = self.rows.build()
        faulty, limited = len(arrays["faults"]) > 0, len(arrays["limits"]) > 0
        arrays["token_buckets"] = np.concatenate(blocks, dtype=BUCKET_DTYPE)
        arrays["full_buckets"] = np.concatenate([bucket_rows(()), *self._full], dtype=BUCKET_DTYPE)
        arrays["fault_counts"] = np.zeros(proxy_count if faulty else 0, FAULT_COUNTS_DTYPE)
        limit_count = DIRECTION_COUNT * proxy_count if limited else 0
        arrays["limit_counts"] = np.zeros(limit_count, LIMIT_COUNTS_DTYPE)
        arrays["inbound"] = np.array(self._inbound, INBOUND_DTYPE)
        none_yet = np.zeros(0, GRADIENT_RULE_DTYPE)
        arrays["gradient_rules"] = np.concatenate([none_yet, *self._gradient_rules])
        arrays["gradients"], arrays["gradient_bins"] = self._controllers
        none = np.zeros(0, np.int32)
        arrays["inbound_limits"] = np.concatenate([none, *self._inbound_limits])
        return arrays, start, count
