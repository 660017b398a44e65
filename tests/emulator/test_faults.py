"""The verbs on live sockets: what callers see of each, and that it heals."""

import asyncio
import inspect
import math
import re
from urllib.parse import urlsplit

import pytest
from mesh_scenarios import assert_accounted, pair

from emulator.running.faults import LiveControl
from emulator.running.harness import emulate
from emulator.running.weights import with_weights
from meshsim.errors import ConfigError
from meshsim.kernel.control import MeshControl
from meshsim.meshes import resolve
from meshsim.state.record import SEGMENT_STARTS, WINDOW_COUNT
from meshsim.topology.load import loads_topology
from meshsim.topology.model import TimedFault

S = 10**9


def run(*scripts, duration="3s", **options):
    options = {"dilation": 1.0, "progress": False, **options}
    return emulate(options.pop("topology", pair()), duration, 1, scripts=scripts, **options)


def requests_of(result):
    """Return the requests of each endpoint by its name, of the whole run."""
    counts = result.records[0].endpoints[-1]["requests"]
    names = [name for _, _, name in result.catalog.endpoints]
    return dict(zip(names, counts.tolist(), strict=True))


def failures_from(result, from_s):
    """Return the failures of requests that arrived in windows that begin at or after a time [s]."""
    windows = result.records[0].windows["failures"].sum(axis=1)
    duration_s = result.records[0].duration_ns / S
    assert from_s < duration_s, "the run was over before the fault was"
    return int(windows[math.ceil(len(windows) * from_s / duration_s) :].sum())


def taken_between(result, endpoint, from_s, to_s):
    """Return what an endpoint had taken at each end of a segment in a span of model time [s]."""
    names = [name for _, _, name in result.catalog.endpoints]
    taken = result.records[0].endpoints["requests"][:, names.index(endpoint)]
    ends = (*SEGMENT_STARTS[1:], WINDOW_COUNT)
    ends_s = [result.records[0].duration_ns / S * end / WINDOW_COUNT for end in ends]
    return [n for n, end_s in zip(taken.tolist(), ends_s, strict=True) if from_s < end_s < to_s]


def refusals_of(result, proxy):
    """Return how many connections a proxy's listener refused."""
    counters, start = result.emulation["counters"][proxy], "inbound.listener.refused."
    return sum(count for name, count in counters.items() if name.startswith(start))


async def has_sidecar(mesh, **where):
    """Whether the one replica that is meant has a sidecar."""
    return bool(await mesh.certificates("back", workload="v1", **where))


async def under_way(mesh):
    """Return how many requests are under way: what a fault may cost, and more on a busy machine."""
    now = (await mesh._run.edge.peer.ask("now")).values
    return now["sent"] - now["completed"] - now["failed"]


async def end_soon(mesh):
    """End the load when there was some after the fault, however long that took to heal."""
    await mesh.sleep(1.5)
    mesh._run.stop()


def outage(fault, restore):
    """Return a script of a fault of back-v1-0 for half a second, and what it saw and when."""
    seen, healed_s = [], []

    async def script(mesh):
        where = {"workload": "v1", "replica": 0}
        await mesh.sleep(0.5)
        seen.append(await under_way(mesh))
        await getattr(mesh, fault)("back", **where)
        seen.append(await has_sidecar(mesh, replica=0))
        await mesh.sleep(0.5)
        await getattr(mesh, restore)("back", **where)
        seen.append(await has_sidecar(mesh, replica=0))
        healed_s.append(mesh.now_s)
        await end_soon(mesh)

    return script, seen, healed_s


def test_a_killed_replica_is_survived_and_comes_back():
    script, seen, healed_s = outage("kill", "restore")
    result = run(script, duration="30s")
    assert_accounted(result)
    assert seen[1:] == [False, True]
    # Istio's default retries connect failures at another host; what was under way may fail.
    assert result.emulation["accounting"]["failed"] <= seen[0] + 5
    assert failures_from(result, *healed_s) == 0
    assert requests_of(result)["back-v1-0"] > 0


def test_a_killed_sidecar_is_survived_and_its_workload_lives_on():
    script, seen, healed_s = outage("kill_proxy", "restore")
    result = run(script, duration="30s")
    assert_accounted(result)
    assert seen[1:] == [False, True]
    assert result.emulation["accounting"]["failed"] <= seen[0] + 5
    assert failures_from(result, *healed_s) == 0
    # The workload counts on; the sidecar has begun anew, and has had traffic since.
    taken = requests_of(result)["back-v1-0"]
    counters = result.emulation["counters"]["back-v1-0"]
    assert 0 < counters["inbound.downstream_rq_total"] < taken


