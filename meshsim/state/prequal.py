"""Probes of servers: what a cluster that balances by them knows, and what servers measure.

A PREQUAL_POOL row belongs to a cluster of one proxy (`prequal_links` leads to it).  Its probes are
``probes[pool, :count]``, the requests in flight that its last responses told are
``probe_rifs[pool, :rif_count]``, and what is on its way is in ``probe_flights[pool]``.
PREQUAL_SERVER rows, by [endpoint, bucket of requests in flight], say where the last latencies of
a server are: ``prequal_samples[endpoint, bucket * BUCKET_SAMPLES:][:count]``.  All are empty where
nobody probes.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "BUCKET_SAMPLES",
    "FLIGHTS",
    "POOL_MAX",
    "PREQUAL_POOL_DTYPE",
    "PREQUAL_RULE_DTYPE",
    "PREQUAL_SERVER_DTYPE",
    "PREQUAL_STATS",
    "PROBE_DTYPE",
    "PROBE_FLIGHT_DTYPE",
    "RIF_BUCKETS",
    "RIF_SAMPLES",
]

#: Largest pool of probes.
POOL_MAX = 64
#: Responses by which a client estimates the distribution of requests in flight.
RIF_SAMPLES = 64
#: Probes of one cluster that can be under way at once.
FLIGHTS = 128
#: A server remembers its last latencies by the requests in flight that they met, in buckets.
RIF_BUCKETS = 64
BUCKET_SAMPLES = 5

#: The rule of a cluster, by the names of the paper.
PREQUAL_RULE_DTYPE = np.dtype(
    [
        ("r_probe", "f8"),  # probes a request
        ("r_remove", "f8"),  # probes removed a request
        ("q_rif", "f8"),  # quantile of requests in flight above which a server is hot
        ("reuse_delta", "f8"),
        ("max_age_ns", "i8"),
        ("pool_size", "i4"),
    ],
    align=True,
)

PREQUAL_POOL_DTYPE = np.dtype(
    [
        ("cluster", "i4"),
        ("count", "i4"),  # probes in the pool
        ("rif_count", "i4"),
        ("rif_next", "i4"),
        ("flight_next", "i4"),
        ("oldest_next", "i4"),  # 1: the next removal takes the oldest, 0: the worst
        ("probes_owed", "f8"),
        ("removals_owed", "f8"),
        ("probes_total", "i8"),  # sent
        ("probes_skipped", "i8"),  # too many were under way
        ("random_picks", "i8"),  # there were too few probes
    ],
    align=True,
)

#: Our counters, as Envoy does not probe for load.
PREQUAL_STATS = {
    "prequal_probes": "probes_total",
    "prequal_probes_skipped": "probes_skipped",
    "prequal_random_picks": "random_picks",
}

PROBE_DTYPE = np.dtype(
    [
        ("host", "i4"),
        ("rif", "i4"),  # requests in flight: as reported, and those sent there since
        ("latency_ns", "i8"),
        ("received_ns", "i8"),
        ("uses", "i4"),  # left
    ],
    align=True,
)

PROBE_FLIGHT_DTYPE = np.dtype(
    [
        ("host", "i4"),
        ("under_way", "i4"),
        ("rif", "i4"),  # the server's answer
        ("latency_ns", "i8"),
        ("key", "u8"),  # of the draws of its way
    ],
    align=True,
)

PREQUAL_SERVER_DTYPE = np.dtype([("count", "i4"), ("next", "i4")], align=True)
