"""Probes of servers (PREQUAL) on their way, and what servers remember for them.

Rule: what is probed, and what is made of the answers, `meshsim.policy.load_balancing.prequal`
decides.  A probe is a message each way on the wire between proxy and server; it takes no CPU and
no worker, as its few bytes and the look at two numbers are nothing beside a request.  A dead
server and one that stands still do not answer.  In flight at a server is what it serves and what
waits there.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.events import NOTHING, PROBE_ARRIVE, PROBED, pack, schedule
from meshsim.kernel.passes import wire_ns
from meshsim.policy.load_balancing.prequal import (
    count_probes,
    draw_target,
    estimate_latency_ns,
    on_answered,
    pick,
    take_probe,
)
from meshsim.rng import mix_in
from meshsim.state.prequal import FLIGHTS

__all__ = ["answer_probe", "end_probe", "note_latency", "pick_by_probes"]


@kernel_jit
def _in_flight(state: Any, endpoint: int) -> int:
    return int(state.endpoints["busy"][endpoint] + state.endpoints["queued"][endpoint])


@kernel_jit
def _send_on(state: Any, pool: int, slot: int, leg: int, what: int) -> None:
    """Put the probe in a place on the wire: to its server (leg 0), or back (1)."""
    host = state.probe_flights["host"][pool, slot]
    proxy = state.clusters["proxy"][state.prequal_pools["cluster"][pool]]
    key = state.probe_flights["key"][pool, slot]
    latency_ns = wire_ns(state, proxy, state.hosts["endpoint"][host], key, leg)
    schedule(state, state.counters["now_ns"][0] + latency_ns, what)


@kernel_jit
def _send_probes(state: Any, cluster: int, pool: int, rule: int, key: Any, rng: Any) -> None:
    """Send the probes that go with one request."""
    pools, flights = state.prequal_pools, state.probe_flights
    start = state.clusters["member_start"][cluster]
    count = state.clusters["member_count"][cluster]
    sent = 0
    for number in range(count_probes(pools, pool, state.prequal_rules, rule)):
        slot = int(pools["flight_next"][pool])
        if flights["under_way"][pool, slot] != 0:
            pools["probes_skipped"][pool] += 1
            continue
        host = draw_target(
            state.hosts, state.members, start, count, pools, pool, flights, sent, rng
        )
        if host < 0:
            return
        flights["host"][pool, slot] = host
        flights["under_way"][pool, slot] = 1
        flights["key"][pool, slot] = mix_in(key, number)
        pools["flight_next"][pool] = (slot + 1) % FLIGHTS
        pools["probes_total"][pool] += 1
        sent += 1
        _send_on(state, pool, slot, 0, pack(PROBE_ARRIVE, pool, slot))


@kernel_jit
def pick_by_probes(state: Any, exchange: int, cluster: int, pick_number: int, rng: Any) -> int:
    """Return the HOST of the next pick, or `NO_HOST`; probes go out beside it."""
    rule = state.configs["prequal_rule"][state.clusters["config"][cluster]]
    pool = state.prequal_links[cluster]
    host = pick(
        state.hosts,
        state.members,
        state.clusters["member_start"][cluster],
        state.clusters["member_count"][cluster],
        state.prequal_pools,
        pool,
        state.probes,
        state.probe_rifs,
        state.prequal_rules,
        rule,
        state.counters["now_ns"][0],
        rng,
    )
    if pick_number == 0:
        key = mix_in(state.exchanges["key"][exchange], state.exchanges["retry_count"][exchange])
        _send_probes(state, cluster, pool, rule, key, rng)
    return host


@kernel_jit
def answer_probe(state: Any, pool: int, slot: int) -> int:
    """A probe is at its server."""
    flights = state.probe_flights
    endpoint = state.hosts["endpoint"][flights["host"][pool, slot]]
    if state.endpoints["alive"][endpoint] == 0 or state.endpoints["speed"][endpoint] == 0.0:
        flights["under_way"][pool, slot] = 0
        return NOTHING
    rif = _in_flight(state, endpoint)
    flights["rif"][pool, slot] = rif
    flights["latency_ns"][pool, slot] = estimate_latency_ns(
        state.prequal_servers, state.prequal_samples, endpoint, rif
    )
    _send_on(state, pool, slot, 1, pack(PROBED, pool, slot))
    return NOTHING


@kernel_jit
def end_probe(state: Any, pool: int, slot: int) -> int:
    """The answer to a probe is back."""
    flights = state.probe_flights
    cluster = state.prequal_pools["cluster"][pool]
    flights["under_way"][pool, slot] = 0
    take_probe(
        state.prequal_pools,
        pool,
        state.probes,
        state.probe_rifs,
        state.prequal_rules,
        state.configs["prequal_rule"][state.clusters["config"][cluster]],
        flights["host"][pool, slot],
        flights["rif"][pool, slot],
        flights["latency_ns"][pool, slot],
        state.clusters["member_count"][cluster],
        state.counters["now_ns"][0],
        state.pick_streams[state.clusters["proxy"][cluster]],
    )
    return NOTHING


@kernel_jit
def note_latency(state: Any, task: int, generation: int) -> int:
    """Let the server of `task`, which has ended, remember how long it took."""
    on_answered(
        state.prequal_servers,
        state.prequal_samples,
        state.tasks["endpoint"][task],
        state.tasks["rif"][task],
        state.counters["now_ns"][0] - state.tasks["arrived_ns"][task],
    )
    return NOTHING
