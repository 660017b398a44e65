"""What holds for every cluster, whatever its hosts, weights, health and load."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_rows import NO_MEMORY, OFFSET, make_cluster, make_exchange, make_limits, make_route

from meshsim.jit import JIT_ENABLED
from meshsim.policy import request as machine
from meshsim.policy import transitions
from meshsim.policy.load_balancing import (
    build_maglev,
    build_ring,
    on_abandoned,
    on_request_sent,
    on_response,
)
from meshsim.policy.load_balancing.peak_ewma import cost_ns
from meshsim.rng import PURPOSE_BACK_OFF, make_streams
from meshsim.state.codes import (
    LEAST_REQUEST,
    LEAST_REQUEST_FULL_SCAN,
    MAGLEV,
    NO_HOST,
    PEAK_EWMA,
    RANDOM,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
    RESET_OVERFLOW,
    RETRY_5XX,
    RING_HASH,
    ROUND_ROBIN,
)

ALL = (
    ROUND_ROBIN,
    LEAST_REQUEST,
    LEAST_REQUEST_FULL_SCAN,
    RANDOM,
    RING_HASH,
    MAGLEV,
    PEAK_EWMA,
)
#: A prime: small tables keep the tests fast.
TABLE_SIZE = 251
SECOND_NS = 1_000_000_000

host = st.tuples(st.integers(1, 128), st.booleans(), st.integers(0, 20))
keys = st.integers(0, 2**64 - 1)


def table_of(balancing, weights):
    names = [f"pod-{index}" for index in range(len(weights))]
    if balancing == RING_HASH:
        return build_ring(names, weights, 64, 512)
    return build_maglev(names, weights, TABLE_SIZE) if balancing == MAGLEV else None


def cluster_of(balancing, drawn, seed=1, **config):
    weights = [weight for weight, _, _ in drawn]
    healthy = [int(flag) for _, flag, _ in drawn]
    table = table_of(balancing, weights)
    cluster = make_cluster(balancing, weights, healthy, table, seed, **config)
    cluster.hosts["requests_active"][OFFSET:] = [active for _, _, active in drawn]
    cluster.clusters["requests_active"][1] = sum(active for _, _, active in drawn)
    return cluster


@pytest.mark.parametrize("balancing", ALL)
@given(drawn=st.lists(host, max_size=12), key=keys, factor=st.sampled_from([0, 100, 150]))
@settings(max_examples=60, deadline=None)
def test_a_pick_is_a_healthy_member_whenever_there_is_one(balancing, drawn, key, factor):
    cluster = cluster_of(balancing, drawn, hash_balance_factor=factor)
    for attempt in range(4):
        position = cluster.pick(key, attempt, now_ns=attempt * SECOND_NS)
        if any(flag for _, flag, _ in drawn):
            assert 0 <= position < len(drawn)
            assert drawn[position][1]
        else:
            assert position == NO_HOST


@given(drawn=st.lists(host, min_size=2, max_size=12), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_peak_ewma_compares_two_distinct_hosts(drawn, seed):
    # If a candidate were compared with itself, the single dearest host could be picked.
    cluster = cluster_of(PEAK_EWMA, [(1, True, active) for _, _, active in drawn], seed)
    costs = [
        cost_ns(cluster.hosts, OFFSET + index, cluster.configs, 1, 0) for index in range(len(drawn))
    ]
    dearest = max(range(len(drawn)), key=costs.__getitem__)
    if costs.count(costs[dearest]) == 1:
        assert dearest not in cluster.picks(30)


@given(weights=st.lists(st.integers(1, 128), min_size=2, max_size=8))
@settings(max_examples=60, deadline=None)
def test_edf_shares_are_the_weights(weights):
    # After k picks each host has had its share of k, to within one pick and the tie of one.
    weights[0] = weights[1] % 128 + 1  # unequal, or the plain round robin would answer
    picks = make_cluster(ROUND_ROBIN, weights).picks(2 * sum(weights))
    counts = np.bincount(picks, minlength=len(weights))
    assert counts.tolist() == [2 * weight for weight in weights]


@given(
    count=st.integers(1, 60), size=st.sampled_from([61, 127, 251, 509]), salt=st.integers(0, 999)
)
@settings(max_examples=40, deadline=None)
def test_equal_maglev_hosts_have_floor_or_ceiling_of_their_share(count, size, salt):
    table = build_maglev([f"{salt}-{index}" for index in range(count)], [1] * count, size)
    counts = np.bincount(table["table_index"], minlength=count)
    assert set(counts.tolist()) <= {size // count, -(-size // count)}
    assert counts.sum() == size


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=12), minimum=st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_a_ring_shares_its_points_by_weight(weights, minimum):
    ring = build_ring([f"pod-{index}" for index in range(len(weights))], weights, minimum)
    counts = np.bincount(ring["table_index"], minlength=len(weights))
    # Points are laid until their number reaches the running sum of the scaled weights: less than
    # one point off.  The ring rounds that sum up: less than a weight's share of one off.
    weights = np.array(weights) / sum(weights)
    assert np.all(np.abs(counts - len(ring) * weights) <= 1.0 + weights + 1e-9 * len(ring))
    assert len(ring) >= minimum


@given(
    happenings=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**9)), max_size=60),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_host_counts_are_never_negative_and_end_at_zero(happenings, seed):
    cluster = cluster_of(PEAK_EWMA, [(1, True, 0)] * 3, seed)
    hosts, configs = cluster.hosts, cluster.configs
    active, now_ns = [], 0
    for kind, elapsed_ns in happenings:
        now_ns += elapsed_ns
        if kind == 0 or not active:
            row = cluster.row(cluster.pick(now_ns=now_ns))
            on_request_sent(hosts, row, now_ns)
            active.append(row)
        else:
            ended = on_response if kind == 1 else on_abandoned
            ended(hosts, active.pop(0), configs, 1, elapsed_ns, now_ns)
        assert hosts["requests_active"].sum() == len(active)
        assert hosts["requests_active"].min() >= 0
        assert np.all(np.isfinite(hosts["rtt_ewma_ns"]))
        assert hosts["rtt_ewma_ns"].min() >= 0


@given(
    happenings=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, transitions.STIMULUS_COUNT - 1)), max_size=80
    ),
    status=st.sampled_from([200, 503]),
    max_retries=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_retries_in_the_breaker_are_those_the_exchanges_hold(happenings, status, max_retries):
    exchanges = np.concatenate([make_exchange() for _ in range(4)])
    routes = make_route(num_retries=3, retry_on=RETRY_5XX)
    clusters, configs = make_limits(max_retries=max_retries)
    rng = make_streams(1, PURPOSE_BACK_OFF, 1)[0]
    codes = np.zeros(0, np.int32)
    for exchange, stimulus in happenings:
        reset = RESET_CONNECT_FAILURE if stimulus == transitions.STIMULUS_RESET else RESET_NONE
        machine.step(
            exchanges,
            exchange,
            routes,
            codes,
            clusters,
            configs,
            NO_MEMORY,
            stimulus,
            status,
            reset,
            0,
            rng,
        )
        held = exchanges["retry_held"]
        assert set(held.tolist()) <= {0, 1}
        assert clusters["retries_active"][0] == held.sum() <= max_retries
        assert exchanges["retries_remaining"].min() >= 0


# --- With and without compiled code ----------------------------------------------------------


def digest_of_picks():
    """Return a digest of a few hundred picks, schedules, averages and retries."""
    digest = hashlib.sha256()
    drawn = [(3, True, 2), (1, True, 0), (2, False, 0), (7, True, 5), (1, True, 1)]
    for balancing in ALL:
        for weighted in (False, True):
            hosts = drawn if weighted else [(1, flag, active) for _, flag, active in drawn]
            cluster = cluster_of(balancing, hosts, hash_balance_factor=110, active_request_bias=1.5)
            for number in range(40):
                now_ns = number * 37_000_000
                position = cluster.pick(number * 0x9E3779B97F4A7C15 % 2**64, number % 3, now_ns)
                row = cluster.row(position)
                on_request_sent(cluster.hosts, row, now_ns)
                if number % 4:
                    on_response(cluster.hosts, row, cluster.configs, 1, number * 900_001, now_ns)
                digest.update(bytes([position]))
            for array in (cluster.hosts, cluster.clusters, cluster.rng):
                digest.update(array.tobytes())
    exchanges, routes = make_exchange(), make_route(num_retries=9, retry_on=RETRY_5XX)
    (clusters, configs), rng = make_limits(), make_streams(1, PURPOSE_BACK_OFF, 1)[0]
    codes = np.zeros(0, np.int32)
    stimuli = [transitions.STIMULUS_REQUEST]
    stimuli += [transitions.STIMULUS_RESPONSE, transitions.STIMULUS_BACK_OFF_EXPIRED] * 9
    stimuli += [transitions.STIMULUS_RESPONSE, transitions.STIMULUS_DOWNSTREAM_RESET]
    for stimulus in stimuli:
        reset = RESET_OVERFLOW if stimulus == transitions.STIMULUS_OVERFLOW else RESET_NONE
        decided = machine.step(
            exchanges, 0, routes, codes, clusters, configs, NO_MEMORY, stimulus, 503, reset, 5, rng
        )
        digest.update(repr([int(item) for item in decided]).encode())
    digest.update(exchanges.tobytes() + clusters.tobytes() + rng.tobytes())
    return digest.hexdigest()


def test_without_compiled_code_every_bit_is_the_same():
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1" if JIT_ENABLED else "0"}
    here = Path(__file__).resolve()
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(here.parents[2]), str(here.parents[1]), str(here.parent)]
    )
    command = f"import {here.stem}; print({here.stem}.digest_of_picks())"
    other = subprocess.run(
        [sys.executable, "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 0, other.stderr
    assert other.stdout.strip() == digest_of_picks()
