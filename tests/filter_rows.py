"""Rows of filters, made by hand."""

import numpy as np

from meshsim.state.filters import (
    DIRECTION_COUNT,
    FAULT_COUNTS_DTYPE,
    FAULT_DTYPE,
    LIMIT_COUNTS_DTYPE,
    LIMIT_DTYPE,
)
from meshsim.topology.compiled.filters import bucket_rows
from meshsim.topology.model import TokenBucket

SECOND = 1_000_000_000
UNLIMITED = 2**63 - 1


def bucket(max_tokens, tokens_per_fill, fill_interval, refill="TICKS"):
    """Return BUCKET rows of one full bucket."""
    declared = TokenBucket.model_validate(
        {
            "max_tokens": max_tokens,
            "tokens_per_fill": tokens_per_fill,
            "fill_interval": fill_interval,
        }
    )
    return bucket_rows([(declared, refill)])


def limit(places=(0,), status=429, enabled=1.0, enforced=1.0):
    """Return LIMIT rows of one limit, its buckets and zero counts."""
    values = (0, len(places), 0, 0, status, 0, 0, -1, enabled, enforced, 1)
    rows = np.array([values], LIMIT_DTYPE)
    return rows, np.array(places, np.int32), np.zeros(DIRECTION_COUNT, LIMIT_COUNTS_DTYPE)


def fault(delay=0.0, delay_ns=0, abort=0.0, status=0, active_max=UNLIMITED, pace=0.0, kibps=0):
    """Return FAULT rows of one fault, and its counts."""
    values = (delay, delay_ns, abort, status, active_max, pace, kibps)
    return np.array([values], FAULT_DTYPE), np.zeros(1, FAULT_COUNTS_DTYPE)
