"""Local rate limits per downstream connection in the kernel, with exact times."""

import numpy as np
import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.kernel.invariants import validate
from meshsim.kernel.statistics import stats
from meshsim.topology.model import Route
from meshsim.topology.profile import ProxyCost

ONE = {
    "token_bucket": {"max_tokens": 1, "fill_interval": "100s"},
    "local_rate_limit_per_downstream_connection": True,
}
NOT_PER_CONNECTION = {"local_rate_limit_per_downstream_connection": False}
PREFIX = "inbound.http_local_rate_limit."


def limited(*times, limit=ONE, pool=None):
    """A class "load" that calls "b", which sleeps 10 ms behind inbound proxies with a limit."""
    return Run(
        {"b": worker({"sleep": "10ms"}, concurrency=5000)},
        recorded(*times),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={
            "b": {
                "rate_limit": limit,
                "routes": [{"retry": {"num_retries": 0}}],
                "connection_pool": pool or {},
            }
        },
    )


def statuses(run, until_ms=100_000):
    return [span.status for span in run.to(until_ms).spans()]


def test_every_connection_has_its_own_bucket():
    """Two requests at once have two connections; what follows finds them, the last used first."""
    run = limited("0ms", "1ms", "50ms", "51ms")
    assert statuses(run) == [200, 200, 429, 429]
    assert stats(run.state, run.kernel._proxy_names)["b-v1-0"] == {
        PREFIX + "enabled": 4,
        PREFIX + "ok": 2,
        PREFIX + "rate_limited": 2,
        PREFIX + "enforced": 2,
    }
    # Not so if the bucket is the proxy's.
    assert statuses(limited("0ms", "1ms", limit={**ONE, **NOT_PER_CONNECTION})) == [200, 429]


def test_a_busy_connection_keeps_what_it_has_while_another_opens():
    """A bucket of two: the first connection has one token left when it is taken again."""
    two = {**ONE, "token_bucket": {"max_tokens": 2, "fill_interval": "100s"}}
    run = limited("0ms", "1ms", "20ms", "21ms", "40ms", "41ms", limit=two)
    assert statuses(run) == [200] * 4 + [429] * 2


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ({}, [200, 429, 429]),
        ({"max_requests_per_connection": 1}, [200, 200, 200]),
        ({"max_requests_per_connection": 2}, [200, 429, 200]),
        ({"idle_timeout": "60ms"}, [200, 200, 429]),
    ],
)
def test_a_closed_connections_bucket_is_gone(pool, expected):
    """It idles for 90 ms, then for 40 ms (the bucket would take 100 s to fill)."""
    assert statuses(limited("0ms", "100ms", "150ms", pool=pool)) == expected


def test_ticks_are_counted_from_the_first_request_of_a_connection():
    bucket = {"max_tokens": 1, "fill_interval": "1s"}
    limit = {**ONE, "token_bucket": bucket, "refill": "TICKS"}
    times = ("300ms", "1050ms", "1299ms", "1300ms")
    assert statuses(limited(*times, limit=limit)) == [200, 429, 429, 200]
    whole = {**limit, **NOT_PER_CONNECTION}
    assert statuses(limited(*times, limit=whole)) == [200, 200, 429, 429]


def test_descriptors_have_buckets_of_each_connection_too():
    """A user may ask twice over a connection, all users five times."""
    bucket = {"max_tokens": 5, "fill_interval": "100s"}
    own = {
        "entries": {"user": "*"},
        "token_bucket": {"max_tokens": 2, "fill_interval": "100s"},
    }
    limit = {**ONE, "token_bucket": bucket, "descriptors": [own]}
    calls = [{"call": {"service": "b", "headers": {"user": user}}} for user in "xxxyyyz"]
    run = Run(
        {"a": worker(*calls, replicas=2), "b": worker(concurrency=9)},
        recorded("0ms", "1ms"),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={
            "a": {"load_balancing": {"policy": "ROUND_ROBIN"}},
            "b": {"rate_limit": limit, "routes": [{"retry": {"num_retries": 0}}]},
        },
    )
    found = [span.status for span in run.to(100).spans("a>b")]
    # Each replica of "a" has one connection: 4 of 5 tokens go to x and y, the last one to z.
    assert found == 2 * [200, 200, 429, 200, 200, 429, 200]


def test_a_refusal_says_when_the_connections_bucket_has_a_token():
    """Refused 1 s after the connection began at 2.5 s: in 3 s of 4."""
    limit = {
        **ONE,
        "token_bucket": {"max_tokens": 1, "fill_interval": "4s"},
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
    }
    retry = {
        "num_retries": 1,
        "retry_on": ["retriable-status-codes"],
        "retriable_status_codes": [429],
        "rate_limited_retry_back_off": {"reset_headers": [{"name": "x-ratelimit-reset"}]},
    }
    run = Run(
        {"b": worker()},
        recorded("2500ms", "3500ms"),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"b": {"rate_limit": limit, "routes": [{"retry": retry}]}},
    )
    second = run.to(20_000).spans()[1]
    assert (second.status, second.tries) == (200, 2)
    assert 3000 <= second.end - second.start < 4501


