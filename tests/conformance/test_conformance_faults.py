"""Injected faults: shares, order, and how many at once."""

from collections import Counter

from engine_rows import endpoints, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

COUNTERS = ("fault.delays_injected", "fault.aborts_injected", "fault.faults_overflow")
DELAY_S = 0.06
DELAY = {"fixed_delay": "60ms", "percentage": 100}
ABORT = {"http_status": 418, "percentage": 100}


def faulty(fault, asks, callers, script=None, **fields):
    more = {"script": script} if script else {}
    table = (route(fault=fault, **fields),)
    members = {SERVICE: endpoints("b-v1-0")}
    return Scenario(asks, callers=callers, members=members, table=table, **more)


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def compare(referee, rule, scenario):
    """Hold that outcomes and counters are equal."""
    envoy, ours = both(referee, scenario)
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes())
    counts = [{name: played.counters[name] for name in COUNTERS} for played in (envoy, ours)]
    referee.equal(f"{rule}: counters", *counts)


def test_delays_and_aborts_are_thrown_apart(referee):
    """So a request meets both with the product of the shares; 1,500 requests, 3 degrees."""
    fault = {"delay": {**DELAY, "percentage": 20}, "abort": {**ABORT, "percentage": 30}}
    scenario = faulty(fault, [Ask()] * 1500, 24)
    kinds = ("neither", "delayed", "aborted", "both")
    counts = []
    envoy, ours = both(referee, scenario)
    # On sockets an answer may be slow for other reasons; ours have one flag.
    delays = [
        ["DI" in answer.flags for answer in envoy.answers],
        [answer.after_s >= DELAY_S for answer in ours.answers],
    ]
    for played, delayed in zip((envoy, ours), delays, strict=True):
        found = [a + 2 * (b.status == 418) for a, b in zip(delayed, played.answers, strict=True)]
        counts.append(Counter(kinds[kind] for kind in found))
        assert played.counters["fault.delays_injected"] == sum(delayed)
    law = dict(zip(kinds, (0.8 * 0.7, 0.2 * 0.7, 0.8 * 0.3, 0.2 * 0.3), strict=True))
    referee.law("fault: delay 20 %, abort 30 %", *counts, law)


def test_small_percentages(referee):
    scenario = faulty({"abort": {**ABORT, "percentage": 0.5}}, [Ask()] * 4000, 8)
    counts = []
    for played in both(referee, scenario):
        aborted = played.counters["fault.aborts_injected"]
        counts.append({"aborted": aborted, "passed": 4000 - aborted})
    referee.law("fault: abort 0.5 %", *counts, {"aborted": 0.005, "passed": 0.995})


def test_a_request_is_delayed_and_then_aborted(referee):
    compare(referee, "fault: both 100 %", faulty({"delay": DELAY, "abort": ABORT}, [Ask()] * 10, 2))


def test_a_share_of_0_injects_nothing(referee):
    fault = {"delay": {**DELAY, "percentage": 0}, "abort": {**ABORT, "percentage": 0}}
    compare(referee, "fault: both 0 %", faulty(fault, [Ask()] * 100, 4))


def test_max_active_faults(referee):
    """Ten at once for 400 ms: three are delayed."""
    fault = {"delay": {**DELAY, "fixed_delay": "400ms"}, "max_active_faults": 3}
    asks = [Ask(at_s=0.01 * row) for row in range(10)]
    compare(referee, "fault: max_active_faults 3 of 10", faulty(fault, asks, 0))


def test_an_abort_is_not_retried(referee):
    retry = {"retry_on": ["5xx"], "num_retries": 3}
    fault = {"abort": {"http_status": 503, "percentage": 100}}
    compare(referee, "fault: abort 503 with retries", faulty(fault, [Ask()] * 20, 2, retry=retry))


def test_the_timeout_does_not_cover_the_delay(referee):
    """Delay and work of 150 ms each, timeout 200 ms."""

    def script(endpoint, number, tries):
        return Reply(after_s=0.15)

    fault = {"delay": {**DELAY, "fixed_delay": "150ms"}}
    scenario = faulty(fault, [Ask()] * 10, 5, script, timeout="200ms")
    compare(referee, "fault: delay 150 ms, work 150 ms, timeout 200 ms", scenario)
