"""Limits, faults and mirrors of a live proxy: what the engine keeps, and what goes over sockets."""

import asyncio
import contextlib

import pytest
from engine_mesh import Mesh
from engine_rows import cluster, configuration, endpoints, new_engine, route
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

from emulator.decisions.filters import BUCKETS_MAX
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy, OutboundProxy
from emulator.proxy.admission import Admission
from meshsim.controlplane.configuration import ListenerPolicy, ProxyConfiguration
from meshsim.errors import InvariantError
from meshsim.policy.transitions import (
    ACTION_DELAY,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_DOWNSTREAM_RESET,
)
from meshsim.state.codes import FLAG_FI, FLAG_RL
from meshsim.topology.model import AdaptiveConcurrency, LocalRateLimit

MS = 1_000_000
TWO = {"token_bucket": {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "1s"}}
TICKS = {**TWO, "refill": "TICKS"}
MARKED = {
    "token_bucket": {"max_tokens": 1, "fill_interval": "1h"},
    "response_headers_to_add": {"X-Envoy-RateLimited": "yes"},
}
DELAY = {"delay": {"fixed_delay": "5ms", "percentage": 100.0}}
ABORT = {"abort": {"http_status": 503, "percentage": 100.0}}


def begin(engine, now_ns=0, path="/", headers=None):
    exchange = engine.start("b", "GET", path, headers or {}, None, now_ns)
    return exchange, engine.route(exchange, now_ns)


def statuses(engine, *times_ns, **fields):
    """Route a request at each time; return the status of those that are answered, 0 of others."""
    found = []
    for now_ns in times_ns:
        exchange, decision = begin(engine, now_ns, **fields)
        found.append(decision.status)
        if decision.action == ACTION_SEND:
            engine.tell(exchange, STIMULUS_DOWNSTREAM_RESET, 0, 0, now_ns)
        engine.finish(exchange)
    return found


# --- The engine -----------------------------------------------------------------------------


def test_a_limit_refuses_with_its_flag():
    engine = new_engine(routes={"b": (route(rate_limit=TICKS),)})
    assert statuses(engine, 0, 1, 2) == [0, 0, 429]
    exchange, decision = begin(engine, 3)
    assert decision[:1] + decision[2:] == (ACTION_RESPOND, 429, FLAG_RL)
    engine.finish(exchange)
    assert engine.filter_counters() == {
        "http_local_rate_limit.enabled": 4,
        "http_local_rate_limit.ok": 2,
        "http_local_rate_limit.rate_limited": 2,
        "http_local_rate_limit.enforced": 2,
    }


def test_a_configuration_that_keeps_the_limit_keeps_the_bucket():
    engine = new_engine(routes={"b": (route(rate_limit=TICKS),)})
    assert statuses(engine, 0, 1, 2) == [0, 0, 429]
    kept = configuration(routes={"b": (route(rate_limit=TICKS, timeout="1s"),)}, version=2)
    engine.apply(kept, 3)
    assert statuses(engine, 4) == [429]
    other = configuration(routes={"b": (route(rate_limit={**TICKS, "status": 503}),)}, version=3)
    engine.apply(other, 5)
    assert statuses(engine, 6, 7, 8) == [0, 0, 503]


def test_buckets_of_values_are_bounded():
    own = {"entries": {"user": "*"}, "token_bucket": {"max_tokens": 1, "fill_interval": "1h"}}
    limit = {
        "token_bucket": {"max_tokens": 10**6, "fill_interval": "1s"},
        "descriptors": [own],
    }
    engine = new_engine(routes={"b": (route(rate_limit=limit),)})
    assert statuses(engine, 0, 1, headers={"user": "x"}) == [0, 429]
    for number in range(0, BUCKETS_MAX + 50, 1):
        statuses(engine, 2, headers={"user": str(number)})
    assert len(engine._filters._own.rows) <= BUCKETS_MAX + 1
    assert statuses(engine, 3, headers={"user": "x"}) == [0]  # forgotten: it is full again


