"""Retries: which failures are retried, how often, where, after how long, and side by side."""

import time
from dataclasses import replace

import pytest
from engine_rows import cluster, endpoints, route
from planes import SERVICE, Scenario, cause, play_envoy, play_meshsim
from scipy import stats
from verdicts import LEVEL
from wire import Ask, Reply

FIVE = endpoints(*(f"b-v1-{row}" for row in range(5)))
QUICK = {"base_interval": "1ms", "max_interval": "1ms"}
COUNTERS = (
    "upstream_rq_total",
    "upstream_rq_retry",
    "upstream_rq_retry_overflow",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_backoff_exponential",
    "upstream_rq_retry_backoff_ratelimited",
)
#: A timer of Envoy's may fire so much early: its loop reads CLOCK_MONOTONIC_COARSE, 6 on Linux, a
#: tick of the kernel behind (libevent, evutil_time.c: evutil_configure_monotonic_time_).
COARSE_MS = 1000 * time.clock_getres(6)


def retried(asks, script, members=FIVE, policy=None, callers=1, **retry):
    """Scenario of one route with this retry policy, without limits of concurrency."""
    return Scenario(
        asks,
        callers=callers,
        policies={SERVICE: policy or cluster()},
        members={SERVICE: members},
        table=(route(retry={**QUICK, **retry}),),
        script=script,
    )


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


# --- How often ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_num_retries(referee, limit):
    def script(endpoint, number, tries):
        return Reply(503)

    scenario = retried([Ask()] * 50, script, retry_on=["5xx"], num_retries=limit)
    envoy, ours = both(referee, scenario)
    rule = f"num_retries {limit}, all fail"
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes())
    referee.equal(f"{rule}: counters", envoy.of(*COUNTERS), ours.of(*COUNTERS))


def test_a_retry_that_succeeds_is_the_last(referee):
    def script(endpoint, number, tries):
        return Reply(503 if tries < number % 5 else 200)

    scenario = retried([Ask()] * 50, script, retry_on=["5xx"], num_retries=3)
    envoy, ours = both(referee, scenario)
    rule = "0 to 4 failures, then success, num_retries 3"
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes())
    referee.equal(f"{rule}: counters", envoy.of(*COUNTERS), ours.of(*COUNTERS))


# --- Which failures -------------------------------------------------------------------------

