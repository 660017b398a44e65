"""The requests that one proxy has under way: EXCHANGE rows, and what else decides about them.

Rule: an exchange has a number that is never given twice, and a row that is.  The row is what
the request machine (`meshsim.policy.request`) reads and writes; beside it are the route table
it was started under and the hosts it has tried.  Fields that every request reads are kept as
views, because finding a field of a structured array by its name costs as much as a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from emulator.decisions.grouping import Asked
from emulator.decisions.quotas import Question
from emulator.decisions.route_table import RouteTable
from meshsim.errors import LimitError
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.state.codes import FLAG_NONE, NEVER_NS, NO_HOST, NO_INDEX
from meshsim.state.exchange import EXCHANGE_DELAYED, EXCHANGE_DTYPE, EXCHANGE_ROUTING
from meshsim.topology.compiled.layout import Rows

__all__ = ["ASK", "EXCHANGES_MAX", "Decision", "Exchange", "Exchanges"]

#: Requests that one proxy may have under way; more are a leak, or a flood.
EXCHANGES_MAX = 1 << 16
_ROWS_FIRST = 64
#: In place of an action: a rate limit service is to be asked before the request goes on.
ASK = -1


class Decision(NamedTuple):
    """What to do next with an exchange.

    Parameters
    ----------
    action : int
        `ACTION_*` code of `meshsim.policy.request`, or ASK.
    deadline_ns : int
        When the back-off or the delay ends, for ACTION_BACK_OFF and ACTION_DELAY; when the try
        times out if it gets its connection now, for ACTION_SEND; when the service has failed, for
        ASK; else `NEVER_NS` [ns].
    status, response_flag : int
        What to send down, for ACTION_RESPOND; else 0.
    """

    action: int
    deadline_ns: int
    status: int
    response_flag: int


class Exchange:
    """One request at this proxy.

    Attributes
    ----------
    row : int
        EXCHANGE row.
    table : RouteTable
        In force when it began.
    service, method, path, headers
        What it asks for.
    key : int or None
        Draw key of the request.
    bound_ns : int
        The deadline that it brought, or NEVER_NS.
    route, cluster : int
        ROUTE row of `table` and CLUSTER row, once routed; or `NO_INDEX`.
    hash_key : uint64
    asked : Asked or None
        What its route asks of the hosts of a cluster that picks by subset.
    tried : list of int
        Hosts of its tries, in order.
    high : bool
        Whether its priority is HIGH.
    holds_fault : bool
        Whether it counts among the active faults of the proxy.
    question : Question or None
        What the rate limit service is asked about it, until it has been heard.
    over_quota : bool
        Whether that said that it is over the limit.
    host : int
        Of the live try in a cluster whose health is watched, or `NO_HOST`.
    sent : bool
        Whether that try has its connection, and nothing was said of it yet.
    earlier : list of (int, bool)
        Host and `sent` of the tries under way before it, on a route that hedges.
    """

    __slots__ = (
        "asked",
        "bound_ns",
        "cluster",
        "earlier",
        "hash_key",
        "headers",
        "high",
        "holds_fault",
        "host",
        "key",
        "method",
        "over_quota",
        "path",
        "question",
        "route",
        "row",
        "sent",
        "service",
        "table",
        "tried",
    )

    def __init__(
        self,
        row: int,
        table: RouteTable,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        key: int | None,
    ) -> None:
        self.row = row
        self.table = table
        self.service = service
        self.method = method
        self.path = path
        self.headers = headers
        self.key = key
        self.bound_ns = NEVER_NS
        self.route = NO_INDEX
        self.cluster = NO_INDEX
        self.hash_key = NO_HASH_KEY
        self.asked: Asked | None = None
        self.tried: list[int] = []
        self.high = False
        self.holds_fault = False
        self.question: Question | None = None
        self.over_quota = False
        self.host = NO_HOST
        self.sent = False
        self.earlier: list[tuple[int, bool]] = []


class Exchanges:
    """Every exchange of one proxy.

    Attributes
    ----------
    rows : ndarray[EXCHANGE_DTYPE]
    states, routes, clusters, statuses, flags, deadlines, retry_counts, retries_remaining, actives,
    reset_intervals
        Views of fields of `rows`.
    live : dict of int to Exchange
        By number, in the order they began.
    """

    def __init__(self) -> None:
        self.live: dict[int, Exchange] = {}
        self.count = 0  # begun so far
        self._free = list(range(_ROWS_FIRST - 1, -1, -1))
        self._bind(np.zeros(_ROWS_FIRST, EXCHANGE_DTYPE))

    def _bind(self, rows: Rows) -> None:
        self.rows: Rows = rows
        self.states: Any = rows["state"]
        self.routes: Any = rows["route"]
        self.clusters: Any = rows["cluster"]
        self.statuses: Any = rows["status"]
        self.flags: Any = rows["response_flag"]
        self.deadlines: Any = rows["deadline_ns"]
        self.retry_counts: Any = rows["retry_count"]
        self.actives: Any = rows["attempts_active"]
        self.retries_remaining: Any = rows["retries_remaining"]
        self.reset_intervals: Any = rows["reset_interval_ns"]

    def begin(
        self,
        table: RouteTable,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        key: int | None,
    ) -> int:
        """Begin an exchange, ready to be routed; return its number.

        Raises
        ------
        LimitError
            If `EXCHANGES_MAX` are under way.
        """
        if not self._free:
            self._grow()
        row = self._free.pop()
        self.count = number = self.count + 1
        self.live[number] = Exchange(row, table, service, method, path, headers, key)
        self.states[row] = EXCHANGE_ROUTING
        self.statuses[row] = 0
        self.flags[row] = FLAG_NONE
        self.retry_counts[row] = 0
        self.retries_remaining[row] = 0
        self.actives[row] = 0
        self.reset_intervals[row] = 0
        self.deadlines[row] = NEVER_NS
        return number

    def end(self, number: int) -> None:
        """Give the row of an exchange back."""
        self._free.append(self.live.pop(number).row)

    def in_use(self) -> tuple[set[int], set[int]]:
        """Return the HOST rows and CLUSTER rows that exchanges name or may come to name."""
        hosts: set[int] = set()
        clusters: set[int] = set()
        for exchange in self.live.values():
            hosts.update(exchange.tried)
            clusters.update((exchange.cluster, int(self.clusters[exchange.row])))
            clusters.update(exchange.table.mirrors["cluster"].tolist())
            if self.states[exchange.row] in (EXCHANGE_ROUTING, EXCHANGE_DELAYED):
                clusters.update(exchange.table.split_clusters)
                clusters.update(exchange.table.split_limits)
        return hosts, clusters

    def _grow(self) -> None:
        count = len(self.rows)
        if count >= EXCHANGES_MAX:
            raise LimitError(f"{EXCHANGES_MAX} requests are under way at one proxy (EXCHANGES_MAX)")
        longer = np.zeros(2 * count, EXCHANGE_DTYPE)
        longer[:count] = self.rows
        self._free += range(2 * count - 1, count - 1, -1)
        self._bind(longer)
