"""The way of a request: routes, tries, timeouts, flags.  All times are constants, so exact [ms]."""

import pytest
from kernel_runs import Run, recorded, served, wire, worker

ALWAYS = {"num_retries": 3, "retry_on": ["5xx"], "base_interval": "1ms", "max_interval": "1ms"}


def routed(body, *times, route=None, until=1000, **fields):
    """Run one service with one route."""
    policy = fields.pop("policy", {})
    policies = {"a": {"routes": [route or {}], **policy}}
    return Run({"a": body}, recorded(*times), policies=policies, **fields).to(until)


# --- Timeouts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_timeout", "cpu_ms", "ends"),
    [
        ("continue", 18, [3, 3, 3]),  # all three are worked off, for nobody
        ("cancel_queued", 6, [3, 3, 3]),  # the first goes on, the others leave the queue
        ("cancel_work", 3, [3, 3, 3]),  # the first stops as well
    ],
)
def test_what_the_server_does_after_a_timeout(on_timeout, cpu_ms, ends):
    body = worker({"compute": "6ms"}, on_timeout=on_timeout)
    run = routed(body, "0s", "0s", "0s", route={"timeout": "3ms"})
    assert run.outcomes() == [(0, end, 504, "UT") for end in ends]
    assert run.endpoint("a-v1-0")["cpu_ns"] == cpu_ms * 1_000_000
    assert run.idle()


def test_the_server_learns_of_a_timeout_one_wire_later():
    body = worker({"compute": "6ms"}, on_timeout="cancel_work")
    run = routed(body, "0s", route={"timeout": "6ms"}, network=wire("1ms"))
    # handshake 2, request 1: it works from 3; given up at 6, told at 7
    assert run.outcomes() == [(0, 6, 504, "UT")]
    assert run.endpoint("a-v1-0")["cpu_ns"] == 4_000_000


def test_cancelled_work_cancels_its_calls():
    services = {
        "a": worker({"call": "b"}, on_timeout="cancel_work"),
        "b": worker(
            {"parallel": [[{"call": "c"}], [{"compute": "9ms"}]]}, on_timeout="cancel_work"
        ),
        "c": worker({"compute": "9ms"}, on_timeout="cancel_work"),
    }
    run = Run(services, recorded("0s"), policies={"a": {"routes": [{"timeout": "2ms"}]}}).to(100)
    assert run.outcomes("load>a") == [(0, 2, 504, "UT")]
    assert run.outcomes("a>b") == [(0, 2, 0, "DC")]
    assert run.outcomes("b>c") == [(0, 2, 0, "DC")]
    assert [run.endpoint(f"{name}-v1-0")["cpu_ns"] for name in "bc"] == [2_000_000, 2_000_000]
    assert run.idle()


def test_a_response_in_time_stops_the_timer():
    run = routed(worker({"compute": "2ms"}), "0s", "10ms", route={"timeout": "3ms"})
    assert run.outcomes() == [(0, 2, 200, "-"), (10, 12, 200, "-")]
    assert run.state.counters["event_count"][0] == 0


def test_a_response_at_the_very_deadline_is_late():
    """Simultaneous events run in the order in which they were scheduled: the timer first."""
    run = routed(worker({"compute": "3ms"}), "0s", route={"timeout": "3ms"})
    assert run.outcomes() == [(0, 3, 504, "UT")]


def test_the_route_timeout_covers_all_tries():
    retry = {**ALWAYS, "num_retries": 99, "per_try_timeout": "2ms"}
    run = routed(
        worker({"compute": "9ms"}, on_timeout="cancel_work"),
        "0s",
        route={"timeout": "5ms", "retry": retry},
    )
    # with a base interval of 1 ms every back-off is 0 ms: tries at 0, 2 and 4
    span = run.spans()[0]
    assert (span.end, span.status, span.flag, span.tries) == (5, 504, "UT", 3)
    assert run.endpoint("a-v1-0")["cpu_ns"] == 5_000_000
    assert run.idle()


# --- Retries --------------------------------------------------------------------------------


