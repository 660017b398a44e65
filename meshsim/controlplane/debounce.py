"""Debounce: many changes close together become one push.

Rule (istiod's, event for event): the first change of a batch starts a timer of `quiet_ns`.
When the timer fires, the batch is pushed if no change came for `quiet_ns`, or if its first
change is `max_ns` old; otherwise the timer is set again for the rest of the quiet time.  While a
push is being prepared, the next batch keeps growing; it is looked at again when that is done.
So the limit is not exact: a batch may wait up to `max_ns` + `quiet_ns` (and a push).

It knows no clock: `now_ns` comes in, `deadline_ns` says when to come back.

References
----------
istio/istio pilot/pkg/xds/discovery.go (debounce), pilot/pkg/features/tuning.go
(PILOT_DEBOUNCE_AFTER 100 ms, PILOT_DEBOUNCE_MAX 10 s, PILOT_ENABLE_EDS_DEBOUNCE true: endpoints
wait like everything else).
"""

from __future__ import annotations

from meshsim.state.codes import NEVER_NS

__all__ = ["DEBOUNCE_AFTER_NS", "DEBOUNCE_MAX_NS", "Debounce"]

#: PILOT_DEBOUNCE_AFTER [ns].
DEBOUNCE_AFTER_NS = 100_000_000
#: PILOT_DEBOUNCE_MAX [ns].
DEBOUNCE_MAX_NS = 10_000_000_000


class Debounce:
    """When the changes collected so far are to be pushed.

    Parameters
    ----------
    quiet_ns, max_ns : int
        See the module; >= 0 [ns].

    Examples
    --------
    >>> debounce = Debounce(quiet_ns=100, max_ns=1000)
    >>> debounce.on_change(0)
    >>> debounce.on_change(60)
    >>> debounce.deadline_ns, debounce.on_timer(100)  # quiet for 40 only
    (100, False)
    >>> debounce.deadline_ns, debounce.on_timer(160)
    (160, True)
    """

    def __init__(self, quiet_ns: int = DEBOUNCE_AFTER_NS, max_ns: int = DEBOUNCE_MAX_NS) -> None:
        self.quiet_ns = quiet_ns
        self.max_ns = max_ns
        #: When to call `on_timer`, or NEVER_NS [ns].
        self.deadline_ns: int = NEVER_NS
        #: Changes waiting for a push.
        self.changes = 0
        #: First and last change of the batch [ns].
        self._first_ns = 0
        self._last_ns = 0
        self._free = True

    def on_change(self, now_ns: int) -> None:
        """Add a change to the batch."""
        self._last_ns = now_ns
        if self.changes == 0:
            self._first_ns = now_ns
            self.deadline_ns = now_ns + self.quiet_ns
        self.changes += 1

    def on_timer(self, now_ns: int) -> bool:
        """Decide, at `deadline_ns` or later, whether to push now; if so call `on_pushed` after."""
        if now_ns < self.deadline_ns:
            return False
        self.deadline_ns = NEVER_NS
        return self._free and self._look(now_ns)

    def on_pushed(self, now_ns: int) -> bool:
        """Note that the push is prepared; decide whether the next batch goes at once."""
        self._free = True
        return self._look(now_ns)

    def _look(self, now_ns: int) -> bool:
        if self.changes == 0:
            return False
        quiet_ns = now_ns - self._last_ns
        if now_ns - self._first_ns < self.max_ns and quiet_ns < self.quiet_ns:
            self.deadline_ns = now_ns + self.quiet_ns - quiet_ns
            return False
        self.changes = 0
        self.deadline_ns = NEVER_NS
        self._free = False
        return True
