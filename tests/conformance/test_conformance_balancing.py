"""Load balancing: cycles, shares and hashed picks."""

from collections import Counter

import pytest
from engine_rows import cluster, endpoints
from planes import SERVICE, Scenario, play_envoy, play_meshsim, weighted
from wire import Ask, Reply

FIVE = endpoints(*(f"b-v1-{row}" for row in range(5)))
NAMES = [item.name for item in FIVE]


def of(policy, members, asks, **fields):
    """Scenario of one cluster under a load-balancing policy."""
    return Scenario(asks, policies={SERVICE: policy}, members={SERVICE: members}, **fields)


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def rotations(cycle):
    return [cycle[start:] + cycle[:start] for start in range(len(cycle))]


# --- Round robin ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1), (5, 3, 2, 1, 1), (7, 7, 2)], ids=str)
def test_round_robin_runs_through_the_same_cycle(referee, weights):
    """Envoy enters its cycle at a random place; from there on the picks are ours."""
    period = sum(weights)
    scenario = of(cluster(), weighted(*weights), [Ask()] * 8 * period)
    envoy, ours = both(referee, scenario)
    rule = f"round robin {weights}"
    referee.equal(f"{rule}: shares of 8 cycles", envoy.shares(), ours.shares())
    cycle = ours.picks()[:period]
    assert ours.picks() == 8 * cycle
    found = next((turn for turn in rotations(cycle) if envoy.picks() == 8 * turn), None)
    referee.equal(f"{rule}: order, up to where it begins", found is not None, True)


@pytest.mark.parametrize("workers", [2, 4])
def test_each_worker_has_a_round_robin_of_its_own(referee, workers):
    """So of W workers each leaves a cycle unfinished: shares differ by W at most, not by 1."""
    asks = [Ask()] * 400
    envoy = play_envoy(referee.binary, of(cluster(), FIVE, asks, callers=16, workers=workers))
    ours = play_meshsim(of(cluster(), FIVE, asks, callers=16))
    spread = [max(p.shares().values()) - min(p.shares().values()) for p in (envoy, ours)]
    rule = "round robin, 5 hosts: largest less smallest share"
    referee.bounded(rule, *spread, 0, workers, workers)


# --- Random, least request ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_random(referee, workers):
    scenario = of(cluster("RANDOM"), FIVE, [Ask()] * 2000, callers=8, workers=workers)
    envoy, ours = both(referee, scenario)
    law = dict.fromkeys(NAMES, 0.2)
    referee.law("random, 5 hosts", envoy.shares(), ours.shares(), law, workers)


#: From when a request is sent until its host is picked, at most.
MARGIN_S = 0.05
#: Picks beside a busy host that are enough: of 3 choices one in 125 is the busy one.
COUNT_LEAST = 625


def beside_a_busy_host(choice_count=None, method=None, count=1500):
    """One request holds its host for 3 s; `count` more come, one after the other."""
    policy = cluster("LEAST_REQUEST", choice_count=choice_count, selection_method=method)

    def script(endpoint, number, tries):
        return Reply(after_s=3.0 if number == 0 else 0.0)

    return of(policy, FIVE, [Ask()] * (count + 1), callers=2, script=script)


def of_the_busy(played):
    """Count the picks of the host that was busy, and of the others, while it surely was."""
    busy = played.answers[0]
    last_s = busy.at_s + busy.after_s - MARGIN_S
    # The first ones may have been faster than the one that was to be busy.
    during = [a for a in played.answers[50:] if a.at_s < last_s]
    assert len(during) >= COUNT_LEAST
    return Counter("busy" if a.endpoint == busy.endpoint else "other" for a in during)


@pytest.mark.parametrize("choices", [2, 3])
def test_least_request_picks_a_busy_host_only_if_it_draws_no_other(referee, choices):
    """With replacement: all of d draws of 5 are the busy host, of probability 5 ** -d."""
    envoy, ours = map(of_the_busy, both(referee, beside_a_busy_host(choices)))
    law = {"busy": 5.0**-choices, "other": 1 - 5.0**-choices}
    referee.law(f"least request of {choices} choices, one host busy", envoy, ours, law)


