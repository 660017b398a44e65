"""The policy engine's side of custom policies: ask the user's function, check its answer.

Rule: a cluster or a route without a function of its own costs one comparison.  What a function
answers is checked here: a position out of range is no host, and is counted.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.custom.entries import (
    NO_FUNCTION,
    call_admit,
    call_learn,
    call_pick,
    call_retry,
)
from meshsim.policy.retry_throttling import token_count
from meshsim.state.codes import NO_HOST

__all__ = ["admitted_status", "custom_back_off_ns", "custom_pick", "learn"]


@kernel_jit_inline
def _memory_of(clusters: Any, cluster: int, configs: Any) -> tuple[int, int]:
    """Return first float and size of what the cluster's custom policies share."""
    tokens = token_count(clusters, cluster, configs)
    first = clusters["memory_start"][cluster] + tokens
    return first, clusters["memory_count"][cluster] - tokens


@kernel_jit
def custom_pick(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    memory: Any,
    hash_key: Any,
    reselection: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Ask the cluster's own load balancer; a position out of range counts in `invalid_picks`.

    Parameters are those of `meshsim.policy.load_balancing.pick_host`; `memory` is an
    ndarray[float64], the memory of all clusters.
    """
    count = clusters["member_count"][cluster]
    first, size = _memory_of(clusters, cluster, configs)
    position = call_pick(
        configs["custom_pick"][clusters["config"][cluster]],
        hosts,
        members,
        clusters["member_start"][cluster],
        count,
        hash_key,
        reselection,
        memory,
        first,
        size,
        now_ns,
        rng,
    )
    if 0 <= position < count:
        return int(position)
    if position != NO_HOST:
        clusters["invalid_picks"][cluster] += 1
    return NO_HOST


@kernel_jit_inline
def learn(
    hosts: Any,
    host: int,
    clusters: Any,
    configs: Any,
    memory: Any,
    failed: bool,
    rtt_ns: int,
    now_ns: int,
) -> None:
    """Tell the load balancer of the host's cluster, if it wants to know, how a try ended.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        What the user's function may modify.
    host : int
        Row of `hosts`.
    clusters, configs : ndarray
        Read only.
    memory : ndarray[float64]
        Modified in place.
    failed : bool
        Status >= 500, reset or given up.
    rtt_ns : int
        Sent to response or end [ns].
    now_ns : int
        Current time of the caller's clock [ns].
    """
    cluster = hosts["cluster"][host]
    address = configs["custom_learn"][clusters["config"][cluster]]
    if address != NO_FUNCTION:
        first, size = _memory_of(clusters, cluster, configs)
        call_learn(address, hosts, host, failed, rtt_ns, memory, first, size, now_ns)


@kernel_jit
def custom_back_off_ns(
    address: int,
    clusters: Any,
    cluster: int,
    configs: Any,
    memory: Any,
    status: int,
    reset: int,
    retry_number: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Return the back-off that a route's own retry policy wants [ns], or < 0 for no retry."""
    first, size = _memory_of(clusters, cluster, configs)
    return int(call_retry(address, status, reset, retry_number, memory, first, size, now_ns, rng))


@kernel_jit_inline
def admitted_status(
    clusters: Any, cluster: int, configs: Any, memory: Any, now_ns: int, rng: Any
) -> int:
    """Return 0 if the cluster's own admission lets a request in, else the status to answer."""
    address = configs["custom_admit"][clusters["config"][cluster]]
    if address == NO_FUNCTION:
        return 0
    first, size = _memory_of(clusters, cluster, configs)
    return int(call_admit(address, clusters, cluster, memory, first, size, now_ns, rng))
