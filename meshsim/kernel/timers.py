"""Timeouts that almost never fire: one FIFO of rows for each duration.

Rule: timers of one duration end in the order in which they began, so a doubly linked list
through the rows is sorted by construction.  Starting and stopping touch only neighbours; the
event queue holds at most one event a list, for its head as it was when that event was
scheduled.  A request whose timeout never fires therefore costs no heap operation.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import pack, schedule
from meshsim.state.codes import NO_INDEX

__all__ = ["start_timer", "stop_timer", "take_expired"]


@kernel_jit
def start_timer(state: Any, timer: int, rows: Any, row: int, kind: int) -> None:
    """Start the timer of `row` (exchange or attempt) in list `timer`."""
    timers = state.timers
    now_ns = state.counters["now_ns"][0]
    deadline_ns = now_ns + timers["duration_ns"][timer]
    tail = timers["tail"][timer]
    rows["timer"][row] = timer
    rows["deadline_ns"][row] = deadline_ns
    rows["timer_previous"][row] = tail
    rows["timer_next"][row] = NO_INDEX
    if tail == NO_INDEX:
        timers["head"][timer] = row
    else:
        rows["timer_next"][tail] = row
    timers["tail"][timer] = row
    if timers["scheduled"][timer] == 0:
        timers["scheduled"][timer] = 1
        schedule(state, deadline_ns, pack(kind, timer, 0))


@kernel_jit
def stop_timer(timers: Any, rows: Any, row: int) -> None:
    """Take `row` out of its list, if it is in one."""
    timer = rows["timer"][row]
    if timer == NO_INDEX:
        return
    earlier = rows["timer_previous"][row]
    later = rows["timer_next"][row]
    if earlier == NO_INDEX:
        timers["head"][timer] = later
    else:
        rows["timer_next"][earlier] = later
    if later == NO_INDEX:
        timers["tail"][timer] = earlier
    else:
        rows["timer_previous"][later] = earlier
    rows["timer"][row] = NO_INDEX


@kernel_jit
def take_expired(state: Any, timer: int, rows: Any, kind: int) -> int:
    """Return the next row of list `timer` whose deadline has come, or NO_INDEX.

    The row is taken out.  Unless the list is empty, an event for its new head is scheduled
    (at once, if that has expired as well).
    """
    timers = state.timers
    expired = NO_INDEX
    head = timers["head"][timer]
    if head != NO_INDEX and rows["deadline_ns"][head] <= state.counters["now_ns"][0]:
        expired = head
        stop_timer(timers, rows, head)
        head = timers["head"][timer]
    if head == NO_INDEX:
        timers["scheduled"][timer] = 0
    else:
        schedule(state, rows["deadline_ns"][head], pack(kind, timer, 0))
    return expired
