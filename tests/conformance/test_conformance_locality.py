"""Priorities, localities and subsets: which part of a cluster the requests go to."""

from dataclasses import replace

import pytest
from engine_rows import cluster, endpoints, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

from meshsim.controlplane.configuration import EndpointLocality
from meshsim.topology.locality import LocalityLoadBalancing, ZoneAware
from meshsim.topology.model import OutlierDetection
from meshsim.topology.subsets import SubsetConfig

#: Far beyond a run.
LONG = "300s"
#: Requests by which all that fail are surely ejected, and those that are counted.
FIRST, COUNTED = 400, 2000


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def part(name, count, zone="default", **locality):
    """Return `count` endpoints "b-NAME-0", ... of one locality."""
    found = endpoints(*(f"b-{name}-{row}" for row in range(count)))
    return tuple(replace(item, zone=zone, locality=EndpointLocality(**locality)) for item in found)


def part_of(endpoint):
    return endpoint.split("-")[1]


def failing(**bad):
    """Script of endpoints of which the first of each part fail, as many as said by its name."""
    reply = Reply(500)

    def script(endpoint, number, tries):
        _, name, row = endpoint.split("-")
        return reply if int(row) < bad.get(name, 0) else Reply()

    return script


def spread(members, script, panic=0, count=FIRST + COUNTED, **locality):
    """Scenario in which what fails is ejected for ever."""
    rule = {
        "interval": LONG,
        "base_ejection_time": LONG,
        "max_ejection_percent": 100,
        "consecutive_5xx": 2,
    }
    policy = cluster(healthy_panic_threshold=panic).model_copy(
        update={
            "outlier_detection": OutlierDetection.model_validate(rule),
            "locality": LocalityLoadBalancing(**locality),
        }
    )
    return Scenario([Ask()] * count, 1, {SERVICE: policy}, {SERVICE: members}, script=script)


def settled(played):
    """Count the parts that the later requests went to; "" for those that found no host."""
    counts = {}
    for answer in played.answers[FIRST:]:
        name = part_of(answer.endpoint) if answer.endpoint else ""
        counts[name] = counts.get(name, 0) + 1
    return counts


# --- Priorities -----------------------------------------------------------------------------

#: Failing hosts of four in each priority, panic threshold, other fields -> law of the priorities.
SPILLS = {
    "all healthy": ({}, 0, {}, {"p0": 1.0}),
    "3 of 4 healthy": ({"p0": 1}, 0, {}, {"p0": 1.0}),
    "2 of 4 healthy": ({"p0": 2}, 0, {}, {"p0": 0.7, "p1": 0.3}),
    "1 of 4 healthy": ({"p0": 3}, 0, {}, {"p0": 0.35, "p1": 0.65}),
    "none healthy": ({"p0": 4}, 0, {}, {"p1": 1.0}),
    "both a quarter healthy": ({"p0": 3, "p1": 3}, 0, {}, {"p0": 0.5, "p1": 0.5}),
    "2 of 4 healthy, overprovisioned twice": (
        {"p0": 2},
        0,
        {"overprovisioning_factor": 200},
        {"p0": 1.0},
    ),
    "2 of 4 healthy, not overprovisioned": (
        {"p0": 2},
        0,
        {"overprovisioning_factor": 100},
        {"p0": 0.5, "p1": 0.5},
    ),
    "a quarter and a half healthy": (
        {"p0": 3, "p1": 2},
        0,
        {},
        {"p0": 0.35, "p1": 0.65},
    ),
    "a quarter healthy in both, panic below 50 %": (
        {"p0": 3, "p1": 3},
        50,
        {},
        {"p0": 0.5, "p1": 0.5},
    ),
}


@pytest.mark.parametrize("case", SPILLS)
def test_priorities_spill_over(referee, case):
    bad, panic, fields, law = SPILLS[case]
    members = part("p0", 4) + part("p1", 4, priority=1)
    envoy, ours = both(referee, spread(members, failing(**bad), panic, **fields))
    referee.law(f"priorities: {case}", settled(envoy), settled(ours), law)


def test_a_priority_that_panics_uses_all_its_hosts(referee):
    """Of each 100 requests 50 go to either priority, and there to each of its four hosts."""
    members = part("p0", 4) + part("p1", 4, priority=1)
    scenario = spread(members, failing(p0=3, p1=3), 50)
    law = {item.name: 1 / 8 for item in members}
    counts = []
    for played in both(referee, scenario):
        # A request that failed was answered by its endpoint too.
        picked = [answer.endpoint for answer in played.answers[FIRST:]]
        counts.append({name: picked.count(name) for name in law})
    # Round robin within a priority varies less than chance does.
    referee.law("priorities: hosts of two that panic", *counts, law)


# --- Localities -----------------------------------------------------------------------------

