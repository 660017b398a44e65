"""A live proxy spreads over priorities and localities as the simulator's does."""

from dataclasses import replace

import numpy as np
import pytest
from kernel_runs import served
from test_engine_parity import (
    REQUESTS,
    SCENARIOS,
    Pair,
    assert_same_rows,
    engine_counters,
    kernel_counters,
)

from meshsim.state.health import BY_DISCOVERY

NODES = {"v1": "east-a", "v2": "east-b", "v3": "west-a"}
BALANCERS = {
    "round_robin": {"policy": "ROUND_ROBIN"},
    "least_request": {"policy": "LEAST_REQUEST"},
    "weighted": {"policy": "ROUND_ROBIN", "weights": {"v1": 5, "v2": 2}},
    "ring_hash": {"policy": "RING_HASH", "hash_header": "X-User", "minimum_ring_size": 64},
    "maglev": {"policy": "MAGLEV", "hash_header": "x-user", "table_size": 101},
}
LOCALITIES = {
    "failover": {"failover": {}},
    "declared": {"endpoints": [{"locality": "west/*", "priority": 1}], "locality_weighted": True},
    "distribute": {"distribute": {"east/*": {"east/east-a": 70, "*": 30}}},
    "labels": {"failover_priority": ["version=v2"]},
}
#: Endpoints that nobody may choose from the start, by their numbers within "b".
SICK = {"none": (), "one": (0,), "half": (0, 2, 4), "zone": (0, 1), "all": (0, 1, 2, 3, 4, 5)}


@pytest.mark.parametrize("sick", SICK)
@pytest.mark.parametrize("locality", LOCALITIES)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_engine_and_kernel_choose_the_same_zones(balancer, locality, sick):
    policies = {"load_balancing": BALANCERS[balancer], "locality": LOCALITIES[locality]}
    pair = Pair(policies, NODES, "east-a")
    withdraw(pair, SICK[sick])
    outcomes = pair.engine_outcomes()
    assert len(outcomes) == REQUESTS
    assert outcomes == pair.kernel_outcomes()
    state = pair.kernel_run.state
    assert pair.engine._rng.tolist() == state.pick_streams[pair.index].tolist()
    assert_same_rows(pair.engine._holdings, state, state.clusters["proxy"] == pair.index)
    for name, rows in pair.engine._holdings.lanes.arrays.items():
        for field in set(rows.dtype.names) - {"lane", "counted", "version"}:
            assert rows[field].tolist() == getattr(state, name)[field].tolist(), (name, field)


def withdraw(pair, numbers):
    """Let both sides believe that these endpoints are unhealthy."""
    names = [f"b-v{1 + number // 2}-{number % 2}" for number in numbers]
    state, holdings = pair.kernel_run.state, pair.engine._holdings
    rows = np.isin(state.hosts["endpoint"], [pair.layout.endpoint_names.index(n) for n in names])
    state.hosts["unhealthy"][rows] = BY_DISCOVERY
    state.hosts["healthy"][rows] = 0
    state.hosts["selections"] += 1
    state.cluster_health["version"] += 1
    for row, address in enumerate(holdings.addresses):
        if address is not None and address.name in names:
            holdings.hosts["unhealthy"][row] = BY_DISCOVERY
            holdings.hosts["healthy"][row] = 0
    holdings.hosts["selections"] += 1
    holdings.cluster_health["version"] += 1


@pytest.mark.parametrize("locality", ["failover", "declared"])
@pytest.mark.parametrize("watched", ["outliers", "panic", "accrual"])
def test_engine_and_kernel_spill_over_by_the_health_they_see(watched, locality):
    pair = Pair({**SCENARIOS[watched], "locality": LOCALITIES[locality]}, NODES, "east-a")
    assert pair.engine_outcomes() == pair.kernel_outcomes()
    state = pair.kernel_run.state
    assert pair.engine._rng.tolist() == state.pick_streams[pair.index].tolist()
    assert engine_counters(pair.engine) == kernel_counters(pair)
    assert_same_rows(pair.engine._holdings, state, state.clusters["proxy"] == pair.index)
    used = {name.split("-")[1] for name, count in served(pair.kernel_run).items() if count}
    assert len(used) > 1  # beside the zone of the client


def test_a_push_moves_a_priority_and_keeps_what_is_counted():
    pair = Pair({"locality": {"failover": {}}}, NODES, "east-a")
    pair.engine_outcomes()
    holdings = pair.engine._holdings
    counted = holdings.counters()["b"]
    assert counted["upstream_rq_total"] == REQUESTS
    lanes = dict(holdings.lanes._lanes)
    pair.engine.apply(pair.engine.configuration, 10**9)
    assert holdings.counters()["b"] == counted
    assert holdings.lanes._lanes == lanes


SUBSETS = {
    "known": {"metadata_match": {"version": "v2"}},
    "unknown": {"metadata_match": {"version": "v9"}},
    "nothing": {},
    "list": {"fallback_list": [{"version": "v9"}, {"version": "v1"}, {"version": "v3"}]},
}


@pytest.mark.parametrize("sick", ["none", "zone"])
@pytest.mark.parametrize("asked", SUBSETS)
@pytest.mark.parametrize("balancer", ["round_robin", "least_request", "ring_hash", "maglev"])
def test_engine_and_kernel_choose_the_same_subsets(balancer, asked, sick):
    policies = {
        "load_balancing": BALANCERS[balancer],
        "subset_config": {
            "subset_selectors": [{"keys": ["version"]}],
            "fallback_policy": "NO_FALLBACK" if asked == "list" else "ANY_ENDPOINT",
            "metadata_fallback_policy": "FALLBACK_LIST",
        },
        "routes": [{"split": [SUBSETS[asked]]}],
    }
    pair = Pair(policies)
    withdraw(pair, SICK[sick])
    assert pair.engine_outcomes() == pair.kernel_outcomes()
    state = pair.kernel_run.state
    assert pair.engine._rng.tolist() == state.pick_streams[pair.index].tolist()
    assert_same_rows(pair.engine._holdings, state, state.clusters["proxy"] == pair.index)


def test_a_request_routed_before_a_push_finds_its_subset_after_it():
    policies = {
        "subset_config": {"subset_selectors": [{"keys": ["version"]}]},
        "routes": [{"split": [{"metadata_match": {"version": "v2"}}]}],
    }
    engine = Pair(policies).engine
    exchange = engine.start("b", "GET", "/", {}, None, 0)
    engine.route(exchange, 0)
    configuration = engine.configuration
    told = dict(configuration.endpoints)
    told["b"] = tuple(reversed(told["b"]))
    engine.apply(replace(configuration, endpoints=told, routes={"b": ()}), 1)
    assert engine.address(engine.pick(exchange, 2)).name.startswith("b-v2")
