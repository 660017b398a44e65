"""What ProxyEngine keeps and answers; that it decides as the kernel does is tested in parity."""

import numpy as np
import pytest
from engine_rows import cluster, configuration, endpoints, new_engine, route

from emulator.decisions.engine import DECISIONS, ProxyEngine, run_seed_of
from emulator.decisions.exchanges import EXCHANGES_MAX
from emulator.decisions.rehearsal import rehearse
from emulator.decisions.streams import own_key, split_uniform
from meshsim.errors import InvariantError, LimitError
from meshsim.jit import JIT_ENABLED
from meshsim.policy.load_balancing.round_robin import draw_cursors
from meshsim.policy.transitions import (
    ACTION_ABANDON,
    ACTION_BACK_OFF,
    ACTION_INVALID,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DOWNSTREAM_RESET,
    STIMULUS_NO_HOST,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.rng import PURPOSE_SPLIT, key_uniform, mix_in
from meshsim.state.codes import (
    FLAG_NC,
    FLAG_NONE,
    FLAG_NR,
    FLAG_UF,
    FLAG_UH,
    FLAG_URX,
    FLAG_UT,
    NEVER_NS,
    NO_HOST,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
)

MS = 1_000_000
RETRY = {"num_retries": 1, "retry_on": ["5xx"], "base_interval": "25ms", "max_interval": "250ms"}


def begin(engine, now_ns=0, *, service="b", path="/", headers=None, key=None):
    """Start and route a request; return (exchange, decision)."""
    exchange = engine.start(service, "GET", path, headers or {}, key, now_ns)
    return exchange, engine.route(exchange, now_ns)


def answer(engine, exchange, status=200, *, sent_ns=0, now_ns=MS):
    """Send a try of `exchange` and answer it; return (host name, decision)."""
    host = engine.pick(exchange, sent_ns)
    assert engine.can_send(host)
    engine.sent(exchange, host, sent_ns)
    decision = engine.tell(exchange, STIMULUS_RESPONSE, status, RESET_NONE, now_ns)
    engine.ended(exchange, host, "response", status >= 500, now_ns - sent_ns, now_ns)
    return engine.address(host).name, decision


def serve(engine, **fields):
    """Carry one request from start to finish; return the name of its host."""
    exchange, _ = begin(engine, **fields)
    name, _ = answer(engine, exchange)
    engine.finish(exchange)
    return name


# --- The way of a request -------------------------------------------------------------------


def test_a_request_without_trouble():
    engine = new_engine(routes={"b": (route(timeout="15s"),)})
    exchange, decision = begin(engine, 3 * MS)
    assert decision == (ACTION_SEND, NEVER_NS, 0, 0)
    assert engine.exchange_deadline_ns(exchange) == 15_003 * MS
    name, decision = answer(engine, exchange, 204, sent_ns=3 * MS, now_ns=5 * MS)
    assert decision == (ACTION_RESPOND, NEVER_NS, 204, FLAG_NONE)
    assert (engine.status(exchange), engine.response_flag(exchange)) == (204, FLAG_NONE)
    engine.finish(exchange)
    assert engine.host_rows() == [("b", name, 1, 0, 2 * MS)]
    assert engine.counters()["b"]["upstream_rq_total"] == 1
    assert engine.counters()["b"]["upstream_rq_active"] == 0


def test_a_failed_try_is_followed_by_one_at_another_host():
    retry = {**RETRY, "previous_hosts": True, "host_selection_retry_max_attempts": 100}
    members = {"b": endpoints("b-v1-0", "b-v1-1")}
    engine = new_engine({"b": cluster("RANDOM")}, members, {"b": (route(retry=retry),)})
    for _ in range(20):
        exchange, _ = begin(engine)
        assert engine.retries_remaining(exchange) == 1
        first, decision = answer(engine, exchange, 503)
        assert decision.action == ACTION_BACK_OFF
        assert MS <= decision.deadline_ns < 26 * MS
        assert (engine.retry_count(exchange), engine.retries_remaining(exchange)) == (1, 0)
        assert engine.counters()["b"]["upstream_rq_retry_active"] == 1
        decision = engine.tell(exchange, STIMULUS_BACK_OFF_EXPIRED, 0, 0, decision.deadline_ns)
        assert decision.action == ACTION_SEND
        second, decision = answer(engine, exchange, 503)
        assert second != first
        assert decision == (ACTION_RESPOND, NEVER_NS, 503, FLAG_URX)
        assert engine.counters()["b"]["upstream_rq_retry_active"] == 0
        engine.finish(exchange)


def test_the_try_times_out_from_when_it_has_its_connection():
    engine = new_engine(routes={"b": (route(timeout="1s", retry={"per_try_timeout": "7ms"}),)})
    exchange, _ = begin(engine)
    host = engine.pick(exchange, 0)
    assert engine.sent(exchange, host, 4 * MS) == 11 * MS
    decision = engine.tell(exchange, STIMULUS_PER_TRY_TIMEOUT, 0, 0, 11 * MS)
    assert decision == (ACTION_RESPOND, NEVER_NS, 504, FLAG_UT)
    engine.ended(exchange, host, "abandoned", True, 7 * MS, 11 * MS)
    assert engine.host_rows() == [("b", engine.address(host).name, 1, 1, 0)]


def test_outcomes_without_a_response():
    engine = new_engine()
    exchange, _ = begin(engine)
    decision = engine.tell(exchange, STIMULUS_RESET, 0, RESET_CONNECT_FAILURE, 0)
    assert decision == (ACTION_RESPOND, NEVER_NS, 503, FLAG_UF)
    exchange, _ = begin(engine)
    decision = engine.tell(exchange, STIMULUS_ROUTE_TIMEOUT, 0, 0, 0)
    assert decision == (ACTION_RESPOND, NEVER_NS, 504, FLAG_UT)
    exchange, _ = begin(engine)
    assert engine.tell(exchange, STIMULUS_DOWNSTREAM_RESET, 0, 0, 0).action == ACTION_ABANDON
    engine.finish(exchange)


def test_answers_that_need_no_upstream():
    routes = {
        "b": (
            route(match=[{"path": {"exact": "/teapot"}}], direct_response=418),
            route(match=[{"path": {"prefix": "/lost"}}], split=[{"service": "gone"}]),
            route(match=[{"method": "POST"}]),
        )
    }
    engine = new_engine(routes=routes)
    assert begin(engine, path="/teapot?black")[1][2:] == (418, FLAG_NONE)
    assert begin(engine, path="/lost/way")[1][2:] == (503, FLAG_NC)
    assert begin(engine, path="/")[1][2:] == (404, FLAG_NR)
    assert begin(engine, service="unknown")[1][2:] == (404, FLAG_NR)


def test_no_host_is_503_uh():
    engine = new_engine(members={"b": ()})
    exchange, decision = begin(engine)
    assert decision.action == ACTION_SEND
    assert engine.pick(exchange, 0) == NO_HOST
    decision = engine.tell(exchange, STIMULUS_NO_HOST, 0, RESET_NONE, 0)
    assert decision == (ACTION_RESPOND, NEVER_NS, 503, FLAG_UH)


def test_connection_limits_are_counted():
    limits = {"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}
    engine = new_engine({"b": cluster(breakers=limits)})
    exchange, _ = begin(engine)
    first, second = engine.pick(exchange, 0), engine.pick(exchange, 0)
    assert first != second
    assert engine.can_wait(first)
    engine.pending_added(first)
    assert not engine.can_wait(second)
    assert engine.can_open(first)
    engine.opened(first)
    assert not engine.can_open(first)
    assert engine.can_open(second)  # a host without any may always open one
    engine.pending_removed(first)
    assert engine.can_send(first)
    engine.sent(exchange, first, 0)
    assert not engine.can_send(second)
    found = engine.counters()["b"]
    assert (found["upstream_rq_pending_overflow"], found["upstream_cx_overflow"]) == (1, 2)
    assert (found["upstream_rq_active_overflow"], found["upstream_cx_active"]) == (1, 1)
    engine.closed(first)
    assert engine.counters()["b"]["upstream_cx_active"] == 0


# --- What a route looks at ------------------------------------------------------------------


def test_a_route_may_ask_for_headers_authority_and_labels():
    def to(status, **match):
        return route(match=[match], direct_response=status)

    routes = {
        "b": (
            to(201, headers={"X-Version": {"exact": "canary"}}),
            to(202, authority={"exact": "shop.example"}),
            to(203, source_labels={"version": "v9"}),
            to(204, source_labels={"version": "v1"}),
        )
    }
    engine = new_engine(routes=routes, labels={"version": "v1"})
    assert begin(engine, headers={"x-version": "canary"})[1].status == 201
    assert begin(engine, headers={"x-version": "Canary"})[1].status == 204
    assert begin(engine, headers={"x-meshsim-authority": "shop.example"})[1].status == 202
    assert begin(engine, headers={"x-request-id": "9"})[1].status == 204


def test_what_no_route_looks_at_is_not_remembered():
    routes = {"b": (route(match=[{"headers": {"x-user": {"present": True}}}]), route())}
    engine = new_engine(routes=routes)
    for number in range(50):
        headers = {"x-request-id": str(number), "x-user": f"{number % 3}"}
        serve(engine, path=f"/{number}", headers=headers)
    assert len(engine._table._memo) == 3


def test_a_split_follows_the_key_of_the_request():
    clusters = {"b|v1": cluster(), "b|v2": cluster()}
    members = {"b|v1": endpoints("b-v1-0"), "b|v2": endpoints("b-v2-0")}
    split = [{"subset": "v1", "weight": 1}, {"subset": "v2", "weight": 3}]
    engine = new_engine(clusters, members, {"b": (route(split=split),)})
    for key in range(1000, 1100):
        uniform = key_uniform(np.uint64(mix_in(np.uint64(key), PURPOSE_SPLIT << 24)))
        expected = "b-v1-0" if uniform < 0.25 else "b-v2-0"
        assert serve(engine, key=key) == expected
    # Without a key, one of the proxy's own: 500 draws, sigma 9.7, five sigma off is a fault.
    picked = [serve(engine) for _ in range(500)]
    assert abs(picked.count("b-v2-0") - 375) < 49


def test_own_keys_differ_by_run_proxy_and_number():
    keys = {own_key(run, proxy, n) for run in (1, 2) for proxy in range(5) for n in range(5)}
    assert len(keys) == 50
    assert 0 <= split_uniform(own_key(1, 2, 3)) < 1


def test_hash_keys_come_from_the_named_header_or_the_source():
    names = [f"b-v1-{number}" for number in range(5)]
    by_header = new_engine(
        {"b": cluster("MAGLEV", table_size=101, hash_header="X-User")}, {"b": endpoints(*names)}
    )
    by_source = new_engine(
        {"b": cluster("MAGLEV", table_size=101, hash_source_ip=True)}, {"b": endpoints(*names)}
    )
    users = [f"user-{number}" for number in range(20)]
    first = [serve(by_header, headers={"x-user": user}) for user in users]
    assert first == [serve(by_header, headers={"x-user": user}) for user in users]
    assert len(set(first)) > 2
    assert first == [serve(by_source, headers={"x-forwarded-for": user}) for user in users]
    assert len({serve(by_source) for _ in range(10)}) == 1
    assert len({serve(by_header) for _ in range(40)}) > 2  # no key: a random one each time


# --- New configurations ---------------------------------------------------------------------


def test_hosts_and_clusters_keep_their_state_by_name():
    engine = new_engine()
    for _ in range(4):
        serve(engine)
    before = {row.endpoint: row.requests for row in engine.host_rows()}
    members = {"b": endpoints("b-v1-2", "b-v1-9", "b-v1-0", port=7000)}
    departed = engine.apply(configuration(members=members, version=2), MS)
    assert [engine.address(host).name for host in departed] == ["b-v1-1"]
    assert not engine.is_member(departed[0])
    assert {row.endpoint: row.requests for row in engine.host_rows()} == before
    assert engine.counters()["b"]["upstream_rq_total"] == 4
    assert {serve(engine) for _ in range(3)} == {"b-v1-0", "b-v1-2", "b-v1-9"}
    exchange, _ = begin(engine)
    assert engine.address(engine.pick(exchange, 0)).port >= 7000


def test_a_host_that_is_gone_keeps_its_handle_until_nothing_is_open():
    engine = new_engine(members={"b": endpoints("b-v1-0")})
    exchange, _ = begin(engine)
    host = engine.pick(exchange, 0)
    engine.opened(host)
    engine.sent(exchange, host, 0)
    rounds = [f"b-v1-{number}" for number in range(1, 40)]
    for version, name in enumerate(rounds, 2):
        engine.apply(configuration(members={"b": endpoints(name)}, version=version), 0)
    assert engine.address(host).name == "b-v1-0"
    engine.tell(exchange, STIMULUS_RESPONSE, 200, RESET_NONE, MS)
    engine.ended(exchange, host, "response", False, MS, MS)
    engine.closed(host)
    engine.finish(exchange)
    engine.apply(configuration(members={"b": endpoints("b-v1-99")}, version=99), 0)
    assert engine.host_rows() == [("b", "b-v1-0", 1, 0, MS)]
    # Rows of those that left are given out again: one in use, one that left just before.
    assert len(engine._holdings.hosts) == 8


def test_a_running_request_keeps_its_route_and_its_deadlines():
    engine = new_engine(routes={"b": (route(retry=RETRY),)})
    exchange, _ = begin(engine)
    engine.apply(configuration(routes={"b": (route(direct_response=410),)}, version=2), 0)
    _, decision = answer(engine, exchange, 503)
    assert decision.action == ACTION_BACK_OFF
    assert begin(engine)[1].status == 410


def test_a_retry_to_a_cluster_that_is_gone_finds_no_host():
    engine = new_engine(routes={"b": (route(retry=RETRY),)})
    exchange, _ = begin(engine)
    _, decision = answer(engine, exchange, 503)
    engine.apply(configuration({}, routes={}, version=2), 0)
    engine.tell(exchange, STIMULUS_BACK_OFF_EXPIRED, 0, 0, decision.deadline_ns)
    assert engine.pick(exchange, decision.deadline_ns) == NO_HOST
    # Its row is not given to others as long as the retry counts on it.
    engine.apply(configuration({"c": cluster()}, routes={}, version=3), 0)
    decision = engine.tell(exchange, STIMULUS_NO_HOST, 0, RESET_NONE, decision.deadline_ns)
    assert decision[2:] == (503, FLAG_UH)
    assert engine.counters()["c"]["upstream_rq_retry_active"] == 0
    engine.finish(exchange)


def test_new_limits_hold_at_once():
    engine = new_engine({"b": cluster(breakers={"max_requests": 1})})
    exchange, _ = begin(engine)
    host = engine.pick(exchange, 0)
    engine.sent(exchange, host, 0)
    assert not engine.can_send(host)
    changed = cluster(breakers={"max_requests": 2}, pool={"max_requests_per_connection": 5})
    engine.apply(configuration({"b": changed}, version=2), 0)
    assert engine.can_send(host)
    assert engine.pool_settings(host) == (1_000 * MS, 3_600_000 * MS, 5)


def test_many_clusters_and_hosts_make_the_rows_grow():
    clusters = {f"c{number}": cluster("MAGLEV", table_size=101) for number in range(20)}
    members = {name: endpoints(*(f"{name}-v1-{n}" for n in range(3))) for name in clusters}
    routes = {name: (route(split=[{"service": name}]),) for name in clusters}
    engine = new_engine(clusters, members, routes)
    for name in clusters:
        assert serve(engine, service=name).startswith(f"{name}-")


# --- Limits and faults ----------------------------------------------------------------------


def test_an_exchange_cannot_be_finished_while_it_runs():
    engine = new_engine()
    exchange, _ = begin(engine)
    with pytest.raises(InvariantError, match=f"exchange {exchange}"):
        engine.finish(exchange)
    with pytest.raises(KeyError):
        engine.finish(exchange + 1)


def test_an_illegal_stimulus_changes_nothing():
    engine = new_engine()
    exchange, _ = begin(engine)
    before = engine.digest()
    assert engine.tell(exchange, STIMULUS_BACK_OFF_EXPIRED, 0, 0, 0).action == ACTION_INVALID
    assert engine.digest() == before


def test_requests_under_way_are_limited():
    engine = new_engine()
    for _ in range(EXCHANGES_MAX):
        engine.start("b", "GET", "/", {}, None, 0)
    with pytest.raises(LimitError, match="EXCHANGES_MAX"):
        engine.start("b", "GET", "/", {}, None, 0)
    engine.route(1, 0)
    engine.tell(1, STIMULUS_DOWNSTREAM_RESET, 0, 0, 0)
    engine.finish(1)
    assert engine.start("b", "GET", "/", {}, None, 0) == EXCHANGES_MAX + 1


def first_pick(index, engine=None):
    """Return the host of the next request of proxy `index`."""
    if engine is None:
        engine = ProxyEngine(f"a-v1-{index}", index, run_seed_of(1))
        engine.apply(configuration(), 0)
    exchange, _ = begin(engine)
    name = engine.address(engine.pick(exchange, 0)).name
    engine.tell(exchange, STIMULUS_DOWNSTREAM_RESET, 0, 0, 0)
    engine.finish(exchange)
    return name


def test_each_proxy_begins_its_round_robin_where_it_was_drawn():
    cursors = draw_cursors(run_seed_of(1), range(20), ["b"] * 20)
    expected = [f"b-v1-{cursor % 3}" for cursor in cursors]
    assert [first_pick(index) for index in range(20)] == expected
    assert len(set(expected)) == 3


def test_turns_outlast_a_push_and_begin_again_after_another_balancer():
    engine = new_engine()
    first = int(draw_cursors(run_seed_of(1), [0], ["b"])[0] % 3)
    assert first_pick(0, engine) == f"b-v1-{first}"
    engine.apply(configuration(version=2), 1)
    assert first_pick(0, engine) == f"b-v1-{(first + 1) % 3}"
    maglev = cluster("MAGLEV", table_size=101, hash_header="user")
    engine.apply(configuration({"b": maglev}, version=3), 2)
    first_pick(0, engine)
    engine.apply(configuration(version=4), 3)
    assert first_pick(0, engine) == f"b-v1-{first}"


def test_equal_histories_have_equal_digests():
    engines = [new_engine() for _ in range(2)]
    for engine in engines:
        serve(engine)
    assert engines[0].digest() == engines[1].digest()
    serve(engines[0])
    assert engines[0].digest() != engines[1].digest()
    other = ProxyEngine("a-v1-1", 1, run_seed_of(1))
    assert other.digest() != ProxyEngine("a-v1-1", 1, run_seed_of(2)).digest()


@pytest.mark.skipif(not JIT_ENABLED, reason="nothing is compiled")
def test_a_rehearsal_loads_every_decision():
    rehearse()
    loaded = {name: len(function.signatures) for name, function in DECISIONS.items()}
    assert all(loaded.values()), loaded
    # More than one: an argument that is once an int and once an array's item.
    new = new_engine()
    serve(new)
    assert {name: len(function.signatures) for name, function in DECISIONS.items()} == loaded