#: Weights of two localities of four hosts, failing hosts of each, what one cycle holds.
WEIGHTED = {
    "3 to 1": ((3, 1), {}, {"x": 0.75, "y": 0.25}),
    "3 to 1, a quarter of the first fails": ((3, 1), {"x": 1}, {"x": 0.75, "y": 0.25}),
    "3 to 1, half of the first fails": ((3, 1), {"x": 2}, {"x": 2.1 / 3.1, "y": 1 / 3.1}),
    "1 to 1, three of the first fail": ((1, 1), {"x": 3}, {"x": 0.35 / 1.35, "y": 1 / 1.35}),
    "3 to 1, the first fails": ((3, 1), {"x": 4}, {"y": 1.0}),
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_localities_by_weight(referee, case):
    """The schedule of localities is deterministic from wherever it begins: shares to a pick."""
    (x, y), bad, law = WEIGHTED[case]
    members = part("x", 4, "x", weight=x) + part("y", 4, "y", weight=y)
    envoy, ours = both(referee, spread(members, failing(**bad), locality_weighted=True))
    for name, share in law.items():
        counts = [settled(played).get(name, 0) for played in (envoy, ours)]
        low, high = COUNTED * share - 3, COUNTED * share + 3
        referee.bounded(f"localities: {case}: {name} of {COUNTED}", *counts, low, high)


#: Hosts by zone, clients of 10,000 by zone, failing hosts -> law of the zones.  The client is in x.
ZONES = {
    "as many clients as hosts": ((4, 4), (5000, 5000), {}, {"x": 1.0}),
    "fewer clients than hosts": ((4, 4), (2500, 7500), {}, {"x": 1.0}),
    "more clients than hosts": ((3, 6), (5000, 5000), {}, {"x": 0.6666, "y": 0.3334}),
    "half of the own fail": ((4, 4), (5000, 5000), {"x": 2}, {"x": 0.6666, "y": 0.3334}),
    "too few hosts": ((2, 3), (5000, 5000), {}, {"x": 0.4, "y": 0.6}),
}


@pytest.mark.parametrize("case", ZONES)
def test_zone_aware_routing(referee, case):
    hosts, clients, bad, law = ZONES[case]
    members = part("x", hosts[0], "x", local=True, clients=clients[0])
    members += part("y", hosts[1], "y", clients=clients[1])
    scenario = spread(members, failing(**bad), zone_aware=ZoneAware())
    envoy, ours = both(referee, scenario)
    referee.law(f"zone-aware: {case}", settled(envoy), settled(ours), law)


# --- Subsets --------------------------------------------------------------------------------

LABELS = (
    {"stage": "prod", "version": "1"},
    {"stage": "prod", "version": "2"},
    {"stage": "dev", "version": "2"},
    {"stage": "dev", "version": "3"},
)
BY_VERSION = [{"keys": ["version"]}]
BY_BOTH = [{"keys": ["stage", "version"]}, {"keys": ["stage"]}]


def keys_subset(fallback):
    """Selectors of which the first has a fallback of its own."""
    own = {"keys": ["stage", "version"], "fallback_policy": "KEYS_SUBSET"}
    return [{**own, "fallback_keys_subset": fallback}, {"keys": ["stage"]}]


#: What the cluster says, what the route asks for.
SUBSETS = {
    "one label": ({"subset_selectors": BY_VERSION}, {"metadata_match": {"version": "2"}}),
    "two labels": (
        {"subset_selectors": BY_BOTH},
        {"metadata_match": {"stage": "dev", "version": "2"}},
    ),
    "unknown, no fallback": (
        {"subset_selectors": BY_VERSION},
        {"metadata_match": {"version": "9"}},
    ),
    "unknown, any endpoint": (
        {"subset_selectors": BY_VERSION, "fallback_policy": "ANY_ENDPOINT"},
        {"metadata_match": {"version": "9"}},
    ),
    "unknown, default subset": (
        {
            "subset_selectors": BY_VERSION,
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": {"stage": "prod"},
        },
        {"metadata_match": {"version": "9"}},
    ),
    "no selector of these labels": (
        {"subset_selectors": BY_VERSION, "fallback_policy": "NO_FALLBACK"},
        {"metadata_match": {"stage": "dev"}},
    ),
    "keys of the subset": (
        {"subset_selectors": keys_subset(["stage"])},
        {"metadata_match": {"stage": "dev", "version": "9"}},
    ),
    "own fallback of a selector": (
        {
            "subset_selectors": [{"keys": ["version"], "fallback_policy": "NO_FALLBACK"}],
            "fallback_policy": "ANY_ENDPOINT",
        },
        {"metadata_match": {"version": "9"}},
    ),
    "nothing asked, any endpoint": (
        {"subset_selectors": BY_VERSION, "fallback_policy": "ANY_ENDPOINT"},
        {},
    ),
    "nothing asked, no fallback": ({"subset_selectors": BY_VERSION}, {}),
    "a list of fallbacks": (
        {"subset_selectors": BY_VERSION, "metadata_fallback_policy": "FALLBACK_LIST"},
        {"fallback_list": [{"version": "9"}, {"version": "3"}]},
    ),
}


@pytest.mark.parametrize("case", SUBSETS)
def test_subsets(referee, case):
    """Round robin within a subset: 120 requests are 30, 60 or 120 for each of its hosts."""
    said, asked = SUBSETS[case]
    found = endpoints(*(f"b-v{row}-0" for row in range(len(LABELS))))
    members = tuple(replace(item, labels=own) for item, own in zip(found, LABELS, strict=True))
    policy = cluster().model_copy(update={"subset_config": SubsetConfig.model_validate(said)})
    scenario = Scenario(
        [Ask()] * 120,
        policies={SERVICE: policy},
        members={SERVICE: members},
        table=(route(split=[{"service": SERVICE, **asked}]),),
    )
    envoy, ours = both(referee, scenario)
    seen = [{**played.shares(), "outcomes": played.outcomes()} for played in (envoy, ours)]
    referee.equal(f"subsets: {case}", *seen)
