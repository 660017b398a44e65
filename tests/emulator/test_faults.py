"""The verbs on live sockets: what callers see of each, and that it heals."""

import pytest
from mesh_scenarios import assert_accounted, pair

from emulator.running.faults import with_weights
from emulator.running.harness import emulate
from meshsim.errors import ConfigError
from meshsim.meshes import resolve
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


def late_failures(result, from_s):
    """Return the failures of requests that arrived at or after a time [s]."""
    windows = result.records[0].windows["failures"].sum(axis=1)
    first = int(len(windows) * from_s * S / result.records[0].duration_ns)
    return int(windows[first:].sum())


def test_a_killed_replica_is_survived_and_comes_back():
    async def outage(mesh):
        await mesh.sleep(0.5)
        await mesh.kill("back", workload="v1", replica=0)
        await mesh.sleep(0.5)
        await mesh.restore("back", workload="v1", replica=0)

    result = run(outage)
    assert_accounted(result)
    # Istio's default retries connect failures at another host; what was under way may fail.
    assert result.emulation["accounting"]["failed"] <= 5
    assert late_failures(result, 1.5) == 0
    assert requests_of(result)["back-v1-0"] > 0


def test_a_killed_node_process_is_survived_and_comes_back():
    async def outage(mesh):
        await mesh.sleep(0.5)
        await mesh.kill_node("back", workload="v1", replica=1)
        await mesh.sleep(0.2)
        await mesh.restart_node("back", workload="v1", replica=1)

    result = run(outage, duration="5s")
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] <= 5
    assert any("was killed" in notice for notice in result.notices)
    assert requests_of(result)["back-v1-1"] > 0  # counted since its restart


def test_errors_slow_and_rate_are_the_scenarios_faults():
    faults = (
        TimedFault(kind="errors", at="0s", duration="1s", service="front", factor=1.0),
        TimedFault(kind="rate", at="1s", traffic="users", factor=0.0),
    )
    result = run(topology=pair(faults=faults), duration="2s")
    assert_accounted(result)
    windows = result.records[0].windows
    # The fault begins a moment after the load does.
    assert windows["failures"][6:30].sum() == windows["arrivals"][6:30].sum() > 0
    assert windows["arrivals"][36:].sum() == 0
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
    async def partition(mesh):
        await mesh.sleep(0.5)
        await mesh.partition("b")
        await mesh.sleep(0.5)
        await mesh.heal()

    result = run(partition)
    assert_accounted(result)
    assert late_failures(result, 1.5) == 0
    assert requests_of(result)["back-v1-1"] > 0


def test_an_expired_certificate_is_refused_until_renewed():
    async def expire(mesh):
        await mesh.sleep(0.3)
        await mesh.expire_certificate("front")
        await mesh.sleep(0.7)
        await mesh.renew_certificate("front")

    result = run(expire)
    assert_accounted(result)
    assert late_failures(result, 2.0) == 0


def test_a_killed_broker_stops_no_request():
    async def outage(mesh):
        await mesh.sleep(0.3)
        await mesh.kill_broker()
        await mesh.sleep(0.3)
        await mesh.restart_broker()
        await mesh.withdraw("back", workload="v1", replica=0)

    result = run(outage, duration="4s")
    assert_accounted(result)
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
