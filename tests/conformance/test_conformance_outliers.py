"""Outlier detection and panic: who is ejected, for how long, and who is picked all the same."""

from dataclasses import replace
from itertools import pairwise

import pytest
from engine_rows import cluster, endpoints
from planes import SERVICE, Scenario, cause, play_envoy, play_meshsim, weighted
from wire import Ask, Reply

from meshsim.topology.model import OutlierDetection

EJECTIONS = "outlier_detection.ejections_"
#: A sweep of Envoy's comes some ms late, and a request is due every few.
LATE_S = 0.12
#: Far beyond a run.
LONG = "300s"


def hosts(count):
    return endpoints(*(f"b-v1-{row}" for row in range(count)))


def watched(count, asks, script, callers=1, panic=0, plane=None, **rule):
    """Scenario of `count` hosts under a rule; `plane` holds other fields of the scenario."""
    balanced = cluster(healthy_panic_threshold=panic)
    stated = OutlierDetection.model_validate({"interval": "200ms", **rule})
    policies = {SERVICE: balanced.model_copy(update={"outlier_detection": stated})}
    members = {SERVICE: hosts(count)}
    fields = {"late_s": 0.03, **(plane or {})}
    return Scenario(asks, callers, policies, members, script=script, **fields)


def spaced(count):
    """Requests 4 ms apart.

    Envoy's workers detect and its main thread ejects; what a host does in between is forgotten.
    """
    return [Ask(at_s=0.004 * row) for row in range(count)]


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def ejections(played, *names):
    """Return these counters of ejections, those that are 0 left out."""
    counts = {name: played.counters[f"{SERVICE}.{EJECTIONS}{name}"] for name in names}
    return {name: count for name, count in counts.items() if count}


def row_of(endpoint):
    return int(endpoint.rpartition("-")[2])


def failing(bad, reply=None):
    """Script of endpoints of which the first `bad` fail, by default with 500."""
    reply = reply or Reply(500)
    return lambda endpoint, number, tries: reply if row_of(endpoint) < bad else Reply()


# --- Runs of failures -----------------------------------------------------------------------

RUNS = {
    "consecutive_5xx 3": (Reply(500), {"consecutive_5xx": 3}),
    "consecutive_5xx by default": (Reply(500), {}),
    "resets count as 5xx": (Reply(reset=True), {"consecutive_5xx": 4}),
    "gateway failures": (
        Reply(502),
        {"consecutive_gateway_failure": 2, "enforcing_consecutive_gateway_failure": 100},
    ),
    "500 is no gateway failure": (
        Reply(500),
        {
            "consecutive_5xx": 9,
            "consecutive_gateway_failure": 2,
            "enforcing_consecutive_gateway_failure": 100,
        },
    ),
    "local origin apart": (
        Reply(reset=True),
        {"split_external_local_origin_errors": True, "consecutive_local_origin_failure": 3},
    ),
    "not enforced": (Reply(500), {"enforcing_consecutive_5xx": 0, "consecutive_5xx": 3}),
}
KINDS = ("consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure")


@pytest.mark.parametrize("case", RUNS)
def test_the_run_that_ejects(referee, case):
    """One of four hosts fails; Envoy begins its round robin anywhere, which moves no count."""
    reply, rule = RUNS[case]
    stated = {"base_ejection_time": LONG, "max_ejection_percent": 50, **rule}
    envoy, ours = both(referee, watched(4, spaced(66), failing(1, reply), 0, **stated))
    failed = [sum(answer.status != 200 for answer in p.answers) for p in (envoy, ours)]
    names = [f"{what}_{kind}" for what in ("detected", "enforced") for kind in KINDS]
    counts = [ejections(p, "enforced_total", *names) for p in (envoy, ours)]
    referee.equal(f"outlier: {case}: ejections", *counts)
    if "enforced_total" in counts[0]:
        referee.equal(f"outlier: {case}: failures before", *failed)


