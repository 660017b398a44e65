"""Local rate limits: token buckets, and which requests they refuse.

Rule: a bucket starts full.  A request takes one token; if there is none it is over the limit.
Tokens come back in one of two ways:

- by *ticks*: ``tokens_per_fill`` at once at every multiple of ``fill_interval``, as Envoy's
  documentation says and its timer once did; what exceeds ``max_tokens`` is lost;
- *continuously*: evenly, ``tokens_per_fill`` in ``fill_interval``; this is the generic cell rate
  algorithm (GCRA) of Linkerd, and what Envoy does now: measured on 1.40.0, a bucket of 5 tokens
  a second gives one each 200 ms.

With Poisson requests at rate lambda a continuous bucket of rate r and size b refuses as often
as an M/D/1 queue with room for b loses (service 1/r).  Neither needs an event: the level is
projected when it is asked for, in whole numbers, so that both planes find the same token.

A limit is one bucket, or several: those of its descriptors that fit the request, the slowest
first, then the default one.  The first that is empty refuses; what was taken of earlier ones is
gone.  ``filter_enabled`` is the share of requests that are looked at at all, ``filter_enforced``
the share of those over the limit that are refused (the others pass and are counted); both coins
belong to the request (keyed), so that a limit moves no other draw.

Buckets are the proxy's, or each downstream connection has its own: they begin, full, with the
first request of the connection that meets the limit, and end with the connection.

A refused request is answered with the limit's status (429), flag RL.  Measured on Envoy 1.40.0,
this response is *not* marked ``x-envoy-ratelimited``, unless ``response_headers_to_add`` names
that header; a marked one is retried under the condition ``envoy-ratelimited`` and no other.
With `enable_x_ratelimit_headers` it says when there is a token again
(`meshsim.policy.reset_headers`).

References
----------
Envoy, source/extensions/filters/http/local_ratelimit/local_ratelimit.cc (decodeHeaders;
getPerConnectionRateLimiter: kept in the connection's filter state);
api/envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto;
source/extensions/filters/common/local_ratelimit/local_ratelimit_impl.cc (requestAllowed);
source/common/common/token_bucket_impl.h (AtomicTokenBucketImpl);
api/envoy/type/v3/token_bucket.proto.
Linkerd, linkerd2-proxy linkerd/http/local-rate-limit (crate governor, GCRA).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import PURPOSE_LIMIT, key_uniform, mix_in
from meshsim.state.filters import REFILL_CONTINUOUS

__all__ = [
    "NOT_LIMITED",
    "begin_bucket",
    "check_limit",
    "fill_bucket",
    "seconds_until_reset",
    "take_token",
    "tokens",
]

#: `check_limit` lets the request pass.
NOT_LIMITED = 0

_NS_PER_S = 1_000_000_000
#: Coins of a request, below PURPOSE_LIMIT.
_ENABLED = 0
_ENFORCED = 1


def fill_bucket(buckets: Any, bucket: int) -> None:
    """Fill a bucket to its brim, as it is when its proxy learns of it; row modified in place."""
    unit = 1
    if buckets["refill"][bucket] == REFILL_CONTINUOUS:
        unit = int(buckets["fill_interval_ns"][bucket])
    buckets["level"][bucket] = int(buckets["max_tokens"][bucket]) * unit
    buckets["updated_ns"][bucket] = 0


@kernel_jit
def begin_bucket(full: Any, model: int, buckets: Any, bucket: int, now_ns: int) -> None:
    """Begin a bucket of a connection, or of a limit that is new: full, a tick an interval from now.

    Parameters
    ----------
    full : ndarray[BUCKET_DTYPE], shape (n_full,)
        Full buckets, as `fill_bucket` leaves them.  Read only.
    model : int
        Row of `full`.
    buckets : ndarray[BUCKET_DTYPE], shape (n_buckets,)
        Row `bucket` is modified in place.
    bucket : int
    now_ns : int
        When the connection met its limit first [ns].
    """
    buckets["level"][bucket] = full["level"][model]
    buckets["updated_ns"][bucket] = now_ns
    buckets["max_tokens"][bucket] = full["max_tokens"][model]
    buckets["tokens_per_fill"][bucket] = full["tokens_per_fill"][model]
    buckets["fill_interval_ns"][bucket] = full["fill_interval_ns"][model]
    buckets["refill"][bucket] = full["refill"][model]


@kernel_jit_inline
def _projected(buckets: Any, bucket: int, now_ns: int) -> int:
    """Return the level of a bucket at `now_ns`; no read changes it."""
    level = buckets["level"][bucket]
    interval_ns = buckets["fill_interval_ns"][bucket]
    per_fill = buckets["tokens_per_fill"][bucket]
    elapsed_ns = max(now_ns - buckets["updated_ns"][bucket], 0)
    if buckets["refill"][bucket] == REFILL_CONTINUOUS:
        brim = buckets["max_tokens"][bucket] * interval_ns
        gain, unit = per_fill, elapsed_ns
    else:
        brim = buckets["max_tokens"][bucket]
        gain, unit = per_fill, elapsed_ns // interval_ns
    # Divided, because the product may not fit.
    if unit > (brim - level) // gain:
        return brim
    return level + gain * unit


@kernel_jit
def tokens(buckets: Any, bucket: int, now_ns: int) -> int:
    """Return the whole tokens in a bucket at `now_ns`.

    Parameters
    ----------
    buckets : ndarray[BUCKET_DTYPE], shape (n_buckets,)
        Read only.
    bucket : int
        Row of `buckets`.
    now_ns : int
        [ns].
    """
    level = _projected(buckets, bucket, now_ns)
    if buckets["refill"][bucket] == REFILL_CONTINUOUS:
        return level // buckets["fill_interval_ns"][bucket]
    return level


@kernel_jit
def take_token(buckets: Any, bucket: int, now_ns: int) -> bool:
    """Take a token out of a bucket; return whether there was one.

    Parameters
    ----------
    buckets : ndarray[BUCKET_DTYPE], shape (n_buckets,)
        Row `bucket` is modified in place.
    bucket : int
    now_ns : int
        Not before the last call's [ns].

    Notes
    -----
    A tick at `now_ns` comes before the request.
    """
    level = _projected(buckets, bucket, now_ns)
    interval_ns = buckets["fill_interval_ns"][bucket]
    elapsed_ns = max(now_ns - buckets["updated_ns"][bucket], 0)
    if buckets["refill"][bucket] == REFILL_CONTINUOUS:
        cost = interval_ns
    else:
        cost = 1
        elapsed_ns -= elapsed_ns % interval_ns
    buckets["updated_ns"][bucket] += elapsed_ns
    if level < cost:
        buckets["level"][bucket] = level
        return False
    buckets["level"][bucket] = level - cost
    return True


@kernel_jit
def _wait_ns(buckets: Any, bucket: int, now_ns: int) -> int:
    """Return how long it takes until a bucket has a token, 0 if it has one [ns]."""
    if tokens(buckets, bucket, now_ns) > 0:
        return 0
    interval_ns = buckets["fill_interval_ns"][bucket]
    if buckets["refill"][bucket] == REFILL_CONTINUOUS:
        missing = interval_ns - _projected(buckets, bucket, now_ns)
        return -(-missing // buckets["tokens_per_fill"][bucket])
    return interval_ns - max(now_ns - buckets["updated_ns"][bucket], 0) % interval_ns


@kernel_jit
def seconds_until_reset(
    limits: Any, limit: int, limit_buckets: Any, buckets: Any, first_bucket: int, now_ns: int
) -> int:
    """Return what a refusal says in ``x-ratelimit-reset``, rounded up [s].

    Parameters are those of `check_limit`, which has just refused; all are read only.  The first
    bucket that is empty is the one that refused.
    """
    start = limits["bucket_start"][limit]
    for place in range(start, start + limits["bucket_count"][limit]):
        wait_ns = _wait_ns(buckets, first_bucket + limit_buckets[place], now_ns)
        if wait_ns > 0:
            return -(-wait_ns // _NS_PER_S)
    return 0


@kernel_jit_inline
def _coin(key: np.uint64, which: int, share: float) -> bool:
    return share >= 1.0 or key_uniform(mix_in(key, (PURPOSE_LIMIT << 24) + which)) < share


@kernel_jit
def check_limit(
    limits: Any,
    limit: int,
    limit_buckets: Any,
    buckets: Any,
    first_bucket: int,
    counts: Any,
    row: int,
    key: np.uint64,
    now_ns: int,
) -> int:
    """Let one request take its tokens; return the status it is refused with, or NOT_LIMITED.

    Parameters
    ----------
    limits : ndarray[LIMIT_DTYPE], shape (n_limits,)
        Read only.
    limit : int
        Row of `limits`.
    limit_buckets : ndarray[int32], shape (n,)
        See LIMIT_DTYPE.  Read only.
    buckets : ndarray[BUCKET_DTYPE], shape (n_buckets,)
        Those of the limit are modified in place.
    first_bucket : int
        First BUCKET row of the proxy, or of the connection.
    counts : ndarray[LIMIT_COUNTS_DTYPE], shape (n,)
        Row `row` is modified in place.
    row : int
    key : uint64
        Of the request: decides its coins.
    now_ns : int
        [ns].
    """
    if not _coin(key, _ENABLED, limits["enabled"][limit]):
        return NOT_LIMITED
    counts["enabled"][row] += 1
    start = limits["bucket_start"][limit]
    allowed = True
    for place in range(start, start + limits["bucket_count"][limit]):
        if not take_token(buckets, first_bucket + limit_buckets[place], now_ns):
            allowed = False
            break
    if allowed:
        counts["ok"][row] += 1
        return NOT_LIMITED
    counts["rate_limited"][row] += 1
    if not _coin(key, _ENFORCED, limits["enforced"][limit]):
        return NOT_LIMITED
    counts["enforced"][row] += 1
    return int(limits["status"][limit])
