"""What one proxy decides of mirrors, slow responses and requests that come in.

Rule: as `emulator.decisions.engine`, of which this is a part: every question whose answer may
depend on state is a stimulus.  Faults and limits of requests that go out are asked on their way
(`ProxyEngine.route`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from emulator.decisions.exchanges import Decision, Exchange, Exchanges
from emulator.decisions.filters import AUTHORITY, ProxyFilters
from emulator.decisions.quotas import ProxyQuotas
from meshsim.policy.routing import RequestAttributes, is_mirrored, mirror_key
from meshsim.policy.transitions import STIMULUS_REQUEST
from meshsim.state.codes import NO_INDEX, RESET_NONE
from meshsim.state.filters import INBOUND, OUTBOUND

__all__ = ["FilterDecisions"]

#: What Envoy adds to a refusal by a rate limit service (ratelimit.cc: complete).
_RATELIMITED = (b"x-envoy-ratelimited", b"true")


class FilterDecisions(ABC):
    """What a `ProxyEngine` decides by the filters of routes and of its listener."""

    _exchanges: Exchanges
    _live: dict[int, Exchange]
    _filters: ProxyFilters
    _quotas: ProxyQuotas

    @abstractmethod
    def _key(self, exchange: int, item: Exchange) -> int:
        """Return the draw key of a request."""

    @abstractmethod
    def _step(
        self, item: Exchange, stimulus: int, status: int, reset: int, now_ns: int
    ) -> Decision:
        """Tell the request machine what happened."""

    @abstractmethod
    def _note(self, stimulus: str, *values: Any) -> None:
        """Write a stimulus: its arguments, then its result."""

    def mirror_count(self, exchange: int) -> int:
        """Return how many mirrors the route of an exchange has (no stimulus)."""
        item = self._live[exchange]
        return len(item.table.mirrors_of.get(item.route, ()))

    def mirror(self, exchange: int, number: int, now_ns: int) -> tuple[int, int]:
        """Begin the copy of a routed request for one mirror of its route.

        Returns
        -------
        exchange, key : int
            Of the copy, which is routed; 0 if this mirror gets none.
        """
        item = self._live[exchange]
        mirrors, row = item.table.mirrors, item.table.mirrors_of[item.route][number]
        key = np.uint64(mirror_key(np.uint64(self._key(exchange, item)), number))
        copy = 0
        if now_ns < item.bound_ns and is_mirrored(mirrors, row, key):
            copy = self._exchanges.begin(
                item.table, item.service, item.method, item.path, item.headers, int(key)
            )
            other = self._live[copy]
            other.route = self._exchanges.routes[other.row] = int(mirrors["route"][row])
            self._exchanges.deadlines[other.row] = item.bound_ns
            other.cluster = self._exchanges.clusters[other.row] = int(mirrors["cluster"][row])
            self._step(other, STIMULUS_REQUEST, 0, RESET_NONE, now_ns)
        self._note("mirror", exchange, number, now_ns, [copy, int(key)])
        return copy, int(key)

    def location(self, exchange: int) -> str | None:
        """Return where a routed request is redirected to, or None (no stimulus)."""
        item = self._live[exchange]
        redirect = item.table.redirects[item.route] if item.route != NO_INDEX else None
        if redirect is None:
            return None
        host = redirect.host or item.headers.get(AUTHORITY, item.service)
        return f"http://{host}{redirect.path or item.path}"

    def is_paced(self, exchange: int) -> bool:
        """Return whether the rate of the response may be limited (no stimulus)."""
        item = self._live[exchange]
        filters = item.table.filters[item.route] if item.route != NO_INDEX else None
        fault = filters.fault if filters is not None else None
        return fault is not None and fault.response_rate_limit is not None

    def pace(self, exchange: int, size_bytes: int, now_ns: int) -> int:
        """Return how long after its first byte a response has left whole [ns]."""
        item = self._live[exchange]
        filters = item.table.filters[item.route]
        assert filters is not None
        assert filters.fault is not None
        wait_ns = self._filters.pace_ns(filters.fault, size_bytes, self._key(exchange, item))
        self._note("pace", exchange, size_bytes, now_ns, wait_ns)
        return wait_ns

    def refusal_headers(self, exchange: int = NO_INDEX) -> list[tuple[bytes, bytes]]:
        """Return the headers that a limit adds to the refusal that it has just answered with.

        Of an exchange; without one, of a request that came in (no stimulus).
        """
        if exchange == NO_INDEX:
            limit = self._filters.listener
        else:
            item = self._live[exchange]
            if item.over_quota:
                return [_RATELIMITED]
            filters = item.table.filters[item.route]
            limit = filters.limit if filters is not None else None
        if limit is None:
            return []
        added = dict(limit.limit.response_headers_to_add)
        if limit.limit.tells_reset:
            added["x-ratelimit-limit"] = str(limit.limit.token_bucket.max_tokens)
            added["x-ratelimit-remaining"] = "0"
            added["x-ratelimit-reset"] = str(self._filters.reset_s)
        return [(name.lower().encode(), value.encode()) for name, value in added.items()]

    @property
    def has_inbound_filters(self) -> bool:
        """Whether `admit` is to be asked of requests that come in (no stimulus)."""
        return self._filters.has_inbound

    def admit(
        self, method: str, path: str, authority: str, headers: Mapping[str, str], key: int,
        connection: int, now_ns: int,
    ) -> int:  # fmt: skip
        """Decide on a request that comes in; return the status it is refused with, or 0.

        Parameters
        ----------
        method, path, authority : str
        headers : mapping of str to str
            Names in lower case.
        key : int
            Draw key of the try.
        connection : int
            Number of the caller's connection, which no other has that is open.
        now_ns : int
        """
        seen = self._filters.looked_at(headers)
        if seen is None:
            return 0
        status = self._filters.inbound(
            RequestAttributes(method, path, authority, seen), key, connection, now_ns
        )
        self._note("admit", method, path, authority, seen, key, connection, now_ns, status)
        return status

    def disconnected(self, connection: int) -> None:
        """Forget what limits keep of a caller's connection, which is closed."""
        if self._filters.disconnected(connection):
            self._note("disconnected", connection, None)

    def filter_counters(self, inbound: bool = False) -> dict[str, int]:
        """Return Envoy's counters of the filters of one side that are not 0."""
        if inbound:
            return self._filters.counters(INBOUND)
        return self._filters.counters(OUTBOUND) | self._quotas.counters()
