import asyncio
import contextlib
import re
import socket

import pytest
from proxy_fakes import (
    MILLISECOND,
    SECOND,
    Caller,
    FakeEngine,
    RealClock,
    ok,
    outbound,
    run,
    until,
)

from emulator.proxy import OutboundProxy
from meshsim.policy.transitions import (
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DOWNSTREAM_RESET,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.state.codes import FLAG_DC, FLAG_UC, RESET_NONE

# --- The way of a request --------------------------------------------------------------------


def test_a_request_goes_up_and_its_response_down():
    async def scenario():
        async with outbound() as (_, engine, (upstream,), port, outcomes), Caller(port) as caller:
            extra = "x-meshsim-key: 00ff\r\nx-meshsim-number: 7\r\nX-Own: 1\r\n"
            status, headers, body = await caller.get("reviews:80", "/a?b", extra)
            assert (status, body, headers["content-length"]) == (200, b"ok", "2")
            assert engine.log[0][:4] == ("start", "reviews", "GET", "/a?b")
            assert engine.log[0][4]["x-own"] == "1"
            assert engine.log[0][5] == 0xFF
            sent = upstream.heads[0]
            assert sent.startswith("GET /a?b HTTP/1.1\r\nhost: reviews\r\n")
            assert "x-own: 1\r\n" in sent
            assert "x-envoy-attempt-count: 1\r\n" in sent
            assert re.search("\r\nx-request-id: [0-9a-f-]{36}\r\n", sent)
            assert re.search("\r\ntraceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01\r\n", sent)
            assert "x-meshsim-deadline" not in sent
            (outcome,) = outcomes
            assert (outcome.service, outcome.status, outcome.response_flag) == ("reviews", 200, 0)
            assert (outcome.number, outcome.response_bytes) == (7, 2)

    run(scenario)


def test_context_that_came_goes_on():
    async def scenario():
        async with (
            outbound(route_ns=5 * SECOND) as (_, _, (upstream,), port, _),
            Caller(port) as caller,
        ):
            trace = "0123456789abcdef0123456789abcdef"
            await caller.get(
                extra=f"x-request-id: mine\r\ntraceparent: 00-{trace}-0123456789abcdef-00\r\n"
                "x-meshsim-deadline: 17\r\nx-envoy-attempt-count: 9\r\n"
            )
            await caller.get(extra=f"x-meshsim-deadline: {1 << 60}\r\n")
            first, second = upstream.heads
            assert "x-request-id: mine\r\n" in first
            assert f"traceparent: 00-{trace}-" in first
            assert "0123456789abcdef-00" not in first
            assert "x-meshsim-deadline: 17\r\n" in first
            assert first.count("x-envoy-attempt-count") == 1
            deadline_ns = int(re.search("x-meshsim-deadline: ([0-9]+)", second)[1])
            left_ns = deadline_ns - RealClock().now_ns()
            assert 0 < left_ns <= 5 * SECOND

    run(scenario)


def test_the_same_key_gets_the_same_request_id():
    async def scenario():
        ids = []
        for _ in range(2):
            async with outbound() as (_, _, (upstream,), port, _), Caller(port) as caller:
                await caller.get(extra="x-meshsim-key: abc\r\n")
                ids.append(re.search("x-request-id: (.*)\r\n", upstream.heads[0])[1])
        assert ids[0] == ids[1]

    run(scenario)


def test_connections_are_kept_and_the_last_used_is_taken():
    async def scenario():
        async with outbound() as (_, engine, (upstream,), port, _):
            async with Caller(port) as one, Caller(port) as two:
                for _ in range(5):
                    await one.get()
                    await two.get()
            assert upstream.connections == 1
            assert engine.active["connections"] == 1

    run(scenario)


def test_chunked_and_unframed_bodies_pass():
    async def scenario():
        answers = [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
            ok(b"fixed"),
        ]
        async with (
            outbound(lambda number, head, body: answers[number]) as (_, _, (upstream,), port, _),
            Caller(port) as caller,
        ):
            await caller.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"4\r\nabcd\r\n1\r\ne\r\n0\r\n\r\n"
            )
            status, headers, body = await caller.response()
            assert (status, body, headers["transfer-encoding"]) == (200, b"abcde", "chunked")
            assert upstream.bodies[0] == b"abcde"
            await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz")
            assert (await caller.response())[2] == b"fixed"
            assert upstream.bodies[1] == b"xyz"
            assert upstream.connections == 1

    run(scenario)


def test_a_body_until_close_becomes_chunks():
    async def scenario():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        engine = FakeEngine(server.sockets[0].getsockname()[1])
        proxy = OutboundProxy(engine, RealClock())
        _, port = await proxy.start()
        async with Caller(port) as caller:
            _, headers, body = await caller.get()
            assert (headers["transfer-encoding"], body) == ("chunked", b"all of it")
        await proxy.drain(1)
        server.close()
        engine.assert_quiet()

    run(scenario)


