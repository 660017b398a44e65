"""One proxy's belief in the health of its hosts: rows, and the policy functions that write them.

Rule: as in `meshsim.kernel.health`, every decision is `meshsim.policy.health`'s; this module holds
the rows it reads and writes.  A HOST_HEALTH row belongs to the HOST row of the same number, a
CLUSTER_HEALTH and a HEALTH_RULE row to the CLUSTER row of the same number.  What becomes due by
the clock alone is done at the next question, at its own time, so there is no timer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.decisions.exchanges import Exchange
from emulator.decisions.holdings import Holdings
from meshsim.policy.hashing import health_key
from meshsim.policy.health import (
    on_check_result,
    on_picked,
    on_request_connected,
    on_request_dropped,
    on_request_result,
    settle_health,
)
from meshsim.policy.health_check import first_check_ns
from meshsim.policy.transitions import (
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
    STIMULUS_SOFT_PER_TRY_TIMEOUT,
)
from meshsim.policy.update_merge import believe_now
from meshsim.state.codes import NO_HOST, NO_INDEX, RESET_OVERFLOW, RESET_PER_TRY_TIMEOUT
from meshsim.state.health import LONG_AGO_NS

__all__ = ["Health"]

_TIMEOUTS = (
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_ROUTE_TIMEOUT,
    STIMULUS_SOFT_PER_TRY_TIMEOUT,
)
#: What says something of the host of the live try.
_TELLING = (STIMULUS_RESPONSE, STIMULUS_RESET, STIMULUS_OVERFLOW, *_TIMEOUTS)


class Health:
    """Health of the hosts of one proxy.

    Parameters
    ----------
    holdings : Holdings
        Of the proxy; its rows are modified.
    run_seed, index : int
        Of the run and the proxy: they select the draws.
    note : callable
        Called with a stimulus, its arguments and its result.

    Attributes
    ----------
    watched : list of bool
        By CLUSTER row, whether anything is to be told of its requests.
    """

    def __init__(
        self, holdings: Holdings, run_seed: int, index: int, note: Callable[..., None]
    ) -> None:
        self._holdings = holdings
        self._note = note
        self._identity = run_seed, index
        self.watched: list[bool] = []

    def bind(self, now_ns: int) -> None:
        """Take hold of rows that may have moved, and of members that may have changed."""
        holdings = self._holdings
        known = holdings.clusters["health"] != NO_INDEX
        holdings.clusters["health"] = NO_INDEX
        for name, row in holdings.cluster_rows.items():
            if holdings.configs["health"][row] == NO_INDEX:
                continue
            holdings.clusters["health"][row] = row
            if not known[row]:
                groups = holdings.cluster_health
                groups["origin_ns"][row] = now_ns
                groups["key"][row] = health_key(*self._identity, name)
        self.watched = (holdings.clusters["health"] != NO_INDEX).tolist()
        self._hosts = holdings.hosts
        self._state = (holdings.hosts, holdings.members, holdings.clusters)
        self._rules = holdings.health_rules
        self._beliefs = (holdings.host_health, holdings.cluster_health)
        self._ejections = holdings.ejections
        self._configs = holdings.configs
        for cluster in np.flatnonzero(known | (holdings.clusters["health"] != NO_INDEX)):
            rows = *self._state, int(cluster), self._configs, holdings.cluster_health
            # In a new cluster nothing has changed that a later change could be merged with.
            believe_now(*rows, now_ns if known[cluster] else LONG_AGO_NS)

    def settle(self, cluster: int, now_ns: int) -> None:
        """Do what has become due in `cluster`, which is watched."""
        settle_health(
            *self._state, cluster, self._configs, self._rules, *self._beliefs, self._ejections,
            now_ns,
        )  # fmt: skip

    def picked(self, item: Exchange, host: int) -> None:
        """Note that `host` was picked for a try of `item`."""
        if item.host != NO_HOST:  # of a try that goes on
            item.earlier.append((item.host, item.sent))
        item.host = host
        item.sent = False
        on_picked(*self._state, item.cluster, self._configs, self._rules, *self._beliefs, host)

    def connected(self, item: Exchange, host: int, now_ns: int) -> None:
        """Note that a try of `item` has its connection to `host`."""
        if (host, False) in item.earlier:  # it waited, and another has followed
            item.earlier[item.earlier.index((host, False))] = (host, True)
        else:
            item.sent = True
        if self._hosts["health"][host] != NO_INDEX:
            on_request_connected(
                *self._state, item.cluster, self._configs, self._rules, *self._beliefs,
                self._ejections, host, now_ns,
            )  # fmt: skip

    def told(self, item: Exchange, stimulus: int, status: int, reset: int, now_ns: int) -> None:
        """Take what the machine of `item` is about to be told of its live try."""
        host = item.host
        if stimulus in _TELLING and host != NO_HOST:
            if stimulus in _TIMEOUTS:
                if item.sent:  # else nobody knows what the host would have done
                    self._timed_out(item, host, now_ns)
                    item.sent = False
                    if stimulus != STIMULUS_SOFT_PER_TRY_TIMEOUT:
                        item.host = NO_HOST
            else:
                if stimulus == STIMULUS_OVERFLOW:
                    status, reset = 0, RESET_OVERFLOW
                item.host = NO_HOST
                self._result(item, host, status, reset, now_ns)
        if stimulus == STIMULUS_ROUTE_TIMEOUT:
            for earlier, sent in reversed(item.earlier):
                if sent:
                    self._timed_out(item, earlier, now_ns)

    def told_of(
        self, item: Exchange, host: int, stimulus: int, status: int, reset: int, now_ns: int
    ) -> None:
        """Take what the machine of `item` is about to be told of an earlier try at `host`."""
        found = [one for one in item.earlier if one[0] == host]
        if found:
            item.earlier.remove(found[0])
        else:  # the newest that was picked, and another is due
            item.host = NO_HOST
        if stimulus == STIMULUS_PER_TRY_TIMEOUT:
            status, reset = 0, RESET_PER_TRY_TIMEOUT
        self._result(item, host, status, reset, now_ns)

    def _timed_out(self, item: Exchange, host: int, now_ns: int) -> None:
        self._result(item, host, 0, RESET_PER_TRY_TIMEOUT, now_ns)

    def _result(self, item: Exchange, host: int, status: int, reset: int, now_ns: int) -> None:
        """Take what a try of `item` at `host` came to."""
        if self._hosts["health"][host] != NO_INDEX:  # else it is a member no more
            on_request_result(
                *self._state, item.cluster, self._configs, self._rules, *self._beliefs,
                self._ejections, host, status, reset, now_ns,
            )  # fmt: skip

    def dropped(self, item: Exchange) -> None:
        """Note that nobody waits for the live tries of `item`."""
        hosts = [item.host] if item.host != NO_HOST else []
        for host in (*hosts, *(one[0] for one in reversed(item.earlier))):
            if self._hosts["health"][host] != NO_INDEX:
                on_request_dropped(*self._state, item.cluster, self._configs, *self._beliefs, host)
        item.host = NO_HOST
        item.earlier.clear()

    def first_check(self, host: int, now_ns: int) -> int:
        """Return when the first check of `host` begins [ns]."""
        cluster = self._holdings.cluster_of[host]
        rule = int(self._configs["health"][cluster])
        begins_ns = now_ns
        if rule != NO_INDEX:
            begins_ns += int(first_check_ns(self._rules, rule, self._beliefs[1], cluster))
        self._note("first_check", host, now_ns, begins_ns)
        return begins_ns

    def checked(self, host: int, result: int, now_ns: int) -> int:
        """Take the result of a check of `host`; return when the next one begins [ns].

        Parameters
        ----------
        host : int
        result : int
            `CHECK_*` code of `meshsim.state.health`.
        now_ns : int
        """
        next_ns = now_ns
        if self._hosts["health"][host] != NO_INDEX:
            next_ns += int(
                on_check_result(
                    *self._state, self._holdings.cluster_of[host], self._configs, self._rules,
                    *self._beliefs, self._ejections, host, result, now_ns,
                )
            )  # fmt: skip
        self._note("checked", host, result, now_ns, next_ns)
        return next_ns

    def checked_hosts(self) -> set[int]:
        """Return the hosts that are to be checked (no stimulus)."""
        members = np.flatnonzero(self._hosts["health"] != NO_INDEX)
        checked = self._rules["check_interval_ns"][self._hosts["cluster"][members]] > 0
        return {int(host) for host in members[checked]}

    def counters(self) -> dict[str, dict[str, int]]:
        """Return Envoy's counters of health of each cluster that is watched (no stimulus)."""
        return self._holdings.health_counters()

    def rows(self) -> tuple[Any, ...]:
        """Return the rows that hold this state, for a digest."""
        return *self._beliefs, self._ejections
