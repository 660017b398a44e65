"""What one proxy is told of rate limits by headers of responses: `meshsim.policy.reset_headers`.

Rule: as `emulator.decisions.engine`, of which this is a part.  Only routes that state
`rate_limited_retry_back_off` look at headers, before the machine is told of the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emulator.decisions.exchanges import Exchange, Exchanges
from meshsim.policy.reset_headers import reset_interval_ns, reset_seconds
from meshsim.state.codes import NO_INDEX

__all__ = ["ResetDecisions"]


class ResetDecisions:
    """Questions about responses that say when a rate limit is reset."""

    _live: dict[int, Exchange]
    _exchanges: Exchanges
    _note: Any

    def reset_headers(self, exchange: int) -> tuple[tuple[str, bool], ...]:
        """Return name, and whether it is a timestamp, of what `hear_reset` asks (no stimulus)."""
        item = self._live[exchange]
        # A copy for a mirror has a row of its own, and no retries.
        headers = item.table.reset_headers
        return headers[item.route] if item.route < len(headers) else ()

    def hear_reset(self, exchange: int, values: Mapping[str, str], unix_s: int) -> int:
        """Note what the response that is told of next says of a reset; return its interval [ns].

        Parameters
        ----------
        exchange : int
        values : mapping of str to str
            Those of `reset_headers` that the response has.
        unix_s : int
            Seconds since 1970.
        """
        item = self._live[exchange]
        interval_ns = 0
        for name, is_timestamp in self.reset_headers(exchange):
            seconds = reset_seconds(values.get(name, ""), is_timestamp, unix_s)
            if seconds == NO_INDEX:
                continue
            asked_ns = int(reset_interval_ns(item.table.routes, item.route, seconds))
            if asked_ns != NO_INDEX:
                interval_ns = asked_ns
                break
        self._exchanges.reset_intervals[item.row] = interval_ns
        self._note("hear_reset", exchange, dict(values), unix_s, interval_ns)
        return interval_ns
