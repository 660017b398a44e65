"""Which host of a cluster the next request goes to.

Rule: `pick_host` dispatches on the cluster's `balancing` to one algorithm a module, each with
Envoy's or Linkerd's exact rule.  It sees one proxy's HOST rows only: that proxy's own active
requests and averages, never the true load of an endpoint.  A host that is not selectable
(`healthy` 0) is never picked; what to do when too few are (`meshsim.policy.panic`) is decided by
whoever sets `healthy`.

`on_request_sent`, `on_response`, `on_abandoned` and `on_error` are the only writers of a host's
counts and averages.

References
----------
Envoy, source/extensions/load_balancing_policies/; linkerd2-proxy, linkerd/pool/p2c.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.custom.decisions import custom_pick
from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.policy.load_balancing import (
    edf,
    least_request,
    maglev,
    peak_ewma,
    random_pick,
    ring_hash,
    round_robin,
    slow_start,
)
from meshsim.policy.load_balancing.hash_table import bound_load
from meshsim.policy.load_balancing.maglev import build_maglev
from meshsim.policy.load_balancing.ring_hash import build_ring
from meshsim.rng import next_uint64
from meshsim.state.codes import (
    CUSTOM,
    LEAST_REQUEST,
    LEAST_REQUEST_FULL_SCAN,
    MAGLEV,
    NO_HOST,
    PEAK_EWMA,
    RANDOM,
    RING_HASH,
    ROUND_ROBIN,
)

__all__ = [
    "build_maglev",
    "build_ring",
    "on_abandoned",
    "on_error",
    "on_request_sent",
    "on_response",
    "pick_host",
]

# What `weights_equal` of a configuration says.
_EQUAL = 1
_BUT_FOR_SLOW_START = 2


@kernel_jit
def _pick_by_hash(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    table: Any,
    hash_key: Any,
    attempt_number: int,
    rng: Any,
) -> int:
    """Pick by RING_HASH or MAGLEV; without a hash key by a random one, as Envoy does.

    Whoever picks has called `meshsim.policy.load_balancing.hash_set.renew_table`.
    """
    config = clusters["config"][cluster]
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    table_start = configs["table_start"][config]
    table_count = configs["table_count"][config]
    if clusters["cursor"][cluster] > 0:
        table_start = clusters["cursor"][cluster]
        table_count = clusters["edf_next_order"][cluster]
    if table_count == 0:
        return NO_HOST
    if hash_key == NO_HASH_KEY:
        hash_key = next_uint64(rng)
    if configs["balancing"][config] == RING_HASH:
        picked = ring_hash.pick(
            hosts, members, start, count, table, table_start, table_count, hash_key, attempt_number
        )
    else:
        picked = maglev.pick(
            hosts, members, start, count, table, table_start, table_count, hash_key, attempt_number
        )
    factor = configs["hash_balance_factor"][config]
    if factor > 0 and picked != NO_HOST:
        picked = bound_load(
            hosts, members, start, count, clusters, cluster, factor, picked, hash_key
        )
    return picked


@kernel_jit
def _pick_rarely(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    table: Any,
    memory: Any,
    hash_key: Any,
    attempt_number: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Pick by the policies that cost a call anyway."""
    config = clusters["config"][cluster]
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    balancing = configs["balancing"][config]
    if balancing == PEAK_EWMA:
        return peak_ewma.pick(hosts, members, start, count, configs, config, now_ns, rng)
    if balancing == CUSTOM:
        return custom_pick(
            hosts,
            members,
            clusters,
            cluster,
            configs,
            memory,
            hash_key,
            attempt_number,
            now_ns,
            rng,
        )
    if balancing in (RING_HASH, MAGLEV):
        return _pick_by_hash(
            hosts, members, clusters, cluster, configs, table, hash_key, attempt_number, rng
        )
    weights_equal = configs["weights_equal"][config]
    if weights_equal == 0 or (
        weights_equal == _BUT_FOR_SLOW_START
        and slow_start.any_starts(hosts, members, start, count, now_ns)
    ):
        bias = 0.0 if balancing == ROUND_ROBIN else configs["active_request_bias"][config]
        return edf.pick(hosts, members, start, count, clusters, cluster, configs, bias, now_ns)
    if balancing == LEAST_REQUEST_FULL_SCAN:
        return least_request.pick_full_scan(hosts, members, start, count, rng)
    if balancing == LEAST_REQUEST:
        choice_count = configs["choice_count"][config]
        return least_request.pick(hosts, members, start, count, choice_count, rng)
    return round_robin.pick(hosts, members, start, count, clusters, cluster)