def test_the_buckets_grow_with_the_connections():
    count = 1500
    times = [f"{number}us" for number in range(count)]
    later = [f"{50_000 + 20_000 * number}us" for number in range(2)]
    run = limited(*times, *later)
    assert statuses(run) == [200] * count + [429, 429]
    rows = len(run.state.connections)
    assert rows > 1024
    assert len(run.state.buckets_begun) == len(run.state.connection_buckets) == rows


def test_the_widest_limit_decides_on_the_room():
    bucket = {"max_tokens": 1, "fill_interval": "100s"}
    wide = {**ONE, "descriptors": [{"entries": {":path": "*"}, "token_bucket": bucket}]}
    run = Run(
        {"b": worker(), "c": worker()},
        traffic={
            name: {"to": to, "path": f"/{name}", "arrivals": recorded("0ms", "10ms")}
            for name, to in (("one", "b"), ("two", "c"))
        },
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"b": {"rate_limit": ONE}, "c": {"rate_limit": wide}},
    )
    run.to(1000)
    assert sorted(span.status for span in run.spans()) == [200, 200, 429, 429]
    # Of c: its default bucket, and one for the path of what comes to it.
    assert len(run.state.full_buckets) == 1 + 2
    assert len(run.state.connection_buckets) == 2 * len(run.state.connections)


def by_user(users):
    """A class of so many users, each of whom has two tokens of a connection."""
    bucket = {"max_tokens": 2, "fill_interval": "100s"}
    descriptor = {"entries": {"user": "*"}, "token_bucket": bucket}
    plenty = {"max_tokens": 10**6, "fill_interval": "100s"}
    times = [f"{10 * number}ms" for number in range(60)]
    return Run(
        {"b": worker()},
        traffic={
            "load": {
                "to": "b",
                "users": users,
                "headers": {"user": "u"},
                "arrivals": recorded(*times),
            }
        },
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={
            "b": {
                "rate_limit": {**ONE, "token_bucket": plenty, "descriptors": [descriptor]},
                "load_balancing": {"policy": "RING_HASH", "hash_header": "user"},
                "routes": [{"retry": {"num_retries": 0}}],
            }
        },
    )


def test_each_user_has_buckets_of_a_connection():
    # Of 60 requests of one connection each of 5 users makes at least two.
    assert statuses(by_user(5)).count(200) == 10


def test_a_connection_cannot_have_thousands_of_buckets():
    assert len(by_user(255).state.full_buckets) == 256
    with pytest.raises(ConfigError, match=r"256 at most"):
        by_user(256)


def test_requests_that_never_come_have_no_buckets():
    """Of a thousand users of another service a connection to this one need not know."""
    to_b = {"to": "b", "arrivals": recorded("0ms", "10ms")}
    to_c = {"to": "c", "arrivals": recorded("0ms", "10ms")}
    named = {"headers": {"user": "u"}, "users": 1000}
    hashing = {"load_balancing": {"policy": "MAGLEV", "hash_header": "user", "table_size": 11}}
    own = {"entries": {"user": "*"}, "token_bucket": ONE["token_bucket"]}
    run = Run(
        {"b": worker(), "c": worker()},
        traffic={"few": {**to_b, "headers": {"user": "ann"}}, "many": {**to_c, **named}},
        mesh="istio-sidecar",
        policies={"b": {"rate_limit": {**ONE, "descriptors": [own]}}, "c": hashing},
    )
    assert len(run.state.full_buckets) == 2
    assert sorted(statuses(run)) == [200, 200, 200, 429]


def test_a_killed_replica_comes_back_with_new_connections():
    run = limited("0ms", "100ms", "300ms")
    run.advance(50)
    run.control.kill("b")
    run.advance(60)
    run.control.restore("b")
    assert statuses(run) == [200, 200, 429]


def test_a_replica_that_is_added_has_buckets_of_its_connections():
    run = limited("0ms", "100ms", "101ms", "200ms", "201ms")
    run.advance(50)
    run.control.add_replicas("b", "v1")
    assert sorted(statuses(run)) == [200, 200, 429, 429, 429]
    assert [run.endpoint(name)["requests"] for name in ("b-v1-0", "b-v1-1")] == [1, 1]


def test_what_access_rules_refuse_meets_no_limit():
    """Their filter comes first; a bucket begins with the first request that it lets pass."""
    rule = {"name": "no", "action": "DENY", "rules": [{"operations": [{"paths": ["/no"]}]}]}
    run = Run(
        {"a": worker(*({"call": {"service": "b", "path": path}} for path in ("/no", "/x", "/y"))),
         "b": worker()},
        recorded("0ms"),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        access={"policies": [rule]},
        policies={"b": {"rate_limit": ONE, "routes": [{"retry": {"num_retries": 0}}]}},
    ).to(100)  # fmt: skip
    assert [span.status for span in run.spans("a>b")] == [403, 200, 429]
    assert int(run.state.clusters["connections_total"].max()) == 1  # one connection had all three


def test_a_bucket_that_is_overfull_is_a_breach():
    run = limited("0ms").to(5)
    connection = int(np.flatnonzero(run.state.buckets_begun)[0])
    run.state.connection_buckets["level"][connection] = -1
    assert any("connection's bucket" in problem for problem in validate(run.state))


def test_a_route_has_no_limit_per_connection():
    with pytest.raises(ValueError, match=r"policies\.SERVICE\.rate_limit"):
        Route.model_validate({"rate_limit": ONE})