def test_a_delayed_request_is_routed_again_and_holds_its_place_until_it_ends():
    fault = {**DELAY, "max_active_faults": 1}
    engine = new_engine(routes={"b": (route(fault=fault),)})
    first, decision = begin(engine, 0)
    assert (decision.action, decision.deadline_ns) == (ACTION_DELAY, 5 * MS)
    other, decision = begin(engine, 1)
    assert decision.action == ACTION_SEND  # an overflow
    assert engine.route(first, 5 * MS).action == ACTION_SEND
    third, decision = begin(engine, 6 * MS)
    assert decision.action == ACTION_SEND
    assert engine.filter_counters() == {
        "fault.active_faults": 1,
        "fault.delays_injected": 1,
        "fault.faults_overflow": 2,
    }
    for exchange in (first, other, third):
        engine.tell(exchange, STIMULUS_DOWNSTREAM_RESET, 0, 0, 7 * MS)
        engine.finish(exchange)
    assert "fault.active_faults" not in engine.filter_counters()


def test_a_delayed_request_cannot_be_finished_while_it_waits():
    engine = new_engine(routes={"b": (route(fault=DELAY),)})
    exchange, _ = begin(engine)
    with pytest.raises(InvariantError):
        engine.finish(exchange)


def test_an_abort_has_its_flag():
    engine = new_engine(routes={"b": (route(fault=ABORT),)})
    exchange, decision = begin(engine)
    assert decision[2:] == (503, FLAG_FI)
    engine.finish(exchange)


def test_requests_that_come_in_are_limited_by_the_listener():
    engine = new_engine()
    assert not engine.has_inbound_filters
    assert engine.admit("GET", "/", "a", {}, 1, 1, 0) == 0
    limited = ListenerPolicy(rate_limit=LocalRateLimit.model_validate(TICKS))
    plain = configuration()
    engine.apply(
        ProxyConfiguration(plain.proxy, {}, plain.clusters, plain.endpoints, plain.routes, limited),
        0,
    )
    assert [engine.admit("GET", "/", "a", {}, key, 1, key) for key in (1, 2, 3)] == [0, 0, 429]
    assert engine.filter_counters(inbound=True)["http_local_rate_limit.enforced"] == 1
    assert engine.filter_counters() == {}


def test_what_filters_decide_is_replayed(tmp_path):
    path = tmp_path / "stimuli.jsonl"
    fault = {
        "delay": {"fixed_delay": "3ms", "percentage": 40.0},
        "abort": {"http_status": 500, "percentage": 20.0},
        "response_rate_limit": {"limit_kbps": 1, "percentage": 50.0},
    }
    limit = {
        "token_bucket": {"max_tokens": 9, "tokens_per_fill": 3, "fill_interval": "7ms"},
        "descriptors": [{"entries": {"user": "*"}, "token_bucket": TWO["token_bucket"]}],
        "filter_enforced": 50.0,
    }
    mirrored = route(
        split=[{"service": "b"}], fault=fault, rate_limit=limit, mirrors=[{"service": "c"}]
    )
    listener = ListenerPolicy(rate_limit=LocalRateLimit.model_validate(limit))
    clusters = {"b": cluster(), "c": cluster()}
    members = {"c": endpoints("c-v1-0")}
    plain = configuration(clusters, members, {"b": (mirrored,)})
    with StimulusLog(path) as log:
        engine = new_engine(log=log)
        told = ProxyConfiguration(
            plain.proxy, {}, plain.clusters, plain.endpoints, plain.routes, listener, plain.versions
        )
        engine.apply(told, 0)
        mesh = Mesh(engine, "b", lambda endpoint: 2 * MS)
        for number in range(60):
            mesh.at(number * MS + number, mesh.arrive, number, number, {"user": f"u{number % 7}"})
            engine.admit("GET", "/", "a", {"user": f"u{number % 7}"}, number, 1, number)
        outcomes = mesh.run()
        digest = engine.close()
    assert {flag for _, _, _, flag, _, _ in outcomes} >= {0, 12, 13, 14}
    found = replay(path)
    assert found.divergences == ()
    assert found.lives[0].digest == digest


