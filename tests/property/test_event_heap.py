"""The event queue is a priority queue: by time, first in, first out among equal times.

So is the queue of a large mesh: upcoming events, heap and buckets together.
"""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import Run, worker

from meshsim.jit import kernel_jit
from meshsim.kernel.events import (
    GENERATION_MASK,
    KIND_COUNT,
    RENEGE,
    next_time_ns,
    pack,
    pop_event,
    push_event,
    schedule,
    take_event,
    what_generation,
    what_index,
    what_kind,
)
from meshsim.kernel.prefetching import warm_upcoming
from meshsim.state.kernel import COUNTERS_DTYPE, EVENT_DTYPE

#: A push of an event at this time, or None: a pop (of nothing, if nothing is there).
OPERATIONS = st.lists(st.one_of(st.none(), st.integers(0, 8), st.integers(0, 2**62)), max_size=200)


@kernel_jit
def push(events, counters, time_ns, what):
    push_event(events, counters, time_ns, what)


@kernel_jit
def pop(events, counters):
    what = events["what"][0]
    pop_event(events, counters)
    return what


class Queue:
    def __init__(self, room):
        self.events = np.zeros(room, EVENT_DTYPE)
        self.counters = np.zeros(1, COUNTERS_DTYPE)

    def __len__(self):
        return int(self.counters["event_count"][0])

    def push(self, time_ns, what):
        push(self.events, self.counters, time_ns, what)

    def pop(self):
        time_ns, order = int(self.events["time_ns"][0]), int(self.events["order"][0])
        return time_ns, order, int(pop(self.events, self.counters))


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_pops_equal_those_of_heapq(operations):
    queue = Queue(len(operations) + 1)
    oracle = []
    for number, time_ns in enumerate(operations):
        if time_ns is not None:
            queue.push(time_ns, number)
            heapq.heappush(oracle, (time_ns, number))
        elif oracle:
            found_ns, _, what = queue.pop()
            assert (found_ns, what) == heapq.heappop(oracle)
        assert len(queue) == len(oracle)
    while oracle:
        found_ns, _, what = queue.pop()
        assert (found_ns, what) == heapq.heappop(oracle)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=100))
def test_equal_times_leave_in_the_order_in_which_they_came(times):
    queue = Queue(len(times))
    for number, time_ns in enumerate(times):
        queue.push(time_ns, number)
    left = [queue.pop() for _ in times]
    assert [(time_ns, what) for time_ns, _, what in left] == sorted(
        (time_ns, number) for number, time_ns in enumerate(times)
    )
    assert left == sorted(left)


@settings(deadline=None)
@given(st.integers(0, KIND_COUNT - 1), st.integers(0, 2**31 - 1), st.integers(0, GENERATION_MASK))
def test_an_event_names_its_row(kind, index, generation):
    what = pack(kind, index, generation)
    assert (what_kind(what), what_index(what), what_generation(what)) == (kind, index, generation)
    assert what >= 0


@pytest.mark.parametrize("count", [1, 2, 5, 6, 21, 22])
def test_levels_of_a_quaternary_heap(count):
    """Sizes at which a level of four children begins or ends."""
    queue = Queue(count)
    for number in range(count):
        queue.push(count - number, number)
    assert [queue.pop()[0] for _ in range(count)] == list(range(1, count + 1))
    assert len(queue) == 0


#: How much later than the last event each new one is, or None: take the next event.
DELAYS = st.one_of(
    st.integers(0, 3), st.integers(0, 2**12), st.integers(0, 2**23), st.integers(0, 2**61)
)


@kernel_jit
def take(state):
    warm_upcoming(state)
    state.counters["now_ns"][0] = next_time_ns(state)
    return take_event(state)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.none(), DELAYS), max_size=600),
    st.integers(0, 300),
)
def test_the_calendar_of_a_large_mesh_pops_as_heapq_does(operations, crowd):
    """`crowd` events at one instant do not fit into a bucket, nor beside the heap."""
    state = Run({"a": worker()}, {"poisson": 0.0}, hosts_large=1, rows_max=1 << 16).state
    oracle = []
    number = 0
    for delay_ns in [5000] * crowd + operations + [None] * (crowd + len(operations)):
        if delay_ns is not None:
            time_ns = int(state.counters["now_ns"][0]) + delay_ns
            if time_ns > 2**62:
                continue
            schedule(state, time_ns, pack(RENEGE, number, 0))
            heapq.heappush(oracle, (time_ns, number))
            number += 1
        elif oracle:
            what = what_index(take(state))
            assert (int(state.counters["now_ns"][0]), what) == heapq.heappop(oracle)
    assert not oracle


@kernel_jit
def churn(state, gap_ns, count):
    """Schedule 500 events `gap_ns` apart; then take `count`, scheduling one behind for each."""
    now_ns = state.counters["now_ns"][0]
    for number in range(500):
        schedule(state, now_ns + gap_ns * number, pack(RENEGE, number, 0))
    for _ in range(count):
        take(state)
        schedule(state, state.counters["now_ns"][0] + 500 * gap_ns, pack(RENEGE, 0, 0))


def test_the_width_of_buckets_follows_the_density_of_events():
    state = Run({"a": worker()}, {"poisson": 0.0}, hosts_large=1).state
    for gap_ns, shift in ((10, 7), (100_000, 20)):  # 6 to 24 events in a bucket
        churn(state, gap_ns, 1_000_000)
        assert int(state.counters["bucket_shift"][0]) == pytest.approx(shift, abs=1)
        while state.counters["event_count"][0] + state.counters["bucket_events"][0] > 0:
            take(state)
