"""Picks equal those of the real Envoy, one by one (see data/make_hash_vectors.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.hashing import xxh64
from meshsim.policy.load_balancing import build_maglev, build_ring
from meshsim.state.codes import MAGLEV, RING_HASH, ROUND_ROBIN

VECTORS = json.loads((Path(__file__).parents[3] / "data" / "hash_vectors.json").read_text())


def cluster_of(case):
    weights = [int(weight) for weight in case["weights"]]
    names = VECTORS["names"][: len(weights)]
    if case["policy"] == "RING_HASH":
        maximum = case.get("maximum_ring_size", 8_388_608)
        table = build_ring(names, weights, case["minimum_ring_size"], maximum)
        balancing = RING_HASH
    else:
        table = build_maglev(names, weights, case["table_size"])
        balancing = MAGLEV
    factor = case.get("hash_balance_factor", 0)
    cluster = make_cluster(balancing, weights, table=table, hash_balance_factor=factor)
    active = [int(count) for count in case["requests_active"].split(",")]
    cluster.hosts["requests_active"][OFFSET:] = active
    cluster.clusters["requests_active"][1] = sum(active)
    return cluster


@pytest.mark.parametrize("name", [name for name in VECTORS["cases"] if "round" not in name])
def test_every_key_goes_to_the_host_that_envoy_picked(name):
    case = VECTORS["cases"][name]
    cluster = cluster_of(case)
    assert len(case["picks"]) == 600
    picks = [cluster.pick(xxh64(f"user-{number}")) for number in range(len(case["picks"]))]
    assert "".join(str(pick) for pick in picks) == case["picks"]


def test_the_order_of_the_members_does_not_change_the_hosts():
    # Rows may sit anywhere: a table names hosts by table_index, not by position.
    case = VECTORS["cases"]["maglev-5-weighted"]
    cluster = cluster_of(case)
    cluster.members[OFFSET:] = cluster.members[OFFSET:][::-1].copy()
    picks = [cluster.pick(xxh64(f"user-{number}")) for number in range(100)]
    table_indices = [int(cluster.hosts["table_index"][cluster.row(pick)]) for pick in picks]
    assert "".join(str(index) for index in table_indices) == case["picks"][:100]


def test_bounded_cases_really_redirect():
    plain = VECTORS["cases"]["ring-5-equal"]["picks"]
    bounded = VECTORS["cases"]["ring-5-bounded"]["picks"]
    assert np.mean([a != b for a, b in zip(plain, bounded, strict=True)]) > 0.3


@pytest.mark.parametrize("name", [name for name in VECTORS["cases"] if "round" in name])
def test_weighted_round_robin_is_the_sequence_of_envoy_from_a_random_start(name):
    case = VECTORS["cases"][name]
    weights = [int(weight) for weight in case["weights"]]
    cycle = sum(weights)
    picks = make_cluster(ROUND_ROBIN, weights).picks(len(case["picks"]) + cycle)
    assert case["picks"] in "".join(str(pick) for pick in picks)