def test_a_per_try_timeout_is_retried_on_another_host():
    body = {
        "workloads": {
            "slow": worker({"compute": "9ms"}, on_timeout="cancel_work"),
            "fast": worker({"compute": "1ms"}),
        }
    }
    retry = {
        **ALWAYS,
        "per_try_timeout": "2ms",
        "previous_hosts": True,
        "host_selection_retry_max_attempts": 20,
    }
    policy = {"load_balancing": {"policy": "ROUND_ROBIN"}}
    run = routed(body, "0s", "50ms", route={"retry": retry}, policy=policy)
    ends = sorted((span.end - span.start, span.tries) for span in run.spans())
    assert ends[-1] == (3, 2)  # 2 ms lost at the slow one, no back-off, 1 ms at the fast one
    assert all(span.status == 200 and span.endpoint == "a-fast-0" for span in run.spans())


def test_after_the_last_retry_its_answer_counts():
    run = routed(worker(error_rate=1.0), "0s", route={"retry": ALWAYS})
    span = run.spans()[0]
    assert (span.status, span.flag, span.tries) == (500, "URX", 4)
    assert run.state.clusters["retries_total"][0] == 3
    assert run.state.clusters["retries_active"][0] == 0


def test_no_retry_without_its_condition():
    retry = {**ALWAYS, "retry_on": ["connect-failure"]}
    assert routed(worker(error_rate=1.0), "0s", route={"retry": retry}).spans()[0].tries == 1


def test_back_off_is_in_its_range():
    """The n-th of three retries waits whole ms in [0, 25), [0, 50), [0, 100)."""
    retry = {"num_retries": 3, "retry_on": ["5xx"], "base_interval": "25ms"}
    times = [f"{i}s" for i in range(200)]
    run = routed(worker(error_rate=1.0), *times, route={"retry": retry}, until=300_000)
    waited = [span.end - span.start for span in run.spans()]
    assert all(abs(wait - round(wait)) < 1e-6 for wait in waited)
    assert max(waited) <= 24 + 49 + 99
    # mean 12 + 24.5 + 49.5, standard deviation 33.2 of one, 2.35 of the mean of 200; four
    assert sum(waited) / 200 == pytest.approx(86, abs=9.4)


def test_previous_hosts_are_avoided():
    retry = {
        **ALWAYS,
        "num_retries": 1,
        "previous_hosts": True,
        "host_selection_retry_max_attempts": 50,
    }
    body = worker(error_rate=1.0, replicas=3)
    policy = {"load_balancing": {"policy": "RANDOM"}}
    run = routed(
        body,
        *[f"{i}ms" for i in range(100)],
        route={"retry": retry},
        policy=policy,
        mesh="istio-sidecar",
    )
    spans = run.state.spans[: run.state.counters["spans"][0]]
    assert len(spans) == 100
    tried_once = served(run)
    assert sum(tried_once.values()) == 200
    # 50 picks miss the one other host with probability (1/3)**50: never; each request went to two
    hosts = run.state.hosts
    assert hosts["requests_total"].max() <= 100


def test_max_retries_limits_concurrent_retries():
    body = worker({"compute": "1ms"}, concurrency=9, replicas=1)
    retry = {
        "num_retries": 1,
        "retry_on": ["5xx"],
        "per_try_timeout": "500us",
        "base_interval": "1ms",
        "max_interval": "1ms",
    }
    policy = {"circuit_breakers": {"max_retries": 1}}
    run = routed(body, "0s", "0s", "0s", route={"retry": retry}, policy=policy)
    assert sorted(span.tries for span in run.spans()) == [1, 1, 2]
    assert run.state.clusters["retry_overflow"][0] == 2
    assert run.state.clusters["retries_active"][0] == 0


def test_a_retry_budget_replaces_max_retries():
    body = worker({"compute": "1ms"}, concurrency=99)
    retry = {
        "num_retries": 1,
        "retry_on": ["5xx"],
        "per_try_timeout": "500us",
        "base_interval": "1ms",
        "max_interval": "1ms",
    }
    budget = {"budget_percent": 20.0, "min_retry_concurrency": 1}
    policy = {"circuit_breakers": {"max_retries": 0, "retry_budget": budget}}
    run = routed(body, *["0s"] * 20, route={"retry": retry}, policy=policy)
    # 20 tries time out at once.  The k-th is judged after its own try was discounted, with
    # 20 - k others active; retries may be 20 % of that, cut, at least 1; retries that were
    # granted are sent at this same instant, after all timeouts.
    allowed = held = 0
    for k in range(1, 21):
        if held < max(int(0.2 * (20 - k)), 1):
            held += 1
            allowed += 1
    assert run.state.clusters["retries_total"][0] == allowed
    assert run.state.clusters["retry_overflow"][0] == 20 - allowed


