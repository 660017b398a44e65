"""Rows that only the kernel has: events, timers, traffic, calls, proxies, counters."""

from __future__ import annotations

import numpy as np

from meshsim.state.rows import row_dtype

EVENT_DTYPE = np.dtype(
    [
        ("time_ns", "i8"),
        ("order", "i8"),  # priority in the top bits, then the sequence number: FIFO on ties
        ("what", "i8"),  # kind, row index and generation packed by meshsim.kernel.events
    ],
    align=True,
)

#: Events that can stand outside the heap, ahead of their time.
UPCOMING_MAX = 64
#: Buckets of events by time (a power of two), and the events that one holds.
BUCKET_COUNT = 1024
BUCKET_MAX = 64

#: Timers of one duration: a FIFO of rows, because equal durations end in the order they began.
TIMER_DTYPE = np.dtype(
    [
        ("duration_ns", "i8"),
        ("head", "i4"),
        ("tail", "i4"),
        ("scheduled", "i4"),  # 1: an event for the head is in the queue
    ],
    align=True,
)

PROXY_DTYPE = row_dtype(
    [
        ("cluster_start", "i4"),
        ("costs", "i4"),  # 1: passes take CPU; 0: a client library
        ("workers", "i4"),
        ("worker_start", "i4"),  # worker_free_ns[worker_start:][:workers]
        ("container", "i4"),  # shared cores, or NO_INDEX
        ("node", "i4"),
        ("zone", "i4"),
        ("pass_ns", "i4"),
        ("wakeup_ns", "i4"),
        ("route_base", "i4"),  # its version of the routes: routes_by_traffic[route_base + ...]
        ("byte_ns", "f8"),
        ("requests", "i8"),
        ("cpu_ns", "i8"),
        # the second line
        ("endpoint", "i4"),  # the replica it serves, or NO_INDEX for a gateway or source
        ("cluster_count", "i4"),
        ("handshake_ns", "i4"),  # CPU of one mutual TLS handshake; 0: plain text
        ("bucket_start", "i4"),  # token buckets of its rate limits
        ("bucket_count", "i4"),
        ("rbac_allowed", "i8"),  # requests that access rules let in
        ("rbac_denied", "i8"),  # and refused
    ]
)

#: A call site: one step of one caller's program, or the entry of one traffic class.
CALL_DTYPE = np.dtype(
    [
        ("operation", "i4"),
        ("request_bytes", "i4"),
        ("response_bytes", "i4"),
        ("edge", "i4"),
        ("route_start", "i4"),  # routes_by_traffic[proxy's route_base + route_start + class]
    ],
    align=True,
)

TRAFFIC_DTYPE = np.dtype(
    [
        ("call", "i4"),
        ("proxy", "i4"),  # gateway or client library its requests enter by
        ("priority", "i4"),
        ("think_time", "i4"),  # DISTRIBUTION of a closed loop, or NO_INDEX
        ("batch_left", "i4"),
        ("wake", "i4"),  # of its one outstanding arrival event
        ("number", "i8"),  # requests so far
        ("in_flight", "i8"),
        ("in_flight_updated_ns", "i8"),
        ("key", "u8"),  # draw key of the class
    ],
    align=True,
)

#: Pools of rows with a free list each.
POOLS = ("exchange", "attempt", "task", "connection")

COUNTERS_DTYPE = np.dtype(
    [
        ("now_ns", "i8"),
        ("next_order", "i8"),
        ("event_count", "i8"),  # events in the heap
        ("upcoming_first", "i8"),  # upcoming[upcoming_first:upcoming_end]: before all of them
        ("upcoming_end", "i8"),
        ("upcoming_until_ns", "i8"),  # time of the last upcoming event, or of the last there was
        ("events", "i8"),  # events handled
        ("bucket_until_ns", "i8"),  # events before this are never in a bucket
        ("bucket_shift", "i8"),  # binary logarithm of the width of a bucket [ns]
        ("bucket_events", "i8"),  # in all buckets
        ("bucket_round", "i8"),  # buckets emptied since the width was last looked at
        ("bucket_round_ns", "i8"),  # and the bound
        ("bucket_round_order", "i8"),  # and the next order then
        ("route_block", "i8"),  # length of `routes_by_traffic` for one version of the routes
        ("requests", "i8"),  # root requests started
        ("exchanges", "i8"),
        ("attempts", "i8"),
        ("in_flight", "i8"),  # root requests
        ("measured_in_flight", "i8"),
        ("window", "i8"),  # by the clock; WINDOW_COUNT after the measured time
        ("sample_threshold", "u8"),  # trace a request if its hash is below
        ("spans", "i8"),
        ("next_span", "i8"),
        ("follow_up", "i8"),  # waits for room; else NOTHING
        ("stop", "i8"),  # 1: return WAKE after this event
        ("invalid", "i8"),  # transitions that the request machine's table does not have
        *((f"{pool}_free", "i8") for pool in POOLS),  # head of the free list
        *((f"{pool}_free_count", "i8") for pool in POOLS),
    ],
    align=True,
)
