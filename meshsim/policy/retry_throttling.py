"""Retry throttling: how many retries a client allows itself, by what it has sent or seen.

Rule, one of two for each proxy and cluster; both refuse a retry, never a request:

- *token budget* (Finagle, Linkerd): every first try deposits `retry_ratio` tokens that expire
  after `ttl`, every retry withdraws one; `min_retries_per_second` * ttl tokens are always there.
  Time passes in ten slots of a tenth of the ttl, so a deposit lives for 0.9 to 1 ttl.  Retries
  deposit nothing: if everything fails, a request costs 1 + retry_ratio tries.
- *gRPC throttling* (A6): a failure that might be retried costs a token of `max_tokens`, a success
  earns `token_ratio`; a retry needs more than half of the tokens.  What is neither changes
  nothing.

Envoy's retry budget is another thing: a share of the requests that are active, of which retries
are part (`meshsim.policy.circuit_breakers`).

The tokens are the first floats of the cluster's memory; all zero is the state at the start.

References
----------
twitter/finagle, finagle-core/src/main/scala/com/twitter/finagle/service/RetryBudget.scala and
util/WindowedAdder.scala; tower-rs/tower, tower/src/retry/budget; linkerd/linkerd2,
ServiceProfile retryBudget; grpc/proposal, A6-client-retries.md (throttling).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline

__all__ = [
    "THROTTLE_FLOATS",
    "THROTTLE_GRPC",
    "THROTTLE_NONE",
    "THROTTLE_TOKENS",
    "on_first_try",
    "on_retriable_failure",
    "on_success",
    "take_retry",
    "token_count",
]

#: Kinds of throttling (field `throttle` of CLUSTER_CONFIG_DTYPE).
THROTTLE_NONE = 0
THROTTLE_TOKENS = 1
THROTTLE_GRPC = 2

_SLOTS = 10
#: Floats of a cluster's memory: the slots and the number of the newest; gRPC: the tokens spent.
THROTTLE_FLOATS = _SLOTS + 1
#: Sums of fractions may miss a whole token by this much.
_TOLERANCE = 1e-9


@kernel_jit_inline
def _place(clusters: Any, cluster: int) -> int:
    """Return the first float of the cluster's tokens."""
    return int(clusters["memory_start"][cluster])


@kernel_jit_inline
def token_count(clusters: Any, cluster: int, configs: Any) -> int:
    """Return how many floats of the cluster's memory are tokens."""
    kind = configs["throttle"][clusters["config"][cluster]]
    return 0 if kind == THROTTLE_NONE else THROTTLE_FLOATS


@kernel_jit
def _current_slot(memory: Any, first: int, ttl_ns: int, now_ns: int) -> int:
    """Return the float of the slot of `now_ns`, emptying those whose deposits have expired."""
    newest = now_ns // max(ttl_ns // _SLOTS, 1)
    known = int(memory[first + _SLOTS])
    for slot in range(max(known + 1, newest - _SLOTS + 1), newest + 1):
        memory[first + slot % _SLOTS] = 0.0
    memory[first + _SLOTS] = float(max(newest, known))
    return first + newest % _SLOTS


@kernel_jit
def _deposit(clusters: Any, cluster: int, configs: Any, memory: Any, now_ns: int) -> None:
    config = clusters["config"][cluster]
    ttl_ns = configs["throttle_ttl_ns"][config]
    slot = _current_slot(memory, _place(clusters, cluster), ttl_ns, now_ns)
    memory[slot] += configs["throttle_ratio"][config]


@kernel_jit_inline
def on_first_try(clusters: Any, cluster: int, configs: Any, memory: Any, now_ns: int) -> None:
    """Deposit what a request earns for retries, where there is a token budget.

    Parameters
    ----------
    clusters : ndarray[CLUSTER_DTYPE], shape (n_clusters,)
        Read only.
    cluster : int
        Row of `clusters`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    memory : ndarray[float64]
        Modified in place: the cluster's tokens.
    now_ns : int
        Current time of the caller's clock [ns].
    """
    if configs["throttle"][clusters["config"][cluster]] == THROTTLE_TOKENS:
        _deposit(clusters, cluster, configs, memory, now_ns)


@kernel_jit_inline
def on_success(clusters: Any, cluster: int, configs: Any, memory: Any) -> None:
    """Earn `token_ratio`, where gRPC's throttling is; parameters as `on_first_try`."""
    config = clusters["config"][cluster]
    if configs["throttle"][config] == THROTTLE_GRPC:
        first = _place(clusters, cluster)
        memory[first] = max(memory[first] - configs["throttle_ratio"][config], 0.0)


@kernel_jit
def on_retriable_failure(clusters: Any, cluster: int, configs: Any, memory: Any) -> None:
    """Pay a token, where gRPC's throttling is; parameters as `on_first_try`."""
    config = clusters["config"][cluster]
    if configs["throttle"][config] == THROTTLE_GRPC:
        first = _place(clusters, cluster)
        memory[first] = min(memory[first] + 1.0, configs["throttle_reserve"][config])


@kernel_jit
def take_retry(clusters: Any, cluster: int, configs: Any, memory: Any, now_ns: int) -> bool:
    """Decide whether one more retry is allowed, paying for it; counts `retry_overflow` if not.

    Parameters are those of `on_first_try`; `retry_overflow` of the cluster may be modified.
    """
    config = clusters["config"][cluster]
    kind = configs["throttle"][config]
    if kind == THROTTLE_NONE:
        return True
    first = _place(clusters, cluster)
    reserve = configs["throttle_reserve"][config]
    if kind == THROTTLE_GRPC:
        allowed = reserve - memory[first] > reserve / 2.0
    else:
        slot = _current_slot(memory, first, configs["throttle_ttl_ns"][config], now_ns)
        balance = reserve
        for index in range(first, first + _SLOTS):
            balance += memory[index]
        allowed = balance >= 1.0 - _TOLERANCE
        if allowed:
            memory[slot] -= 1.0
    if not allowed:
        clusters["retry_overflow"][cluster] += 1
    return bool(allowed)