# --- Sockets --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def outbound(answer=lambda number, head, body: ok(), shadow=None, **fields):
    """An outbound proxy with a real engine; `fields` are of its one route."""
    upstream = await Upstream(answer).start()
    mirror = await Upstream(shadow or answer).start()
    clusters = {"b": cluster(), "c": cluster()}
    members = {
        "b": endpoints("b-v1-0", port=upstream.port),
        "c": endpoints("c-v1-0", port=mirror.port),
    }
    engine = new_engine(clusters, members, {"b": (route(**fields),)})
    outcomes = []
    recorder = type("Recorder", (), {"exchange": staticmethod(outcomes.append)})()
    proxy = OutboundProxy(engine, RealClock(), recorder=recorder)
    _, port = await proxy.start()
    try:
        yield proxy, engine, (upstream, mirror), port, outcomes
    finally:
        await proxy.drain(2)
        await upstream.stop()
        await mirror.stop()
    assert proxy.counters()["downstream_rq_active"] == 0
    assert engine._live == {}
    assert engine._clusters["requests_active"].sum() == 0
    assert engine._clusters["connections_active"].sum() == 0


def test_a_refused_request_is_marked():
    async def scenario():
        async with (
            outbound(rate_limit=MARKED)
            as (proxy, _, upstreams, port, outcomes),
            Caller(port) as caller,
        ):  # fmt: skip
            assert (await caller.get("b"))[0] == 200
            status, headers, _ = await caller.get("b")
            assert (status, headers["x-envoy-ratelimited"]) == (429, "yes")
            assert headers["x-meshsim-flag"] == "RL"
            assert len(upstreams[0].heads) == 1
            assert proxy.counters()["downstream_rq_failed_RL"] == 1
            assert proxy.counters()["http_local_rate_limit.enforced"] == 1
            assert [outcome.status for outcome in outcomes] == [200, 429]

    run(scenario)


def test_a_mark_of_the_upstream_decides_on_the_retry():
    marked = b"x-envoy-ratelimited: true\r\n"

    def answer(number, head, body):
        return ok(b"", 503, marked) if number == 0 else ok()

    async def scenario(retry_on, wanted, tries):
        retry = {"num_retries": 1, "retry_on": [retry_on], "base_interval": "1ms"}
        async with outbound(answer, retry=retry) as (_, _, upstreams, port, _):
            async with Caller(port) as caller:
                assert (await caller.get("b"))[0] == wanted
            assert len(upstreams[0].heads) == tries

    run(lambda: scenario("envoy-ratelimited", 200, 2))
    run(lambda: scenario("5xx", 503, 1))


