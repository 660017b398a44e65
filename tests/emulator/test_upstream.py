"""The pools with the engine that decides in a run."""

import asyncio
import contextlib

import pytest
from proxy_fakes import Caller, Upstream, ok, run, until

from emulator.access.identity import Identity
from emulator.access.listener import Listener
from emulator.clock import Clock, unix_s
from emulator.decisions.engine import ProxyEngine, run_seed_of
from emulator.http.connection import UpstreamConnection
from emulator.proxy import InboundProxy, OutboundProxy
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import ListenerPolicy, configurations_of
from meshsim.meshes import resolve
from meshsim.policy.load_balancing.round_robin import draw_cursors
from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.load import loads_topology

GATEWAY = "gateway-browse"
SCENARIO = """
name: one hop
services: {{cart: {{workloads: {{v1: {{replicas: {replicas}}}}}}}}}
policies: {{cart: {policy}}}
traffic: {{browse: {{to: cart, arrivals: {{poisson: 1}}}}}}
"""


def configuration(ports, policy="{}", plain=True):
    topology = resolve(loads_topology(SCENARIO.format(replicas=len(ports), policy=policy)))
    layout = lay_out(topology)
    addresses = {
        name: ("127.0.0.1", port) for name, port in zip(layout.endpoint_names, ports, strict=True)
    }
    return configurations_of(topology, layout, addresses, sidecars=True, mode=mode(plain))[GATEWAY]


def mode(plain):
    return "DISABLE" if plain else "STRICT"


@contextlib.asynccontextmanager
async def gateway(ports, policy="{}", identity=None):
    engine = ProxyEngine(GATEWAY, len(ports), run_seed_of(1))
    clock = Clock()
    engine.apply(configuration(ports, policy, plain=identity is None), clock.now_ns())
    proxy = OutboundProxy(engine, clock, identity)
    _, port = await proxy.start()
    try:
        yield proxy, engine, port
    finally:
        await proxy.drain(2)
    for counts in engine.counters().values():
        assert counts["upstream_rq_active"] == counts["upstream_rq_pending_active"] == 0
        assert counts["upstream_cx_active"] == counts["upstream_rq_retry_active"] == 0


@contextlib.asynccontextmanager
async def upstreams(answer=lambda number, head, body: ok(), count=1):
    started = [await Upstream(answer).start() for _ in range(count)]
    try:
        yield started
    finally:
        for upstream in started:
            await upstream.stop()


def test_a_request_is_decided_on_by_the_engine():
    async def scenario():
        async with upstreams(count=2) as started:
            ports = [upstream.port for upstream in started]
            async with gateway(ports) as (proxy, engine, port), Caller(port) as caller:
                for _ in range(20):
                    assert (await caller.get("cart"))[0] == 200
                status, headers, _ = await caller.get("unknown")
                assert (status, headers["x-meshsim-flag"]) == (404, "NR")
                assert engine.counters()["cart"]["upstream_rq_total"] == 20
                assert sum(len(upstream.heads) for upstream in started) == 20
                assert proxy.counters()["downstream_rq_failed_NR"] == 1

    run(scenario)


def test_the_first_request_goes_where_the_simulators_proxy_would_send_it():
    async def scenario():
        async with upstreams(count=3) as started:
            ports = [upstream.port for upstream in started]
            policy = "{load_balancing: {policy: ROUND_ROBIN}}"
            async with gateway(ports, policy) as (_, engine, port), Caller(port) as caller:
                first = int(draw_cursors(run_seed_of(1), [engine.index], ["cart"])[0] % 3)
                for number in range(4):
                    before = [len(upstream.heads) for upstream in started]
                    await caller.get("cart")
                    gained = [len(upstream.heads) for upstream in started]
                    assert gained[(first + number) % 3] == before[(first + number) % 3] + 1

    run(scenario)


def test_retries_and_timeouts_are_the_engines():
    async def scenario():
        policy = (
            "{routes: [{timeout: 60ms, retry: {num_retries: 1, retry_on: [5xx],"
            " base_interval: 1ms}}]}"
        )
        answers = [ok(b"no", 503), ok(b"yes"), None]
        async with (
            upstreams(lambda number, head, body: answers[number]) as (upstream,),
            gateway([upstream.port], policy) as (_, engine, port),
            Caller(port) as caller,
        ):
            assert (await caller.get("cart"))[2] == b"yes"
            status, headers, _ = await caller.get("cart")
            assert (status, headers["x-meshsim-flag"]) == (504, "UT")
            assert engine.counters()["cart"]["upstream_rq_retry"] == 1

    run(scenario)


