"""Exchanges and attempts: what the request machine owns.

An EXCHANGE is one request as one routing proxy handles it; it owns ATTEMPT rows, each one try
at one host.  An exchange without a parent task is a root, or a mirror; several
live attempts at once are a hedge.  Rows are pooled: `next` chains the free ones.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.rows import row_dtype

# States of an exchange.
EXCHANGE_FREE = 0
EXCHANGE_ROUTING = 1  # accepted, no attempt yet
EXCHANGE_ATTEMPTING = 2  # at least one attempt is under way
EXCHANGE_BACKING_OFF = 3  # waiting to retry
EXCHANGE_RESPONDING = 4  # decided; the response is on its way down
EXCHANGE_DELAYED = 5  # a fault filter holds the request back
EXCHANGE_STATE_COUNT = 6

EXCHANGE_DTYPE = row_dtype(
    [
        ("generation", "i4"),
        ("state", "i4"),
        ("next", "i4"),  # free list
        ("proxy", "i4"),  # routing proxy (or client library) that owns this exchange
        ("parent", "i4"),  # TASK that called, NO_INDEX for a root, or MIRROR
        ("parent_generation", "i4"),
        ("traffic", "i4"),  # traffic class
        ("call", "i4"),  # CALL row: destination, bytes, routes
        ("route", "i4"),
        ("cluster", "i4"),  # CLUSTER row chosen by the split
        ("edge", "i4"),  # result series of this (caller, service) pair
        ("attempt", "i4"),  # newest ATTEMPT, chained by `previous`
        ("attempts_active", "i4"),
        ("flags", "i4"),  # MEASURED, SAMPLED; segment and window of the arrival
        ("started_ns", "i8"),
        # the second line
        ("key", "u8"),  # draw key of this exchange (seed, request, call path)
        ("number", "i8"),  # of the root request: trace identity
        ("proxy_ns", "i8"),  # of the first pass; its attempts have the rest
        ("deadline_ns", "i8"),  # until it is routed that of who asks; then its own, if earlier
        ("retries_remaining", "i4"),
        ("retry_count", "i4"),
        ("retry_held", "i4"),  # 1: counted in the cluster's retries_active
        ("status", "i4"),
        ("response_flag", "i4"),
        ("timer", "i4"),  # TIMER list, or NO_INDEX
        ("timer_previous", "i4"),  # route-timeout list
        ("timer_next", "i4"),
        # the third line: of few requests only
        ("span", "i8"),
        ("parent_span", "i8"),
        ("hedge_due_ns", "i8"),  # when the next copy is due, on a route that hedges after a delay
        ("back_off_ns", "i8"),  # the last one, where the next depends on it
        ("reset_interval_ns", "i8"),  # that the response just told of asks for; 0: none
    ]
)

#: In place of the parent of an EXCHANGE: it is a mirror, nobody waits for its answer.
MIRROR = -2

# Bits of `flags`.
MEASURED = 1
SAMPLED = 2
HOLDS_FAULT = 4  # it counts among its proxy's active faults
PACED = 8  # the fault filter may limit the rate of its response
#: Those that a request passes on to the calls it causes.
FLAGS_INHERITED = ~(HOLDS_FAULT | PACED)
#: Segment of the arrival in bits 4 to 7, window above.
FLAGS_SEGMENT_SHIFT = 4
FLAGS_SEGMENT_MASK = 15
FLAGS_WINDOW_SHIFT = 8

# States of an attempt.
ATTEMPT_FREE = 0
ATTEMPT_PENDING = 1  # waits for a connection
ATTEMPT_SENT = 2  # on the wire, at the server, or on the way back
ATTEMPT_ABANDONED = 3  # its exchange no longer waits; the server may still work
ATTEMPT_ENDED = 4  # over; kept while its exchange lives, as the list of previous hosts

ATTEMPT_DTYPE = row_dtype(
    [
        ("generation", "i4"),
        ("state", "i4"),
        ("next", "i4"),  # free list, or the host's pending list
        ("exchange", "i4"),
        ("host", "i4"),
        ("endpoint", "i4"),
        ("connection", "i4"),
        ("task", "i4"),  # root TASK at the endpoint, or NO_INDEX
        ("try_number", "i4"),  # 0 is the first
        ("status", "i4"),
        ("reset", "i4"),  # RESET_* if it failed without a response
        ("timer", "i4"),
        ("sent_ns", "i8"),
        ("entered_ns", "i8"),  # start of the current stage
        # the second line
        ("queue_ns", "i8"),
        ("service_ns", "i8"),
        ("proxy_ns", "i8"),
        ("wire_ns", "i8"),
        ("deadline_ns", "i8"),
        ("previous", "i4"),  # the exchange's earlier attempt
        ("pending_previous", "i4"),
        ("timer_previous", "i4"),  # per-try-timeout list
        ("timer_next", "i4"),
        ("gated", "i2"),  # 1: it passed an adaptive concurrency limit, at `entered_ns`
        ("reset_told", "i2"),  # what its answer says of a reset (meshsim.policy.reset_headers)
        ("pool", "i4"),  # HOST row that it waits at, and whose connection it has: by priority
    ]
)

#: The packets of a connection are dropped: it ends when its connect timeout does.
CONNECTING_UNANSWERED = 2

CONNECTION_DTYPE = np.dtype(
    [
        ("generation", "i4"),
        ("host", "i4"),
        ("next", "i4"),  # free list, or the next older idle connection
        ("newer", "i4"),  # the next newer idle connection
        ("connecting", "i4"),  # 0: established; 1; or CONNECTING_UNANSWERED
        ("requests", "i4"),  # served so far
        ("idle_since_ns", "i8"),
    ],
    align=True,
)
