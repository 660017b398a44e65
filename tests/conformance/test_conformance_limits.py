"""Local rate limits: what a bucket lets pass, and how it fills."""

import pytest
from engine_rows import endpoints, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask

from meshsim.meshes.defaults import LOCAL_RATE_LIMIT

COUNTERS = tuple(
    f"http_local_rate_limit.{name}" for name in ("enabled", "ok", "rate_limited", "enforced")
)


def limited(asks, callers, workers=1, **fields):
    """Scenario of one route with a limit, by default as a stated one is filled."""
    told = {name: item.value for name, item in LOCAL_RATE_LIMIT.items()}
    table = (route(rate_limit={**told, **fields}),)
    members = {SERVICE: endpoints("b-v1-0")}
    # Tokens come 200 ms apart, requests midway between them.
    return Scenario(asks, callers, members=members, table=table, workers=workers, late_s=0.05)


def bucket(most, fill, interval):
    return {"max_tokens": most, "tokens_per_fill": fill, "fill_interval": interval}


def compare(referee, rule, scenario):
    envoy, ours = play_envoy(referee.binary, scenario), play_meshsim(scenario)
    workers = scenario.workers
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes(), workers)
    counts = [{name: played.counters[name] for name in COUNTERS} for played in (envoy, ours)]
    referee.equal(f"{rule}: counters", *counts, workers)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_full_bucket_is_emptied_once(referee, workers):
    """One bucket for all workers."""
    scenario = limited([Ask()] * 30, 4, workers, token_bucket=bucket(10, 10, "60s"))
    compare(referee, "local rate limit, 10 tokens, 30 requests", scenario)


def test_a_bucket_fills_evenly(referee):
    """5 tokens a second: one each 200 ms.  Pairs come midway, so one of each pair passes."""
    asks = [Ask() for _ in range(10)]
    asks += [Ask(at_s=0.3 + 0.2 * pair) for pair in range(6) for _ in range(2)]
    scenario = limited(asks, 0, token_bucket=bucket(5, 5, "1s"))
    compare(referee, "local rate limit, refill of 5/s", scenario)


def test_what_exceeds_the_bucket_is_lost(referee):
    """Idle for 1.1 s at 10/s, a bucket of 4 holds 4."""
    asks = [Ask() for _ in range(8)] + [Ask(at_s=1.1) for _ in range(8)]
    scenario = limited(asks, 0, token_bucket=bucket(4, 2, "200ms"))
    compare(referee, "local rate limit, overfull", scenario)


def test_filter_enforced(referee):
    """The bucket is empty after one; of the others half are refused."""
    fields = {"token_bucket": bucket(1, 1, "600s"), "filter_enforced": 50}
    scenario = limited([Ask()] * 1001, 8, **fields)
    counts = []
    for played in (play_envoy(referee.binary, scenario), play_meshsim(scenario)):
        assert played.counters["http_local_rate_limit.rate_limited"] == 1000
        enforced = played.counters["http_local_rate_limit.enforced"]
        counts.append({"enforced": enforced, "passed": 1000 - enforced})
    referee.law("filter_enforced 50 %", *counts, {"enforced": 0.5, "passed": 0.5})


def test_filter_enabled(referee):
    fields = {"token_bucket": bucket(1, 1, "600s"), "filter_enabled": 30}
    scenario = limited([Ask()] * 1000, 8, **fields)
    counts = []
    for played in (play_envoy(referee.binary, scenario), play_meshsim(scenario)):
        enabled = played.counters["http_local_rate_limit.enabled"]
        counts.append({"enabled": enabled, "passed": 1000 - enabled})
        assert played.counters["http_local_rate_limit.ok"] == 1
    referee.law("filter_enabled 30 %", *counts, {"enabled": 0.3, "passed": 0.7})
