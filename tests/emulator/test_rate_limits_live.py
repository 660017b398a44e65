"""The rate limit service: what it counts, what proxies make of it on sockets, and what replays."""

import asyncio
import contextlib
import json

import pytest
from engine_rows import endpoints, new_engine, route
from mesh_scenarios import assert_accounted, pair
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

import meshsim as ms
from emulator.control.rate_limits import RateLimitServer
from emulator.decisions.rate_limit_service import WINDOWS_MAX, RateLimitService
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import OutboundProxy
from emulator.running.harness import emulate
from meshsim.errors import InvariantError, LimitError
from meshsim.policy.global_rate_limit import SERVICE_OK, SERVICE_OVER_LIMIT

SECOND = 1_000_000_000
TWO_A_DAY = {"requests_per_unit": 2, "unit": "DAY"}
A_SECOND = [[[], [], "SECOND", 2]]


def limit(latency="0s", **fields):
    return {"latency": latency, "descriptors": [TWO_A_DAY], "timeout": "2s", **fields}


# --- What the service counts ----------------------------------------------------------------


def test_windows_are_kept_apart_by_domain_and_values():
    service = RateLimitService(1)
    by_user = [[["user", "*"]], ["ann"], "SECOND", 1]
    other = [[["user", "*"]], ["bob"], "SECOND", 1]
    asked = [("d", by_user), ("d", by_user), ("d", other), ("e", by_user), ("e", by_user)]
    answers = [service.count(domain, [item], 0) for domain, item in asked]
    assert answers == [SERVICE_OK, SERVICE_OVER_LIMIT, SERVICE_OK, SERVICE_OK, SERVICE_OVER_LIMIT]
    assert service.count("d", [by_user], SECOND) == SERVICE_OK


def test_windows_that_are_over_are_forgotten_and_those_that_are_not_go_on():
    service = RateLimitService(1)
    assert [service.count("d", A_SECOND, 0) for _ in range(3)] == [0, 0, 1]
    day = [[["x", "*"]], ["y"], "DAY", 1]
    assert [service.count("d", [day], 0) for _ in range(2)] == [0, 1]
    for number in range(WINDOWS_MAX):
        service.count("d", [[[["user", "*"]], [str(number)], "SECOND", 1]], SECOND + number)
    assert len(service._rows) < WINDOWS_MAX
    assert service.count("d", [day], 2 * SECOND) == SERVICE_OK  # too many were of the present
    assert service.count("d", A_SECOND, 2 * SECOND) == SERVICE_OK


@pytest.mark.parametrize(
    "descriptors",
    [
        [],
        [[]],
        [[[], [], "WEEK", 1]],
        [[[], [], "DAY", -1]],
        [[[], [1], "DAY", 1]],
        [[[["a"]], [], "DAY", 1]],
        [7],
        [A_SECOND[0]] * 2000,
    ],
)
def test_what_is_no_question_counts_nothing(descriptors):
    service = RateLimitService(1)
    with pytest.raises(LimitError):
        service.count("d", descriptors, 0)
    assert not service._rows


# --- Sockets --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def limited(path, served=True, **fields):
    """A proxy whose one route has `fields`, its upstream and a rate limit service."""
    upstream = await Upstream(lambda *_: ok()).start()
    outcomes = []
    recorder = type("Recorder", (), {"exchange": staticmethod(outcomes.append)})()
    with StimulusLog(path) as log:
        service = RateLimitService(1, log)
        server = RateLimitServer(service, RealClock())
        address = await server.start()
        if not served:
            await server.stop()
        members = {"b": endpoints("b-v1-0", port=upstream.port)}
        engine = new_engine(members=members, routes={"b": (route(**fields),)}, log=log)
        proxy = OutboundProxy(engine, RealClock(), recorder=recorder, rate_limit_service=address)
        _, port = await proxy.start()
        try:
            async with Caller(port) as caller:
                yield caller, proxy, server, upstream, outcomes
        finally:
            await proxy.drain(2)
            await server.stop()
            await upstream.stop()
        assert engine._live == {}
        assert server.sessions == set()
        digests = [service.close()] * bool(service._serves) + [engine.close()]
    found = replay(path)
    assert found.divergences == ()
    assert sorted(life.digest for life in found.lives) == sorted(digests)


def test_a_request_over_the_limit_is_refused_with_envoys_mark(tmp_path):
    async def scenario():
        async with limited(tmp_path / "log", global_rate_limit=limit()) as (
            caller, proxy, _, upstream, outcomes,
        ):  # fmt: skip
            answers = [await caller.get("b") for _ in range(4)]
            assert [status for status, _, _ in answers] == [200, 200, 429, 429]
            headers = answers[3][1]
            assert (headers["x-meshsim-flag"], headers["x-envoy-ratelimited"]) == ("RL", "true")
            assert len(upstream.heads) == 2
            counters = proxy.counters()
            found = {name: n for name, n in counters.items() if name.startswith("ratelimit")}
            assert found == {"ratelimit.ok": 2, "ratelimit.over_limit": 2}
            assert [outcome.status for outcome in outcomes] == [200, 200, 429, 429]

    run(scenario)


