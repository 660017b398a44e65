"""The filters of one live proxy: faults and local rate limits, as rows and as questions.

Rule: `meshsim.policy.fault` and `meshsim.policy.rate_limit` decide, over rows of this proxy; this
module finds which rows.  A bucket belongs to a name (service, route, limit, descriptor, values):
a configuration that keeps the limit keeps the bucket with what is in it, any other limit begins
with a full one.  Buckets of distinct values are forgotten all at once when there are too many.

Under a limit per connection a downstream connection has buckets of its own from the first request
that meets the limit until it is closed.  Another limit of the listener begins with none (Envoy
drains the connections of a listener that is changed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meshsim.policy.fault import NO_FAULT, abort_status, delay_ns, on_fault_ended, pace_ns
from meshsim.policy.rate_limit import (
    NOT_LIMITED,
    begin_bucket,
    check_limit,
    seconds_until_reset,
)
from meshsim.policy.routing import RequestAttributes
from meshsim.policy.transitions import (
    STIMULUS_FAULT_ABORT,
    STIMULUS_FAULT_DELAY,
    STIMULUS_RATE_LIMITED,
    STIMULUS_REQUEST,
)
from meshsim.state.codes import NO_INDEX
from meshsim.state.filters import (
    DIRECTION_COUNT,
    FAULT_COUNTS_DTYPE,
    FAULT_STATS,
    INBOUND,
    LIMIT_COUNTS_DTYPE,
    LIMIT_STATS,
    OUTBOUND,
)
from meshsim.topology.compiled.filters import FilterRows, bucket_rows, fitting_buckets, headers_read

if TYPE_CHECKING:
    from emulator.decisions.exchanges import Exchange
    from meshsim.topology.compiled.layout import Rows
    from meshsim.topology.model import Fault, GlobalRateLimit, LocalRateLimit, Route, TokenBucket

__all__ = [
    "AUTHORITY",
    "BUCKETS_MAX",
    "Limit",
    "ProxyFilters",
    "RouteFilters",
    "attributes_of",
    "filtered",
]

#: Header with the authority that routes see, where it is not the called service's name.
AUTHORITY = "x-meshsim-authority"
#: Buckets that one proxy, or one connection, may have; beyond, it begins anew.
BUCKETS_MAX = 1 << 12
_ROW = 0


class Limit(NamedTuple):
    """A limit, by what names it, and the parts of a request that it looks at."""

    owner: str
    limit: LocalRateLimit
    names: tuple[str, ...]


class RouteFilters(NamedTuple):
    """What the requests of one route pass before they are forwarded."""

    fault: Fault | None
    limit: Limit | None
    quota: GlobalRateLimit | None = None


def attributes_of(item: Exchange) -> RequestAttributes:
    """Return what limits look at of a request."""
    authority = item.headers.get(AUTHORITY, item.service)
    return RequestAttributes(item.method, item.path, authority, item.headers)


def _limit(owner: str, limit: LocalRateLimit | None) -> Limit | None:
    if limit is None:
        return None
    return Limit(f"{owner} {limit.model_dump_json()}", limit, tuple(sorted(headers_read(limit))))


def filtered(service: str, routes: Sequence[Route]) -> Iterator[RouteFilters | None]:
    """Yield the filters of each route of `service`, None for one that has none."""
    for number, route in enumerate(routes):
        if route.fault is None and route.rate_limit is None and route.global_rate_limit is None:
            yield None
        else:
            limit = _limit(f"{service}[{number}]", route.rate_limit)
            yield RouteFilters(route.fault, limit, route.global_rate_limit)


class _Buckets:
    """The buckets of one proxy, or of one connection.

    Parameters
    ----------
    begun_ns : int
        Since when there are any [ns].
    """

    def __init__(self, begun_ns: int = 0) -> None:
        self.begun_ns = begun_ns
        self.rows: Rows = bucket_rows(())
        #: LIMIT row by what is seen of a request.
        self.limits: dict[tuple[str, ...], int] = {}
        self._places: dict[tuple[str, Any], int] = {}

    def place(self, name: tuple[str, Any], bucket: TokenBucket, refill: str | None) -> int:
        """Return the place of the bucket `name`; it begins full."""
        if name not in self._places:
            self._places[name] = len(self.rows)
            full = bucket_rows([(bucket, refill)])
            self.rows = np.concatenate((self.rows, full), dtype=full.dtype)
            begin_bucket(full, _ROW, self.rows, self._places[name], self.begun_ns)
        return self._places[name]

    def forget(self) -> None:
        """Begin anew."""
        self.rows = bucket_rows(())
        self.limits.clear()
        self._places.clear()


class ProxyFilters:
    """Buckets, active faults and counts of one proxy.

    Attributes
    ----------
    listener : Limit or None
        Of the requests that come in.
    reset_s : int
        What the last refusal says in ``x-ratelimit-reset``, if its limit says so [s].
    """

    def __init__(self) -> None:
        self.limit_counts = np.zeros(DIRECTION_COUNT, LIMIT_COUNTS_DTYPE)
        self.fault_counts = np.zeros(1, FAULT_COUNTS_DTYPE)
        self.listener: Limit | None = None
        self.reset_s = 0
        self._rows = FilterRows()
        self._arrays = self._rows.build()
        self._faults: dict[str, int] = {}
        self._own = _Buckets()
        self._of_connections: dict[int, _Buckets] = {}

    def apply(self, listener: LocalRateLimit | None) -> None:
        """Put another limit of the inbound side in force."""
        before, self.listener = self.listener, _limit("inbound", listener)
        if self.listener != before:
            self._of_connections.clear()

    def disconnected(self, connection: int) -> bool:
        """Forget the buckets of a connection that is closed; return whether it had any."""
        return self._of_connections.pop(connection, None) is not None

    # --- Questions -------------------------------------------------------------------------

    def outbound(
        self, filters: RouteFilters, item: Exchange, key: int, delayed: bool, now_ns: int
    ) -> tuple[int, int]:
        """Send a routed request through its filters.

        Parameters
        ----------
        filters : RouteFilters
            Of its route.
        item : Exchange
            Holds a place among the active faults from its delay until `ended`.
        key : int
            Its draw key.
        delayed : bool
            Whether it has waited out a delay.
        now_ns : int

        Returns
        -------
        stimulus, value : int
            What to tell the machine; STIMULUS_REQUEST: nothing held it back.
        """
        draws = np.uint64(key)
        if filters.fault is not None:
            fault = self._fault(filters.fault)
            rows, counts = self._arrays["faults"], self.fault_counts
            if not delayed:
                wait_ns = int(delay_ns(rows, fault, counts, _ROW, draws))
                if wait_ns != NO_FAULT:
                    item.holds_fault = True
                    return STIMULUS_FAULT_DELAY, wait_ns
            status = int(abort_status(rows, fault, counts, _ROW, draws, item.holds_fault))
            if status != NO_FAULT:
                return STIMULUS_FAULT_ABORT, status
        if filters.limit is not None:
            limit, request = filters.limit, attributes_of(item)
            status = self._check(limit, self._own, request, OUTBOUND, draws, now_ns)
            if status != NOT_LIMITED:
                return STIMULUS_RATE_LIMITED, status
        return STIMULUS_REQUEST, 0

    def inbound(self, request: RequestAttributes, key: int, connection: int, now_ns: int) -> int:
        """Return the status a request that comes in is refused with, or NOT_LIMITED."""
        limit = self.listener
        assert limit is not None
        held = self._own
        if limit.limit.local_rate_limit_per_downstream_connection:
            if connection not in self._of_connections:
                self._of_connections[connection] = _Buckets(now_ns)
            held = self._of_connections[connection]
        return self._check(limit, held, request, INBOUND, np.uint64(key), now_ns)

    def pace_ns(self, fault: Fault, size_bytes: int, key: int) -> int:
        """Return how long after its first byte a response has left whole [ns]."""
        row = self._fault(fault)
        faults, counts = self._arrays["faults"], self.fault_counts
        return int(pace_ns(faults, row, counts, _ROW, np.uint64(key), size_bytes))

    def ended(self, item: Exchange) -> None:
        """Give back the place of an ended request among the active faults, if it holds one."""
        if item.holds_fault:
            item.holds_fault = False
            on_fault_ended(self.fault_counts, _ROW)

    @property
    def has_inbound(self) -> bool:
        """Whether requests that come in are looked at."""
        return self.listener is not None

    def looked_at(self, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Return the headers that the inbound limit reads; None if there is no limit."""
        if self.listener is None:
            return None
        return {name: headers[name] for name in self.listener.names if name in headers}

    def _check(
        self,
        limit: Limit,
        held: _Buckets,
        request: RequestAttributes,
        direction: int,
        key: np.uint64,
        now_ns: int,
    ) -> int:
        row = self._limit_row(limit, held, request)
        rows = (self._arrays["limits"], row, self._arrays["limit_buckets"], held.rows, 0)
        status = int(check_limit(*rows, self.limit_counts, direction, key, now_ns))
        if status != NOT_LIMITED and limit.limit.tells_reset:
            self.reset_s = int(seconds_until_reset(*rows, now_ns))
        return status

    # --- Rows ------------------------------------------------------------------------------

    def _fault(self, fault: Fault) -> int:
        """Return the FAULT row of `fault`."""
        row = self._rows.fault(fault)
        if row >= len(self._arrays["faults"]):
            self._arrays = self._rows.build()
        return row

    def _limit_row(self, limit: Limit, held: _Buckets, request: RequestAttributes) -> int:
        """Return the LIMIT row that holds for `request`."""
        seen = (limit.owner, *(_part(request, name) for name in limit.names))
        row = held.limits.get(seen, NO_INDEX)
        if row == NO_INDEX:
            if len(held.limits) >= BUCKETS_MAX:
                held.forget()
            found = fitting_buckets(limit.limit, request)
            refill = limit.limit.refill
            places = [held.place((limit.owner, name), item, refill) for name, item in found]
            row = held.limits[seen] = self._rows.limit(limit.limit, [places])
            if row >= len(self._arrays["limits"]):
                self._arrays = self._rows.build()
        return row

    # --- Reports ---------------------------------------------------------------------------

    def counters(self, direction: int) -> dict[str, int]:
        """Return Envoy's counters of the filters of one direction, if any of them was used."""
        limits = self.limit_counts[direction]
        counts = {name: int(limits[field]) for name, field in LIMIT_STATS.items()}
        if direction == OUTBOUND:
            faults = self.fault_counts[_ROW]
            counts |= {name: int(faults[field]) for name, field in FAULT_STATS.items()}
        return {name: count for name, count in counts.items() if count}

    def state(self) -> Iterator[bytes]:
        """Yield the bytes of everything that changes."""
        for rows in (self.limit_counts, self.fault_counts, self._own.rows):
            yield rows.tobytes()
        for connection, held in self._of_connections.items():
            yield f"{connection}".encode()
            yield held.rows.tobytes()


def _part(request: RequestAttributes, name: str) -> str:
    """Return the part of a request that a descriptor names, or a text that none has."""
    own: Mapping[str, str] = {
        ":path": request.path.partition("?")[0],
        ":method": request.method,
        ":authority": request.authority,
    }
    return own[name] if name in own else request.headers.get(name, "\0")
