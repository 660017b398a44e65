"""Several tries of one request on sockets: who wins, who is given up, and what replays."""

import asyncio
import contextlib

import pytest
from engine_rows import cluster, endpoints, new_engine, route
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import OutboundProxy

RETRY = {
    "num_retries": 1,
    "retry_on": ["5xx"],
    "base_interval": "1ms",
    "max_interval": "1ms",
    "per_try_timeout": "20ms",
}
ON_TIMEOUT = {"retry": RETRY, "hedge_policy": {"hedge_on_per_try_timeout": True}}


def copies(count, delay, codes=()):
    hedging = {"max_attempts": count, "hedging_delay": delay}
    return {"retry": {}, "hedge_policy": {**hedging, "non_fatal_status_codes": list(codes)}}


class Answers:
    """What each upstream says, once it is allowed to."""

    def __init__(self, *answers):
        self.answers = answers
        self.asked = [asyncio.Event() for _ in answers]
        self.released = [asyncio.Event() for _ in answers]

    def of(self, row):
        async def answer(number, head, body):
            self.asked[row].set()
            await self.released[row].wait()
            return self.answers[row]

        return answer

    def release(self, *rows):
        for row in rows:
            self.released[row].set()


@contextlib.asynccontextmanager
async def hedging(path, answers, refusing=(), breakers=None, **fields):
    """Run a proxy whose one route has `fields` before upstreams that it picks in turn."""
    upstreams = [await Upstream(answers.of(row)).start() for row in range(len(answers.answers))]
    for row in refusing:
        await upstreams[row].stop()
    members = tuple(
        endpoints(f"b-v1-{row}", port=upstream.port)[0] for row, upstream in enumerate(upstreams)
    )
    with StimulusLog(path) as log:
        policies = {"b": cluster(breakers=breakers)}
        engine = new_engine(policies, {"b": members}, {"b": (route(**fields),)}, log=log)
        outcomes = []
        recorder = type("Recorder", (), {"exchange": staticmethod(outcomes.append)})()
        proxy = OutboundProxy(engine, RealClock(), recorder=recorder)
        _, port = await proxy.start()
        try:
            async with Caller(port) as caller:
                yield caller, engine, upstreams, outcomes
        finally:
            answers.release(*range(len(answers.answers)))
            await proxy.drain(2)
            for row, upstream in enumerate(upstreams):
                if row not in refusing:
                    await upstream.stop()
        assert engine._live == {}
        for field in ("requests_active", "connections_active", "pending_active", "retries_active"):
            assert engine._clusters[field].sum() == 0, field
        digest = engine.close()
    found = replay(path)
    assert found.divergences == ()
    assert found.lives[0].digest == digest


