"""Live retries that wait as a response header asks; a model second lasts 20 ms here."""

import contextlib
import itertools

from engine_rows import cluster, configuration, endpoints, new_engine, route
from proxy_fakes import Caller, Upstream, ok, run

from emulator.clock import Clock, unix_s
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy, OutboundProxy
from emulator.proxy.admission import Admission
from meshsim.controlplane.configuration import ListenerPolicy, ProxyConfiguration
from meshsim.topology.model import LocalRateLimit

DILATION = 0.02
SECOND = 1_000_000_000
RETRY = {
    "num_retries": 1,
    "retry_on": ["retriable-status-codes"],
    "retriable_status_codes": [429],
    "base_interval": "25ms",
    "max_interval": "250ms",
    "rate_limited_retry_back_off": {
        "reset_headers": [
            {"name": "X-Reset-At", "format": "UNIX_TIMESTAMP"},
            {"name": "x-ratelimit-reset"},
        ],
        "max_interval": "300s",
    },
}
LIMIT = {
    "token_bucket": {"max_tokens": 1, "fill_interval": "10s"},
    "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
}


@contextlib.asynccontextmanager
async def outbound(answer, log=None):
    """An outbound proxy with a real engine and a fast clock; yields them, port and proxy."""
    upstream = await Upstream(answer).start()
    members = {"b": endpoints("b-v1-0", port=upstream.port)}
    routes = {"b": (route(retry=RETRY),)}
    engine = new_engine({"b": cluster()}, members, routes, log=log)
    clock = Clock(DILATION)
    proxy = OutboundProxy(engine, clock)
    _, port = await proxy.start()
    try:
        yield engine, clock, port, proxy
    finally:
        await proxy.drain(2)
        await upstream.stop()


async def waited_s(answer, log=None):
    """Return how long a request took in which the first of two tries is refused [model s]."""
    async with outbound(answer, log) as (engine, clock, port, proxy), Caller(port) as caller:
        begin_ns = clock.now_ns()
        assert (await caller.get("b"))[0] == 200
        taken_s = (clock.now_ns() - begin_ns) / SECOND
        counters = engine.counters()["b"]
        assert proxy.counters()["upstream_rq_retry_success"] == 1
    if log is not None:
        engine.close()
    assert counters["upstream_rq_retry"] == counters["upstream_rq_retry_success"] == 1
    backed_off = "upstream_rq_retry_backoff_"
    return taken_s, {
        name.removeprefix(backed_off): count
        for name, count in counters.items()
        if name.startswith(backed_off) and count
    }


def refusing_once(*lines):
    numbers = itertools.count()
    extra = b"".join(line + b"\r\n" for line in lines)
    return lambda *_: ok() if next(numbers) else ok(b"", 429, extra)


def test_a_retry_waits_until_the_limit_is_reset(tmp_path):
    async def scenario():
        path = tmp_path / "stimuli.jsonl"
        with StimulusLog(path) as log:
            taken_s, counts = await waited_s(refusing_once(b"X-RateLimit-Reset: 3"), log)
        assert taken_s >= 3.0
        assert counts == {"ratelimited": 1}
        replayed = replay(path)
        assert replayed.divergences == ()
        assert not replayed.cut

    run(scenario)


def test_a_timestamp_comes_first_and_too_long_a_wait_is_passed_over():
    async def scenario():
        stamp = b"x-reset-at: %d" % (int(unix_s()) + 100)
        taken_s, counts = await waited_s(refusing_once(b"x-ratelimit-reset: 2", stamp))
        assert taken_s >= 98.0
        assert counts == {"ratelimited": 1}
        stamp = b"x-reset-at: %d" % (int(unix_s()) + 100_000)
        taken_s, counts = await waited_s(refusing_once(b"x-ratelimit-reset: 2", stamp))
        assert taken_s >= 2.0
        assert counts == {"ratelimited": 1}

    run(scenario)


def test_without_a_number_the_back_off_is_exponential():
    async def scenario():
        _, counts = await waited_s(refusing_once(b"x-ratelimit-reset: soon"))
        assert counts == {"exponential": 1}

    run(scenario)


def test_an_inbound_limit_says_when_it_has_a_token():
    async def scenario():
        engine = new_engine()
        plain = configuration()
        listener = ListenerPolicy(rate_limit=LocalRateLimit.model_validate(LIMIT))
        parts = plain.clusters, plain.endpoints, plain.routes, listener
        engine.apply(ProxyConfiguration(plain.proxy, {}, *parts), 0)
        clock = Clock()
        workload = await Upstream(lambda *_: ok()).start()
        proxy = InboundProxy("a", workload.port, admit=Admission(engine, clock).admit)
        _, port = await proxy.start()
        async with Caller(port) as caller:
            assert (await caller.get("a"))[0] == 200
            status, headers, _ = await caller.get("a")
        assert status == 429
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("1", "0")
        assert 1 <= int(headers["x-ratelimit-reset"]) <= 10
        await proxy.drain(2)
        await workload.stop()

    run(scenario)
