"""The routes of one configuration, as rows that the policy engine reads.

Rule: a table never changes.  A new configuration makes a new one; an exchange keeps the table
it was routed by until it ends, as Envoy's requests hold on to their route.  Matching looks at
strings, so its answer is remembered by what the routes of a service look at, and by nothing
else: a request id in the headers must not make every request a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from emulator.decisions.filters import AUTHORITY, RouteFilters, filtered
from emulator.decisions.grouping import Asked, asked_of
from meshsim.controlplane.configuration import ProxyConfiguration, destinations, mirror_names
from meshsim.policy.hashing import xxh64
from meshsim.policy.routing import NO_ROUTE, RequestAttributes, match_route
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.upstream import ROUTE_DTYPE, SPLIT_DTYPE
from meshsim.topology.compiled.filters import FilterRows, headers_read
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.policies import copy_of, fill_route, hash_source, weighted

if TYPE_CHECKING:
    from meshsim.topology.model import ClusterPolicy, Redirect, Route

__all__ = ["AUTHORITY", "SOURCE", "RouteTable"]

#: Header with the address of whoever asked, for `hash_source_ip`; Envoy trusts it in a mesh.
SOURCE = "x-forwarded-for"
#: What stands for the address if nobody says (one client, as in the simulator).
_SOURCE_DEFAULT = "source"
#: Answers remembered of one configuration; then it forgets all and learns anew.
_MEMO_MAX = 4096


#: Policy of a route's first destination if it makes hash keys, else None.
_Hashing: TypeAlias = "ClusterPolicy | None"


class _Service:
    """The routes of one called service, and what of a request they look at."""

    def __init__(self, routes: tuple[Route, ...], first: int, hashing: list[_Hashing]) -> None:
        self.routes = routes
        self.first = first
        matches = [match for route in routes for match in route.match]
        self.conditional = bool(matches)
        self.path = any(match.path is not None or match.query for match in matches)
        self.method = any(match.method is not None for match in matches)
        self.authority = any(match.authority is not None for match in matches)
        self.headers = tuple(sorted({name.lower() for match in matches for name in match.headers}))
        limits = [item for route in routes for item in (route.rate_limit, route.global_rate_limit)]
        by_limits = {name for limit in limits if limit is not None for name in headers_read(limit)}
        authority = self.authority or ":authority" in by_limits
        read = {*self.headers, *([AUTHORITY] if authority else [])}
        read.update(name for name in by_limits if not name.startswith(":"))
        read.update(_read_by(policy) for policy in hashing if policy is not None)
        #: Every header that a decision reads.
        self.read = tuple(sorted(read))


class RouteTable:
    """Routes as rows, and which of them a request meets.

    Parameters
    ----------
    configuration : ProxyConfiguration
    cluster_rows : mapping of str to int
        CLUSTER row of each cluster of the configuration.
    high_rows : mapping of str to int, optional
        That of its HIGH priority, of those that have one.

    Attributes
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
    splits : ndarray[SPLIT_DTYPE], shape (n_splits,)
        `cluster` is a CLUSTER row, or `NO_INDEX` for a cluster the configuration lacks.
    codes : ndarray[int32], shape (n_codes,)
    split_limits : list of int
        By split: the CLUSTER row whose limits hold, which is another for priority HIGH.
    split_asked : list of Asked or None
        What each split asks of the hosts of a cluster that picks by subset.
    """

    def __init__(
        self,
        configuration: ProxyConfiguration,
        cluster_rows: Mapping[str, int],
        high_rows: Mapping[str, int] | None = None,
    ) -> None:
        self._labels = configuration.labels
        self._services: dict[str, _Service] = {}
        self._hashing: list[_Hashing] = []
        self._memo: dict[tuple[str, ...], int] = {}
        self._keys: dict[str, int] = {}
        tables = configuration.routes.values()
        first_copy = sum(map(len, tables))
        copies = sum(len(route.mirrors) for table in tables for route in table)
        self.routes = np.zeros(max(first_copy + copies, 1), ROUTE_DTYPE)
        #: By ROUTE row: where its requests are sent, or None.
        self.redirects: list[Redirect | None] = []
        #: By ROUTE row: what filters its requests pass, or None.
        self.filters: list[RouteFilters | None] = []
        splits: list[tuple[int, int, int]] = []
        codes: list[int] = []
        self.split_limits: list[int] = []
        self.split_asked: list[Asked | None] = []
        for service, routes in configuration.routes.items():
            first = len(self._hashing)
            for row, route in enumerate(routes, first):
                fields = self.routes[row : row + 1]
                names = list(destinations(service, route))
                weights = [item.weight for item in weighted(route)]
                fill_route(fields, route, codes)
                fields["split_start"] = len(splits)
                fields["split_count"] = len(names)
                fields["weight_total"] = sum(weights)
                clusters = [cluster_rows.get(name, NO_INDEX) for name in names]
                chains = [NO_INDEX] * len(names)  # by `Holdings.chain_of`
                splits += zip(clusters, chains, weights, strict=True)
                if route.priority == "HIGH":
                    clusters = [(high_rows or {}).get(name, NO_INDEX) for name in names]
                self.split_limits += clusters
                self.split_asked += [
                    asked_of(item) if _by_subset(configuration, name) else None
                    for item, name in zip(weighted(route), names, strict=True)
                ]
                self._hashing.append(_hashing_of(configuration, names))
            self._services[service] = _Service(routes, first, self._hashing[first:])
            self.filters += filtered(service, routes)
            self.redirects += (route.redirect for route in routes)
        #: Rows of the mirrors of a ROUTE row.
        self.mirrors_of: dict[int, range] = {}
        self.mirrors = self._add_mirrors(configuration, cluster_rows, first_copy)
        self.splits = np.array(splits or [(0, NO_INDEX, 0)], SPLIT_DTYPE)
        self.codes = np.array(codes or [0], np.int32)
        # What every request asks for, as plain numbers: reading an array item costs more.
        rows = self.routes
        self.split_starts: list[int] = rows["split_start"].tolist()
        self.split_counts: list[int] = rows["split_count"].tolist()
        self.split_clusters: list[int] = self.splits["cluster"].tolist()
        self.weight_totals: list[int] = rows["weight_total"].tolist()
        self.selection_tries: list[int] = (
            rows["previous_hosts"] * rows["host_selection_attempts"]
        ).tolist()
        self.hedging: list[int] = rows["hedging"].tolist()
        #: By ROUTE row: the headers that say when a rate limit is reset, in order.
        self.reset_headers = [_reset_headers(route) for table in tables for route in table]
        self.has_per_try: list[bool] = (rows["per_try_timeout_ns"] != NEVER_NS).tolist()

    def _add_mirrors(
        self, configuration: ProxyConfiguration, cluster_rows: Mapping[str, int], first_copy: int
    ) -> Rows:
        """Return the MIRROR rows, and fill the ROUTE rows of the copies, from `first_copy` on."""
        rows = FilterRows()
        routes = [(name, route) for name, table in configuration.routes.items() for route in table]
        for row, (service, route) in enumerate(routes):
            mirrors = []
            for item, name in zip(route.mirrors, mirror_names(service, route), strict=True):
                fill_route(self.routes[first_copy : first_copy + 1], copy_of(route), [])
                mirrors.append((item.percentage, first_copy, cluster_rows.get(name, NO_INDEX)))
                first_copy += 1
            start, count = rows.mirrors(mirrors)
            if count:
                self.mirrors_of[row] = range(start, start + count)
        return rows.build()["mirrors"]

    def match(self, service: str, method: str, path: str, headers: Mapping[str, str]) -> int:
        """Return the row of the first route that a request meets, or `NO_INDEX`.

        Parameters
        ----------
        service : str
            The called service.
        method, path : str
        headers : mapping of str to str
            Names in lower case.
        """
        found = self._services.get(service)
        if found is None:
            return NO_INDEX
        if not found.conditional:
            return found.first if found.routes else NO_INDEX
        authority = headers.get(AUTHORITY, service)
        seen = (
            service,
            method if found.method else "",
            path if found.path else "",
            authority if found.authority else "",
            # Which headers are absent must tell keys apart, too.
            *[headers.get(name, "\0") for name in found.headers],
        )
        row = self._memo.get(seen)
        if row is None:
            request = RequestAttributes(method, path, authority, headers)
            number = match_route(found.routes, request, self._labels)
            row = NO_INDEX if number == NO_ROUTE else found.first + number
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[seen] = row
        return row

    def looked_at(self, service: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request to `service` that any decision reads."""
        found = self._services.get(service)
        if found is None:
            return {}
        return {name: headers[name] for name in found.read if name in headers}

    def hash_key(self, row: int, headers: Mapping[str, str]) -> int:
        """Return the hash key of a request on route `row`; 0 if it has none.

        The policy of the route's first destination says what is hashed.
        """
        policy = self._hashing[row]
        if policy is None:
            return 0
        text = hash_source(policy, headers, headers.get(SOURCE, _SOURCE_DEFAULT))
        if text is None:
            return 0
        key = self._keys.get(text)
        if key is None:
            if len(self._keys) >= _MEMO_MAX:
                self._keys.clear()
            key = self._keys[text] = xxh64(text)
        return key


def _reset_headers(route: Route) -> tuple[tuple[str, bool], ...]:
    """Return name, and whether it is a timestamp, of the headers that a route looks for."""
    limited = route.retry.rate_limited_retry_back_off if route.retry else None
    named = limited.reset_headers if limited else ()
    return tuple((item.name.lower(), item.format == "UNIX_TIMESTAMP") for item in named)


def _by_subset(configuration: ProxyConfiguration, name: str) -> bool:
    policy = configuration.clusters.get(name)
    return policy is not None and policy.subset_config is not None


def _hashing_of(configuration: ProxyConfiguration, names: list[str]) -> _Hashing:
    """Return the policy that says what is hashed of requests to `names`, or None."""
    policy = configuration.clusters.get(names[0]) if names else None
    settings = policy.load_balancing if policy is not None else None
    hashes = settings is not None and (settings.hash_source_ip or settings.hash_header)
    return policy if hashes else None


def _read_by(policy: ClusterPolicy) -> str:
    """Return the header that a cluster's hash keys are made of."""
    settings = policy.load_balancing
    assert settings is not None
    return SOURCE if settings.hash_source_ip else (settings.hash_header or "").lower()
