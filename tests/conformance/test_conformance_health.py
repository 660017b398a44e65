"""Active health checks and slow start: when a host is out, when it is back, and how gently."""

from itertools import pairwise

import pytest
from engine_rows import cluster, endpoints
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

from meshsim.topology.health import HealthCheck, SlowStart

#: Between two requests [s].
APART_S = 0.01
COUNTERS = ("failure", "network_failure")
#: A check of Envoy's comes some ms late, each of up to six; a visit to a host is up to 30 ms off.
LATE_S = 0.08


def checked(checks, count=400, slow_start=None, apart_s=APART_S, hosts=3, **rule):
    """Scenario of hosts that are checked every 200 ms."""
    stated = {
        "timeout": "100ms",
        "interval": "200ms",
        "no_traffic_interval": "200ms",
        "no_traffic_healthy_interval": "200ms",
        "unhealthy_interval": "100ms",
        "unhealthy_edge_interval": "150ms",
        "healthy_edge_interval": "50ms",
        "path": "/health",
        **rule,
    }
    balanced = cluster(healthy_panic_threshold=0, slow_start=slow_start)
    policy = balanced.model_copy(update={"health_check": HealthCheck.model_validate(stated)})
    return Scenario(
        [Ask(at_s=apart_s * row) for row in range(count)],
        0,
        {SERVICE: policy},
        {SERVICE: endpoints(*(f"b-v1-{row}" for row in range(hosts)))},
        checks=checks,
        late_s=0.03,
    )


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def failing(first, last, reply):
    """Let checks `first` to `last` of the first host end as `reply` says."""

    def script(endpoint, before):
        return reply if endpoint == "b-v1-0" and first <= before <= last else Reply()

    return script


def absence(played, least_s=0.25):
    """Return when the first host was visited last before its absence, and for how long not [s]."""
    visits = [item for tries in played.visits.values() for item in tries]
    times = sorted(item.at_s for item in visits if item.endpoint == "b-v1-0")
    ((gone_s, back_s),) = [(a, b) for a, b in pairwise(times) if b - a > least_s]
    return gone_s, back_s - gone_s


#: Checks that fail, how; thresholds; from when the host is out until it is back [s].
CHECKS = {
    # Out at the first; 100 ms to each of the others and to the pass, 50 ms to the second pass.
    "a status, then two passes": ((5, 7, Reply(503)), {"healthy_threshold": 2}, 0.35),
    "a status, then one pass": ((5, 8, Reply(500)), {"healthy_threshold": 1}, 0.4),
    # Out at the third.
    "resets": ((5, 10, Reply(reset=True)), {"unhealthy_threshold": 3}, 0.4),
    # Out at the second; each lasts its timeout.
    "timeouts": ((5, 8, Reply(after_s=0.15)), {"unhealthy_threshold": 2}, 0.5),
}


@pytest.mark.parametrize("case", CHECKS)
def test_a_host_is_out_until_it_passes(referee, case):
    which, rule, out_s = CHECKS[case]
    thresholds = {"unhealthy_threshold": 3, "healthy_threshold": 1, **rule}
    played = both(referee, checked(failing(*which), **thresholds))
    counts = [item.of(*(f"health_check.{name}" for name in COUNTERS)) for item in played]
    referee.equal(f"health check: {case}: counters", *counts)
    gaps = [round(absence(item)[1], 3) for item in played]
    low, high = out_s - LATE_S / 2, out_s + LATE_S
    referee.bounded(f"health check: {case}: out for seconds", *gaps, low, high)


def test_two_resets_are_forgiven(referee):
    scenario = checked(failing(5, 6, Reply(reset=True)), unhealthy_threshold=3, healthy_threshold=1)
    played = both(referee, scenario)
    counts = [item.of(*(f"health_check.{name}" for name in COUNTERS)) for item in played]
    referee.equal("health check: two of three resets: counters", *counts)
    shares = [max(item.shares().values()) - min(item.shares().values()) for item in played]
    referee.bounded("health check: two of three resets: spread of shares", *shares, 0, 1)


@pytest.mark.parametrize(("aggression", "first", "second"), [(1.0, 0.22, 0.43), (2.0, 0.33, 0.47)])
def test_a_host_that_is_back_starts_slowly(referee, aggression, first, second):
    """Of two hosts, one returns: its weight is f = (t / 2 s) ** (1 / aggression), 10 % at least.

    Its share is f / (1 + f).  Seconds are counted from its first visit, which is up to 150 ms
    after its return: averages over the first and the next second are .20 to .24 and .42 to .45
    for aggression 1, .31 to .35 and .46 to .47 for 2.
    """
    slow = SlowStart(slow_start_window="2s", aggression=aggression, min_weight_percent=10)
    rule = {"unhealthy_threshold": 1, "healthy_threshold": 1}
    scenario = checked(failing(3, 7, Reply(503)), 900, slow, 0.005, hosts=2, **rule)
    shares = []
    for played in both(referee, scenario):
        gone_s, out_s = absence(played)
        visits = [item for tries in played.visits.values() for item in tries]
        for begin_s in (gone_s + out_s, gone_s + out_s + 1):
            own = [item for item in visits if begin_s <= item.at_s < begin_s + 1]
            shares.append(sum(item.endpoint == "b-v1-0" for item in own) / len(own))
    shown = f"slow start, aggression {aggression:g}: share in its"
    for turn, law in ((0, first), (1, second)):
        name = ("first second", "second second")[turn]
        seen = [round(share, 3) for share in (shares[turn], shares[2 + turn])]
        referee.bounded(f"{shown} {name}", *seen, law - 0.03, law + 0.03)