# --- Routes ---------------------------------------------------------------------------------


def test_reviews_v2_for_jason_and_v1_for_everyone_else():
    versions = {"workloads": {"v1": worker(), "v2": worker(), "v3": worker()}}
    policy = {
        "subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2", "v3")},
        "routes": [
            {"match": [{"headers": {"end-user": "jason"}}], "split": [{"subset": "v2"}]},
            {"split": [{"subset": "v1"}]},
        ],
    }
    run = Run(
        {"page": worker({"call": "reviews"}), "reviews": versions},
        traffic={
            "jason": {"to": "page", "headers": {"end-user": "jason"}, "arrivals": recorded("0s")},
            "other": {"to": "page", "arrivals": recorded("1ms", "2ms")},
        },
        policies={"reviews": policy},
    ).to(100)
    assert [span.endpoint for span in run.spans("page>reviews")] == [
        "reviews-v2-0",
        "reviews-v1-0",
        "reviews-v1-0",
    ]


def test_a_split_keeps_its_shares():
    body = {"workloads": {"v1": worker(), "v2": worker()}}
    policy = {"subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2")}}
    split = [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]
    run = Run(
        {"a": body},
        {"renewal": {"interval": "1ms"}},
        policies={"a": {**policy, "routes": [{"split": split}]}},
    ).to(5000)
    requests = served(run)
    assert sum(requests.values()) == 5000
    # binomial(5000, 0.1): standard deviation 21.2; four of them
    assert abs(requests["a-v2-0"] - 500) < 85


def test_a_direct_response_asks_nobody():
    run = routed(worker(), "1ms", route={"direct_response": 418})
    assert run.outcomes() == [(1, 1, 418, "-")]
    assert served(run) == {"a-v1-0": 0}


def test_no_route():
    run = routed(worker(), "1ms", route={"match": [{"path": "/other"}]})
    assert run.outcomes() == [(1, 1, 404, "NR")]


def test_no_healthy_upstream():
    services = {"a": worker({"call": "b"}), "b": worker(replicas=0)}
    run = Run(services, recorded("1ms")).to(100)
    assert run.outcomes("a>b") == [(1, 1, 503, "UH")]
    assert run.outcomes("load>a") == [(1, 1, 500, "-")]


def test_equal_traffic_classes_hold_rows_of_their_own():
    traffic = {name: {"to": "a", "arrivals": recorded("0s")} for name in ("one", "two")}
    run = Run({"a": worker({"compute": "1ms"})}, traffic=traffic).to(100)
    assert sorted(run.ends()) == [1, 2]
    assert run.state.clusters["requests_total"].tolist() == [1, 1]


def test_consistent_hashing_sends_a_user_to_one_host():
    balancing = {"policy": "RING_HASH", "hash_header": "user"}
    run = Run(
        {"a": worker(replicas=5)},
        traffic={
            name: {
                "to": "a",
                "headers": {"user": name},
                "arrivals": {"renewal": {"interval": "1ms"}},
            }
            for name in ("ann", "bob", "cleo")
        },
        policies={"a": {"load_balancing": balancing}},
    ).to(50)
    for name in ("ann", "bob", "cleo"):
        assert len({span.endpoint for span in run.spans(f"{name}>a")}) == 1


def test_many_users_of_a_class_spread_over_the_hosts():
    balancing = {"policy": "MAGLEV", "hash_header": "user", "table_size": 997}
    run = Run(
        {"a": worker(replicas=4)},
        traffic={
            "crowd": {
                "to": "a",
                "headers": {"user": "u"},
                "users": 1000,
                "arrivals": {"renewal": {"interval": "1ms"}},
            }
        },
        policies={"a": {"load_balancing": balancing}},
    ).to(2000)
    # about 2000 of 1000 users over 4 hosts: standard deviation of a host's share of distinct
    # users sqrt(1000 * 0.25 * 0.75) = 13.7 users of 2 requests, and Poisson noise: below 35
    assert all(abs(count - 500) < 140 for count in served(run).values())
