"""The way of a request of one live proxy until it is sent: matched, filtered, asked about, split.

Rule: as `emulator.decisions.engine`, of which this is a part.  The order is Envoy's: the route,
the fault filter, the local rate limit, the global one, the router, which picks the weighted
cluster.  A request whose service is asked waits in ROUTING, like one that has just come.
"""

from __future__ import annotations

import numpy as np

from emulator.decisions.exchanges import ASK, Decision, Exchange
from emulator.decisions.filtering import FilterDecisions
from emulator.decisions.filters import attributes_of
from emulator.decisions.quotas import ProxyQuotas, Question
from emulator.decisions.stimuli import StimulusLog
from emulator.decisions.streams import own_key, split_uniform
from meshsim.errors import InvariantError
from meshsim.policy.global_rate_limit import SERVICE_OVER_LIMIT
from meshsim.policy.routing import choose_split
from meshsim.policy.transitions import STIMULUS_DELAY_EXPIRED, STIMULUS_REQUEST
from meshsim.state.codes import NO_INDEX, RESET_NONE
from meshsim.state.exchange import EXCHANGE_DELAYED

__all__ = ["RouteDecisions"]


class RouteDecisions(FilterDecisions):
    """What a `ProxyEngine` decides of a request before its first try."""

    index: int
    name: str
    _log: StimulusLog | None
    _identity: tuple[int, int]
    _quotas: ProxyQuotas

    def bound(self, exchange: int, deadline_ns: int) -> None:
        """Note the deadline that a request brings, before it is routed [ns]."""
        item = self._live[exchange]
        item.bound_ns = self._exchanges.deadlines[item.row] = deadline_ns
        self._note("bound", exchange, deadline_ns, None)

    def route(self, exchange: int, now_ns: int) -> Decision:
        """Route a request that is complete enough to be sent: match, filter, split, begin.

        After ACTION_DELAY this is called again when the delay has ended, after ASK `heard` is,
        when the service has answered (`question`) or its time is over.
        """
        item = self._live[exchange]
        table = item.table
        delayed = self._exchanges.states[item.row] == EXCHANGE_DELAYED
        if delayed:
            self._step(item, STIMULUS_DELAY_EXPIRED, 0, RESET_NONE, now_ns)
        else:
            item.route = table.match(item.service, item.method, item.path, item.headers)
            self._exchanges.routes[item.row] = item.route
        stimulus, value = STIMULUS_REQUEST, 0
        filters = table.filters[item.route] if item.route != NO_INDEX else None
        decision = None
        if filters is not None:
            key = self._key(exchange, item)
            stimulus, value = self._filters.outbound(filters, item, key, delayed, now_ns)
            if stimulus == STIMULUS_REQUEST and filters.quota is not None:
                item.question = self._quotas.question(filters.quota, attributes_of(item), key)
                if item.question is not None:
                    deadline_ns = now_ns + self._quotas.timeout_ns(filters.quota)
                    decision = Decision(ASK, deadline_ns, 0, 0)
        if decision is None:
            decision = self._forward(exchange, item, stimulus, value, RESET_NONE, now_ns)
        self._note_routed(f'"route",{exchange}', item, decision, now_ns)
        return decision

    def question(self, exchange: int) -> Question:
        """Return what the rate limit service is to be asked, after ASK (no stimulus)."""
        question = self._live[exchange].question
        assert question is not None, f"{self.name}: nothing is asked about exchange {exchange}"
        return question

    def heard(self, exchange: int, answer: int, now_ns: int) -> Decision:
        """Go on with a request that a rate limit service was asked about.

        Parameters
        ----------
        exchange : int
        answer : int
            SERVICE_OK, SERVICE_OVER_LIMIT, or SERVICE_FAILED if it is late or cannot be reached.
        now_ns : int

        Raises
        ------
        InvariantError
            If nothing was asked about it.
        """
        item = self._live[exchange]
        filters = item.table.filters[item.route] if item.route != NO_INDEX else None
        if item.question is None or filters is None or filters.quota is None:
            raise InvariantError(f"{self.name}: nothing was asked about exchange {exchange}")
        item.question = None
        item.over_quota = answer == SERVICE_OVER_LIMIT
        told = self._quotas.heard(filters.quota, answer)
        decision = self._forward(exchange, item, *told, now_ns)
        self._note_routed(f'"heard",{exchange},{answer}', item, decision, now_ns)
        return decision

    def _forward(
        self, exchange: int, item: Exchange, stimulus: int, value: int, reset: int, now_ns: int
    ) -> Decision:
        """Tell the machine what the filters said; a request that may pass gets its cluster."""
        table, route = item.table, item.route
        cluster = limits = NO_INDEX
        if stimulus == STIMULUS_REQUEST and route != NO_INDEX and table.split_counts[route] > 0:
            split = table.split_starts[route]
            if table.split_counts[route] > 1:
                count, total = table.split_counts[route], table.weight_totals[route]
                uniform = split_uniform(self._key(exchange, item))
                split = choose_split(table.splits, split, count, total, uniform)
            cluster, limits = table.split_clusters[split], table.split_limits[split]
            item.asked = table.split_asked[split]
            item.hash_key = np.uint64(table.hash_key(route, item.headers))
        item.cluster, item.high = cluster, limits != cluster
        self._exchanges.clusters[item.row] = limits
        return self._step(item, stimulus, value, reset, now_ns)

    def _note_routed(self, told: str, item: Exchange, decision: Decision, now_ns: int) -> None:
        if self._log is not None:
            self._log.write(
                f"[{self.index},{told},{now_ns},"
                f"[{item.route},{item.cluster},{','.join(map(str, decision))}]]"
            )

    def _key(self, exchange: int, item: Exchange) -> int:
        """Return the draw key of a request; one that has none gets one of the proxy's own."""
        return own_key(*self._identity, exchange) if item.key is None else item.key
