"""PREQUAL: probe random servers all the time, and send to a cold one with low latency.

Rule: with every request a client sends `r_probe` probes to servers drawn at random without
replacement, and does not wait for the answers.  An answer holds the requests in flight (RIF) of
the server and its estimate of the latency; it goes to a pool of at most `pool_size` probes, one a
server, in the place of the oldest if need be.

A probe is *hot* if its RIF is above the quantile `q_rif` of the RIF that recent answers told, else
*cold*.  A request goes to the cold probe with the lowest latency, or if all are hot to the one with
the lowest RIF (the hot-cold lexicographic rule); with fewer than two probes to a random server.
The RIF of the probe counts the request.  A probe leaves the pool

- when it was used b times, b = max(1, (1 + delta) / ((1 - m/n) r_probe - r_remove)) for a pool
  of m and n servers, rounded up or down at random; without limit if the divisor is not positive;
- when it is older than `max_age`;
- by removal, `r_remove` a request: in turn the oldest and the worst, which is the hot one with
  the highest RIF, or without any the cold one with the highest latency.

A server remembers the latency of its last requests by the RIF when they arrived; its estimate is
the median of those at, or nearest to, the present RIF.

What the paper leaves open is decided here: the distribution of RIF is that of the last 64 answers,
a server remembers 5 latencies for each RIF below 16, and for eight ranges an octave above, and one
without any says 0, so that it is tried.  The rule is made for clusters of many more servers than
the pool has probes: with as few, probes are used again without limit and clients flock together.
The paper's heuristics against servers that fail fast ("sinkholing") and probes of idle clients
are not modelled.

References
----------
Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: Introducing Prequal",
NSDI 2024, section 4 (rule, reuse, removal, estimate); section 5 (r_probe 3, r_remove 1,
q_rif 2**-0.25, pool of 16, age of 1 s, delta 1).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.load_balancing import random_pick
from meshsim.rng import next_index, next_uniform
from meshsim.state.codes import NO_HOST, NO_INDEX
from meshsim.state.prequal import BUCKET_SAMPLES, FLIGHTS, RIF_BUCKETS, RIF_SAMPLES

__all__ = [
    "count_probes",
    "draw_target",
    "estimate_latency_ns",
    "is_hot",
    "on_answered",
    "pick",
    "reuse_budget",
    "rif_bucket",
    "take_probe",
]

#: Probes below which a server is drawn at random.
_PROBES_MIN = 2
_NO_LIMIT = 1 << 30
#: Draws for one probe before it is given up: most servers are ill or have just been asked.
_DRAWS_MAX = 128


# --- The server ------------------------------------------------------------------------------


@kernel_jit
def rif_bucket(rif: int) -> int:
    """Return the bucket of some requests in flight: one each below 16, then eight an octave."""
    step = 1
    bucket = 0
    while rif >= 16 * step:
        step *= 2
        bucket += 8
    return min(bucket + rif // step, RIF_BUCKETS - 1)


@kernel_jit
def on_answered(servers: Any, samples: Any, endpoint: int, rif: int, latency_ns: int) -> None:
    """Let a server remember a request that it has answered.

    Parameters
    ----------
    servers : ndarray[PREQUAL_SERVER_DTYPE], shape (n_endpoints, RIF_BUCKETS)
        Row `endpoint` is modified in place.
    samples : ndarray[int64], shape (n_endpoints, RIF_BUCKETS * BUCKET_SAMPLES)
        Row `endpoint` is modified in place.
    endpoint : int
    rif : int
        Requests in flight when it arrived, itself not counted.
    latency_ns : int
        Since then [ns], >= 0.
    """
    bucket = rif_bucket(rif)
    place = servers["next"][endpoint, bucket]
    samples[endpoint, bucket * BUCKET_SAMPLES + place] = latency_ns
    servers["next"][endpoint, bucket] = (place + 1) % BUCKET_SAMPLES
    known = servers["count"][endpoint, bucket]
    servers["count"][endpoint, bucket] = min(known + 1, BUCKET_SAMPLES)


@kernel_jit
def estimate_latency_ns(servers: Any, samples: Any, endpoint: int, rif: int) -> int:
    """Return the lower median of the last latencies that a server has seen near `rif` [ns].

    Parameters are those of `on_answered`, read only; `rif` is that of now.  0 if it has seen none.
    """
    here = rif_bucket(rif)
    nearest = NO_INDEX
    for bucket in range(RIF_BUCKETS):
        closer = nearest == NO_INDEX or abs(bucket - here) <= abs(nearest - here)
        if servers["count"][endpoint, bucket] > 0 and closer:
            nearest = bucket
    if nearest == NO_INDEX:
        return 0
    count = servers["count"][endpoint, nearest]
    first = nearest * BUCKET_SAMPLES
    median_ns = 0
    for row in range(first, first + count):
        latency_ns = samples[endpoint, row]
        lower = 0
        equal = 0
        for other in range(first, first + count):
            lower += samples[endpoint, other] < latency_ns
            equal += samples[endpoint, other] == latency_ns
        if lower <= (count - 1) // 2 < lower + equal:
            median_ns = latency_ns
    return int(median_ns)


# --- The pool --------------------------------------------------------------------------------


@kernel_jit
def reuse_budget(rules: Any, rule: int, host_count: int, uniform: float) -> int:
    """Return how often a probe may be used.

    Parameters
    ----------
    rules : ndarray[PREQUAL_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
    host_count : int
        Servers that are probed, >= 1.
    uniform : float
        Draw in [0, 1) that rounds.
    """
    fresh = 1.0 - float(rules["pool_size"][rule]) / float(host_count)
    rate = fresh * rules["r_probe"][rule] - rules["r_remove"][rule]
    if rate <= 0.0:
        return _NO_LIMIT
    budget = max(1.0, (1.0 + rules["reuse_delta"][rule]) / rate)
    if budget >= float(_NO_LIMIT):
        return _NO_LIMIT
    whole = math.floor(budget)
    return int(whole) + (1 if uniform < budget - whole else 0)


@kernel_jit
def is_hot(pools: Any, pool: int, rifs: Any, rif: int, q_rif: float) -> bool:
    """Return whether `rif` is above the quantile `q_rif` of the RIF that answers told lately."""
    count = pools["rif_count"][pool]
    below = 0
    for row in range(count):
        if rifs[pool, row] < rif:
            below += 1
    return below >= math.ceil(q_rif * count)


@kernel_jit
def _remove(pools: Any, pool: int, probes: Any, place: int) -> None:
    """Take a probe out of a pool; the last takes its place."""
    last = pools["count"][pool] - 1
    probes["host"][pool, place] = probes["host"][pool, last]
    probes["rif"][pool, place] = probes["rif"][pool, last]
    probes["latency_ns"][pool, place] = probes["latency_ns"][pool, last]
    probes["received_ns"][pool, place] = probes["received_ns"][pool, last]
    probes["uses"][pool, place] = probes["uses"][pool, last]
    pools["count"][pool] = last


@kernel_jit
def _oldest(pools: Any, pool: int, probes: Any) -> int:
    found = 0
    for place in range(1, pools["count"][pool]):
        if probes["received_ns"][pool, place] < probes["received_ns"][pool, found]:
            found = place
    return found


@kernel_jit
def take_probe(
    pools: Any,
    pool: int,
    probes: Any,
    rifs: Any,
    rules: Any,
    rule: int,
    host: int,
    rif: int,
    latency_ns: int,
    host_count: int,
    now_ns: int,
    rng: Any,
) -> None:
    """Put the answer to a probe into a pool.

    Parameters
    ----------
    pools : ndarray[PREQUAL_POOL_DTYPE], shape (n_pools,)
        Row `pool` is modified in place.
    pool : int
    probes : ndarray[PROBE_DTYPE], shape (n_pools, POOL_MAX)
        Row `pool` is modified in place.
    rifs : ndarray[int32], shape (n_pools, RIF_SAMPLES)
        Row `pool` is modified in place.
    rules : ndarray[PREQUAL_RULE_DTYPE], shape (n_rules,)
        Read only.
    rule : int
    host : int
        HOST row that answered.
    rif, latency_ns : int
        What it said.
    host_count : int
        Servers that are probed.
    now_ns : int
        Current time of the caller's clock [ns].
    rng : ndarray[uint64], shape (2,)
        Advanced in place, once.
    """
    uses = reuse_budget(rules, rule, host_count, next_uniform(rng))
    rifs[pool, pools["rif_next"][pool]] = rif
    pools["rif_next"][pool] = (pools["rif_next"][pool] + 1) % RIF_SAMPLES
    pools["rif_count"][pool] = min(pools["rif_count"][pool] + 1, RIF_SAMPLES)
    count = pools["count"][pool]
    place = count
    for other in range(count):
        if probes["host"][pool, other] == host:
            place = other
    if place == count:
        if count >= rules["pool_size"][rule]:
            place = _oldest(pools, pool, probes)
        else:
            pools["count"][pool] = count + 1
    probes["host"][pool, place] = host
    probes["rif"][pool, place] = rif
    probes["latency_ns"][pool, place] = latency_ns
    probes["received_ns"][pool, place] = now_ns
    probes["uses"][pool, place] = uses


@kernel_jit
def _drop_old(hosts: Any, pools: Any, pool: int, probes: Any, max_age_ns: int, now_ns: int) -> None:
    """Remove probes that are too old, and those of servers that may not be picked."""
    place = 0
    while place < pools["count"][pool]:
        aged = now_ns - probes["received_ns"][pool, place] > max_age_ns
        if aged or hosts["healthy"][probes["host"][pool, place]] == 0:
            _remove(pools, pool, probes, place)
        else:
            place += 1


@kernel_jit
def _best(pools: Any, pool: int, probes: Any, rifs: Any, q_rif: float) -> int:
    """Return the place of the cold probe with the lowest latency, else of the lowest RIF."""
    cold = NO_INDEX
    hot = 0
    for place in range(pools["count"][pool]):
        rif = probes["rif"][pool, place]
        if not is_hot(pools, pool, rifs, rif, q_rif):
            latency_ns = probes["latency_ns"][pool, place]
            if cold == NO_INDEX or latency_ns < probes["latency_ns"][pool, cold]:
                cold = place
        if rif < probes["rif"][pool, hot]:
            hot = place
    return hot if cold == NO_INDEX else cold


@kernel_jit
def _worst(pools: Any, pool: int, probes: Any, rifs: Any, q_rif: float) -> int:
    """Return the place of the hot probe with the highest RIF, else of the highest latency."""
    cold = 0
    hot = NO_INDEX
    for place in range(pools["count"][pool]):
        rif = probes["rif"][pool, place]
        if is_hot(pools, pool, rifs, rif, q_rif) and (
            hot == NO_INDEX or rif > probes["rif"][pool, hot]
        ):
            hot = place
        if probes["latency_ns"][pool, place] > probes["latency_ns"][pool, cold]:
            cold = place
    return cold if hot == NO_INDEX else hot


@kernel_jit
def _thin_out(pools: Any, pool: int, probes: Any, rifs: Any, r_remove: float, q_rif: float) -> None:
    """Remove the probes that are owed for one request."""
    pools["removals_owed"][pool] += r_remove
    while pools["removals_owed"][pool] >= 1.0:
        pools["removals_owed"][pool] -= 1.0
        if pools["count"][pool] == 0:
            continue
        if pools["oldest_next"][pool] != 0:
            _remove(pools, pool, probes, _oldest(pools, pool, probes))
        else:
            _remove(pools, pool, probes, _worst(pools, pool, probes, rifs, q_rif))
        pools["oldest_next"][pool] = 1 - pools["oldest_next"][pool]


@kernel_jit
def pick(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    pools: Any,
    pool: int,
    probes: Any,
    rifs: Any,
    rules: Any,
    rule: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Return the HOST of the next request, or `NO_HOST`.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    rng : ndarray[uint64], shape (2,)
        Advanced in place, if a server is drawn at random.

    Notes
    -----
    The others are those of `take_probe`.  O(probes * RIF_SAMPLES).
    """
    q_rif = rules["q_rif"][rule]
    _drop_old(hosts, pools, pool, probes, rules["max_age_ns"][rule], now_ns)
    host = NO_HOST
    place = NO_INDEX
    if pools["count"][pool] >= _PROBES_MIN:
        place = _best(pools, pool, probes, rifs, q_rif)
        host = int(probes["host"][pool, place])
    else:
        pools["random_picks"][pool] += 1
        position = random_pick.pick(hosts, members, start, count, rng)
        if position != NO_HOST:
            host = int(members[start + position])
        for other in range(pools["count"][pool]):
            if probes["host"][pool, other] == host:
                place = other
    if place != NO_INDEX:
        probes["rif"][pool, place] += 1
        probes["uses"][pool, place] -= 1
        if probes["uses"][pool, place] <= 0:
            _remove(pools, pool, probes, place)
    _thin_out(pools, pool, probes, rifs, rules["r_remove"][rule], q_rif)
    return host


# --- Probes ----------------------------------------------------------------------------------


@kernel_jit
def count_probes(pools: Any, pool: int, rules: Any, rule: int) -> int:
    """Return how many probes go out with this request; what is left of one is owed."""
    owed = pools["probes_owed"][pool] + rules["r_probe"][rule]
    number = math.floor(owed)
    pools["probes_owed"][pool] = owed - number
    return int(number)


@kernel_jit
def draw_target(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    pools: Any,
    pool: int,
    flights: Any,
    number: int,
    rng: Any,
) -> int:
    """Return a random HOST that is selectable and none of the last `number` targets.

    Parameters
    ----------
    flights : ndarray[PROBE_FLIGHT_DTYPE], shape (n_pools, FLIGHTS)
        Those targets stand before ``pools["flight_next"]``.  Read only.
    number : int
        Probes that this request has sent already.
    rng : ndarray[uint64], shape (2,)
        Advanced in place.

    Returns
    -------
    int
        `NO_HOST` if none was found in a number of draws.

    Notes
    -----
    The others are those of `pick`.
    """
    for _ in range(_DRAWS_MAX if count > number else 0):
        host = int(members[start + next_index(rng, count)])
        fresh = hosts["healthy"][host] != 0
        for back in range(1, number + 1):
            slot = (pools["flight_next"][pool] - back) % FLIGHTS
            if flights["host"][pool, slot] == host:
                fresh = False
        if fresh:
            return host
    return NO_HOST