def test_a_flapping_replica_goes_and_comes_as_often_as_told():
    seen, busy, healed_s = [], [], []

    async def flap(mesh):
        await mesh.sleep(0.5)
        busy.append(await under_way(mesh))
        sleep = mesh.sleep

        async def looking(model_s):
            seen.append(await has_sidecar(mesh, replica=0))
            await sleep(model_s)
            busy.append(await under_way(mesh))

        mesh.sleep = looking
        await mesh.flap("back", workload="v1", replica=0, times=3, down_s=0.3, up_s=0.3)
        healed_s.append(mesh.now_s)
        mesh.sleep = sleep
        await end_soon(mesh)

    result = run(flap, duration="30s")
    assert_accounted(result)
    assert seen == [False, True] * 3
    killed = busy[0], *busy[2::2]  # what was under way before each kill, and after the last
    assert result.emulation["accounting"]["failed"] <= sum(killed) + 15
    assert failures_from(result, *healed_s) == 0
    assert requests_of(result)["back-v1-0"] > 0


def test_a_killed_node_process_is_survived_and_comes_back():
    seen = []

    async def outage(mesh):
        await mesh.sleep(0.5)
        seen.append(await under_way(mesh))
        await mesh.kill_node("back", workload="v1", replica=1)
        seen.append(await has_sidecar(mesh, replica=1))
        await mesh.restart_node("back", workload="v1", replica=1)
        seen.append(await has_sidecar(mesh, replica=1))
        await end_soon(mesh)

    result = run(outage, duration="30s")
    assert_accounted(result)
    assert seen[1:] == [False, True]
    assert result.emulation["accounting"]["failed"] <= seen[0] + 5
    assert any("was killed" in notice for notice in result.notices)
    assert requests_of(result)["back-v1-1"] > 0  # counted since its restart


def test_errors_and_rate_are_the_scenarios_faults(monkeypatch):
    began_s, ended_s = {}, {}

    def note(verb):
        happen = getattr(LiveControl, verb)

        async def noted(mesh, *values, **where):
            began_s[verb] = mesh.now_s
            await happen(mesh, *values, **where)
            ended_s[verb] = mesh.now_s

        monkeypatch.setattr(LiveControl, verb, noted)

    for verb in ("fail", "restore", "set_rate"):
        note(verb)
    faults = (
        TimedFault(kind="errors", at="0s", duration="1s", service="front", factor=1.0),
        TimedFault(kind="rate", at="1s", traffic="users", factor=0.0),
    )
    result = run(topology=pair(faults=faults), duration="2s")
    assert_accounted(result)
    windows = result.records[0].windows
    # Requests that arrived just before the end of the fault were served after it.
    first = math.ceil(ended_s["fail"] * WINDOW_COUNT / 2.0)
    last = math.floor((began_s["restore"] - 0.3) * WINDOW_COUNT / 2.0)
    assert windows["failures"][first:last].sum() == windows["arrivals"][first:last].sum() > 0
    silence = math.ceil(ended_s["set_rate"] * WINDOW_COUNT / 2.0)
    assert windows["arrivals"][:silence].sum() > 0
    assert windows["arrivals"][silence:].sum() == 0
    assert result.catalog.timed_faults


def test_a_paused_server_serves_again():
    async def pause(mesh):
        await mesh.sleep(0.5)
        await mesh.slow("front", 0.0)
        await mesh.sleep(0.5)
        await mesh.restore("front")

    result = run(pause, duration="2s")
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    histogram = result.timeline()
    assert histogram["p99_ms"].max() > 300  # who came at the beginning waited for half a second


def test_a_partitioned_zone_gets_nothing_until_healed():
    at_s = []

    async def partition(mesh):
        await mesh.sleep(1.0)
        await mesh.partition("b")
        at_s.append(mesh.now_s)
        await mesh.sleep(4.6 - mesh.now_s)
        at_s.append(mesh.now_s)
        await mesh.heal()

    result = run(partition, duration="8s")
    assert_accounted(result)
    # Segments end at 1.6, 2.4 and 4 s: nothing came from the cut to the healing.
    during = taken_between(result, "back-v1-1", *at_s)
    assert len(during) >= 2
    assert 0 < during[0] == during[-1] < requests_of(result)["back-v1-1"]
    assert failures_from(result, 6.6) == 0


