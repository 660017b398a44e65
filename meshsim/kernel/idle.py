"""Servers that tell proxies when they are idle (ORACLE_IDLE_QUEUE).

Rule: a living server tells one of its proxies when its last request has ended, and every server
does before the first.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import NOTHING
from meshsim.policy.load_balancing.oracle import join_idle_queue

__all__ = ["become_idle", "begin_idle_queues", "report_idle"]


@kernel_jit
def report_idle(state: Any, endpoint: int) -> None:
    """Tell a proxy that `endpoint` has become idle."""
    if state.endpoints["alive"][endpoint] == 1:
        join_idle_queue(
            state.hosts,
            state.oracle_hosts,
            state.oracle_clusters,
            state.oracle_endpoints,
            state.watchers,
            endpoint,
            state.idle_streams[endpoint],
        )


@kernel_jit
def become_idle(state: Any, endpoint: int, generation: int) -> int:
    """`endpoint` has ended its last request."""
    report_idle(state, endpoint)
    return NOTHING


@kernel_jit
def begin_idle_queues(state: Any) -> None:
    """Let every server tell a proxy that it is idle."""
    for endpoint in range(state.oracle_endpoints.shape[0]):
        report_idle(state, endpoint)
