"""The loop: take the next event, run its handler and its follow-ups, until told to stop.

Rule: `advance` is one compiled function over one memory.  Before a handler is called there is
room for the largest fan-out in every pool, so none can run out of rows.  A handler returns a
*follow-up*, an event at this same instant that needs no queue; one chain of follow-ups runs at
a time, so there is no recursion.  A chain may be as long as calls are deep, where nothing takes
time; one that has to wait for room goes on where it was.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.events import (
    NOTHING,
    next_time_ns,
    take_event,
    what_generation,
    what_index,
    what_kind,
)
from meshsim.kernel.memory import KernelState, invoke
from meshsim.kernel.prefetching import is_large, warm_upcoming
from meshsim.state.kernel import UPCOMING_MAX

__all__ = ["EVENTS", "GROW", "REACHED", "WAKE", "advance"]

# Why `advance` returned.
REACHED = 0  # the time, or (draining) the end of every measured request
EVENTS = 1  # the number of events asked for
GROW = 2  # a pool or the event queue is nearly full
WAKE = 3  # an event asked for the slow world


@kernel_jit_inline
def _has_room(state: Any, margin: int) -> bool:
    counters = state.counters
    return (
        counters["exchange_free_count"][0] >= margin
        and counters["attempt_free_count"][0] >= margin
        and counters["task_free_count"][0] >= margin
        and counters["connection_free_count"][0] >= margin
        and counters["event_count"][0] + counters["bucket_events"][0] + margin
        <= state.events.shape[0] - UPCOMING_MAX
    )


@kernel_jit
def advance(state: KernelState, until_ns: int, events_max: int, margin: int, draining: bool) -> int:
    """Handle events up to and including `until_ns`.

    Parameters
    ----------
    state : KernelState
        Modified in place.
    until_ns : int
        Events later than this stay in the queue; the clock ends at `until_ns` if reached.
    events_max : int
        Return EVENTS after this many.
    margin : int
        Rows that one handler can need in a pool, and events it can schedule.
    draining : bool
        Return REACHED as soon as no measured request is in flight.

    Returns
    -------
    int
        REACHED, EVENTS, GROW or WAKE.
    """
    counters = state.counters
    warms = is_large(state)
    handled = 0
    reason = REACHED
    what = counters["follow_up"][0]
    while True:
        if what == NOTHING:
            if draining and counters["measured_in_flight"][0] == 0:
                break
            if warms:
                warm_upcoming(state)
            time_ns = next_time_ns(state)
            if time_ns > until_ns:
                if not draining:
                    counters["now_ns"][0] = until_ns
                break
            if handled >= events_max:
                reason = EVENTS
                break
            counters["now_ns"][0] = time_ns
            what = take_event(state)
            handled += 1
        while what != NOTHING and _has_room(state, margin):
            what = invoke(state, what_kind(what), what_index(what), what_generation(what))
        if what != NOTHING:
            reason = GROW
            break
        if counters["stop"][0] != 0:
            counters["stop"][0] = 0
            reason = WAKE
            break
    counters["follow_up"][0] = what
    counters["events"][0] += handled
    return reason
