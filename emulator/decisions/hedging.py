"""The engine's part in hedging: several tries of one request at once.

Rule: `meshsim.policy.hedging`.  The engine counts the tries under way of requests on routes that
hedge, and remembers at which hosts they are where the health of hosts is watched.
"""

from __future__ import annotations

from typing import Any

from emulator.decisions.exchanges import Decision, Exchange, Exchanges
from emulator.decisions.health import Health
from meshsim.policy.transitions import (
    STIMULUS_EARLIER_RESET,
    STIMULUS_EARLIER_RESPONSE,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
)
from meshsim.state.codes import HEDGE_NEVER, NO_INDEX

__all__ = ["ENDS_OF_TRIES", "HedgeDecisions"]

#: Stimuli that say of one try that it is over.
ENDS_OF_TRIES = frozenset(
    (
        STIMULUS_RESPONSE,
        STIMULUS_RESET,
        STIMULUS_PER_TRY_TIMEOUT,
        STIMULUS_OVERFLOW,
        STIMULUS_EARLIER_RESPONSE,
        STIMULUS_EARLIER_RESET,
    )
)


class HedgeDecisions:
    """Questions about requests that may have several tries under way."""

    _live: dict[int, Exchange]
    _exchanges: Exchanges
    _health: Health
    _note: Any
    _picked: dict[int, int]
    _step: Any

    def hedging(self, exchange: int) -> int:
        """Return how the route of an exchange hedges, a `HEDGE_*` code (no stimulus)."""
        item = self._live[exchange]
        return HEDGE_NEVER if item.route == NO_INDEX else item.table.hedging[item.route]

    def hedge_due_ns(self, exchange: int) -> int:
        """Return when the next copy of an exchange is due [ns], or `NEVER_NS` (no stimulus)."""
        return int(self._exchanges.rows["hedge_due_ns"][self._live[exchange].row])

    def tell_of(
        self, exchange: int, host: int, stimulus: int, status: int, reset: int, now_ns: int
    ) -> Decision:
        """Tell the request machine what happened to a try that is not the newest.

        Parameters
        ----------
        exchange : int
        host : int
            Of that try.
        stimulus, status, reset, now_ns : int
            Those of `ProxyEngine.tell`.
        """
        item = self._live[exchange]
        if self._health.watched[item.cluster]:
            picked = self._picked.get(host, host)
            self._health.told_of(item, picked, stimulus, status, reset, now_ns)
        if stimulus in ENDS_OF_TRIES:
            self._exchanges.actives[item.row] -= 1
        decision: Decision = self._step(item, stimulus, status, reset, now_ns)
        said = [int(value) for value in decision]
        self._note("tell_of", exchange, host, stimulus, status, reset, now_ns, said)
        return decision
