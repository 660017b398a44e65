"""The floor: a chain with sidecars and power-of-two-choices, and nothing else, compiled.

One loop over a heap, no policies, no results but a mean and a histogram: what a simulator of
this kind could do if it were asked nothing.  The engine, with every policy compiled in, is
held to a factor of two of it in events per second.

Per hop four events: the request leaves the caller's proxy and picks a replica, it reaches the
replica, the replica ends its work, the response reaches the caller's proxy.
"""

import math
from collections import namedtuple

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import make_streams, next_index, next_uniform

__all__ = ["run"]

REPLICA_DTYPE = np.dtype(
    [("active", "i4"), ("busy", "i4"), ("queue_first", "i4"), ("queue_last", "i4")], align=True
)
CALL_DTYPE = np.dtype(
    [
        ("parent", "i4"),
        ("service", "i4"),
        ("replica", "i4"),
        ("queue_next", "i4"),
        ("start_ns", "f8"),
    ],
    align=True,
)
EVENT_DTYPE = np.dtype([("time_ns", "f8"), ("code", "i8")], align=True)
State = namedtuple("State", "replicas calls heap free rng histogram")

ARRIVAL, PICK, REACH, END, RESPOND = range(5)
NO_CALL = -1
#: Upper bound of requests in the system; the cases stay far below it.
CAPACITY = 1 << 16
BUCKETS = 2048


@kernel_jit_inline
def push(heap, count, time_ns, code):
    """Put an event on the four-ary heap; return the new count."""
    hole = count
    while hole > 0:
        parent = (hole - 1) >> 2
        if heap["time_ns"][parent] <= time_ns:
            break
        heap["time_ns"][hole] = heap["time_ns"][parent]
        heap["code"][hole] = heap["code"][parent]
        hole = parent
    heap["time_ns"][hole] = time_ns
    heap["code"][hole] = code
    return count + 1


@kernel_jit_inline
def remove_first(heap, count):
    """Drop the earliest event; return the new count."""
    count -= 1
    time_ns = heap["time_ns"][count]
    code = heap["code"][count]
    hole = 0
    while True:
        child = (hole << 2) + 1
        if child >= count:
            break
        least = child
        least_ns = heap["time_ns"][child]
        for other in range(child + 1, min(child + 4, count)):
            if heap["time_ns"][other] < least_ns:
                least = other
                least_ns = heap["time_ns"][other]
        if least_ns >= time_ns:
            break
        heap["time_ns"][hole] = least_ns
        heap["code"][hole] = heap["code"][least]
        hole = least
    heap["time_ns"][hole] = time_ns
    heap["code"][hole] = code
    return count


@kernel_jit_inline
def exponential(rng, mean):
    """Draw an exponential."""
    return -math.log(1.0 - next_uniform(rng)) * mean


@kernel_jit_inline
def pick_of_two(replicas, first, count, rng):
    """Return the less loaded of two random replicas (with replacement)."""
    one = first + next_index(rng, count)
    two = first + next_index(rng, count)
    return one if replicas["active"][one] <= replicas["active"][two] else two


@kernel_jit_inline
def enqueue(replicas, calls, replica, call):
    """Append `call` to the queue of `replica`."""
    calls["queue_next"][call] = NO_CALL
    last = replicas["queue_last"][replica]
    if last == NO_CALL:
        replicas["queue_first"][replica] = call
    else:
        calls["queue_next"][last] = call
    replicas["queue_last"][replica] = call


@kernel_jit_inline
def dequeue(replicas, calls, replica):
    """Take the first call of the queue of `replica`, or `NO_CALL`."""
    call = replicas["queue_first"][replica]
    if call != NO_CALL:
        replicas["queue_first"][replica] = calls["queue_next"][call]
        if replicas["queue_first"][replica] == NO_CALL:
            replicas["queue_last"][replica] = NO_CALL
    return call


