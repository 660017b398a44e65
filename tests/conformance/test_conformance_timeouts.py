"""Timeouts: of the route, of a try, and what they count while requests wait and are retried."""

import pytest
from engine_rows import cluster, endpoints, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

#: How much later than told a timer of a busy machine may fire.
LATE_MS = 40.0
ONE = endpoints("b-v1-0")
COUNTERS = ("upstream_rq_timeout", "upstream_rq_per_try_timeout")


def timed(table, script, asks=None, **breakers):
    asks = asks or [Ask(at_s=0.02 * row) for row in range(10)]
    policies = {SERVICE: cluster(breakers=breakers)}
    members = {SERVICE: ONE}
    return Scenario(asks, 0, policies, members, (table,), script, late_s=LATE_MS / 2e3)


def compare(referee, rule, scenario):
    """Hold that outcomes and tries are equal, and that answers take as long."""
    envoy, ours = play_envoy(referee.binary, scenario), play_meshsim(scenario)
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes())
    numbers = range(len(scenario.asks))
    tries = [[len(played.visits.get(n, ())) for n in numbers] for played in (envoy, ours)]
    referee.equal(f"{rule}: tries of each request", *tries)
    referee.equal(f"{rule}: counters", envoy.of(*COUNTERS), ours.of(*COUNTERS))
    lateness = [
        1e3 * (real.after_s - virtual.after_s)
        for real, virtual in zip(envoy.answers, ours.answers, strict=True)
    ]
    rule = f"{rule}: time of each answer"
    referee.near(rule, max(lateness, key=abs), 0.0, LATE_MS, "ms")


def test_route_timeout(referee):
    def script(endpoint, number, tries):
        return Reply(after_s=0.4 if number % 2 else 0.05)

    compare(referee, "timeout 200 ms, half take 400", timed(route(timeout="200ms"), script))


RETRY = {"retry_on": ["5xx"], "base_interval": "1ms", "max_interval": "1ms"}


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_per_try_timeout(referee, limit):
    def script(endpoint, number, tries):
        return Reply(after_s=0.4)

    retry = {**RETRY, "num_retries": limit, "per_try_timeout": "100ms"}
    table = route(timeout="1s", retry=retry)
    compare(referee, f"per_try_timeout 100 ms, num_retries {limit}", timed(table, script))


def test_the_route_timeout_cuts_the_last_try(referee):
    """Tries begin at 0, 100 and 200 ms; at 250 ms all is over."""

    def script(endpoint, number, tries):
        return Reply(after_s=0.9)

    retry = {**RETRY, "num_retries": 9, "per_try_timeout": "100ms"}
    table = route(timeout="250ms", retry=retry)
    compare(referee, "timeout 250 ms, per_try_timeout 100 ms", timed(table, script))


def test_a_per_try_timeout_that_is_not_shorter_is_ignored(referee):
    def script(endpoint, number, tries):
        return Reply(after_s=0.4)

    retry = {**RETRY, "num_retries": 3, "per_try_timeout": "200ms"}
    table = route(timeout="200ms", retry=retry)
    compare(referee, "timeout and per_try_timeout 200 ms", timed(table, script))


def test_the_late_answer_of_an_abandoned_try_is_nobodys(referee):
    """The second try is quick; the first would have answered while it runs."""

    def script(endpoint, number, tries):
        return Reply(after_s=0.2 if tries == 0 else 0.15)

    retry = {**RETRY, "num_retries": 1, "per_try_timeout": "180ms"}
    table = route(timeout="1s", retry=retry)
    compare(referee, "per_try_timeout, the second try is in time", timed(table, script))


def test_who_waits_for_a_connection_times_out_too(referee):
    """One connection, work of 150 ms, a timeout of 400 ms: the third is cut."""

    def script(endpoint, number, tries):
        return Reply(after_s=0.15)

    asks = [Ask(at_s=0.01 * row) for row in range(6)]
    scenario = timed(route(timeout="400ms"), script, asks, max_connections=1)
    compare(referee, "timeout 400 ms with one connection", scenario)
