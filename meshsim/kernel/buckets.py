"""Events of the near future, by time: a calendar before the heap of a large mesh.

Rule: a heap of tens of thousands of events costs as much as handling them.  Events later than
`bucket_until_ns` are therefore only thrown into the bucket of their time; when the heap runs
out of earlier ones, the next bucket is emptied into it, and the bound moves on by one bucket.
What is too far ahead, or finds its bucket full, goes to the heap as before, so the heap may
hold anything and the order of events is the same with and without buckets.  The width of a
bucket is a power of two and follows the density of events.

A small mesh has no buckets: its bound is NEVER_NS.

References
----------
Brown, "Calendar queues: a fast O(1) priority queue implementation for the simulation event set
problem", CACM 31 (1988).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import push_again
from meshsim.state.codes import NEVER_NS
from meshsim.state.kernel import BUCKET_COUNT

__all__ = ["BUCKET_SHIFT", "fill_heap"]

#: Buckets begin 2**12 ns wide.
BUCKET_SHIFT = 12
#: Events in the width of a bucket, on average: outside of this it is changed.
_DENSITY_MIN = 6
_DENSITY_MAX = 24
_SHIFT_MIN = 4
_SHIFT_MAX = 40


@kernel_jit
def _empty(state: Any, bucket: int) -> None:
    """Move the events of `bucket` to the heap."""
    counters = state.counters
    buckets = state.buckets
    count = state.bucket_counts[bucket]
    for place in range(count):
        push_again(
            state.events,
            counters,
            buckets["time_ns"][bucket, place],
            buckets["order"][bucket, place],
            buckets["what"][bucket, place],
        )
    state.bucket_counts[bucket] = 0
    counters["bucket_events"][0] -= count


@kernel_jit
def _adapt_width(state: Any) -> None:
    """After a round of the calendar: double or halve the width until the density is right."""
    counters = state.counters
    until_ns = counters["bucket_until_ns"][0]
    order = counters["next_order"][0]
    shift = counters["bucket_shift"][0]
    widths = ((until_ns - counters["bucket_round_ns"][0]) >> shift) + 1
    density = (order - counters["bucket_round_order"][0]) / widths
    counters["bucket_round"][0] = 0
    counters["bucket_round_ns"][0] = until_ns
    counters["bucket_round_order"][0] = order
    while density > _DENSITY_MAX and shift > _SHIFT_MIN:
        shift -= 1
        density *= 0.5
    while density < _DENSITY_MIN and shift < _SHIFT_MAX:
        shift += 1
        density *= 2.0
    if shift != counters["bucket_shift"][0]:
        for bucket in range(BUCKET_COUNT):
            _empty(state, bucket)
        counters["bucket_shift"][0] = shift
        counters["bucket_until_ns"][0] = ((until_ns >> shift) + 1) << shift


@kernel_jit
def fill_heap(state: Any) -> bool:
    """Make the first event of all the first of the heap; return False if there is none."""
    counters = state.counters
    events = state.events
    while counters["event_count"][0] == 0 or events["time_ns"][0] >= counters["bucket_until_ns"][0]:
        until_ns = counters["bucket_until_ns"][0]
        if counters["bucket_events"][0] == 0:
            if counters["event_count"][0] == 0:
                return False
            until_ns = events["time_ns"][0]
        shift = counters["bucket_shift"][0]
        _empty(state, (until_ns >> shift) & (BUCKET_COUNT - 1))
        counters["bucket_until_ns"][0] = min(((until_ns >> shift) + 1) << shift, NEVER_NS)
        counters["bucket_round"][0] += 1
        if counters["bucket_round"][0] == BUCKET_COUNT:
            _adapt_width(state)
    return True
