"""Hashed picks when hosts come, go, fall ill and recover: by a table over those that are left."""

import numpy as np
import pytest
from kernel_runs import Run, worker

from meshsim.policy.hashing import xxh64
from meshsim.policy.load_balancing import build_maglev, build_ring
from meshsim.rng import key_uniform, mix, mix_in

USERS = 40
SIZES = {"minimum_ring_size": 64, "table_size": 251}


def owner(policy, names, user):
    """Return which of `names` has the key of a user."""
    key = np.uint64(xxh64(f"u-{user}"))
    if policy == "MAGLEV":
        table = build_maglev(names, [1] * len(names), 251)
        return names[table["table_index"][int(key % np.uint64(251))]]
    table = build_ring(names, [1] * len(names), 64)
    return names[table["table_index"][np.searchsorted(table["hash"], key) % len(table)]]


def user_of(run, number):
    key = np.uint64(mix_in(np.uint64(mix(run.state.traffic["key"][0])), number))
    return int(key_uniform(key) * USERS)


def assert_owned(run, policy, left, after_ms):
    """Every request since `after_ms` was answered by the owner of its key among `left`."""
    spans = run.spans()
    first = min(span.trace for span in spans)
    later = [span for span in spans if span.start > after_ms]
    assert len(later) == 100
    names = [f"a-v1-{number}" for number in left]
    users = [user_of(run, span.trace - first) for span in later]
    assert [span.endpoint for span in later] == [owner(policy, names, user) for user in users]


@pytest.mark.parametrize("policy", ["RING_HASH", "MAGLEV"])
def test_keys_go_by_a_table_over_those_that_are_left(policy):
    balancing = {"policy": policy, "hash_header": "user", "healthy_panic_threshold": 50, **SIZES}
    traffic = {
        "to": "a",
        "users": USERS,
        "headers": {"user": "u"},
        "arrivals": {"renewal": {"interval": "1ms"}},
    }
    run = Run(
        {"a": worker(replicas=3)},
        traffic={"load": traffic},
        policies={"a": {"load_balancing": balancing}},
    )
    run.to(100.5)
    assert_owned(run, policy, [0, 1, 2], 0)
    run.control.set_health("a", replica=1)
    run.to(200.5)
    assert_owned(run, policy, [0, 2], 100.5)
    run.control.add_replicas("a", "v1", 3)  # a ring over more hosts than there was room for
    run.control.withdraw("a", replica=3)
    run.to(300.5)
    assert_owned(run, policy, [0, 2, 4, 5], 200.5)
    run.control.set_health("a", "HEALTHY", replica=1)
    run.control.remove_replicas("a", "v1")
    run.to(400.5)
    assert_owned(run, policy, [0, 1, 2, 4], 300.5)
    for replica in (0, 1, 2):
        run.control.set_health("a", replica=replica)  # one of four: panic
    run.to(500.5)
    assert_owned(run, policy, [0, 1, 2, 4], 400.5)