@kernel_jit_inline
def pick_host(
    hosts: Any,
    members: Any,
    clusters: Any,
    cluster: int,
    configs: Any,
    table: Any,
    memory: Any,
    hash_key: Any,
    attempt_number: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Pick the host for the next request (or connection) of a cluster.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Schedules (EDF) are modified in place; counts and averages are not.
    members : ndarray[int32], shape (n_members,)
        HOST rows of all clusters.  Read only.
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Row `cluster` is modified in place (cursor, EDF time).
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    table : ndarray[TABLE_DTYPE], shape (n_entries,)
        Rings and Maglev tables of all configs.  Read only.
    memory : ndarray[float64], shape (n_floats,)
        What custom load balancers of all clusters remember.  Modified in place by these.
    hash_key : uint64
        Hash of the request, for RING_HASH and MAGLEV; `NO_HASH_KEY` if it has none.
    attempt_number : int
        0 for the first selection of a try, a for the a-th *reselection* because the host was
        tried before (`host_selection_attempts`).  It is not the number of the retry: without
        reselection a retry with the same hash goes to the same host, as in Envoy.
    now_ns : int
        Current time of the caller's clock [ns].
    rng : ndarray[uint64], shape (2,)
        Stream of this load balancer.  Advanced in place.

    Returns
    -------
    int
        Position within the cluster's members: the host is
        ``members[clusters["member_start"][cluster] + position]``.  `NO_HOST` if no member is
        selectable.

    Notes
    -----
    O(1) for equal weights while all members are healthy; O(n) for EDF, full scan and bounded
    load; O(log n) for a ring.  O(n**2) where the schedule of EDF begins.
    """
    config = clusters["config"][cluster]
    balancing = configs["balancing"][config]
    start = clusters["member_start"][cluster]
    count = clusters["member_count"][cluster]
    weights_equal = configs["weights_equal"][config]
    if balancing == LEAST_REQUEST and weights_equal == _EQUAL:
        choice_count = configs["choice_count"][config]
        position = least_request.pick(hosts, members, start, count, choice_count, rng)
    elif balancing == ROUND_ROBIN and weights_equal == _EQUAL:
        position = round_robin.pick(hosts, members, start, count, clusters, cluster)
    elif balancing == RANDOM:
        position = random_pick.pick(hosts, members, start, count, rng)
    else:
        position = _pick_rarely(
            hosts,
            members,
            clusters,
            cluster,
            configs,
            table,
            memory,
            hash_key,
            attempt_number,
            now_ns,
            rng,
        )
    return position


@kernel_jit_inline
def on_request_sent(hosts: Any, host: int, now_ns: int) -> None:
    """Count a request that goes to `host` now."""
    hosts["requests_active"][host] += 1
    hosts["requests_total"][host] += 1


@kernel_jit_inline
def _on_ended(
    hosts: Any, host: int, configs: Any, config: int, elapsed_ns: int, now_ns: int
) -> None:
    hosts["requests_active"][host] -= 1
    if configs["balancing"][config] == PEAK_EWMA:
        peak_ewma.on_sample(hosts, host, configs, config, elapsed_ns, now_ns)


@kernel_jit_inline
def on_response(hosts: Any, host: int, configs: Any, config: int, rtt_ns: int, now_ns: int) -> None:
    """Discount a request that `host` has answered after `rtt_ns`, and learn from it.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Row `host` is modified in place.
    host : int
        Row of `hosts`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    config : int
        Row of `configs`.
    rtt_ns : int
        Sent to response [ns], >= 0.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    _on_ended(hosts, host, configs, config, rtt_ns, now_ns)
    hosts["latency_sum_ns"][host] += rtt_ns


@kernel_jit_inline
def on_abandoned(
    hosts: Any, host: int, configs: Any, config: int, elapsed_ns: int, now_ns: int
) -> None:
    """Discount a request to `host` that ended without response (reset, timeout, cancelled).

    Parameters are those of `on_response`; tower's peak EWMA takes the elapsed time of a dropped
    request as a sample, the sum of latencies does not.
    """
    _on_ended(hosts, host, configs, config, elapsed_ns, now_ns)


@kernel_jit_inline
def on_error(hosts: Any, host: int) -> None:
    """Count a request that `host` failed: status >= 500, reset or timeout."""
    hosts["errors_total"][host] += 1