def test_a_withdrawn_replica_gets_nothing_until_it_is_healthy():
    async def withdraw(mesh):
        await mesh.sleep(0.5)
        await mesh.withdraw("back", workload="v1", replica=0)
        await mesh.sleep(4.6 - mesh.now_s)
        await mesh.withdraw("back", workload="v1", replica=0, healthy=True)

    result = run(withdraw, duration="8s")
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    rows = {row["version"]: row for row in result.emulation["propagation"]}
    span_s = rows[2]["effective_ns"] / S, rows[3]["changed_ns"] / S
    during = taken_between(result, "back-v1-0", *span_s)
    assert len(during) >= 2
    # One that was picked before is on its way.
    assert 0 < during[0] <= during[-1] <= during[0] + 1
    assert during[-1] + 5 < requests_of(result)["back-v1-0"]


def test_an_expired_certificate_is_refused_until_renewed():
    at_s = []

    async def expire(mesh):
        await mesh.sleep(0.5)
        await mesh.expire_certificate("front")
        at_s.append(mesh.now_s)
        await mesh.sleep(1.5)
        at_s.append(mesh.now_s)
        await mesh.renew_certificate("front")

    result = run(expire, duration="5s")
    assert_accounted(result)
    assert failures_from(result, at_s[0]) > failures_from(result, at_s[1] + 1.0) == 0
    assert refusals_of(result, "back-v1-0") + refusals_of(result, "back-v1-1") > 0


async def takes_connections(url):
    """Whether anybody listens at the host and port of a URL."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def test_a_killed_broker_stops_no_request():
    listens = []

    async def outage(mesh):
        await mesh.sleep(0.3)
        await mesh.kill_broker()
        listens.append(await takes_connections(mesh._run.broker.url))
        await mesh.sleep(0.3)
        await mesh.restart_broker()
        listens.append(await takes_connections(mesh._run.broker.url))
        await mesh.withdraw("back", workload="v1", replica=0)

    result = run(outage, duration="4s")
    assert_accounted(result)
    assert listens == [False, True]
    assert result.emulation["accounting"]["failed"] == 0
    # The proxies came back and took the change.
    assert result.emulation["configuration_version"] == 2
    assert {row["proxy"] for row in result.emulation["propagation"] if row["version"] == 2}


SPLIT = """
name: split
mesh: istio-sidecar
services:
  back:
    workloads:
      v1: {labels: {version: v1}, steps: [{compute: {constant: 1ms}}]}
      v2: {labels: {version: v2}, steps: [{compute: {constant: 1ms}}]}
policies:
  back:
    subsets: {v1: {labels: {version: v1}}, v2: {labels: {version: v2}}}
    routes: [{split: [{subset: v1, weight: 100}, {subset: v2, weight: 0}]}]
traffic:
  users: {to: back, arrivals: {poisson: 60}}
"""


def test_weights_are_pushed():
    async def shift(mesh):
        await mesh.sleep(1.0)
        await mesh.set_weights("back", {"v1": 0, "v2": 100})

    result = run(shift, topology=loads_topology(SPLIT))
    assert_accounted(result)
    requests = requests_of(result)
    assert requests["back-v1-0"] > 0
    assert requests["back-v2-0"] > 0


@pytest.mark.parametrize("weights", [{"v3": 1}, {"v1": 0}, {"v1": -1, "v2": 2}])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ConfigError):
        with_weights(resolve(loads_topology(SPLIT)), "back", weights)


@pytest.mark.parametrize("verb", ["add_replicas", "remove_replicas"])
def test_a_live_mesh_does_not_scale(verb):
    """The simulator's verbs are refused by name, whatever the mesh."""
    refused = getattr(LiveControl(None), verb)("back", "v1", 2)
    with pytest.raises(ConfigError, match=f"{verb} is simulated only.*2 of back/v1.*withdraw"):
        asyncio.run(refused)


def test_a_live_mesh_is_not_told_of_health():
    refused = LiveControl(None).set_health("back", "DEGRADED", replica=0)
    with pytest.raises(ConfigError, match=r"set_health is simulated only.*DEGRADED.*withdraw"):
        asyncio.run(refused)


def verbs_of(control):
    """Return the names of a control's verbs."""
    return {
        name
        for name, verb in vars(control).items()
        if not name.startswith("_") and inspect.isfunction(verb)
    }


def test_both_planes_have_one_vocabulary():
    """Whatever the simulator knows has the same name here, and the rest is named as live-only."""
    # How long a worker computed is asked by the autoscaler, and time is the environment's there.
    simulated, live = verbs_of(MeshControl) - {"cpu_ns"}, verbs_of(LiveControl) - {"sleep"}
    assert simulated <= live
    listed = LiveControl.__doc__.partition("Live-only")[2].partition("Simulated only")[0]
    assert live - simulated == set(re.findall(r"`(\w+)`", listed))
