"""Probes of servers: what a proxy knows of them, what goes over sockets, and what replays."""

import contextlib

import pytest
from engine_rows import cluster, configuration, endpoints, new_engine
from kernel_runs import NS_PER_MS, Run, recorded, worker
from mesh_scenarios import assert_accounted
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

import meshsim as ms
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy, OutboundProxy
from emulator.proxy.inbound import Refusal
from emulator.running.harness import emulate
from emulator.workload.station import Station
from emulator.workload.tasks import Task
from meshsim.errors import InvariantError
from meshsim.policy.transitions import STIMULUS_DOWNSTREAM_RESET
from meshsim.state.codes import FLAG_RL
from meshsim.topology.load import loads_topology

SETTINGS = {
    "r_probe": 3.0,
    "r_remove": 1.0,
    "q_rif": 0.84,
    "reuse_delta": 1.0,
    "probe_max_age": "1s",
    "probe_pool_size": 16,
}
MESH = """
name: probed
mesh: istio-sidecar
services:
  back:
    workloads:
      v1: {replicas: 4, concurrency: 4, steps: [{compute: {constant: 20ms}}]}
traffic:
  users: {to: back, arrivals: {poisson: 60}}
policies:
  back: {load_balancing: {policy: PREQUAL}}
faults: [{kind: slow, at: 0s, service: back, workload: v1, replica: 0, factor: 0.1}]
"""


def probing(*names, log=None, port=9000, **fields):
    clusters = {"b": cluster("PREQUAL", **{**SETTINGS, **fields})}
    return new_engine(clusters, {"b": endpoints(*names, port=port)}, log=log)


def picked(engine, now_ns=0):
    """Pick for one request, which ends at once; return the host and the probes."""
    exchange = engine.start("b", "GET", "/", {}, None, now_ns)
    engine.route(exchange, now_ns)
    host = engine.pick(exchange, now_ns)
    engine.tell(exchange, STIMULUS_DOWNSTREAM_RESET, 0, 0, now_ns)
    engine.finish(exchange)
    return host, engine.take_probes()


# --- The engine -----------------------------------------------------------------------------


def test_a_request_goes_to_the_server_that_says_it_has_least_to_do():
    engine = probing("b-v1-0", "b-v1-1", "b-v1-2")
    _, probes = picked(engine)
    assert len({probe.host for probe in probes}) == len(probes) == 3
    least = probes[1].host
    for probe in probes:
        rif = 0 if probe.host == least else 9
        assert engine.probed(*probe[:3], rif, 10 * rif, 1)
    assert picked(engine, 2)[0] == least
    assert engine.probe_counters() == {"prequal_probes": 6, "prequal_random_picks": 1}


def test_what_is_late_or_was_lost_changes_nothing():
    engine = probing("b-v1-0", "b-v1-1", "b-v1-2")
    _, (first, second, _) = picked(engine)
    assert engine.probed(*first[:3], 1, 1, 1)
    before = engine.digest()
    assert not engine.probed(*first[:3], 7, 7, 2)
    assert not engine.probe_lost(*first[:3])
    assert not engine.probed(first.pool, first.slot, 99, 7, 7, 2)
    assert engine.digest() == before
    assert engine.probe_lost(*second[:3])
    assert not engine.probed(*second[:3], 7, 7, 2)
    with pytest.raises(InvariantError):
        engine.probed(0, 10**6, 1, 0, 0, 0)
    with pytest.raises(InvariantError):
        engine.probe_lost(7, 0, 1)


def test_a_configuration_keeps_the_probes_of_hosts_that_stay():
    engine = probing("b-v1-0", "b-v1-1", "b-v1-2", r_remove=0.0)
    _, probes = picked(engine)
    waited = probes.pop()
    for probe in probes:
        engine.probed(*probe[:3], 3, 3, 1)
    gone = engine.address(probes[0].host).name
    stay = [name for name in ("b-v1-0", "b-v1-1", "b-v1-2") if name != gone]
    clusters = {"b": cluster("PREQUAL", **SETTINGS)}
    engine.apply(configuration(clusters, {"b": endpoints(*stay)}, version=2), 2)
    pools = engine._holdings.pools
    assert pools._probes["host"][0, : pools._pools["count"][0]].tolist() == [probes[1].host]
    assert engine.probed(*waited[:3], 5, 5, 3)
    # Without the cluster there is nothing left, and it begins anew.
    engine.apply(configuration({"c": cluster()}, routes={}, version=3), 4)
    assert pools._pools["count"].tolist() == [0]
    assert not pools._flights["under_way"].any()


# --- The server -----------------------------------------------------------------------------


def test_a_server_tells_what_is_in_flight_and_what_that_takes():
    station = Station(Run({"a": worker({"sleep": "5ms"})}, recorded("1ms")).compiled, 0)
    assert station.load(0) == (0, 0)
    for key in (1, 2, 3):
        station.submit(Task(key, 0, 0, None), 0)
    assert station.load(NS_PER_MS) == (3, 0)
    # One worker: the first took 5 ms alone, the next found it there and took 10.
    assert [station.load(time_ms * NS_PER_MS) for time_ms in (5, 10, 15)] == [
        (2, 5 * NS_PER_MS),
        (1, 10 * NS_PER_MS),
        (0, 5 * NS_PER_MS),
    ]