FAILURES = {
    **{str(status): Reply(status) for status in (200, 404, 409, 429, 500, 501, 502, 503, 504)},
    "reset": Reply(reset=True),
    "ratelimited": Reply(429, headers={"x-envoy-ratelimited": "true"}),
}
CONDITIONS = {
    "5xx": {},
    "gateway-error": {},
    "reset": {},
    "reset-before-request": {},
    "connect-failure": {},
    "refused-stream": {},
    "retriable-4xx": {},
    "envoy-ratelimited": {},
    "retriable-status-codes": {"retriable_status_codes": [404, 429]},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_is_retried(referee, condition):
    kinds = list(FAILURES)

    def script(endpoint, number, tries):
        return FAILURES[kinds[number]]

    asks = [Ask()] * len(kinds)
    fields = {"retry_on": [condition], "num_retries": 1, **CONDITIONS[condition]}
    scenario = retried(asks, script, **fields)
    seen = [
        {
            kind: (len(played.visits[number]), answer.status, cause(answer.flags))
            for number, (kind, answer) in enumerate(zip(kinds, played.answers, strict=True))
        }
        for played in both(referee, scenario)
    ]
    referee.equal(f"retry_on {condition}: tries, status, flag of {len(kinds)} failures", *seen)


@pytest.mark.parametrize("condition", ["5xx", "gateway-error"])
def test_an_overloaded_upstream_is_retried(referee, condition):
    """Envoy no longer stops at this header (envoyproxy/envoy, issue 10706)."""

    def script(endpoint, number, tries):
        return Reply(503, headers={"x-envoy-overloaded": "true"})

    scenario = retried([Ask()] * 10, script, retry_on=[condition], num_retries=1)
    seen = [(played.outcomes(), played.of(*COUNTERS)) for played in both(referee, scenario)]
    referee.equal(f"retry_on {condition}: 503 marked x-envoy-overloaded", *seen)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_refused_connection_is_retried(referee, condition):
    fields = {"retry_on": [condition], "num_retries": 2, **CONDITIONS[condition]}
    scenario = retried([Ask()] * 4, lambda *_: Reply(), endpoints("b-v1-0"), **fields)
    scenario = replace(scenario, refusing=("b-v1-0",))
    counters = ("upstream_rq_retry", "upstream_cx_total")
    seen = [(played.outcomes(), played.of(*counters)) for played in both(referee, scenario)]
    referee.equal(f"retry_on {condition}: connection refused", *seen)


# --- Where ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2])
def test_previous_hosts_are_avoided_as_often_as_is_said(referee, attempts):
    """A random pick of 5 is repeated until it is new, `attempts` times at most."""

    def script(endpoint, number, tries):
        return Reply(503 if tries == 0 else 200)

    scenario = retried(
        [Ask()] * 1500,
        script,
        policy=cluster("RANDOM"),
        callers=8,
        retry_on=["5xx"],
        num_retries=1,
        previous_hosts=True,
        host_selection_retry_max_attempts=attempts,
    )
    counts = []
    for played in both(referee, scenario):
        pairs = [[visit.endpoint for visit in tries] for tries in played.visits.values()]
        again = sum(first == second for first, second in pairs)
        counts.append({"same": again, "other": len(pairs) - again})
    share = 5.0 ** -(attempts + 1)
    law = {"same": share, "other": 1 - share}
    referee.law(f"previous_hosts, {attempts} more picks: host of the retry", *counts, law)


# --- When -----------------------------------------------------------------------------------


def gaps_of(played, retry):
    """Return the times between the tries before and after a retry, the first being 1 [ms]."""
    tries = [visits for visits in played.visits.values() if len(visits) > retry]
    return [1e3 * (visits[retry].at_s - visits[retry - 1].at_s) for visits in tries]


def test_a_reset_header_says_how_long_a_retry_waits(referee):
    """Uniform over [1 s, 1.5 s) where the header is heeded, as `test_back_off` compares.

    Every other answer asks for more than `max_interval`, or says no number, or asks for nothing:
    then the back-off is the exponential one, which is 0 here.
    """
    told = {0: "1", 1: "4", 2: "soon", 3: "0"}

    def script(endpoint, number, tries):
        headers = {"x-ratelimit-reset": told[number % 4]}
        return Reply(503, headers=headers) if tries == 0 else Reply()

    count, late = 400, 10.0
    asks = [Ask(at_s=0.005 * row) for row in range(count)]
    limited = {"reset_headers": [{"name": "x-ratelimit-reset"}], "max_interval": "3s"}
    fields = {"retry_on": ["5xx"], "num_retries": 1, "rate_limited_retry_back_off": limited}
    scenario = replace(retried(asks, script, callers=0, **fields), late_s=0.1)
    envoy, ours = both(referee, scenario)
    rule = "rate-limited back-off of 1 s"
    referee.equal(f"{rule}: counters", envoy.of(*COUNTERS), ours.of(*COUNTERS))
    for played in (envoy, ours):
        for number in [number for number in played.visits if number % 4]:
            assert gaps_of(replace(played, visits={number: played.visits[number]}), 1)[0] < 500
            del played.visits[number]
    waits = [gaps_of(played, 1) for played in (envoy, ours)]
    assert [len(found) for found in waits] == [count // 4] * 2
    distance = stats.ks_2samp(*waits).statistic
    allowed = stats.kstwobign.isf(LEVEL) * (2 / (count // 4)) ** 0.5 + late / 500
    referee.near(f"{rule}: distance of the distributions", distance, 0.0, allowed, "")
    referee.bounded(f"{rule}: shortest [ms]", *map(min, waits), 1000.0 - COARSE_MS, 1500.0)
    referee.bounded(f"{rule}: longest [ms]", *map(max, waits), 1000.0, 1500.0 + late)


def test_back_off(referee):
    """Uniform over [0, bound): 100, 200, then 250 ms; real timers add a few ms.

    A uniform shifted by at most `late` ms stays within late / bound of itself, so this is added
    to the Kolmogorov-Smirnov distance that two samples of n exceed at the level.
    """

    def script(endpoint, number, tries):
        return Reply(503)

    count, late = 200, 10.0
    asks = [Ask(at_s=0.01 * row) for row in range(count)]
    back_off = {"base_interval": "100ms", "max_interval": "250ms"}
    fields = {"retry_on": ["5xx"], "num_retries": 4, **back_off}
    scenario = replace(retried(asks, script, callers=0, **fields), late_s=0.1)
    envoy, ours = both(referee, scenario)
    for retry, bound in enumerate((100, 200, 250, 250), 1):
        samples = [gaps_of(played, retry) for played in (envoy, ours)]
        assert [len(sample) for sample in samples] == [count] * 2
        distance = stats.ks_2samp(*samples).statistic
        allowed = stats.kstwobign.isf(LEVEL) * (2 / count) ** 0.5 + late / bound
        rule = f"back-off of retry {retry}, below {bound} ms"
        referee.bounded(f"{rule}: longest [ms]", *map(max, samples), 0.85 * bound, bound + late)
        referee.near(f"{rule}: distance of the distributions", distance, 0.0, allowed, "")


# --- Hedging --------------------------------------------------------------------------------

#: How much later than told a timer of a busy machine may fire [ms].
LATE_MS = 40.0
#: What each try of a request comes to; a try times out after 100 ms.
HEDGES = {
    "nobody is late": [Reply(200, after_s=0.02)],
    "the hedge wins": [Reply(200, after_s=0.6), Reply(200, after_s=0.02)],
    "the late try wins": [Reply(200, after_s=0.16), Reply(200, after_s=0.6)],
    "a bad hedge waits": [Reply(200, after_s=0.3), *[Reply(503, after_s=0.02)] * 2],
    "a bad late try waits": [Reply(503, after_s=0.15), Reply(200, after_s=0.09)],
    "all are bad": [Reply(503, after_s=0.25), *[Reply(503, after_s=0.02)] * 2],
    "a hedge is lost": [Reply(200, after_s=0.3), *[Reply(reset=True, after_s=0.02)] * 2],
    "all are lost": [Reply(reset=True, after_s=0.25), *[Reply(reset=True, after_s=0.02)] * 2],
    "a hedge is late too": [Reply(200, after_s=0.9), Reply(200, after_s=0.9), Reply(200)],
    "no retry is left": [Reply(200, after_s=0.45), *[Reply(200, after_s=0.9)] * 2],
    "no condition names it": [Reply(404, after_s=0.16), Reply(200, after_s=0.6)],
    "too late": [Reply(200, after_s=2.0)] * 3,
}


@pytest.mark.parametrize("kind", HEDGES)
def test_hedging_on_a_per_try_timeout(referee, kind):
    """A try that is late goes on beside its retries, of which there are two."""

    def script(endpoint, number, tries):
        return HEDGES[kind][tries]

    retry = {**QUICK, "num_retries": 2, "retry_on": ["5xx"], "per_try_timeout": "100ms"}
    fields = {"retry": retry, "timeout": "1s", "hedge_policy": {"hedge_on_per_try_timeout": True}}
    asks = [Ask(at_s=0.05 * row) for row in range(6)]
    scenario = Scenario(
        asks,
        callers=0,
        policies={SERVICE: cluster(breakers={"max_retries": 100})},
        members={SERVICE: FIVE},
        table=(route(**fields),),
        script=script,
        late_s=LATE_MS / 2e3,
    )
    envoy, ours = both(referee, scenario)
    rule = f"hedge_on_per_try_timeout, {kind}"
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes())
    tries = [[len(played.visits[n]) for n in range(len(asks))] for played in (envoy, ours)]
    referee.equal(f"{rule}: tries of each request", *tries)
    referee.equal(f"{rule}: counters", envoy.of(*COUNTERS), ours.of(*COUNTERS))
    lateness = [
        1e3 * (real.after_s - virtual.after_s)
        for real, virtual in zip(envoy.answers, ours.answers, strict=True)
    ]
    rule = f"{rule}: time of each answer"
    referee.near(rule, max(lateness, key=abs), 0.0, LATE_MS, "ms")
