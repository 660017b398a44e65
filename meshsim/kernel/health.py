"""The kernel's side of health: what a cluster that is watched hears of its requests, and checks.

Rule: every decision is `meshsim.policy.health`'s.  The handlers of requests call this module only
for clusters with a CLUSTER_HEALTH row, through `invoke`.  A health check is three events: it
begins at the proxy, reaches the endpoint one wire latency later, and is answered (or times out)
at the proxy.  A dead endpoint refuses it, one that stands still lets it time out, one that fails
a share of its requests fails that share of its checks; a check takes no worker and no CPU.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.events import (
    CHECK,
    CHECK_ARRIVE,
    CHECKED,
    HEALTH_RESULT,
    NOTHING,
    pack,
    schedule,
)
from meshsim.kernel.memory import invoke
from meshsim.kernel.passes import wire_ns
from meshsim.policy.health import (
    on_check_result,
    on_picked,
    on_request_connected,
    on_request_dropped,
    on_request_result,
    settle_health,
)
from meshsim.policy.health_check import first_check_ns
from meshsim.policy.outlier_detection import next_draw
from meshsim.policy.update_merge import believe_change, believe_now
from meshsim.rng import mix_in
from meshsim.state.health import CHECK_FAILED, CHECK_NETWORK_FAILURE, CHECK_PASSED, CHECK_TIMEOUT

__all__ = [
    "answer_check",
    "begin_check",
    "end_check",
    "first_check_wait_ns",
    "health_connected",
    "health_dropped",
    "health_due",
    "health_picked",
    "health_result",
    "report_result",
    "select_cluster",
    "settle_cluster",
]

#: An outcome is a status above a reset, which is at least -1.
_RESET_BITS = 8
_RESET_MASK = (1 << _RESET_BITS) - 1
#: Checks of one host are numbered up to here, then from 0 again.
_NUMBER_MASK = (1 << 30) - 1


@kernel_jit
def settle_cluster(state: Any, cluster: int) -> None:
    """Do what has become due in `cluster` by the clock."""
    settle_health(
        state.hosts,
        state.members,
        state.clusters,
        cluster,
        state.configs,
        state.health_rules,
        state.host_health,
        state.cluster_health,
        state.ejections,
        state.counters["now_ns"][0],
    )


@kernel_jit
def health_picked(state: Any, host: int, generation: int) -> int:
    """`host` was picked for a request."""
    on_picked(
        state.hosts,
        state.members,
        state.clusters,
        state.hosts["cluster"][host],
        state.configs,
        state.health_rules,
        state.host_health,
        state.cluster_health,
        host,
    )
    return NOTHING


@kernel_jit
def health_connected(state: Any, host: int, generation: int) -> int:
    """A request to `host` has its connection."""
    on_request_connected(
        state.hosts,
        state.members,
        state.clusters,
        state.hosts["cluster"][host],
        state.configs,
        state.health_rules,
        state.host_health,
        state.cluster_health,
        state.ejections,
        host,
        state.counters["now_ns"][0],
    )
    return NOTHING


@kernel_jit
def health_result(state: Any, host: int, outcome: int) -> int:
    """A request to `host` came to what `report_result` packed."""
    on_request_result(
        state.hosts,
        state.members,
        state.clusters,
        state.hosts["cluster"][host],
        state.configs,
        state.health_rules,
        state.host_health,
        state.cluster_health,
        state.ejections,
        host,
        outcome >> _RESET_BITS,
        (outcome & _RESET_MASK) - 1,
        state.counters["now_ns"][0],
    )
    return NOTHING


@kernel_jit
def health_dropped(state: Any, host: int, generation: int) -> int:
    """Nobody waits any more for a request to `host`."""
    on_request_dropped(
        state.hosts,
        state.members,
        state.clusters,
        state.hosts["cluster"][host],
        state.configs,
        state.host_health,
        state.cluster_health,
        host,
    )
    return NOTHING


@kernel_jit
def health_due(state: Any, cluster: int, generation: int) -> int:
    """Do what has become due in `cluster` by the clock."""
    settle_cluster(state, cluster)
    return NOTHING


@kernel_jit_inline
def report_result(state: Any, host: int, status: int, reset: int) -> None:
    """A request to `host` came to `status`, or to `reset` without one (status 0)."""
    invoke(state, HEALTH_RESULT, host, (status << _RESET_BITS) | (reset + 1))


@kernel_jit
def select_cluster(state: Any, cluster: int, mergeable: bool) -> None:
    """Say anew of every member of `cluster` whether it may be picked.

    A change of their health may be `mergeable`; one of who they are is not.
    """
    now_ns = state.counters["now_ns"][0]
    groups = state.cluster_health
    if mergeable:
        believe_change(
            state.hosts, state.members, state.clusters, cluster, state.configs, groups, now_ns
        )
    else:
        believe_now(
            state.hosts, state.members, state.clusters, cluster, state.configs, groups, now_ns
        )


# --- Checks ---------------------------------------------------------------------------------


@kernel_jit
def _wire_ns(state: Any, health: int, leg: int) -> int:
    """Return the wire latency of one leg of the check that is under way [ns]."""
    host = state.host_health["host"][health]
    cluster = state.hosts["cluster"][host]
    group = state.clusters["health"][cluster]
    number = state.host_health["check_generation"][health]
    key = mix_in(mix_in(state.cluster_health["key"][group], health), number)
    endpoint = state.hosts["endpoint"][host]
    return wire_ns(state, state.clusters["proxy"][cluster], endpoint, key, leg)


@kernel_jit
def first_check_wait_ns(state: Any, health: int) -> int:
    """Return how long to wait for the first check of a host [ns]."""
    cluster = state.hosts["cluster"][state.host_health["host"][health]]
    rule = state.configs["health"][state.clusters["config"][cluster]]
    group = state.clusters["health"][cluster]
    return first_check_ns(state.health_rules, rule, state.cluster_health, group)


@kernel_jit
def begin_check(state: Any, health: int) -> int:
    """Send a check on its way; return the follow-up."""
    healths = state.host_health
    now_ns = state.counters["now_ns"][0]
    healths["check_generation"][health] = (healths["check_generation"][health] + 1) & _NUMBER_MASK
    healths["check_started_ns"][health] = now_ns
    cluster = state.hosts["cluster"][healths["host"][health]]
    rule = state.configs["health"][state.clusters["config"][cluster]]
    # Nobody waits for a check that is later than that.
    timeout_ns = state.health_rules["check_timeout_ns"][rule]
    latency_ns = min(_wire_ns(state, health, 0), timeout_ns)
    what = pack(CHECK_ARRIVE, health, 0)
    if latency_ns == 0:
        return what
    schedule(state, now_ns + latency_ns, what)
    return NOTHING


@kernel_jit
def answer_check(state: Any, health: int) -> int:
    """The check is at the endpoint: decide what comes of it; return the follow-up."""
    host = state.host_health["host"][health]
    endpoint = state.hosts["endpoint"][host]
    cluster = state.hosts["cluster"][host]
    group = state.clusters["health"][cluster]
    now_ns = state.counters["now_ns"][0]
    rule = state.configs["health"][state.clusters["config"][cluster]]
    started_ns = state.host_health["check_started_ns"][health]
    ends_ns = started_ns + state.health_rules["check_timeout_ns"][rule]
    result = CHECK_PASSED
    arrives_ns = now_ns + _wire_ns(state, health, 1)
    if state.endpoints["alive"][endpoint] == 0:
        result = CHECK_NETWORK_FAILURE
    elif state.endpoints["speed"][endpoint] == 0.0:
        arrives_ns = ends_ns
    elif state.endpoints["error_rate"][endpoint] > 0.0:
        coin = next_draw(state.cluster_health, group)
        if coin < state.endpoints["error_rate"][endpoint]:
            result = CHECK_FAILED
    if arrives_ns >= ends_ns:
        result = CHECK_TIMEOUT
        arrives_ns = max(ends_ns, now_ns)
    what = pack(CHECKED, health, result)
    if arrives_ns == now_ns:
        return what
    schedule(state, arrives_ns, what)
    return NOTHING


@kernel_jit
def end_check(state: Any, health: int, result: int) -> int:
    """A check has its result; the next one follows."""
    host = state.host_health["host"][health]
    now_ns = state.counters["now_ns"][0]
    delay_ns = on_check_result(
        state.hosts,
        state.members,
        state.clusters,
        state.hosts["cluster"][host],
        state.configs,
        state.health_rules,
        state.host_health,
        state.cluster_health,
        state.ejections,
        host,
        result,
        now_ns,
    )
    schedule(state, now_ns + delay_ns, pack(CHECK, health, 0))
    return NOTHING
