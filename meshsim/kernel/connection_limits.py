"""Buckets of connections: those of limits that hold for each downstream connection.

Rule: every CONNECTION row has room for the buckets of the widest such limit, beside the row and
only where a scenario has one.  They begin, full, when a connection first meets its limit, which is
when they are not yet those of its generation; so a connection that closes leaves nothing to do.
A connection belongs to one host and so to one inbound proxy, which has one limit.  The memory
grows with the connections, outside compiled code.

A killed replica takes its connections with it.  Clients learn of it when they use one that they
keep idle, so if the replica is back by then, that row stands for a new connection.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.kernel.memory import Rows
from meshsim.policy.rate_limit import begin_bucket
from meshsim.state.filters import BUCKET_DTYPE
from meshsim.state.rows import grown, zeros

__all__ = ["end_connections", "first_bucket_of", "longer_buckets", "no_buckets"]


def no_buckets(limits: Rows, connections: int) -> dict[str, Rows]:
    """Return `connection_buckets` and `buckets_begun` for that many CONNECTION rows.

    Parameters
    ----------
    limits : ndarray[LIMIT_DTYPE], shape (n_limits,)
        Read only.
    connections : int
    """
    width = int(limits["connection_count"].max(initial=0))
    size = connections if width > 0 else 0
    return {
        "connection_buckets": zeros((size * width,), BUCKET_DTYPE),
        "buckets_begun": zeros((size,), np.dtype(np.int32)),
    }


def longer_buckets(state: Any) -> dict[str, Rows]:
    """Return the arrays of `no_buckets` for twice as many connections; old rows stay."""
    names = ("connection_buckets", "buckets_begun")
    return {name: grown(getattr(state, name), len(getattr(state, name))) for name in names}


def end_connections(state: Any, endpoint: int) -> None:
    """Let whatever connections there are to a killed `endpoint` have no buckets any more."""
    if len(state.buckets_begun):
        hosts = state.connections["host"]
        state.buckets_begun[state.hosts["endpoint"][hosts] == endpoint] = 0


@kernel_jit
def first_bucket_of(state: Any, connection: int, limit: int) -> int:
    """Return the first of the `connection_buckets` of `connection`, which meets `limit`."""
    begun = state.connections["generation"][connection] + 1
    width = state.connection_buckets.shape[0] // state.buckets_begun.shape[0]
    first = int(connection * width)
    if state.buckets_begun[connection] != begun:
        state.buckets_begun[connection] = begun
        start = state.limits["connection_start"][limit]
        now_ns = state.counters["now_ns"][0]
        for place in range(state.limits["connection_count"][limit]):
            model, bucket = start + place, first + place
            begin_bucket(state.full_buckets, model, state.connection_buckets, bucket, now_ns)
    return first
