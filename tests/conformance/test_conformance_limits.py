"""Local rate limits: what a bucket lets pass, and how it fills."""

from collections import Counter
from itertools import count

import envoy_resources
import pytest
from engine_rows import endpoints, listening_engine, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

from meshsim.meshes.defaults import LOCAL_RATE_LIMIT
from meshsim.topology.model import LocalRateLimit

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


WORK_S = 0.1
_S = 1_000_000_000


def works(endpoint, number, tries):
    return Reply(after_s=WORK_S)


def listened(asks, workers=1, **fields):
    """Return a scenario of a limit per connection of the listener; our outcomes and counters.

    Our engine is told of the connections of a client that takes the one used last, or a new one.
    """
    told = {name: item.value for name, item in LOCAL_RATE_LIMIT.items()}
    told["local_rate_limit_per_downstream_connection"] = True
    limit = LocalRateLimit.model_validate({**told, **fields})
    engine, outcomes = listening_engine(limit), Counter()
    idle, busy, numbers = [], [], count(1)
    for ask in sorted(asks, key=lambda item: item.at_s):
        for ended in sorted(item for item in busy if item[0] <= ask.at_s):
            busy.remove(ended)
            if ended[2]:
                engine.disconnected(ended[1])
            else:
                idle.append(ended[1])
        connection = idle.pop() if idle else next(numbers)
        now_ns = round(ask.at_s * _S)
        status = engine.admit(ask.method, ask.path, SERVICE, {}, 1, connection, now_ns)
        outcomes[status or 200, "RL" if status else "-"] += 1
        closes = ask.headers.get("connection") == "close"
        busy.append((ask.at_s + (0 if status else WORK_S), connection, closes))
    scenario = Scenario(
        asks, callers=0, script=works, members={SERVICE: endpoints("b-v1-0")}, workers=workers,
        late_s=0.04, filters=(envoy_resources.local_rate_limit(limit),),
    )  # fmt: skip
    return scenario, outcomes, engine.filter_counters(inbound=True)


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


def compare_listened(referee, rule, asks, workers=1, **fields):
    scenario, outcomes, counters = listened(asks, workers, **fields)
    envoy = play_envoy(referee.binary, scenario)
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), outcomes, workers)
    theirs = {name: envoy.counters[name] for name in COUNTERS}
    referee.equal(f"{rule}: counters", theirs, counters, workers)


@pytest.mark.parametrize("workers", [1, 4])
def test_every_connection_has_its_bucket(referee, workers):
    """Waves of four at once, so over four connections: the first two find tokens."""
    asks = [Ask(at_s=0.3 * wave) for wave in range(4) for _ in range(4)]
    fields = {"token_bucket": bucket(2, 1, "600s")}
    compare_listened(referee, "limit per connection, four of two tokens", asks, workers, **fields)


def test_a_new_connection_begins_with_a_full_bucket(referee):
    """Every third request is the last of its connection."""
    last = {"connection": "close"}
    asks = [Ask(at_s=0.2 * n, headers=last if n % 3 == 2 else {}) for n in range(12)]
    fields = {"token_bucket": bucket(2, 1, "600s")}
    compare_listened(referee, "limit per connection, new ones", asks, **fields)


def test_the_bucket_of_a_connection_fills_evenly(referee):
    """A token each 500 ms, from the connection's first request on, at 0.25 s."""
    asks = [Ask(at_s=0.25 + 0.2 * n) for n in range(10)]
    fields = {"token_bucket": bucket(1, 1, "500ms")}
    compare_listened(referee, "limit per connection, refill", asks, **fields)
