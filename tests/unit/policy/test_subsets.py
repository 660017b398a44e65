"""Subsets and their fallbacks: which hosts a request that asks for labels may go to."""

import numpy as np
import pytest
from policy_rows import make_cluster

from meshsim.policy.subsets import Selector, SubsetRule, pick_in_chain, subset_chain
from meshsim.state.codes import NO_HOST, ROUND_ROBIN
from meshsim.state.upstream import CLUSTER_DTYPE

HOSTS = [
    {"version": "1.0", "stage": "prod", "type": "std"},
    {"version": "1.0", "stage": "prod", "type": "bigmem"},
    {"version": "1.1", "stage": "prod", "type": "std"},
    {"version": "1.2-pre", "stage": "dev", "type": "std"},
]
ALL = (0, 1, 2, 3)


def selector(*keys, fallback="NOT_DEFINED", fewer=()):
    return Selector(frozenset(keys), fallback, frozenset(fewer))


def chain(asked, *selectors, **rule):
    return subset_chain(SubsetRule(selectors, **rule), HOSTS, asked)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # Envoy, docs/root/intro/arch_overview/upstream/load_balancing/subsets.rst
        ({"stage": "prod", "type": "std"}, ((0, 2),)),
        ({"stage": "dev", "type": "std"}, ((3,),)),
        ({"stage": "prod", "version": "1.0"}, ((0, 1),)),
        ({"version": "1.1"}, ((2,),)),
        ({"stage": "prod"}, ((0, 2),)),  # no selector has exactly these keys: the default
        ({"version": "9"}, ((0, 2),)),
        ({}, ((0, 2),)),
        ({"stage": "dev", "version": "1.0"}, ((0, 2),)),
    ],
)
def test_the_example_of_the_documentation(asked, expected):
    selectors = (selector("stage", "type"), selector("stage", "version"), selector("version"))
    default = {"stage": "prod", "type": "std"}
    rule = {"fallback_policy": "DEFAULT_SUBSET", "default_subset": default}
    assert chain(asked, *selectors, **rule) == expected


def test_fallback_policies_of_the_cluster():
    by_version = selector("version")
    unknown = {"version": "9"}
    assert chain(unknown, by_version) == ()
    assert chain({}, by_version) == ()
    assert chain(unknown, by_version, fallback_policy="ANY_ENDPOINT") == (ALL,)
    nobody = {"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"stage": "none"}}
    assert chain(unknown, by_version, **nobody) == ((),)
    assert chain(unknown, by_version, panic_mode_any=True, **nobody) == ((), ALL)
    assert chain(unknown, by_version, panic_mode_any=True) == ()


def test_a_selector_has_its_own_fallback():
    rule = {"fallback_policy": "ANY_ENDPOINT", "default_subset": {"stage": "dev"}}
    unknown = {"version": "9"}
    assert chain(unknown, selector("version", fallback="NO_FALLBACK"), **rule) == ()
    assert chain(unknown, selector("version", fallback="DEFAULT_SUBSET"), **rule) == ((3,),)
    rule = {"fallback_policy": "NO_FALLBACK"}
    assert chain(unknown, selector("version", fallback="ANY_ENDPOINT"), **rule) == (ALL,)


def test_fewer_keys_are_tried_by_keys_subset():
    both = selector("stage", "version", fallback="KEYS_SUBSET", fewer=["stage"])
    asked = {"stage": "prod", "version": "9"}
    assert chain(asked, both, selector("stage")) == ((0, 1, 2),)
    # Without a selector for the fewer keys the cluster's fallback holds.
    assert chain(asked, both, fallback_policy="ANY_ENDPOINT") == (ALL,)
    last = selector("stage", fallback="ANY_ENDPOINT")
    assert chain({"stage": "none", "version": "9"}, both, last) == (ALL,)


def test_a_list_of_labels_is_tried_in_order():
    by = (selector("version"), selector("version", "stage"))
    versions = [{"version": "9"}, {"version": "1.1"}, {"version": "1.0"}]
    rule = {"fallback_list": True}
    found = subset_chain(SubsetRule(by, **rule), HOSTS, {}, versions)
    assert found == ((2,), (0, 1))
    found = subset_chain(SubsetRule(by, **rule), HOSTS, {"stage": "prod"}, versions)
    assert found == ((2,), (0, 1))
    # Not switched on, the list is not read.
    assert subset_chain(SubsetRule(by), HOSTS, {"version": "1.0"}, versions) == ((0, 1),)
    # Each set falls back by the cluster's policy before the next is looked at.
    rule = SubsetRule(by, "ANY_ENDPOINT", fallback_list=True)
    assert subset_chain(rule, HOSTS, {}, versions) == (ALL, (2,), (0, 1))


def lanes_of(made, *lanes):
    """Return clusters and members of `made` with these lanes from CLUSTER row 2 on."""
    members, rows = [made.members], [made.clusters]
    size = len(made.members)
    for lane in lanes:
        row = np.zeros(1, CLUSTER_DTYPE)
        row["config"], row["member_start"], row["member_count"] = 1, size, len(lane)
        rows.append(row)
        members.append(np.array([made.row(position) for position in lane], np.int32))
        size += len(lane)
    clusters = np.concatenate(rows, dtype=CLUSTER_DTYPE)
    return clusters, np.concatenate(members)


def test_a_chain_is_followed_until_a_lane_has_a_host():
    made = make_cluster(ROUND_ROBIN, (1, 1, 1, 1), healthy=(1, 0, 0, 1))
    clusters, members = lanes_of(made, (1, 2), (0, 3), ())
    chains = np.array([99, 2, 0, 1, 1, 0, 2, 2, 1], np.int32)

    def picks(chain, count):
        found = [
            pick_in_chain(
                made.hosts,
                members,
                clusters,
                2,
                made.configs,
                made.table,
                made.memory,
                chains,
                chain,
                np.uint64(0),
                0,
                0,
                made.rng,
            )
            for _ in range(count)
        ]
        return [int(host) for host in found]

    first, last = made.row(0), made.row(3)
    assert picks(1, 3) == [first, last, first]  # lane 0 has none, lane 1 takes turns
    assert picks(4, 1) == [NO_HOST]
    assert picks(6, 1) == [last]  # lane 2 is empty; lane 1 goes on where it was
    assert clusters["cursor"][1] == 0  # the cluster's own is not touched
