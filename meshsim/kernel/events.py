"""The event queue: a 4-ary heap ordered by (time_ns, order), and how an event names its row.

Rule: an event is (time, order, what).  `order` is the number of the event, so simultaneous
events run in the order in which they were scheduled.  `what` packs the kind, the row and the
row's generation (or `wake`), so that an event of a row that has since ended is recognised and
dropped; nothing is ever removed from the middle of the heap.

A large mesh has more places for events.  The first few are taken out of the heap ahead of their
time, so that the memory they need can be asked for; they stand in order in `upcoming`, all
before those of the heap, and a new event that comes before the last of them takes its place
among them.  Those further ahead wait in buckets (`meshsim.kernel.buckets`).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.state.codes import NEVER_NS
from meshsim.state.kernel import BUCKET_COUNT, BUCKET_MAX

__all__ = [
    "ABANDON",
    "ADMIT",
    "ARRIVAL",
    "ARRIVE",
    "BACK_OFF",
    "BECOME_IDLE",
    "BULKHEAD_EXPIRED",
    "CALL",
    "CANCEL_EXCHANGE",
    "CANCEL_TASK",
    "CHECK",
    "CHECKED",
    "CHECK_ARRIVE",
    "CONFIGURE",
    "CONNECT",
    "CONNECTED",
    "DEADLINE",
    "DONE",
    "DONE_BESIDE",
    "ENTER_BULKHEAD",
    "FILL_CACHE",
    "FILTER",
    "FILTER_INBOUND",
    "FINISH",
    "GENERATION_MASK",
    "HEALTH_CONNECTED",
    "HEALTH_DROPPED",
    "HEALTH_DUE",
    "HEALTH_PICKED",
    "HEALTH_RESULT",
    "HEAR_RESET",
    "HEDGE_DUE",
    "IMPAIRED_WIRE",
    "IS_CACHED",
    "KEEP_DEADLINE",
    "KIND_COUNT",
    "LEAVE_BULKHEAD",
    "LEAVE_FILTERS",
    "LEAVE_GATE",
    "NODE",
    "NOTE_LATENCY",
    "NOTHING",
    "PICK",
    "PLAN_COPY",
    "PROBED",
    "PROBE_ARRIVE",
    "RELEASE",
    "RENEGE",
    "RESPOND",
    "RETURN",
    "ROUTE",
    "ROUTE_TIMER",
    "RUN",
    "SEND_COPY",
    "SLOW_SERVICE",
    "STIMULATE",
    "STOP_WAITING",
    "TAKE_DEADLINE",
    "TAKE_REPORT",
    "TRY_TIMER",
    "TURN_GRAY",
    "WAIT_FOR_SYN",
    "next_time_ns",
    "pack",
    "pop_event",
    "push_again",
    "push_event",
    "schedule",
    "take_event",
    "what_generation",
    "what_index",
    "what_kind",
]

# Kinds, with the row they name.
ARRIVAL = 0  # traffic class: the next request enters
ROUTE = 1  # exchange: its request has passed the outbound proxy, or is due again
ARRIVE = 2  # attempt: at the endpoint's machine
ADMIT = 3  # attempt: it has passed the inbound proxy
RETURN = 5  # attempt: the response (or a reset) reached the client's proxy
DONE = 6  # attempt: the response has passed the client's proxy
RUN = 4  # task: its step has ended (dedicated cores), or it goes on with its program
NODE = 7  # node: the next task on shared cores ends
ROUTE_TIMER = 8  # timer list of route timeouts
TRY_TIMER = 9  # timer list of per-try timeouts
BACK_OFF = 10  # exchange: retry now
CONNECTED = 11  # connection: established
RENEGE = 12  # task: out of patience in the queue
CANCEL_EXCHANGE = 13  # exchange: its caller is gone
CANCEL_TASK = 14  # task: its caller is gone
RESPOND = 15  # attempt: the response has passed the inbound proxy (shared cores)
CONFIGURE = 18  # proxy: a version of its routes (in place of the generation) takes effect
RELEASE = 19  # exchange: the last byte of its response, whose rate is limited, has left
CHECK = 20  # host health: its next check begins
CHECK_ARRIVE = 21  # host health: the check is at the endpoint
CHECKED = 22  # host health: its check has this result (in place of the generation)
# Follow-ups only, never queued.
CALL = 16  # task: make the call at its step (queued where a bulkhead has let it through)
FINISH = 17  # exchange: deliver its outcome
# Parts of handlers, never queued: what is rare or large is compiled once and reached by `invoke`,
# or the compiler would optimise it anew within every handler that may need it.
FILTER = 23  # exchange: the filters of its route; generation 1: its delay has ended
STIMULATE = 24  # exchange: the machine hears a stimulus (in place of the generation)
ABANDON = 25  # exchange: give up its live attempts
LEAVE_FILTERS = 26  # exchange: answered; returns 1 if the response takes time
FILTER_INBOUND = 27  # attempt: the filters of its endpoint
HEALTH_DUE = 28  # cluster: do what is due by the clock
HEALTH_PICKED = 29  # host: picked for a request
HEALTH_CONNECTED = 30  # host: a request has its connection
HEALTH_RESULT = 31  # host: an outcome (in place of the generation)
HEALTH_DROPPED = 32  # host: nobody waits any more for a request
PICK = 33  # exchange: returns the host of a pick (its number in place of the generation)
TAKE_REPORT = 34  # host: the load report on a response; generation 1: the response was an error
BECOME_IDLE = 35  # endpoint: it has become idle, and balancers ask for that
IS_CACHED = 36  # task: returns 1 if the cache at its step has what it asks for
FILL_CACHE = 37  # task: the miss of its cache has ended well
CONNECT = 38  # host: open what those who wait want (one of them in place of the generation)
LEAVE_GATE = 39  # attempt: given up (queued); answered (generation ANSWERED)
DONE_BESIDE = 40  # attempt: its outcome is known, and it was not the only try
PLAN_COPY = 41  # exchange: wake up when its next copy is due
SEND_COPY = 42  # exchange: send a copy beside the tries under way
HEDGE_DUE = 43  # exchange: it is time for another copy (an event)
NOTE_LATENCY = 44  # task: its server, which is probed, has answered it
PROBE_ARRIVE = 45  # pool: the probe in this place (in place of the generation) is at its server
PROBED = 46  # pool: the answer to the probe in this place is back
IMPAIRED_WIRE = 47  # distribution and leg: returns the latency of a message over a bad wire
WAIT_FOR_SYN = 48  # distribution: returns how long lost packets delay a connection
TURN_GRAY = 49  # task: at an endpoint with a gray failure
SLOW_SERVICE = 50  # task: returns how long a step takes there (now in place of the generation)
HEAR_RESET = 51  # attempt: its answer says when a rate limit is reset
TAKE_DEADLINE = 52  # task: note the deadline of its request
KEEP_DEADLINE = 53  # exchange: its caller's deadline may be earlier than its route timeout
DEADLINE = 54  # exchange: its deadline has come (an event)
ENTER_BULKHEAD = 55  # task: at a call that has a bulkhead; returns CALLS if it may call
LEAVE_BULKHEAD = 56  # task: its call has ended
STOP_WAITING = 57  # task: it is stopped, where replicas have bulkheads
BULKHEAD_EXPIRED = 58  # task: it waits for no call any longer (an event)
KIND_COUNT = 59

#: No follow-up.
NOTHING = -1

_KIND_BITS = 6
_INDEX_BITS = 32
_KIND_MASK = (1 << _KIND_BITS) - 1
_INDEX_MASK = (1 << _INDEX_BITS) - 1
GENERATION_MASK = (1 << 24) - 1


@kernel_jit_inline
def pack(kind: int, index: int, generation: int) -> int:
    """Return `kind`, row `index` and `generation` in one non-negative integer."""
    return (int(generation) << (_KIND_BITS + _INDEX_BITS)) | (int(index) << _KIND_BITS) | kind


@kernel_jit_inline
def what_kind(what: int) -> int:
    """Return the kind packed into `what`."""
    return what & _KIND_MASK


@kernel_jit_inline
def what_index(what: int) -> int:
    """Return the row packed into `what`."""
    return (what >> _KIND_BITS) & _INDEX_MASK


@kernel_jit_inline
def what_generation(what: int) -> int:
    """Return the generation packed into `what`."""
    return what >> (_KIND_BITS + _INDEX_BITS)


@kernel_jit_inline
def push_event(events: Any, counters: Any, time_ns: int, what: int) -> None:
    """Add an event; the caller has made room.  `events` and `counters` modified in place.

    Notes
    -----
    The new event has the largest order of all, so a parent of equal time stays above it.
    """
    order = counters["next_order"][0]
    counters["next_order"][0] = order + 1
    hole = counters["event_count"][0]
    counters["event_count"][0] = hole + 1
    while hole > 0:
        parent = (hole - 1) >> 2
        if events["time_ns"][parent] <= time_ns:
            break
        events["time_ns"][hole] = events["time_ns"][parent]
        events["order"][hole] = events["order"][parent]
        events["what"][hole] = events["what"][parent]
        hole = parent
    events["time_ns"][hole] = time_ns
    events["order"][hole] = order
    events["what"][hole] = what


@kernel_jit_inline
def _precedes(events: Any, one: int, other: int) -> int:
    """Return 1 if event `one` comes before event `other`, else 0, without a branch."""
    one_ns = events["time_ns"][one]
    other_ns = events["time_ns"][other]
    tied = (one_ns == other_ns) & (events["order"][one] < events["order"][other])
    return int((one_ns < other_ns) | tied)


@kernel_jit_inline
def _first_child(events: Any, child: int, count: int) -> int:
    """Return the first in order of the up to four children from `child` on."""
    if child + 3 < count:
        low = child + _precedes(events, child + 1, child)
        high = child + 2 + _precedes(events, child + 3, child + 2)
        return low + (high - low) * _precedes(events, high, low)
    best = child
    for other in range(child + 1, count):
        best += (other - best) * _precedes(events, other, best)
    return best


@kernel_jit_inline
def _move(events: Any, source: int, target: int) -> None:
    events["time_ns"][target] = events["time_ns"][source]
    events["order"][target] = events["order"][source]
    events["what"][target] = events["what"][source]


@kernel_jit_inline
def pop_event(events: Any, counters: Any) -> None:
    """Remove the first event, which the caller has read.  Modified in place.

    Notes
    -----
    The hole sinks to the bottom, always filled by the first child; then the last event takes
    it and rises as far as it must, which is seldom far (Wegener's bottom-up heapsort, 1993).
    Which child is first is a coin toss to the processor, so it is computed without branches.
    """
    count = counters["event_count"][0] - 1
    counters["event_count"][0] = count
    hole = 0
    while True:
        child = (hole << 2) + 1
        if child >= count:
            break
        best = _first_child(events, child, count)
        _move(events, best, hole)
        hole = best
    while hole > 0:
        parent = (hole - 1) >> 2
        if _precedes(events, parent, count) == 1:
            break
        _move(events, parent, hole)
        hole = parent
    _move(events, count, hole)


@kernel_jit
def push_again(events: Any, counters: Any, time_ns: int, order: int, what: int) -> None:
    """Put an event that was taken out, or kept outside, on the heap with the order it has."""
    hole = counters["event_count"][0]
    counters["event_count"][0] = hole + 1
    while hole > 0:
        parent = (hole - 1) >> 2
        parent_ns = events["time_ns"][parent]
        if parent_ns < time_ns or (parent_ns == time_ns and events["order"][parent] < order):
            break
        _move(events, parent, hole)
        hole = parent
    events["time_ns"][hole] = time_ns
    events["order"][hole] = order
    events["what"][hole] = what


@kernel_jit
def _insert_upcoming(state: Any, time_ns: int, what: int) -> None:
    """Add an event that comes before the last upcoming one."""
    counters = state.counters
    upcoming = state.upcoming
    place = counters["upcoming_end"][0]
    if place == upcoming.shape[0]:
        place -= 1
        push_again(
            state.events,
            counters,
            upcoming["time_ns"][place],
            upcoming["order"][place],
            upcoming["what"][place],
        )
    end = place + 1
    counters["upcoming_end"][0] = end
    while place > counters["upcoming_first"][0] and upcoming["time_ns"][place - 1] > time_ns:
        _move(upcoming, place - 1, place)
        place -= 1
    upcoming["time_ns"][place] = time_ns
    upcoming["order"][place] = counters["next_order"][0]
    upcoming["what"][place] = what
    counters["next_order"][0] += 1
    counters["upcoming_until_ns"][0] = upcoming["time_ns"][end - 1]


@kernel_jit
def _put_in_bucket(state: Any, time_ns: int, what: int) -> bool:
    """Throw an event into the bucket of its time, if that is near enough and not full."""
    counters = state.counters
    shift = counters["bucket_shift"][0]
    if (time_ns >> shift) - (counters["bucket_until_ns"][0] >> shift) >= BUCKET_COUNT:
        return False
    bucket = (time_ns >> shift) & (BUCKET_COUNT - 1)
    place = state.bucket_counts[bucket]
    if place == BUCKET_MAX:
        return False
    state.bucket_counts[bucket] = place + 1
    state.buckets["time_ns"][bucket, place] = time_ns
    state.buckets["order"][bucket, place] = counters["next_order"][0]
    state.buckets["what"][bucket, place] = what
    counters["next_order"][0] += 1
    counters["bucket_events"][0] += 1
    return True


@kernel_jit_inline
def next_time_ns(state: Any) -> int:
    """Return the time of the next event [ns], or NEVER_NS if there is none."""
    counters = state.counters
    first = counters["upcoming_first"][0]
    if first < counters["upcoming_end"][0]:
        return state.upcoming["time_ns"][first]
    return state.events["time_ns"][0] if counters["event_count"][0] > 0 else NEVER_NS


@kernel_jit_inline
def take_event(state: Any) -> int:
    """Remove the next event, which exists; return what it is."""
    counters = state.counters
    first = counters["upcoming_first"][0]
    if first < counters["upcoming_end"][0]:
        counters["upcoming_first"][0] = first + 1
        return state.upcoming["what"][first]
    what = state.events["what"][0]
    pop_event(state.events, counters)
    return what


@kernel_jit
def schedule(state: Any, time_ns: int, what: int) -> None:
    """Add an event to the memory's queue.

    Not absorbed by its callers: their code is to stay small enough for the instruction cache.
    """
    if time_ns < state.counters["upcoming_until_ns"][0]:
        _insert_upcoming(state, time_ns, what)
    elif time_ns < state.counters["bucket_until_ns"][0] or not _put_in_bucket(state, time_ns, what):
        push_event(state.events, state.counters, time_ns, what)
