"""Load reports: a server measures itself, and its report rides on every response.

Rule: a server's figures are those of the last whole period of a second or more between two of its
responses: share of its workers that were busy, responses and errors a second.  The report is as
of when the response reaches the client's proxy.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import NOTHING
from meshsim.kernel.queues import account
from meshsim.policy.load_balancing.edf import pick as pick_by_weight
from meshsim.policy.load_balancing.reported import on_report, reported_weight, set_weights
from meshsim.state.codes import NO_HOST

__all__ = ["pick_reported", "take_report"]

#: Shortest period that a server measures [ns].
_PERIOD_NS = 1_000_000_000


@kernel_jit
def _measure(state: Any, endpoint: int, now_ns: int) -> None:
    """End the period of a server, if it has lasted, and begin another."""
    reports = state.load_reports
    elapsed_ns = now_ns - reports["since_ns"][endpoint]
    if elapsed_ns < _PERIOD_NS:
        return
    endpoints = state.endpoints
    account(endpoints, endpoint, now_ns)
    busy_ns = endpoints["busy_ns"][endpoint]
    completed = endpoints["completed"][endpoint]
    errors = reports["errors"][endpoint]
    workers_ns = float(elapsed_ns) * float(endpoints["concurrency"][endpoint])
    seconds = float(elapsed_ns) / 1e9
    reports["utilization"][endpoint] = float(busy_ns - reports["busy_ns"][endpoint]) / workers_ns
    reports["rps"][endpoint] = float(completed - reports["completed"][endpoint]) / seconds
    reports["eps"][endpoint] = float(errors - reports["errors_then"][endpoint]) / seconds
    reports["since_ns"][endpoint] = now_ns
    reports["busy_ns"][endpoint] = busy_ns
    reports["completed"][endpoint] = completed
    reports["errors_then"][endpoint] = errors


@kernel_jit
def take_report(state: Any, host: int, failed: int) -> int:
    """Let the proxy of `host` read the report on a response of it, which `failed` (1) or not."""
    endpoint = state.hosts["endpoint"][host]
    rule = state.configs["report_rule"][state.clusters["config"][state.hosts["cluster"][host]]]
    now_ns = state.counters["now_ns"][0]
    reports = state.load_reports
    if failed != 0:
        reports["errors"][endpoint] += 1
    _measure(state, endpoint, now_ns)
    weight = reported_weight(
        reports["rps"][endpoint],
        reports["utilization"][endpoint],
        reports["eps"][endpoint],
        state.report_rules["error_utilization_penalty"][rule],
    )
    on_report(state.reported_weights, host, weight, now_ns)
    return NOTHING


@kernel_jit
def pick_reported(state: Any, cluster: int, rule: int) -> int:
    """Return the HOST of the next pick by reported weights, or `NO_HOST`."""
    start = state.clusters["member_start"][cluster]
    count = state.clusters["member_count"][cluster]
    now_ns = state.counters["now_ns"][0]
    if now_ns >= state.reported_clusters["due_ns"][cluster]:
        period_ns = state.report_rules["weight_update_period_ns"][rule]
        state.reported_clusters["due_ns"][cluster] = now_ns + period_ns
        set_weights(
            state.hosts,
            state.members,
            start,
            count,
            state.reported_weights,
            state.report_rules,
            rule,
            now_ns,
        )
    position = pick_by_weight(
        state.hosts,
        state.members,
        start,
        count,
        state.clusters,
        cluster,
        state.configs,
        0.0,
        now_ns,
    )
    return NO_HOST if position == NO_HOST else int(state.members[start + position])