def test_responses_without_body():
    async def scenario():
        answers = [
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"last"),
        ]
        async with (
            outbound(lambda number, head, body: answers[number]) as (_, _, (upstream,), port, _),
            Caller(port) as caller,
        ):
            _, headers, _ = await caller.get(method="HEAD")
            assert headers["content-length"] == "10"
            assert (await caller.get())[0] == 204
            assert (await caller.get())[0] == 304
            assert (await caller.get())[2] == b"last"
            assert upstream.connections == 1

    run(scenario)


def test_pipelined_requests_are_served_in_order():
    async def scenario():
        async def answer(number, head, body):
            await asyncio.sleep(0.02 if number == 0 else 0)
            return ok(head.split()[1].encode() + body)

        async with (
            outbound(answer, n_upstreams=2) as (_, _, _, port, outcomes),
            Caller(port) as caller,
        ):
            await caller.send(
                b"\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
                b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\nx\r\n0\r\n\r\n"
                b"GET /3 HTTP/1.1\r\nHost: nowhere\r\n\r\n"
                b"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            answers = [await caller.response() for _ in range(4)]
            assert [a[0] for a in answers] == [200, 200, 404, 200]
            assert [a[2] for a in answers] == [b"/1", b"/2x", b"", b"/4"]
            assert len(outcomes) == 4

    run(scenario)


def test_http10_is_closed_and_gets_no_chunks():
    async def scenario():
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        async with (
            outbound(lambda number, head, body: chunked) as (_, _, _, port, _),
            Caller(port) as caller,
        ):
            await caller.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            _, headers, body = await caller.response()
            assert (body, headers["connection"]) == (b"abc", "close")
            assert "transfer-encoding" not in headers

    run(scenario)


def test_connection_close_is_honoured_on_both_sides():
    async def scenario():
        closing = ok(extra=b"connection: close\r\n")
        async with outbound(lambda number, head, body: closing) as (_, _, (upstream,), port, _):
            async with Caller(port) as caller:
                _, headers, _ = await caller.get(extra="Connection: close\r\n")
                assert headers["connection"] == "close"
                assert await caller.closed()
            async with Caller(port) as caller:
                _, headers, _ = await caller.get()
                assert "connection" not in headers
            assert upstream.connections == 2

    run(scenario)


def test_expect_is_answered_here():
    async def scenario():
        async with outbound() as (_, _, (upstream,), port, _), Caller(port) as caller:
            await caller.send(
                b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await caller.response())[0] == 100
            await caller.send(b"hi")
            assert (await caller.response())[0] == 200
            assert upstream.bodies == [b"hi"]
            assert "expect" not in upstream.heads[0]

    run(scenario)


def test_small_packets_are_not_delayed():
    async def scenario():
        async with outbound() as (proxy, _, _, port, _), Caller(port) as caller:
            await caller.get()
            (connection,) = proxy.downstream.connections
            for sock in (
                connection._transport.get_extra_info("socket"),
                next(iter(proxy.pools._connections)).get_extra_info("socket"),
            ):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(scenario)


# --- What fails ------------------------------------------------------------------------------


def test_own_answers_carry_their_flag():
    async def scenario():
        async with outbound() as (_, _, _, port, outcomes), Caller(port) as caller:
            status, headers, _ = await caller.get("nowhere")
            assert (status, headers["x-meshsim-flag"]) == (404, "NR")
            assert (await caller.get())[0] == 200
            assert [outcome.status for outcome in outcomes] == [404, 200]
        async with outbound(n_upstreams=0) as (_, _, _, port, _), Caller(port) as caller:
            status, headers, _ = await caller.get()
            assert (status, headers["x-meshsim-flag"]) == (503, "UH")

    run(scenario)


def test_a_refused_connection_is_uf():
    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port_without_server = closed.getsockname()[1]
        async with outbound(n_upstreams=0) as (_, engine, _, port, _), Caller(port) as caller:
            engine.addresses = FakeEngine(port_without_server).addresses
            status, headers, _ = await caller.get()
            assert (status, headers["x-meshsim-flag"]) == (503, "UF")

    run(scenario)


def test_an_upstream_that_hangs_up_is_uc():
    async def scenario():
        async with (
            outbound(lambda number, head, body: b"") as (_, engine, _, port, _),
            Caller(port) as caller,
        ):
            status, headers, _ = await caller.get()
            assert (status, headers["x-meshsim-flag"]) == (503, "UC")
            assert engine.stimuli() == [STIMULUS_RESET]
            assert engine.log[-1] == ("ended", "abandoned", True)

    run(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_a_response_that_is_none_is_uc(answer):
    async def scenario():
        async with (
            outbound(lambda number, head, body: answer) as (_, _, _, port, _),
            Caller(port) as caller,
        ):
            assert (await caller.get())[0] == 503

    run(scenario)


def test_a_response_that_breaks_off_is_cut():
    async def scenario():
        async def answer(number, head, body):
            return b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nabc"

        async with outbound(answer) as (_, _, (upstream,), port, outcomes), Caller(port) as caller:
            await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await caller.reader.readexactly(len(b"HTTP/1.1 200 OK"))
            for writer in list(upstream._writers):
                writer.close()
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    rest = await caller.reader.read()
                    assert not rest.endswith(b"0123456789")
            await until(lambda: outcomes)
            assert outcomes[0].response_flag == FLAG_UC

    run(scenario)


def test_a_retry_goes_to_the_next_host_over_a_kept_connection():
    async def scenario():
        answers = iter([ok(b"no", 503), ok(b"no", 503), ok(b"yes")])
        async with (
            outbound(lambda number, head, body: next(answers), retries=2) as (
                _, engine, (upstream,), port, outcomes,
            ),
            Caller(port) as caller,
        ):  # fmt: skip
            await caller.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
            assert (await caller.response())[2] == b"yes"
            assert upstream.bodies == [b"body"] * 3
            assert upstream.connections == 1
            counts = [re.search("attempt-count: ([0-9]+)", head)[1] for head in upstream.heads]
            assert counts == ["1", "2", "3"]
            again = [STIMULUS_RESPONSE, STIMULUS_BACK_OFF_EXPIRED]
            assert engine.stimuli() == [*again, *again, STIMULUS_RESPONSE]
            assert outcomes[0].retry_count == 2

    run(scenario)


def test_an_answer_of_an_overloaded_upstream_is_one_like_any_other():
    async def scenario():
        answer = ok(b"no", 503, b"x-envoy-overloaded: true\r\n")
        async with (
            outbound(lambda number, head, body: answer, retries=1) as (_, engine, _, port, _),
            Caller(port) as caller,
        ):
            assert (await caller.get())[0] == 503
            told = [line[1:] for line in engine.log if line[0] == "tell"]
            assert told[0] == told[2] == (STIMULUS_RESPONSE, 503, RESET_NONE)

    run(scenario)


def test_the_last_response_goes_down_with_its_flag():
    async def scenario():
        async with (
            outbound(lambda number, head, body: ok(b"no", 503), retries=1) as (
                _, _, _, port, outcomes,
            ),
            Caller(port) as caller,
        ):  # fmt: skip
            status, headers, body = await caller.get()
            assert (status, headers["x-meshsim-flag"], body) == (503, "URX", b"no")
            assert outcomes[0].retry_count == 1

    run(scenario)


def test_per_try_and_route_timeouts_close_the_connection():
    async def scenario():
        async with (
            outbound(
                lambda number, head, body: None if number == 0 else ok(),
                retries=1,
                per_try_ns=30 * MILLISECOND,
            ) as (_, engine, (upstream,), port, _),
            Caller(port) as caller,
        ):
            assert (await caller.get())[0] == 200
            assert engine.stimuli()[0] == STIMULUS_PER_TRY_TIMEOUT
            assert ("ended", "abandoned", True) in engine.log
            await until(lambda: upstream.open == 1)
            assert upstream.connections == 2
        async with (
            outbound(lambda number, head, body: None, route_ns=30 * MILLISECOND) as (
                _, engine, (upstream,), port, _,
            ),
            Caller(port) as caller,
        ):  # fmt: skip
            status, headers, _ = await caller.get()
            assert (status, headers["x-meshsim-flag"]) == (504, "UT")
            assert engine.stimuli() == [STIMULUS_ROUTE_TIMEOUT]
            await until(lambda: upstream.open == 0)

    run(scenario)


def test_a_caller_that_goes_gives_the_try_up():
    async def scenario():
        async with outbound(lambda number, head, body: None) as (
            proxy, engine, (upstream,), port, outcomes,
        ):  # fmt: skip
            async with Caller(port) as caller:
                await caller.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: upstream.heads)
            await until(lambda: outcomes)
            assert (outcomes[0].status, outcomes[0].response_flag) == (0, FLAG_DC)
            assert engine.stimuli() == [STIMULUS_DOWNSTREAM_RESET]
            await until(lambda: upstream.open == 0)
            assert proxy.counters()["downstream_rq_failed_DC"] == 1

    run(scenario)


def test_limits_are_the_engines():
    async def scenario():
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok(head.split()[1].encode())

        async with outbound(answer) as (_, engine, (upstream,), port, _):
            engine.limits = {"connections": 1, "pending": 2, "requests": 1024}
            async with contextlib.AsyncExitStack() as stack:
                callers = [await stack.enter_async_context(Caller(port)) for _ in range(4)]
                tasks = []
                for number, caller in enumerate(callers[:3]):
                    tasks.append(asyncio.create_task(caller.get(path=f"/{number}")))
                    await until(lambda number=number: len(engine.exchanges) == number + 1)
                    await until(lambda: upstream.heads)
                status, headers, _ = await callers[3].get()
                assert (status, headers["x-meshsim-flag"]) == (503, "UO")
                assert headers["x-envoy-overloaded"] == "true"
                release.set()
                bodies = [(await task)[2] for task in tasks]
            assert bodies == [b"/0", b"/1", b"/2"]
            order = [re.match("GET (/[0-9])", head)[1] for head in upstream.heads]
            assert order == ["/0", "/1", "/2"]
            assert upstream.connections == 1
            assert engine.overflow["pending"] == 1

    run(scenario)