@pytest.mark.parametrize(
    ("count", "percent", "always"),
    [
        (2, 10, None), (3, None, None), (9, 10, None), (10, 10, None), (11, 10, None),
        (20, 10, None), (3, 34, None), (3, 33, None), (4, 50, None), (4, 100, None),
        (3, 10, True), (3, 0, True), (5, 0, None),
    ],
)  # fmt: skip
def test_how_many_may_be_ejected(referee, count, percent, always):
    """Two hosts fail.  Runs end midway between two detections, so the phase moves no count."""
    rule = {"base_ejection_time": LONG, "max_ejection_percent": percent}
    rule["always_eject_one_host"] = always
    stated = {name: value for name, value in rule.items() if value is not None}
    asks = spaced(count * 17 + count // 2)
    scenario = watched(count, asks, failing(2), 0, **stated)
    names = ("enforced_total", "overflow", "detected_consecutive_5xx")
    counts = [ejections(p, *names) for p in both(referee, scenario)]
    shown = f"{count} hosts, 2 fail, max {percent or 'default'} %" + (", always one" * bool(always))
    referee.equal(f"outlier: {shown}", *counts)


@pytest.mark.parametrize("split", [False, True])
def test_a_host_that_cannot_be_connected_to(referee, split):
    """Apart or not, a refused connection is a failure of the host."""
    rule = {
        "base_ejection_time": LONG,
        "max_ejection_percent": 50,
        "split_external_local_origin_errors": split,
        "consecutive_local_origin_failure": 3,
        "consecutive_5xx": 4,
    }
    plane = {"refusing": ("b-v1-0",)}
    scenario = watched(4, [Ask()] * 66, failing(0), plane=plane, **rule)
    envoy, ours = both(referee, scenario)
    names = [f"enforced_{kind}" for kind in KINDS]
    counts = [(p.outcomes(), ejections(p, *names)) for p in (envoy, ours)]
    referee.equal(f"outlier: connection refused, local origin apart: {split}", *counts)


# --- Who is picked then ---------------------------------------------------------------------

HASHING = {
    "RING_HASH": {"minimum_ring_size": 1024, "maximum_ring_size": 8_388_608},
    "MAGLEV": {"table_size": 65_537},
}


@pytest.mark.parametrize("policy", HASHING)
def test_hashed_picks_without_an_ejected_host(referee, policy):
    balanced = cluster(policy, hash_header="user", **HASHING[policy])
    fields = {"consecutive_5xx": 2, "base_ejection_time": LONG, "max_ejection_percent": 50}
    stated = OutlierDetection.model_validate({"interval": "200ms", **fields})
    policies = {SERVICE: balanced.model_copy(update={"outlier_detection": stated})}
    # Envoy builds the table beside its workers, who go on by the old one for a moment.
    asks = [Ask(0.0 if row < 40 else 0.5, headers={"user": f"user-{row}"}) for row in range(2000)]
    members = {SERVICE: weighted(3, 2, 1, 1)}
    scenario = Scenario(asks, policies=policies, members=members, script=failing(1))
    envoy, ours = both(referee, scenario)
    assert ejections(envoy, "enforced_total") == {"enforced_total": 1}
    pairs = list(zip(envoy.picks(), ours.picks(), strict=True))[40:]
    same = sum(a == b for a, b in pairs)
    referee.equal(f"{policy}, one of four ejected: keys of 1,960", same, len(pairs))


def test_weighted_round_robin_without_an_ejected_host(referee):
    """The others share as their weights say; their cycle begins anew, anywhere."""
    fields = {"consecutive_5xx": 2, "base_ejection_time": LONG, "max_ejection_percent": 50}
    scenario = replace(
        watched(3, [Ask()] * 100, failing(1), **fields),
        members={SERVICE: weighted(2, 5, 3)},
    )
    shares = []
    for played in both(referee, scenario):
        last = played.picks()[-80:]
        assert last == last[:8] * 10
        shares.append({name: last.count(name) for name in sorted(set(last))})
    referee.equal("round robin 2:5:3, the first ejected: shares of 10 cycles", *shares)


# --- When it is believed --------------------------------------------------------------------


def test_a_second_ejection_within_a_second_is_believed_at_its_end(referee):
    """Envoy merges changes of health: one in a second of another waits for the second's end.

    Two of four hosts fail twice each, within some ms; the later one is picked for a second more.
    """
    rule = {"base_ejection_time": LONG, "max_ejection_percent": 100, "consecutive_5xx": 2}
    asks = [Ask(at_s=0.01 * row) for row in range(150)]
    plane = {"merge_window": None}
    scenario = watched(4, asks, failing(2), 0, plane=plane, **rule)
    stated = scenario.policies[SERVICE]
    merging = stated.load_balancing.model_copy(update={"update_merge_window": 1_000_000_000})
    policies = {SERVICE: stated.model_copy(update={"load_balancing": merging})}
    scenario = replace(scenario, policies=policies)
    failed = [sum(a.status == 500 for a in played.answers) for played in both(referee, scenario)]
    # The later one gets every third request of that second, give or take a late timer.
    referee.near("outlier: failures until both are out, default merge window", *failed, 5, "")


# --- The sweep ------------------------------------------------------------------------------


def absences(played, endpoint, least_s=0.3):
    """Return the gaps between visits to `endpoint` that are longer than `least_s`."""
    visits = [item for tries in played.visits.values() for item in tries]
    times = sorted(item.at_s for item in visits if item.endpoint == endpoint)
    return [b - a for a, b in pairwise(times) if b - a > least_s]


def test_an_ejection_ends_at_the_sweep_and_the_next_is_longer(referee):
    """The n-th lasts n * 500 ms, then up to an interval until the sweep, of unknown phase."""
    interval_s, base_s = 0.2, 0.5
    asks = [Ask(at_s=0.01 * row) for row in range(450)]
    rule = {"interval": "200ms", "base_ejection_time": "500ms", "consecutive_5xx": 3}
    scenario = watched(3, asks, failing(1), 0, max_ejection_percent=50, **rule)
    gaps = [absences(played, "b-v1-0")[:2] for played in both(referee, scenario)]
    assert [len(item) for item in gaps] == [2, 2]
    for turn, (envoy, ours) in enumerate(zip(*gaps, strict=True), 1):
        shown = f"outlier: ejection {turn}, {turn * base_s:g} s and a sweep: seconds"
        low = turn * base_s
        referee.bounded(shown, round(envoy, 3), round(ours, 3), low, low + interval_s + LATE_S)


def mixed(every):
    """Script of endpoints of which the first fails each `every`-th request it gets."""
    seen = []

    def script(endpoint, number, tries):
        if row_of(endpoint) > 0:
            return Reply()
        seen.append(number)
        return Reply(500 if len(seen) % every == 0 else 200)

    return script


NO_RUNS = {"consecutive_5xx": 1000, "consecutive_gateway_failure": 1000}
SWEPT = {
    # Rates 100, 100, 100, 100 and 50 %: mean 90, deviation 20.
    "success rate, 1.9 deviations": ({"success_rate_stdev_factor": 1900}, "success_rate"),
    "success rate, 2.1 deviations": ({"success_rate_stdev_factor": 2100}, "success_rate"),
    "success rate, six hosts wanted": ({"success_rate_minimum_hosts": 6}, "success_rate"),
    "success rate, volume": ({"success_rate_request_volume": 61}, "success_rate"),
    "failure percentage 40": (
        {"failure_percentage_threshold": 40, "enforcing_success_rate": 0},
        "failure_percentage",
    ),
    "failure percentage 60": (
        {"failure_percentage_threshold": 60, "enforcing_success_rate": 0},
        "failure_percentage",
    ),
}


@pytest.mark.parametrize("case", SWEPT)
def test_who_stands_out_at_the_sweep(referee, case):
    """One of five fails every other time; a sweep may fall into the 60 requests of a host."""
    fields, kind = SWEPT[case]
    rule = {
        **NO_RUNS,
        "interval": "1500ms",
        "base_ejection_time": LONG,
        "max_ejection_percent": 50,
        "success_rate_minimum_hosts": 5,
        "success_rate_request_volume": 10,
        "failure_percentage_request_volume": 10,
        "failure_percentage_minimum_hosts": 5,
        "enforcing_failure_percentage": 100,
        **fields,
    }
    seen = []
    asks = [Ask(at_s=0.003 * row) for row in range(300)] + [Ask(at_s=3.2)]
    for play in (lambda item: play_envoy(referee.binary, item), play_meshsim):
        played = play(watched(5, asks, mixed(2), 0, **rule))
        seen.append(ejections(played, "enforced_total", f"enforced_{kind}"))
    referee.equal(f"outlier: {case}", *seen)


# --- Panic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 50, 60])
@pytest.mark.parametrize("bad", [1, 2, 3, 4])
def test_panic(referee, bad, threshold):
    """All that fail are ejected first; the last 60 requests show who is picked then."""
    rule = {"base_ejection_time": LONG, "max_ejection_percent": 100, "consecutive_5xx": 2}
    asks = [Ask()] * 120
    seen = []
    for played in both(referee, watched(4, asks, failing(bad), panic=threshold, **rule)):
        late = [played.visits.get(number, []) for number in range(60, 120)]
        picked = sorted({visit.endpoint for visits in late for visit in visits})
        outcomes = {(answer.status, cause(answer.flags)) for answer in played.answers[60:]}
        panicked = played.counters[f"{SERVICE}.lb_healthy_panic"] > 0
        seen.append((picked, sorted(outcomes), panicked))
    referee.equal(f"panic: threshold {threshold} %, {bad} of 4 ejected", *seen)