def test_requests_beyond_the_table_are_answered_and_counted(monkeypatch):
    limit = 64
    monkeypatch.setattr("emulator.decisions.exchanges.EXCHANGES_MAX", limit)

    async def scenario():
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok()

        async with (
            upstreams(answer) as (upstream,),
            gateway([upstream.port]) as (proxy, engine, port),
            contextlib.AsyncExitStack() as stack,
        ):
            held = [await stack.enter_async_context(Caller(port)) for _ in range(limit)]
            for caller in held:
                await caller.send(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
            await until(lambda: len(upstream.heads) == limit)
            before = engine.digest()
            one_more = await stack.enter_async_context(Caller(port))
            for _ in range(3):
                status, headers, _ = await one_more.get("cart")
                assert (status, headers["x-meshsim-flag"]) == (503, "UO")
                assert headers["x-envoy-overloaded"] == "true"
            assert engine.digest() == before
            release.set()
            for caller in held:
                assert (await caller.response())[0] == 200
            assert (await one_more.get("cart"))[0] == 200
            counters = proxy.counters()
            assert counters["downstream_rq_overload_close"] == 3
            assert counters["downstream_rq_failed_UO"] == 3
            assert counters["downstream_rq_completed"] == limit + 1
            assert counters["downstream_rq_active"] == 0

    run(scenario)


def test_a_breaker_overflows():
    async def scenario():
        policy = "{circuit_breakers: {max_connections: 1, max_pending_requests: 1}}"
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok()

        async with (
            upstreams(answer) as (upstream,),
            gateway([upstream.port], policy) as (_, engine, port),
            contextlib.AsyncExitStack() as stack,
        ):
            callers = [await stack.enter_async_context(Caller(port)) for _ in range(3)]
            first = asyncio.create_task(callers[0].get("cart"))
            await until(lambda: upstream.heads)
            second = asyncio.create_task(callers[1].get("cart"))
            counts = engine.counters
            await until(lambda: counts()["cart"]["upstream_rq_pending_active"] == 1)
            status, headers, _ = await callers[2].get("cart")
            assert (status, headers["x-meshsim-flag"]) == (503, "UO")
            release.set()
            assert [(await task)[0] for task in (first, second)] == [200, 200]
            assert counts()["cart"]["upstream_rq_pending_overflow"] == 1
            assert upstream.connections == 1

    run(scenario)


def test_requests_of_high_priority_have_limits_and_connections_of_their_own():
    async def scenario():
        policy = (
            "{circuit_breakers: {max_connections: 1, max_pending_requests: 0,"
            " high: {max_connections: 1, max_pending_requests: 1}},"
            " routes: [{match: [{headers: {x-priority: high}}], priority: HIGH}, {}]}"
        )
        release = asyncio.Event()

        async def answer(number, head, body):
            await release.wait()
            return ok()

        async with (
            upstreams(answer) as (upstream,),
            gateway([upstream.port], policy) as (_, engine, port),
            contextlib.AsyncExitStack() as stack,
        ):
            callers = [await stack.enter_async_context(Caller(port)) for _ in range(4)]
            assert (await callers[0].get("cart"))[1]["x-meshsim-flag"] == "UO"

            def ask(number):
                high = b"GET / HTTP/1.1\r\nHost: cart\r\nx-priority: high\r\n\r\n"
                return callers[number].send(high)

            def counts(name):
                return engine.counters()["cart"][name]

            await ask(1)
            await until(lambda: upstream.heads)
            await ask(2)
            await until(lambda: counts("circuit_breakers.high.rq_pending_open") == 1)
            await ask(3)
            status, headers, _ = await callers[3].response()
            assert (status, headers["x-meshsim-flag"]) == (503, "UO")
            assert counts("upstream_rq_pending_overflow") == 2
            assert counts("circuit_breakers.default.cx_open") == 0
            release.set()
            for caller in callers[1:3]:
                assert (await caller.response())[0] == 200
            assert upstream.connections == counts("upstream_cx_total") == 1

    run(scenario)


@pytest.mark.parametrize(
    ("pool", "connections"),
    [("{max_requests_per_connection: 2}", 3), ("{idle_timeout: 1ms}", 5)],
)
def test_connections_are_used_up_and_idle_out(pool, connections):
    async def scenario():
        async with (
            upstreams() as (upstream,),
            gateway([upstream.port], f"{{connection_pool: {pool}}}") as (_, engine, port),
            Caller(port) as caller,
        ):
            for _ in range(5):
                await caller.get("cart")
                if "idle" in pool:
                    await until(lambda: engine.counters()["cart"]["upstream_cx_active"] == 0)
            assert upstream.connections == connections

    run(scenario)


def test_hosts_that_leave_or_move_lose_their_connections():
    async def scenario():
        async with (
            upstreams(count=2) as (old, new),
            gateway([old.port]) as (proxy, engine, port),
            Caller(port) as caller,
        ):
            await caller.get("cart")
            assert old.open == 1
            engine.apply(configuration([new.port]), 10**9)
            proxy.reconfigured()
            await until(lambda: old.open == 0)
            await caller.get("cart")
            assert (len(old.heads), len(new.heads)) == (1, 1)

    run(scenario)


# --- Mutual TLS ------------------------------------------------------------------------------


def enrolled(authority, principal):
    now = unix_s()
    identity = Identity(principal)
    identity.install(authority.issue(identity.csr_pem(), principal, now), authority.root_pem, now)
    return identity


@contextlib.asynccontextmanager
async def secured(server_account="cart-v1", client_authority=None):
    """Run gateway, inbound proxy and workload with identities of one authority or two."""
    prefix = "spiffe://cluster.local/ns/default/sa/"
    authority = CertificateAuthority.create("cluster.local", unix_s())
    identity = enrolled(authority, prefix + server_account)
    client = enrolled(client_authority or authority, prefix + GATEWAY)
    async with upstreams(lambda number, head, body: ok(body)) as (workload,):
        inbound = InboundProxy(
            "cart-v1-0",
            workload.port,
            lambda factory: Listener(ListenerPolicy("STRICT"), identity, factory, Clock()),
        )
        _, inbound_port = await inbound.start()
        async with gateway([inbound_port], identity=client) as (proxy, _, port):
            yield inbound, inbound_port, proxy, port
        await inbound.drain(1)


def test_proxies_speak_mutual_tls():
    async def scenario():
        async with secured() as (inbound, inbound_port, proxy, port), Caller(port) as caller:
            for _ in range(3):
                size = 300_000
                head = b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: %d\r\n\r\n" % size
                await caller.send(head + bytes(size))
                status, _, body = await caller.response()
                assert (status, body) == (200, bytes(size))
            (connection,) = proxy.pools._connections
            assert isinstance(connection, UpstreamConnection)
            assert connection.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert inbound.counters()["listener.admitted"] == 1
            async with Caller(inbound_port) as intruder:
                await intruder.send(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
                assert await intruder.closed()
            assert inbound.counters()["downstream_rq_completed"] == 3

    run(scenario)


def test_a_server_with_another_name_is_uf():
    async def scenario():
        async with secured("ratings-v1") as (inbound, _, _, port), Caller(port) as caller:
            status, headers, _ = await caller.get("cart")
            assert (status, headers["x-meshsim-flag"]) == (503, "UF")
            assert "downstream_rq_total" not in inbound.counters()

    run(scenario)


def test_a_client_of_another_authority_gets_nothing():
    async def scenario():
        foreign = CertificateAuthority.create("cluster.local", unix_s())
        async with (
            secured(client_authority=foreign) as (inbound, _, _, port),
            Caller(port) as caller,
        ):
            assert (await caller.get("cart"))[0] == 503
            assert "downstream_rq_total" not in inbound.counters()

    run(scenario)


def test_a_proxy_without_a_certificate_yet_keeps_no_request_waiting():
    async def scenario():
        identity = Identity(f"spiffe://cluster.local/ns/default/sa/{GATEWAY}")
        async with (
            upstreams() as (workload,),
            gateway([workload.port], identity=identity) as (proxy, engine, port),
            Caller(port) as caller,
        ):
            status, headers, _ = await caller.get("cart")
            assert (status, headers["x-meshsim-flag"]) == (503, "UF")
            assert len(proxy.pools) == 0
            assert engine.counters()["cart"]["upstream_cx_active"] == 0

    run(scenario)