def test_probes_pass_by_limits_of_the_inbound_side():
    async def scenario():
        upstream = await Upstream(lambda *_: ok()).start()
        refusal = Refusal(429, [], FLAG_RL)
        inbound = InboundProxy("b", upstream.port, admit=lambda head, connection: refusal)
        _, port = await inbound.start()
        try:
            async with Caller(port) as caller:
                assert (await caller.get("b"))[0] == 429
                probe = "user-agent: meshsim/probe\r\n"
                assert (await caller.get("b", extra=probe))[0] == 200
                assert (await caller.get("b", extra=probe, method="POST"))[0] == 429
        finally:
            await inbound.drain(2)
            await upstream.stop()

    run(scenario)


# --- Sockets --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def proxied(path, answers):
    """A proxy before one upstream an answer to its probes; requests are answered with 200."""

    def answering(told):
        def answer(number, head, body):
            return told if "meshsim/probe" in head else ok()

        return answer

    upstreams = [await Upstream(answering(told)).start() for told in answers]
    members = tuple(
        endpoints(f"b-v1-{row}", port=upstream.port)[0] for row, upstream in enumerate(upstreams)
    )
    with StimulusLog(path) as log:
        engine = new_engine({"b": cluster("PREQUAL", **SETTINGS)}, {"b": members}, log=log)
        proxy = OutboundProxy(engine, RealClock())
        _, port = await proxy.start()
        try:
            async with Caller(port) as caller:
                yield caller, proxy, engine, upstreams
        finally:
            await proxy.drain(2)
            for upstream in upstreams:
                await upstream.stop()
        digest = engine.close()
    found = replay(path)
    assert found.divergences == ()
    assert found.lives[0].digest == digest


def told(rif, latency_ns=1000):
    extra = b"x-meshsim-rif: %d\r\nx-meshsim-latency-ns: %d\r\n" % (rif, latency_ns)
    return ok(b"", extra=extra)


def served(upstream):
    return sum("meshsim/probe" not in head for head in upstream.heads)


def test_requests_follow_what_the_servers_say(tmp_path):
    async def scenario():
        answers = [told(50, 9000), told(0, 10), told(50, 9000)]
        async with proxied(tmp_path / "log", answers) as (caller, proxy, engine, upstreams):
            assert (await caller.get("b"))[0] == 200
            pools = engine._holdings.pools
            await until(lambda: pools._pools["count"][0] == 3)
            first = served(upstreams[1])
            for _ in range(5):
                assert (await caller.get("b"))[0] == 200
                await until(lambda: not pools._flights["under_way"].any())
            assert served(upstreams[1]) == first + 5
            assert proxy.counters()["prequal_probes"] == 18

    run(scenario)


@pytest.mark.parametrize(
    "answer", [ok(), ok(status=500), told(10**17), b"", ok(b"", extra=b"x-meshsim-rif: x\r\n")]
)
def test_what_is_no_answer_is_a_lost_probe(tmp_path, answer):
    async def scenario():
        async with proxied(tmp_path / "log", [answer] * 3) as (caller, proxy, engine, _):
            pools = engine._holdings.pools
            for _ in range(3):
                assert (await caller.get("b"))[0] == 200
                await until(lambda: not pools._flights["under_way"].any())
            assert pools._pools["count"][0] == 0
            assert proxy.counters()["prequal_random_picks"] == 3

    run(scenario)


# --- A whole mesh ---------------------------------------------------------------------------


def test_a_mesh_probes_and_every_decision_replays(tmp_path):
    topology = loads_topology(MESH)

    log = tmp_path / "log"
    # Slowly, so that on a busy machine too a probe is back before the next request comes.
    result = emulate(topology, "2s", 3, dilation=4.0, progress=False, record=log)
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    counters = result.emulation["counters"]["gateway-users"]
    sent = result.emulation["accounting"]["sent"]
    # On a busy machine probes come back late, and there is no room for more of them.
    probes = counters["prequal_probes"]
    assert probes + counters.get("prequal_probes_skipped", 0) == 3 * sent
    assert probes > 2 * sent
    assert counters["prequal_random_picks"] < 0.5 * sent  # most are picked by what is known
    assert replay(log).divergences == ()
    stats = result.stats()
    assert stats[stats["stat"] == "outbound.prequal_probes"]["count"].sum() == probes
    simulated = ms.simulate(topology, "2s", replications=1, seed=3)
    counted = simulated.stats().set_index("stat")["count"]
    assert counted["outbound.prequal_probes"] == pytest.approx(3 * sent, rel=0.05)
    for found in (result, simulated):  # a fair share of the slow one would be a quarter
        requests = found.endpoints().set_index("endpoint")["requests"]
        assert requests["back-v1-0"] < 0.12 * requests.sum()