@kernel_jit
def advance(state, rate, requests, services, count, service_ns, proxy_ns, wire_ns):
    """Run until `requests` have ended; return (events, summed latency [ns])."""
    replicas, calls, heap, free, rng, histogram = state
    free_count = free.shape[0]
    done = 0
    events = 0
    latency_sum_ns = 0.0
    pending = push(heap, 0, exponential(rng, 1e9 / rate), ARRIVAL)
    while done < requests:
        now_ns = heap["time_ns"][0]
        kind = heap["code"][0] & 7
        call = heap["code"][0] >> 3
        pending = remove_first(heap, pending)
        events += 1
        new_call = NO_CALL
        if kind == ARRIVAL:
            pending = push(heap, pending, now_ns + exponential(rng, 1e9 / rate), ARRIVAL)
            free_count -= 1
            new_call = free[free_count]
            calls["parent"][new_call] = NO_CALL
            calls["service"][new_call] = 0
        elif kind == PICK:
            replica = pick_of_two(replicas, calls["service"][call] * count, count, rng)
            calls["replica"][call] = replica
            replicas["active"][replica] += 1
            pending = push(heap, pending, now_ns + exponential(rng, proxy_ns), call << 3 | REACH)
        elif kind == REACH:
            replica = calls["replica"][call]
            if replicas["busy"][replica]:
                enqueue(replicas, calls, replica, call)
            else:
                replicas["busy"][replica] = 1
                pending = push(
                    heap, pending, now_ns + exponential(rng, service_ns), call << 3 | END
                )
        elif kind == END:
            replica = calls["replica"][call]
            waiting = dequeue(replicas, calls, replica)
            if waiting == NO_CALL:
                replicas["busy"][replica] = 0
            else:
                end_ns = now_ns + exponential(rng, service_ns)
                pending = push(heap, pending, end_ns, np.int64(waiting) << 3 | END)
            if calls["service"][call] + 1 < services:
                free_count -= 1
                new_call = free[free_count]
                calls["parent"][new_call] = call
                calls["service"][new_call] = calls["service"][call] + 1
            else:
                reach_ns = now_ns + exponential(rng, proxy_ns) + wire_ns
                pending = push(heap, pending, reach_ns, call << 3 | RESPOND)
        else:
            replicas["active"][calls["replica"][call]] -= 1
            latency_ns = now_ns - calls["start_ns"][call]
            bucket = min(max(int(math.log(latency_ns / 1e3) * 40.0), 0), BUCKETS - 1)
            histogram[calls["service"][call], bucket] += 1
            free[free_count] = call
            free_count += 1
            parent = np.int64(calls["parent"][call])
            if parent == NO_CALL:
                done += 1
                latency_sum_ns += latency_ns
            else:
                reach_ns = now_ns + exponential(rng, proxy_ns) + wire_ns
                pending = push(heap, pending, reach_ns, parent << 3 | RESPOND)
        if new_call != NO_CALL:
            calls["start_ns"][new_call] = now_ns
            reach_ns = now_ns + exponential(rng, proxy_ns) + wire_ns
            pending = push(heap, pending, reach_ns, np.int64(new_call) << 3 | PICK)
    return events, latency_sum_ns


def run(rate: float, requests: int, services: int, count: int, seed: int) -> tuple[int, int, float]:
    """Simulate `requests` through a chain of `services`, `count` replicas each.

    One worker a replica, exponential service of 1 ms; 0.1 ms at each proxy; 50 us of wire.

    Returns
    -------
    tuple
        Completed requests, events, mean latency [s].
    """
    replicas = np.zeros(services * count, REPLICA_DTYPE)
    replicas["queue_first"] = replicas["queue_last"] = NO_CALL
    state = State(
        replicas,
        np.zeros(CAPACITY, CALL_DTYPE),
        np.zeros(2 * CAPACITY, EVENT_DTYPE),
        np.arange(CAPACITY - 1, -1, -1, dtype=np.int32),
        make_streams(seed, 0, 1)[0],
        np.zeros((services, BUCKETS), np.int64),
    )
    events, latency_sum_ns = advance(state, rate, requests, services, count, 1e6, 1e5, 5e4)
    return requests, events, latency_sum_ns / requests / 1e9
