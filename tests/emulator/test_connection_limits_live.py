"""Limits per connection of a live inbound proxy: what its engine keeps, and what callers get."""

import contextlib
from dataclasses import replace

import pytest
from engine_rows import cluster, endpoints, listening_engine, new_engine, route
from mesh_scenarios import assert_accounted
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

import meshsim as ms
from emulator.decisions.replay import replay
from emulator.proxy import InboundProxy, OutboundProxy
from emulator.proxy.admission import Admission
from emulator.running.harness import emulate
from meshsim.controlplane.configuration import ListenerPolicy
from meshsim.topology.load import loads_topology
from meshsim.topology.model import LocalRateLimit

PER_CONNECTION = {"local_rate_limit_per_downstream_connection": True}
ONE = {"token_bucket": {"max_tokens": 1, "fill_interval": "1h"}, **PER_CONNECTION}
TICKS = {"token_bucket": {"max_tokens": 1, "fill_interval": "1s"}, "refill": "TICKS"}
MS = 1_000_000
MESH = """
name: limited
mesh: istio-sidecar
services:
  back:
    workloads:
      v1: {replicas: 2, concurrency: 9, steps: [{sleep: 30ms}]}
traffic:
  users: {to: back, arrivals: {poisson: 60}}
policies:
  back:
    rate_limit:
      token_bucket: {max_tokens: 2, fill_interval: 1h}
      local_rate_limit_per_downstream_connection: true
    connection_pool: {max_requests_per_connection: 4}
"""


def limit(**fields):
    return LocalRateLimit.model_validate(fields)


def admitted(engine, *asked):
    """Ask for (connection, time [ms]); return who may come in."""
    return [engine.admit("GET", "/", "b", {}, 1, *(at[0], at[1] * MS)) == 0 for at in asked]


# --- The engine -----------------------------------------------------------------------------


def test_each_connection_has_its_bucket_until_it_is_closed():
    engine = listening_engine(limit(**ONE))
    assert admitted(engine, (1, 0), (2, 0), (1, 1), (2, 1)) == [True, True, False, False]
    engine.disconnected(1)
    assert admitted(engine, (2, 2), (3, 2), (1, 3)) == [False, True, True]
    for connection in (1, 2, 3, 4):
        engine.disconnected(connection)
    assert engine._filters._of_connections == {}
    assert engine.filter_counters(inbound=True)["http_local_rate_limit.enforced"] == 3


def test_ticks_of_a_connection_begin_with_its_first_request():
    engine = listening_engine(limit(**TICKS, **PER_CONNECTION))
    asked = [(1, 300), (1, 1050), (2, 1050), (1, 1299), (1, 1300), (2, 2049), (2, 2050)]
    assert admitted(engine, *asked) == [True, False, True, False, True, False, True]


def test_a_configuration_that_keeps_the_limit_keeps_the_buckets():
    engine = listening_engine(limit(**ONE))
    assert admitted(engine, (1, 0), (1, 1)) == [True, False]
    engine.apply(engine.configuration, 2 * MS)
    assert admitted(engine, (1, 3)) == [False]
    for stated in (limit(**ONE, status=503), limit(**{**ONE, **dict.fromkeys(PER_CONNECTION)})):
        other = replace(engine.configuration, listener=ListenerPolicy(rate_limit=stated))
        engine.apply(other, 4 * MS)
        assert engine._filters._of_connections == {}
        assert admitted(engine, (1, 5), (1, 6)) == [True, False]
    assert admitted(engine, (2, 7)) == [False]  # the proxy's own bucket


# --- Sockets --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def inbound(stated):
    """An inbound proxy in front of a workload; yields its engine and its port."""
    engine = listening_engine(stated)
    workload = await Upstream(lambda *_: ok()).start()
    admission = Admission(engine, RealClock())
    proxy = InboundProxy(
        "b", workload.port, admit=admission.admit, disconnected=admission.disconnected
    )
    _, port = await proxy.start()
    try:
        yield engine, port
    finally:
        await proxy.drain(2)
        await workload.stop()
    assert proxy.counters()["downstream_rq_active"] == 0


def test_callers_on_their_own_connections_do_not_share_a_bucket():
    async def scenario():
        async with inbound(limit(**ONE)) as (engine, port):
            async with Caller(port) as one, Caller(port) as two:
                assert [(await caller.get("b"))[0] for caller in (one, two)] == [200, 200]
                for caller in (one, two):
                    status, headers, _ = await caller.get("b")
                    assert (status, headers["x-meshsim-flag"]) == (429, "RL")
            await until(lambda: engine._filters._of_connections == {})
            async with Caller(port) as again:
                assert [(await again.get("b"))[0] for _ in range(2)] == [200, 429]

    run(scenario)


@pytest.mark.parametrize(("most", "expected"), [(0, [200, 429, 429]), (2, [200, 429, 200])])
def test_a_calling_proxys_connections_are_what_is_limited(most, expected):
    """The application's own connection does not matter, nor how long it lasts."""

    async def scenario():
        async with inbound(limit(**ONE)) as (engine, port):
            clusters = {"b": cluster(pool={"max_requests_per_connection": most})}
            members = {"b": endpoints("b-v1-0", port=port)}
            caller_engine = new_engine(clusters, members, {"b": (route(),)})
            proxy = OutboundProxy(caller_engine, RealClock(), recorder=None)
            _, outbound_port = await proxy.start()
            statuses = []
            for _ in expected:
                async with Caller(outbound_port) as caller:
                    statuses.append((await caller.get("b"))[0])
            assert statuses == expected
            assert engine.filter_counters(inbound=True)["http_local_rate_limit.enabled"] == 3
            await proxy.drain(2)

    run(scenario)


# --- A whole mesh ---------------------------------------------------------------------------


def test_every_connection_of_a_mesh_lets_two_in_and_every_decision_replays(tmp_path):
    """Two of the four requests of a connection find a token: the fourth closes it."""
    topology = loads_topology(MESH)
    log = tmp_path / "log"
    result = emulate(topology, "2s", 3, dilation=1.0, progress=False, record=log)
    assert_accounted(result)
    counters = result.emulation["counters"]
    name = "inbound.http_local_rate_limit."
    for replica in (counters["back-v1-0"], counters["back-v1-1"]):
        opened = replica["inbound.downstream_cx_total"]
        # What is open at the end may have carried one request only.
        assert opened <= replica[name + "ok"] <= 2 * opened
        assert replica[name + "rate_limited"] > opened
    found = replay(log)
    assert found.divergences == ()
    assert any('"disconnected"' in line for line in log.read_text().splitlines())
    simulated = ms.simulate(topology, "2s", replications=1, seed=3)
    share = {}
    for title, played in (("live", result), ("simulated", simulated)):
        counted = played.stats().groupby("stat")["count"].sum()
        share[title] = counted[name + "ok"] / counted[name + "enabled"]
    assert share["live"] == pytest.approx(share["simulated"], abs=0.1)