def test_a_full_scan_never_picks_the_busy_host(referee):
    scenario = beside_a_busy_host(method="FULL_SCAN")
    envoy, ours = (of_the_busy(played)["busy"] for played in both(referee, scenario))
    referee.equal("least request, full scan: picks of the busy host", envoy, ours)


def test_weighted_least_request_without_load_is_weighted_round_robin(referee):
    scenario = of(cluster("LEAST_REQUEST"), weighted(3, 1, 1), [Ask()] * 400)
    envoy, ours = both(referee, scenario)
    referee.equal("least request 3:1:1, nothing active: shares", envoy.shares(), ours.shares())


def holds_two_of(heavy):
    """Script that keeps the first two requests to `heavy` for the whole run."""
    held = []

    def script(endpoint, number, tries):
        if endpoint == heavy and len(held) < 2:
            held.append(number)
            return Reply(after_s=2.5)
        return Reply()

    return script


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.0])
def test_the_bias_of_active_requests(referee, bias):
    """Two of the heavy host's requests are held, so its weight is 8 / 3 ** bias beside 1."""
    policy = cluster("LEAST_REQUEST", active_request_bias=bias)
    # Two of three callers are held; the third asks alone, after some that may have met others.
    asks, met = [Ask()] * 280, 10
    picks = []
    for play in (lambda scenario: play_envoy(referee.binary, scenario), play_meshsim):
        script = holds_two_of("b-v1-0")
        played = play(of(policy, weighted(8, 1), asks, callers=3, script=script))
        picks.append(Counter(played.picks()[met:])["b-v1-1"])
    # Where in its cycle a plane stands when the load begins moves a pick or two.
    referee.near(f"least request 8:1, bias {bias}: picks of the light host", *picks, 3, "picks")


# --- Hashes ---------------------------------------------------------------------------------

KEYS = [Ask(headers={"user": f"user-{row}"}) for row in range(10_000)]
HASHING = {
    "RING_HASH": {"minimum_ring_size": 1024, "maximum_ring_size": 8_388_608},
    "MAGLEV": {"table_size": 65_537},
}


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (5, 3, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("policy", HASHING)
def test_hashed_picks_are_equal_for_10_000_keys(referee, policy, weights):
    settings = cluster(policy, hash_header="user", **HASHING[policy])
    workers = 1 if weights[0] == 1 else 2
    scenario = of(settings, weighted(*weights), KEYS, callers=8, workers=workers)
    envoy, ours = both(referee, scenario)
    same = sum(a == b for a, b in zip(envoy.picks(), ours.picks(), strict=True))
    referee.equal(f"{policy} {weights}: keys of 10,000", same, len(KEYS), workers)


@pytest.mark.parametrize("policy", HASHING)
def test_hashed_picks_while_hosts_are_busy(referee, policy):
    """At `hash_balance_factor` 120 no host gets more than 1.2 times its share of what is active.

    Twelve requests are held, so later keys meet hosts that are full.
    """
    settings = cluster(policy, hash_header="user", hash_balance_factor=120, **HASHING[policy])

    def script(endpoint, number, tries):
        return Reply(after_s=2.5 if number < 12 else 0.0)

    asks = [ask._replace(at_s=0.01 * row) for row, ask in enumerate(KEYS[:200])]
    scenario = of(settings, weighted(3, 2, 1, 1), asks, callers=0, script=script)
    envoy, ours = both(referee, scenario)
    same = sum(a == b for a, b in zip(envoy.picks(), ours.picks(), strict=True))
    referee.equal(f"{policy}, balance factor 120: keys of 200", same, len(asks))


@pytest.mark.parametrize("size", [7, 100, 5000])
def test_rings_of_other_sizes(referee, size):
    settings = cluster(
        "RING_HASH", hash_header="user", minimum_ring_size=size, maximum_ring_size=8_388_608
    )
    scenario = of(settings, weighted(5, 3, 1), KEYS[:1000], callers=8)
    envoy, ours = both(referee, scenario)
    same = sum(a == b for a, b in zip(envoy.picks(), ours.picks(), strict=True))
    referee.equal(f"ring of {size}, weights 5:3:1: keys of 1,000", same, 1000)
