"""The Result of an emulated run: records merged, and how they were made.

Rule: a reader can tell from the result alone how far to believe it: the dilation and its reason,
how late the event loops were, how busy the machine was, and that every request that was sent
has ended.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from emulator.results import recording
from emulator.running.plan import Plan
from emulator.running.run import Outcome
from meshsim.errors import ConfigError
from meshsim.explanation import explain
from meshsim.results import Result
from meshsim.state.filters import FAULT_STATS, LIMIT_STATS, QUOTA_STATS
from meshsim.state.prequal import PREQUAL_STATS
from meshsim.state.server import APPLICATION_STATS, BULKHEAD_STATS
from meshsim.topology.compiled.priorities import OVERFLOWS, RETRY_STATS
from meshsim.topology.model import Topology
from meshsim.topology.releases import as_counted, release_of
from meshsim.units import NS_PER_S, format_duration

__all__ = ["result_of"]

_SIDES = ("outbound.", "inbound.", "application.")
_FILTERED = (*LIMIT_STATS, *FAULT_STATS, *QUOTA_STATS)
_OUTBOUND = (*_FILTERED, *OVERFLOWS, *RETRY_STATS, *PREQUAL_STATS)
_COUNTED = (*_OUTBOUND, *APPLICATION_STATS, *BULKHEAD_STATS)
_STATS = {f"{side}{name}" for side in _SIDES for name in _COUNTED}
#: A 99th percentile of the lag beyond this is reported as the machine's fault [ms].
_LAG_P99_MAX_MS = 2.0
#: Pushes that are told of one by one; more are told of together.
_PUSHES_MAX = 5


def result_of(plan: Plan, outcome: Outcome) -> Result:
    """Return the Result of a run."""
    arrays = recording.merge(outcome.parts)
    limit = ""
    if outcome.stopped:
        limit = f"{outcome.stopped} at {outcome.ended_ns / NS_PER_S:.3f} s"
    record = recording.run_record(
        arrays,
        plan.compiled.catalog,
        plan.duration_ns,
        seed=plan.seed,
        ended_ns=outcome.ended_ns,
        limit=limit,
        wall_s=outcome.real_s,
        stats=_stats(outcome, plan.compiled.topology),
    )
    facts = _facts(plan, outcome, record.counters)
    _check_picks(facts)
    topology = plan.compiled.topology
    return Result.from_records(
        plan.compiled.catalog,
        [record],
        notices=(*topology.notices, *outcome.losses, *_notices(plan, outcome, facts)),
        defaults=_defaults(topology),
        emulation=facts,
    )


def _stats(outcome: Outcome, topology: Topology) -> dict[str, dict[str, int]]:
    """Return the counters of every proxy that the simulator has too, as it names them."""
    found: dict[str, dict[str, int]] = {}
    release = release_of(topology.envoy_release)
    for report in outcome.reports.values():
        for proxy, counters in report["counters"].items():
            # A gateway has one side only.
            named = {
                name if name.startswith(_SIDES) else f"{_SIDES[0]}{name}": count
                for name, count in counters.items()
            }
            counts = {name: count for name, count in named.items() if name in _STATS and count}
            if counts:
                found[proxy] = as_counted(counts, release)
    return found


def _check_picks(facts: Mapping[str, Any]) -> None:
    """Refuse a run whose custom load balancer answered what it must not, as the simulator does."""
    times = sum(
        count
        for counters in facts["counters"].values()
        for name, count in counters.items()
        if name.endswith("lb_invalid_picks")
    )
    if times:
        raise ConfigError(
            "a custom load balancer returned no position of a member; "
            f"found: {times} times, allowed: 0 to len(members) - 1, or NO_HOST"
        )


def _facts(plan: Plan, outcome: Outcome, counters: Mapping[str, int]) -> dict[str, Any]:
    """Return how the run was made, JSON-able."""
    cpu_s = sum(report["cpu_s"] for report in outcome.reports.values())
    measured_s = outcome.ended_ns / NS_PER_S * plan.dilation.factor  # CPU is not counted beyond
    cores = os.cpu_count() or 1
    sent, completed, failed = (counters[name] for name in ("sent", "completed", "failed"))
    return {
        "plane": "asyncio",
        "dilation": plan.dilation.factor,
        "dilation_reason": plan.dilation.reason,
        "draws": plan.draws,
        "mtls": plan.mode,
        "broker": urlsplit(plan.broker_url).hostname or "embedded",
        "processes": len(plan.shares),
        "real_s": outcome.real_s,
        "cpu_s": {name: report["cpu_s"] for name, report in outcome.reports.items()},
        "cpu_share": cpu_s / (measured_s * cores) if measured_s > 0 else 0.0,
        "open": {name: report["open"] for name, report in outcome.reports.items()},
        "lag_ms": {name: report["lag_ms"] for name, report in outcome.reports.items()},
        "accounting": {
            "sent": sent,
            "completed": completed,
            "failed": failed,
            "left_over": sent - completed - failed,
        },
        "configuration_version": outcome.version,
        "propagation": outcome.propagation,
        "digests": {
            proxy: digest
            for report in outcome.reports.values()
            for proxy, digest in report["digests"].items()
        },
        "counters": {
            proxy: counters
            for report in outcome.reports.values()
            for proxy, counters in report["counters"].items()
        },
    }


def _notices(plan: Plan, outcome: Outcome, facts: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know of an emulated result."""
    notices = [
        f"emulated on real sockets in {plan.dilation.factor:g} times the model's time: "
        f"{plan.dilation.reason}; wire latencies of the scenario are not emulated.",
        f"{len(plan.shares)} node processes used {100 * facts['cpu_share']:.0f} % of "
        f"{os.cpu_count() or 1} cores for proxies, workloads and load together; "
        f"mutual TLS {plan.mode}; draws {plan.draws}.",
    ]
    if any(
        workload.autoscale is not None
        for service in plan.compiled.topology.services.values()
        for workload in service.workloads.values()
    ):
        notices.append("autoscaling is not emulated: replicas stay as the scenario declares them.")
    late = {
        name: lag["p99"]
        for name, lag in facts["lag_ms"].items()
        if lag and lag["p99"] > _LAG_P99_MAX_MS
    }
    if late:
        named = ", ".join(f"{name} {lag:.3g} ms" for name, lag in late.items())
        notices.append(
            f"event loops were late (p99: {named}): latencies contain the machine's; "
            "ask for a larger dilation."
        )
    left = facts["accounting"]["left_over"]
    if left:
        notices.append(f"{left} requests were sent and had neither response nor error at the end.")
    notices += _propagation(outcome)
    if outcome.stopped:
        total = format_duration(plan.duration_ns)
        notices.append(f"{outcome.stopped} at {outcome.ended_ns / NS_PER_S:.3g} s of {total}.")
    return notices