def test_the_latency_of_the_service_is_waited_for(tmp_path):
    async def scenario():
        fields = {"global_rate_limit": limit("40ms"), "timeout": "30ms"}
        async with limited(tmp_path / "log", **fields) as (caller, *_):
            loop = asyncio.get_running_loop()
            begin_s = loop.time()
            assert (await caller.get("b"))[0] == 200  # the timeout of the route begins later
            assert loop.time() - begin_s >= 0.04

    run(scenario)


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize(("deny", "status", "flag"), [(False, 200, None), (True, 500, "RLSE")])
def test_a_service_that_is_late_or_gone_lets_pass_or_refuses(tmp_path, served, deny, status, flag):
    stated = limit("1h", timeout="15ms", failure_mode_deny=deny)

    async def scenario():
        async with limited(tmp_path / "log", served=served, global_rate_limit=stated) as (
            caller, proxy, *_,
        ):  # fmt: skip
            for number in (1, 2, 3):  # the limit of two a day is nobody's concern
                found, headers, _ = await caller.get("b")
                assert (found, headers.get("x-meshsim-flag")) == (status, flag)
                assert "x-envoy-ratelimited" not in headers
                counters = proxy.counters()
                assert counters["ratelimit.error"] == number
                assert counters.get("ratelimit.failure_mode_allowed", 0) == number * (1 - deny)

    run(scenario)


def test_a_service_that_went_is_asked_again_when_it_is_back(tmp_path):
    async def scenario():
        stated = limit(timeout="5s", failure_mode_deny=True)
        async with limited(tmp_path / "log", global_rate_limit=stated) as (caller, _, server, *_):
            assert (await caller.get("b"))[0] == 200
            for session in list(server.sessions):
                session.abort()
            await until(lambda: not server.sessions)
            statuses = [(await caller.get("b"))[0] for _ in range(2)]
            # The question may still meet the connection that is gone; the next opens one.
            assert statuses in ([200, 429], [500, 200])

    run(scenario)


def test_a_caller_that_goes_is_in_no_counter(tmp_path):
    async def scenario():
        stated = limit("1h", timeout="2h")
        async with limited(tmp_path / "log", global_rate_limit=stated) as (
            caller, proxy, server, _, outcomes,
        ):  # fmt: skip
            await caller.send(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
            await until(lambda: server.service._rows)
            caller.writer.close()
            await until(lambda: outcomes)
            assert not [name for name in proxy.counters() if name.startswith("ratelimit")]
            assert proxy.counters()["downstream_rq_failed_DC"] == 1

    run(scenario)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'"id"',
        b'{"id":1}',
        b'{"id":"1","domain":"d","descriptors":[[[],[],"DAY",1]],"latency_ns":0}',
        b'{"id":1,"domain":"d","descriptors":[],"latency_ns":0}',
        b'{"id":1,"domain":"d","descriptors":[[[],[],"DAY",1]],"latency_ns":-1}',
    ],
)
def test_noise_ends_the_connection_and_counts_nothing(line):
    async def scenario():
        server = RateLimitServer(RateLimitService(1), RealClock())
        _, port = await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(line + b"\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            question = {"id": 7, "domain": "d", "descriptors": A_SECOND, "latency_ns": 0}
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(json.dumps(question).encode() + b"\n")
            assert json.loads(await reader.readline()) == {"id": 7, "code": "OK"}
            writer.close()
        finally:
            await server.stop()
        assert server.service._windows["requests"].tolist()[0] == 1

    run(scenario)


def test_nothing_is_heard_of_what_was_not_asked():
    engine = new_engine()
    exchange = engine.start("b", "GET", "/", {}, None, 0)
    engine.route(exchange, 0)
    with pytest.raises(InvariantError):
        engine.heard(exchange, SERVICE_OK, 0)


# --- A whole mesh ---------------------------------------------------------------------------


def test_all_proxies_share_the_count_and_every_decision_replays(tmp_path):
    stated = {
        "descriptors": [{"requests_per_unit": 30, "unit": "DAY"}],
        "latency": {"exponential": "1ms"},
        "timeout": "10s",
    }
    topology = ms.with_values(pair(), {"policies.front.routes": [{"global_rate_limit": stated}]})
    result = emulate(topology, "1s", 3, dilation=1.0, progress=False, record=tmp_path / "log")
    assert_accounted(result)
    counters = result.emulation["counters"]["gateway-users"]
    sent = result.emulation["accounting"]["sent"]
    assert counters["ratelimit.ok"] == 30
    assert counters["ratelimit.over_limit"] == sent - 30 > 0
    assert counters["downstream_rq_failed_RL"] == sent - 30
    found = replay(tmp_path / "log")
    assert found.divergences == ()
    assert {life.name: life.stimuli for life in found.lives}["rate limit service"] == sent + 2
    simulated = ms.simulate(topology, "1s", replications=1, seed=3)
    for stats in (result.stats(), simulated.stats()):
        counted = stats[stats["stat"] == "outbound.ratelimit.ok"]
        assert counted["count"].sum() == 30
