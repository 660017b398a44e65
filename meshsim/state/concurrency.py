"""Adaptive concurrency: the gradient controller of each inbound proxy that has one.

A GRADIENT row is one proxy's controller, with a row of bins beside it for the latencies that it
has seen since it last looked; a GRADIENT_RULE row is configuration.  Both tables are empty if
nobody has the filter.
"""

from __future__ import annotations

import numpy as np

#: Bins of latencies: 90 a decade of microseconds, from 1 us to 1000 s, as Envoy's histograms have.
LATENCY_BINS_A_DECADE = 90
LATENCY_DECADES = 10
LATENCY_BIN_COUNT = LATENCY_BINS_A_DECADE * LATENCY_DECADES

GRADIENT_RULE_DTYPE = np.dtype(
    [
        ("sample_aggregate", "f8"),  # quantile of the latencies of a window, 0 to 1
        ("concurrency_update_interval_ns", "i8"),
        ("max_concurrency_limit", "i8"),
        ("min_concurrency", "i8"),
        ("request_count", "i8"),  # samples that a measurement of the least latency takes
        ("interval_ns", "i8"),  # between two such measurements; NEVER_NS: it is fixed
        ("fixed_us", "i8"),  # the least latency, if it is fixed
        ("jitter", "f8"),  # of the interval, as a share
        ("buffer", "f8"),  # added to the least latency, as a share
        ("status", "i4"),  # of a refusal
    ],
    align=True,
)

GRADIENT_DTYPE = np.dtype(
    [
        ("rule", "i4"),  # GRADIENT_RULE row, or NO_INDEX: this proxy has no controller
        ("outstanding", "i8"),  # requests that passed and are not answered
        ("limit", "i8"),
        ("deferred_limit", "i8"),  # the limit before a measurement; 0: none is under way
        ("at_minimum", "i8"),  # windows in a row whose limit was the least there is
        ("min_rtt_us", "i8"),
        ("sample_rtt_us", "i8"),
        ("epoch_ns", "i8"),  # requests that came before it are no samples
        ("measure_ns", "i8"),  # when the next measurement begins, or NEVER_NS
        ("update_ns", "i8"),  # when the limit is worked out anew, or NEVER_NS
        ("samples", "i8"),  # in the bins
        ("draws", "i8"),
        ("key", "u8"),
        ("gradient", "f8"),
        ("burst_queue_size", "f8"),
        ("blocked", "i8"),
    ],
    align=True,
)
