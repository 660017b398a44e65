"""Circuit breakers: Envoy's concurrency limits of one proxy on one upstream cluster.

Rule: a thing may be created while the count of its kind is below the limit; otherwise it is
refused at once, the refusal is counted, and the request ends with flag UO.  Four kinds:

- *connections* (`max_connections`): a host without any connection may always open one, or its
  pending requests would wait for nothing; the overflow is counted all the same.  Connections
  are opened while more requests wait for the host than are connecting to it: when one begins
  to wait, when a connection has become free and others still wait, and when one was closed
  (`wants_connection`, at most `CONNECTIONS_AT_ONCE` each time);
- *pending requests* (`max_pending_requests`): those that wait for a connection;
- *requests* (`max_requests`): those that have a connection and no complete response;
- *retries* (`max_retries`, 3 in Envoy): from the decision to retry, through the back-off, until
  the retry's own outcome.  A retry budget replaces `max_retries`: the limit is then
  max(budget_percent / 100 * (active + pending requests), min_retry_concurrency), cut to a whole
  number.

These are limits on concurrency, not a breaker that opens for a time; that is outlier detection.
The `can_*` functions decide and count refusals; the `on_*` functions are the only writers of
the active counts.

References
----------
Envoy, source/common/upstream/resource_manager_impl.h (ManagedResourceImpl, RetryBudgetImpl);
source/common/conn_pool/conn_pool_base.cc (tryCreateNewConnections, newStreamImpl,
onUpstreamReady, onConnectionEvent);
api/envoy/config/cluster/v3/circuit_breaker.proto.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit_inline

__all__ = [
    "CONNECTIONS_AT_ONCE",
    "OPEN",
    "OPEN_BEYOND",
    "OPEN_NONE",
    "can_open_connection",
    "can_retry",
    "can_send_request",
    "can_wait",
    "on_connection_closed",
    "on_connection_opened",
    "on_pending_added",
    "on_pending_removed",
    "on_request_ended",
    "on_request_started",
    "on_retry_ended",
    "on_retry_started",
    "retries_max",
    "wants_connection",
]

#: Answers of `can_open_connection`.
OPEN_NONE = 0  # the limit forbids it
OPEN = 1
OPEN_BEYOND = 2  # the host has none: this one, beyond the limit, and no other

#: How many connections are opened at one instant (Envoy, tryCreateNewConnections).
CONNECTIONS_AT_ONCE = 3


@kernel_jit_inline
def can_send_request(clusters: Any, cluster: int, configs: Any) -> bool:
    """Decide whether one more request may be active, counting `request_overflow` if not.

    Parameters
    ----------
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Modified in place: `request_overflow`.
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.

    Notes
    -----
    Envoy asks when a request is attached to a connection, so a pending request is asked when
    its connection is ready, not when it starts to wait.
    """
    if clusters["requests_active"][cluster] < configs["max_requests"][clusters["config"][cluster]]:
        return True
    clusters["request_overflow"][cluster] += 1
    return False


@kernel_jit_inline
def can_wait(clusters: Any, cluster: int, configs: Any) -> bool:
    """Decide whether one more request may wait for a connection, counting `pending_overflow`.

    Parameters are those of `can_send_request`.
    """
    limit = configs["max_pending_requests"][clusters["config"][cluster]]
    if clusters["pending_active"][cluster] < limit:
        return True
    clusters["pending_overflow"][cluster] += 1
    return False


@kernel_jit_inline
def can_open_connection(
    clusters: Any, cluster: int, configs: Any, connections_open_of_host: int
) -> int:
    """Decide whether a host may get one more connection, counting `connection_overflow`.

    Parameters
    ----------
    clusters, cluster, configs
        Those of `can_send_request`.
    connections_open_of_host : int
        Connections this proxy has to the host, connecting, busy or idle; >= 0.

    Returns
    -------
    int
        OPEN, OPEN_BEYOND, or OPEN_NONE, which is false.

    Notes
    -----
    At the limit the overflow is counted even if the host, having none, is allowed its first.
    """
    limit = configs["max_connections"][clusters["config"][cluster]]
    if clusters["connections_active"][cluster] < limit:
        return OPEN
    clusters["connection_overflow"][cluster] += 1
    return OPEN_BEYOND if connections_open_of_host == 0 else OPEN_NONE


@kernel_jit_inline
def wants_connection(pending_of_host: int, connecting_of_host: int) -> bool:
    """Return whether those that wait for a host want one more connection to it.

    Parameters
    ----------
    pending_of_host : int
        Requests that wait for a connection to the host; >= 0.
    connecting_of_host : int
        Connections to it that are not established yet; >= 0.

    Notes
    -----
    Envoy's `shouldCreateNewConnection` with a preconnect ratio of 1 and no idle connection.
    """
    return pending_of_host > connecting_of_host


@kernel_jit_inline
def retries_max(clusters: Any, cluster: int, configs: Any) -> int:
    """Return how many retries may be active at once, by budget or by `max_retries` [1]."""
    config = clusters["config"][cluster]
    percent = configs["budget_percent"][config]
    if percent < 0.0:
        return int(configs["max_retries"][config])
    active = clusters["requests_active"][cluster] + clusters["pending_active"][cluster]
    return max(int(percent / 100.0 * active), int(configs["min_retry_concurrency"][config]))


@kernel_jit_inline
def can_retry(clusters: Any, cluster: int, configs: Any) -> bool:
    """Decide whether one more retry may be active, counting `retry_overflow` if not.

    Parameters are those of `can_send_request`.
    """
    if clusters["retries_active"][cluster] < retries_max(clusters, cluster, configs):
        return True
    clusters["retry_overflow"][cluster] += 1
    return False


@kernel_jit_inline
def on_request_started(clusters: Any, cluster: int) -> None:
    """Count a request that got a connection."""
    clusters["requests_active"][cluster] += 1
    clusters["requests_total"][cluster] += 1


@kernel_jit_inline
def on_request_ended(clusters: Any, cluster: int) -> None:
    """Discount a request whose response is complete, or which was reset."""
    clusters["requests_active"][cluster] -= 1


@kernel_jit_inline
def on_pending_added(clusters: Any, cluster: int) -> None:
    """Count a request that starts to wait for a connection."""
    clusters["pending_active"][cluster] += 1


@kernel_jit_inline
def on_pending_removed(clusters: Any, cluster: int) -> None:
    """Discount a request that no longer waits for a connection."""
    clusters["pending_active"][cluster] -= 1


@kernel_jit_inline
def on_connection_opened(clusters: Any, cluster: int) -> None:
    """Count a connection from the moment it starts to connect."""
    clusters["connections_active"][cluster] += 1
    clusters["connections_total"][cluster] += 1


@kernel_jit_inline
def on_connection_closed(clusters: Any, cluster: int) -> None:
    """Discount a connection."""
    clusters["connections_active"][cluster] -= 1


@kernel_jit_inline
def on_retry_started(clusters: Any, cluster: int) -> None:
    """Count a retry from the moment it is decided on."""
    clusters["retries_active"][cluster] += 1
    clusters["retries_total"][cluster] += 1


@kernel_jit_inline
def on_retry_ended(clusters: Any, cluster: int) -> None:
    """Discount a retry whose outcome is known, or whose request ended otherwise."""
    clusters["retries_active"][cluster] -= 1