def asking(caller, head=b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"):
    async def ask():
        await caller.send(head)
        return await caller.response()

    return asyncio.create_task(ask())


@pytest.fixture(autouse=True)
def first_turns(monkeypatch):
    """Let every round robin begin at the first member, in the proxy and in its replay."""
    monkeypatch.setattr("emulator.decisions.holdings.first_cursor", lambda *_: 0)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "stimuli.jsonl"


def test_the_retry_of_a_late_try_wins(log):
    async def scenario():
        answers = Answers(ok(b"late"), ok(b"retry"))
        async with hedging(log, answers, **ON_TIMEOUT) as (caller, engine, _upstreams, outcomes):
            answers.release(1)
            status, headers, body = await asking(caller)
            assert (status, body, headers.get("x-meshsim-flag")) == (200, b"retry", None)
            assert answers.asked[0].is_set()
            assert [outcomes[0].endpoint, outcomes[0].retry_count] == ["b-v1-1", 1]
            assert engine._hosts["errors_total"].sum() == 0  # a loser has not failed
            await until(lambda: engine._clusters["connections_active"].sum() == 1)

    run(scenario)


def test_the_late_try_wins(log):
    async def scenario():
        answers = Answers(ok(b"late"), ok(b"retry"))
        async with hedging(log, answers, **ON_TIMEOUT) as (caller, _, upstreams, outcomes):
            post = b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nbody"
            answer = asking(caller, post)
            await answers.asked[1].wait()
            answers.release(0)
            assert (await answer)[2] == b"late"
            assert outcomes[0].endpoint == "b-v1-0"
            assert [upstream.bodies for upstream in upstreams] == [[b"body"], [b"body"]]
            # The connection of the winner is kept.
            assert (await asking(caller))[0] == 200
            assert [upstream.connections for upstream in upstreams] == [1, 1]

    run(scenario)


def test_a_bad_answer_waits_for_the_late_try(log):
    async def scenario():
        answers = Answers(ok(b"late"), ok(b"no", 503))
        async with hedging(log, answers, **ON_TIMEOUT) as (caller, engine, _upstreams, _):
            answer = asking(caller)
            await answers.asked[1].wait()
            answers.release(1)
            await until(lambda: engine._clusters["requests_active"].sum() == 1)
            answers.release(0)
            status, headers, body = await answer
            assert (status, body, headers["x-meshsim-flag"]) == (200, b"late", "URX")

    run(scenario)


def test_a_body_that_is_late_delays_the_clock_of_the_try(log):
    async def scenario():
        answers = Answers(ok(b"late"), ok(b"retry"))
        async with hedging(log, answers, **ON_TIMEOUT) as (caller, engine, upstreams, _):
            answers.release(1)
            await caller.send(b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nbo")
            await until(lambda: upstreams[0].connections == 1)
            await until(lambda: engine._clusters["requests_active"].sum() == 1)
            assert upstreams[1].connections == 0
            await caller.send(b"dy")
            assert (await caller.response())[2] == b"retry"
            assert upstreams[1].bodies == [b"body"]

    run(scenario)


def test_copies_at_a_fixed_pace(log):
    async def scenario():
        answers = Answers(ok(b"0"), ok(b"1"), ok(b"2"))
        async with hedging(log, answers, **copies(3, "5ms")) as (caller, engine, _, outcomes):
            answer = asking(caller)
            await answers.asked[2].wait()
            answers.release(1)
            assert (await answer)[2] == b"1"
            assert (outcomes[0].endpoint, outcomes[0].retry_count) == ("b-v1-1", 2)
            assert engine.counters()["b"]["upstream_rq_retry"] == 2

    run(scenario)


def test_all_at_once_and_a_fatal_answer(log):
    async def scenario():
        answers = Answers(ok(b"0"), ok(b"bad", 500))
        async with hedging(log, answers, **copies(2, "0s")) as (caller, *_):
            answer = asking(caller)
            await answers.asked[0].wait()
            answers.release(1)
            assert (await answer)[0] == 500

    run(scenario)


def test_a_failure_that_is_not_fatal_brings_the_next_copy_forward(log):
    async def scenario():
        answers = Answers(ok(), ok(b"no", 503), ok(b"yes"))
        fields = copies(3, "1h", [503])
        async with hedging(log, answers, refusing=(0,), **fields) as (caller, _engine, _, outcomes):
            answers.release(1, 2)
            assert (await asking(caller))[2] == b"yes"
            assert outcomes[0].retry_count == 2

    run(scenario)


def test_who_waits_for_a_connection_is_hedged_too(log):
    async def scenario():
        answers = Answers(ok(b"0"))
        fields = {"breakers": {"max_connections": 1}, **copies(2, "5ms")}
        async with hedging(log, answers, **fields) as (caller, engine, upstreams, _):
            answer = asking(caller)
            await until(lambda: engine._clusters["pending_active"].sum() == 1)
            answers.release(0)
            assert (await answer)[2] == b"0"
            assert upstreams[0].connections == 1

    run(scenario)


def test_a_caller_that_goes_gives_every_try_up(log):
    async def scenario():
        answers = Answers(ok(b"0"), ok(b"1"))
        async with hedging(log, answers, **copies(2, "5ms")) as (caller, engine, _, _outcomes):
            answer = asking(caller)
            await answers.asked[1].wait()
            caller.writer.close()
            await until(lambda: engine._live == {})
            await until(lambda: engine._clusters["connections_active"].sum() == 0)
            answer.cancel()

    run(scenario)


def test_the_route_timeout_ends_all_tries(log):
    async def scenario():
        answers = Answers(ok(b"0"), ok(b"1"))
        fields = {**ON_TIMEOUT, "timeout": "80ms"}
        async with hedging(log, answers, **fields) as (caller, engine, *_):
            status, headers, _ = await asking(caller)
            assert (status, headers["x-meshsim-flag"]) == (504, "UT")
            assert engine._hosts["errors_total"].sum() == 2

    run(scenario)