def test_a_delay_is_waited_out_and_given_up_with_the_caller():
    delay = {"delay": {"fixed_delay": "60ms", "percentage": 100.0}}

    async def scenario():
        async with outbound(fault=delay) as (proxy, engine, upstreams, port, outcomes):
            loop = asyncio.get_running_loop()
            async with Caller(port) as caller:
                begin_s = loop.time()
                status, headers, _ = await caller.get("b")
                assert status == 200
                assert headers["x-meshsim-flag"] == "DI"
                assert loop.time() - begin_s >= 0.06
            async with Caller(port) as caller:
                await caller.send(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
                await until(lambda: engine._live)
            await until(lambda: len(outcomes) == 2)
            assert len(upstreams[0].heads) == 1
            assert proxy.counters()["downstream_rq_failed_DC"] == 1

    run(scenario)


def test_an_abort_asks_nobody():
    async def scenario():
        async with outbound(fault=ABORT) as (_, _, upstreams, port, _), Caller(port) as caller:
            status, headers, _ = await caller.get("b")
            assert (status, headers["x-meshsim-flag"]) == (503, "FI")
            assert upstreams[0].heads == []

    run(scenario)


def test_a_redirect_says_where_to():
    async def scenario():
        redirect = {"response_code": 308, "host": "other"}
        fields = {"split": [], "redirect": redirect}
        async with outbound(**fields) as (_, _, _, port, _), Caller(port) as caller:
            status, headers, _ = await caller.get("b", "/x?y=1")
            assert (status, headers["location"]) == (308, "http://other/x?y=1")

    run(scenario)


def test_a_slow_response_ends_late_and_whole():
    body = bytes(range(256)) * 40  # 10,240 bytes at 60 KiB/s: 4 slices of 3072, 150 ms
    pace = {"response_rate_limit": {"limit_kbps": 60, "percentage": 100.0}}

    async def scenario():
        async with outbound(lambda *_: ok(body), fault=pace) as (_, engine, upstreams, port, _):
            loop = asyncio.get_running_loop()
            async with Caller(port) as caller:
                begin_s = loop.time()
                assert (await caller.get("b"))[2] == body
                assert loop.time() - begin_s >= 0.15
            assert upstreams[0].connections == 1
            assert engine.filter_counters() == {"fault.response_rl_injected": 1}

    run(scenario)


def test_a_mirror_gets_a_copy_and_its_answer_goes_nowhere():
    async def scenario():
        async with outbound(
            shadow=lambda number, head, body: ok(b"no", 500), mirrors=[{"service": "c"}]
        ) as (_, engine, (upstream, mirror), port, outcomes):
            async with Caller(port) as caller:
                await caller.send(
                    b"POST /x HTTP/1.1\r\nHost: b\r\nx-meshsim-key: a\r\nx-meshsim-arrival: 5\r\n"
                    b"user: u\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                )
                assert (await caller.response())[0] == 200
            await until(lambda: mirror.heads and len(engine._live) == 0)
            assert (upstream.bodies, mirror.bodies) == ([b"ab"], [b"ab"])
            head = mirror.heads[0].lower()
            assert "host: b-shadow\r\n" in head
            assert "user: u\r\n" in head
            assert "x-meshsim-arrival" not in head
            assert "x-meshsim-key: a\r\n" not in head
            assert len(outcomes) == 1
            counters = engine.counters()
            assert counters["c"]["upstream_rq_total"] == counters["b"]["upstream_rq_total"] == 1

    run(scenario)


def test_a_copy_has_the_deadline_of_its_request():
    async def scenario():
        silent = {"shadow": lambda *_: None, "mirrors": [{"service": "c"}]}
        async with outbound(**silent, timeout="600s") as (_, engine, (_, mirror), port, _):
            async with Caller(port) as caller:
                deadline_ns = RealClock().now_ns() + 500_000_000
                await caller.get("b", extra=f"x-meshsim-deadline: {deadline_ns}\r\n")
            await until(lambda: mirror.heads)
            assert f"x-meshsim-deadline: {deadline_ns}" in mirror.heads[0].lower()
            await until(lambda: len(engine._live) == 0)
            assert RealClock().now_ns() >= deadline_ns

    run(scenario)


@pytest.mark.parametrize("timeout", ["50ms", None])
def test_a_mirror_that_is_silent_holds_nothing_up(timeout):
    fields = {"timeout": timeout} if timeout else {}

    async def scenario():
        async with outbound(shadow=lambda *_: None, mirrors=[{"service": "c"}], **fields) as (
            _,
            engine,
            (_, mirror),
            port,
            _,
        ):
            async with Caller(port) as caller:
                assert (await caller.get("b"))[0] == 200
            await until(lambda: mirror.heads)
            if timeout:
                await until(lambda: len(engine._live) == 0)

    run(scenario)


def test_an_inbound_proxy_refuses_what_its_engine_refuses():
    async def scenario():
        engine = new_engine()
        plain = configuration()
        limit = LocalRateLimit.model_validate(MARKED)
        listener = ListenerPolicy(rate_limit=limit)
        engine.apply(
            ProxyConfiguration(
                plain.proxy, {}, plain.clusters, plain.endpoints, plain.routes, listener
            ),
            0,
        )
        workload = await Upstream(lambda *_: ok()).start()
        proxy = InboundProxy("a", workload.port, admit=Admission(engine, RealClock()).admit)
        _, port = await proxy.start()
        async with Caller(port) as caller:
            assert (await caller.get("a"))[0] == 200
            status, headers, _ = await caller.get("a")
            assert (status, headers["x-envoy-ratelimited"]) == (429, "yes")
            assert headers["x-meshsim-flag"] == "RL"
            # A short body is waited for, and the connection is kept.
            for _ in range(2):
                await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
                await caller.send(b"b")
                status, headers, _ = await caller.response()
                assert (status, headers.get("connection")) == (429, None)
        assert len(workload.heads) == 1
        await proxy.drain(2)
        await workload.stop()
        assert proxy.counters()["downstream_rq_failed_RL"] == 3

    run(scenario)


ADAPTIVE = {
    "sample_aggregate_percentile": 50.0,
    "concurrency_limit_exceeded_status": 503,
    "concurrency_limit_params": {
        "concurrency_update_interval": "10s",
        "max_concurrency_limit": 1000,
    },
    "min_rtt_calc_params": {
        "interval": "60s",
        "request_count": 3,
        "jitter": 0,
        "min_concurrency": 2,
        "buffer": 25.0,
    },
}


def adaptive_engine(log=None):
    """An engine that lets two requests in at once, and measures three."""
    engine = new_engine(log=log)
    plain = configuration()
    listener = ListenerPolicy(adaptive_concurrency=AdaptiveConcurrency.model_validate(ADAPTIVE))
    parts = plain.clusters, plain.endpoints, plain.routes, listener, plain.versions
    engine.apply(ProxyConfiguration(plain.proxy, {}, *parts), 0)
    return engine


def test_what_the_gate_decides_is_replayed(tmp_path):
    path = tmp_path / "stimuli.jsonl"
    with StimulusLog(path) as log:
        engine = adaptive_engine(log)
        assert [engine.gate.enter(now_ns) for now_ns in (1, 2, 3)] == [(0, 1), (0, 1), (503, 1)]
        engine.gate.leave(1, 1, True, 5 * MS)
        engine.gate.leave(1, 2, False, 6 * MS)
        assert engine.gate.enter(7 * MS) == (0, 1)
        assert engine.gate.counters()["adaptive_concurrency.gradient_controller.rq_blocked"] == 1
        digest = engine.close()
    found = replay(path)
    assert found.divergences == ()
    assert found.lives[0].digest == digest


def test_an_inbound_proxy_lets_in_what_its_gate_does():
    async def scenario():
        engine = adaptive_engine()
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok()

        workload = await Upstream(answer).start()
        proxy = InboundProxy("a", workload.port, admit=Admission(engine, RealClock()).admit)
        _, port = await proxy.start()
        name = "adaptive_concurrency.gradient_controller."
        async with Caller(port) as one, Caller(port) as two, Caller(port) as three:
            for caller in (one, two):
                await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: len(workload.heads) == 2)
            status, headers, _ = await three.get("a")
            assert status == 503
            assert "x-meshsim-flag" not in headers
            two.writer.close()  # who goes leaves its place
            await until(lambda: engine.gate._rows["outstanding"][0] == 1)
            release.set()
            assert (await one.response())[0] == 200
            for _ in range(2):
                assert (await three.get("a"))[0] == 200
            counters = engine.gate.counters()
            assert counters[name + "rq_blocked"] == 1
            assert name + "min_rtt_calculation_active" not in counters
        await proxy.drain(2)
        await workload.stop()
        assert engine.gate._rows["outstanding"][0] == 0

    run(scenario)