def _propagation(outcome: Outcome) -> list[str]:
    """Return how the configurations that were pushed during the load reached the proxies."""
    delays_ms: dict[int, dict[str, float]] = {version: {} for version in outcome.concerned}
    for row in outcome.propagation:
        delays = delays_ms.setdefault(row["version"], {})
        delay_ms = (row["effective_ns"] - row["changed_ns"]) / 1e6
        delays[row["proxy"]] = max(delay_ms, delays.get(row["proxy"], 0.0))
    groups = {
        f"configuration {version} was": ([*delays.values()], outcome.concerned.get(version, 0))
        for version, delays in sorted(delays_ms.items())
    }
    if len(groups) > _PUSHES_MAX:
        every = [delay for found, _ in groups.values() for delay in found]
        wanted = sum(count for _, count in groups.values())
        groups = {f"{len(groups)} configurations up to {max(delays_ms)} were": (every, wanted)}
    return [_reached(name, *group) for name, group in groups.items()]


def _reached(name: str, delays_ms: list[float], wanted: int) -> str:
    reached = f"{name} effective at {len(delays_ms)} of {max(wanted, len(delays_ms))} proxies"
    if not delays_ms:
        return f"{reached}."
    p50, longest = statistics.median(delays_ms), max(delays_ms)
    return f"{reached}, p50 {p50:.3g} ms, at most {longest:.3g} ms of model time after the change."


def _defaults(topology: Topology) -> dict[str, str]:
    """Return what the scenario did not say: field path -> "value: source", of policies."""
    defaults = {path: place.default for path, place in topology.provenance.items() if place.default}
    for part in explain(topology, "policies").parts:
        if part.path in defaults:
            defaults[part.path] = part.text.removeprefix(f"{part.path} = ")
    return defaults
