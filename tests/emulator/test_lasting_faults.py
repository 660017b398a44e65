"""Verbs that take time, and cores, speeds and caches, on live sockets."""

import asyncio
import math
import re

import numpy as np
import pytest
from mesh_scenarios import assert_accounted, pair
from test_faults import end_soon, has_sidecar, requests_of, run

from meshsim.errors import ConfigError
from meshsim.topology.load import loads_topology


def test_a_drained_replica_answers_what_it_has_and_comes_back():
    """Nothing fails: proxies are told before it stops listening."""
    lasted_s, alive = [], []

    async def drain(mesh):
        where = {"workload": "v1", "replica": 0}
        await mesh.sleep(0.5)
        began_s = mesh.now_s
        await mesh.drain("back", grace_s=2.0, pre_stop_s=1.5, **where)
        lasted_s.append(mesh.now_s - began_s)
        alive.append(await has_sidecar(mesh, replica=0))
        await mesh.sleep(1.5)
        await mesh.restore("back", **where)
        await mesh.withdraw("back", healthy=True, **where)
        alive.append(await has_sidecar(mesh, replica=0))
        await end_soon(mesh)

    result = run(drain, duration="30s")
    assert_accounted(result)
    assert alive == [False, True]
    assert lasted_s[0] >= 2.0
    assert result.emulation["accounting"]["failed"] == 0
    assert requests_of(result)["back-v1-0"] > 0


def test_a_drained_replica_that_is_restored_is_not_killed_after_all():
    alive = []

    async def drain(mesh):
        where = {"workload": "v1", "replica": 0}
        draining = asyncio.ensure_future(mesh.drain("back", grace_s=1.0, pre_stop_s=0.9, **where))
        await mesh.sleep(0.3)
        await mesh.restore("back", **where)
        await draining
        alive.append(await has_sidecar(mesh, replica=0))

    assert_accounted(run(drain))
    assert alive == [True]


def test_a_rollout_restarts_every_replica_and_fails_nothing():
    lives = []

    async def roll(mesh):
        await mesh.sleep(0.3)
        before = await mesh.certificates("back")
        await mesh.roll_out("back", grace_s=1.0, pre_stop_s=0.8, readiness_s=0.1)
        after = await mesh.certificates("back")
        lives.extend([before, after])
        await end_soon(mesh)

    result = run(roll, duration="30s")
    assert_accounted(result)
    before, after = lives
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before)  # each has a key of its new life
    assert result.emulation["accounting"]["failed"] == 0


def test_a_squeezed_replica_is_slow_until_it_has_its_cores_back():
    async def squeeze(mesh):
        await mesh.sleep(1.0)
        await mesh.squeeze("front", 0.05)
        await mesh.sleep(1.0)
        await mesh.squeeze("front", 1.0)

    result = run(squeeze, duration="4s")
    assert_accounted(result)
    stays = result.records[0].windows["service_ns"].sum(axis=1)
    counts = np.maximum(result.records[0].windows["responses"].sum(axis=1), 1)
    mean_ns = stays / counts
    # Windows of 67 ms; those well within the squeeze, and well after it.
    assert mean_ns[18:28].max() > 3 * np.median(mean_ns[45:])


def changed(**parts):
    """The pair, with other parts."""
    topology = pair()
    return type(topology).model_validate({**topology.model_dump(), **parts})


def test_a_replica_that_comes_back_is_cold():
    services = pair().model_dump()["services"]
    cold = {"duration": "60s", "initial_speed": 0.05}
    services["front"]["workloads"]["v1"]["cold_start"] = cold

    async def restart(mesh):
        await mesh.sleep(0.3)
        await mesh.kill("front")
        await mesh.restore("front")
        await end_soon(mesh)

    result = run(restart, topology=changed(services=services), duration="30s")
    assert_accounted(result)
    windows = result.records[0].windows
    mean_ns = windows["service_ns"].sum(axis=1) / np.maximum(windows["responses"].sum(axis=1), 1)
    assert mean_ns.max() > 20e6  # of a step of 2 ms


def test_a_ramp_changes_the_rate_step_by_step():
    ended_s = []

    async def ramp(mesh):
        await mesh.sleep(1.0)
        await mesh.set_rate("users", 0.0, ramp_s=2.0)
        ended_s.append(mesh.now_s)

    result = run(ramp, duration="6s")
    assert_accounted(result)
    arrivals = result.records[0].windows["arrivals"].sum(axis=1)
    assert arrivals[math.ceil(ended_s[0] * 10) :].sum() == 0
    before, during = arrivals[:10].sum(), arrivals[10:30].sum()
    # Half the rate for twice the time: four standard deviations of the two Poisson counts.
    assert abs(during - before) < 4 * (during + before) ** 0.5


def test_caches_are_flushed_on_live_servers():
    async def flush(mesh):
        await mesh.sleep(1.0)
        await mesh.flush("front")

    topology = loads_topology(CACHED)
    result = run(flush, topology=topology, duration="2s")
    assert_accounted(result)
    # Who asks while a first answer is on its way asks too; without a cache all 40 would.
    assert 2 <= requests_of(result)["back-v1-0"] < 20


CACHED = """
name: cached
mesh: none
services:
  front:
    workloads: {v1: {concurrency: 9, steps: [{cache: {keys: 1, miss: [{call: back}]}}]}}
  back:
    workloads: {v1: {steps: [{compute: 1ms}]}}
traffic:
  users: {to: front, arrivals: {renewal: {interval: 50ms}}}
"""


@pytest.mark.parametrize(
    ("verb", "values", "message"),
    [
        ("drain", {"service": "bakc"}, "unknown service.*did you mean.*back"),
        ("drain", {"service": "back", "grace_s": 1.0, "pre_stop_s": 2.0}, "part of grace_s"),
        ("squeeze", {"service": "back", "share": 0.0}, r"share of cores is in \(0, 1\]"),
        ("squeeze", {"node": "n9"}, "unknown node"),
        ("roll_out", {"service": "back", "max_surge": "much"}, "max_surge is no limit"),
        ("set_rate", {"traffic": "users", "factor": 1.0, "ramp_s": -1.0}, "span of time"),
        ("flush", {"service": "back"}, "nothing here has a cache"),
        ("gray", {"service": "back", "callers": ["front"]}, "callers are simulated only"),
        ("gray", {"service": "back", "share": 2.0}, "shares are in"),
        ("impair", {"zones": ("a", "c"), "loss": 0.1}, "unknown zone"),
        ("impair", {"zones": ("a", "b"), "loss": 1.1}, r"share is in \[0, 1\]"),
        ("lose_zone", {"zone": "c"}, "no endpoint matches"),
    ],
)
def test_what_is_not_meant_is_refused(verb, values, message):
    seen = []

    async def script(mesh):
        try:
            await getattr(mesh, verb)(**values)
        except ConfigError as error:
            seen.append(str(error))

    run(script, duration="100ms")
    assert re.search(message, seen[0])


# --- The network ----------------------------------------------------------------------------


def means_ms(result, from_s, to_s):
    """Return the mean latency of each window of arrivals in a span of model time [ms]."""
    windows = result.records[0].windows
    duration_s = result.records[0].duration_ns / 1e9
    first, last = (round(len(windows) * at_s / duration_s) for at_s in (from_s, to_s))
    part = windows[first:last]
    counts = np.maximum(part["responses"].sum(axis=1), 1)
    return part["latency_sum_ns"].sum(axis=1) / counts / 1e6


def test_a_slow_network_between_zones_is_paid_each_way():
    """Half of the requests go from zone a to zone b; each way takes 500 ms more."""
    rotation = {"back": {"load_balancing": {"policy": "ROUND_ROBIN"}}}

    async def impair(mesh):
        await mesh.sleep(2.0)
        await mesh.impair(("a", "b"), latency="500ms")
        await mesh.sleep(5.0 - mesh.now_s)
        await mesh.heal(zones=("a", "b"))

    result = run(impair, topology=changed(policies=rotation), duration="8s")
    assert_accounted(result)
    # A busy machine adds to both, so the slowest window before and after is no measure.
    assert np.median(means_ms(result, 2.6, 4.6)) > 350
    assert min(means_ms(result, 0.0, 2.0)) < 350
    assert min(means_ms(result, 6.0, 8.0)) < 350


def test_a_lossy_network_costs_timeouts_of_tcp():
    async def impair(mesh):
        await mesh.impair(("a", "b"), loss=0.3)

    result = run(impair, duration="2s")
    assert_accounted(result)
    histogram = result.timeline()
    assert histogram["p99_ms"].max() > 200  # of TCP's least retransmission timeout


def test_a_lost_zone_is_survived_and_comes_back():
    seen = []

    async def lose(mesh):
        await mesh.sleep(0.5)
        await mesh.lose_zone("b")
        seen.append(await has_sidecar(mesh, replica=1))
        await mesh.sleep(0.5)
        await mesh.restore(zone="b")
        await mesh.heal(zone="b")
        seen.append(await has_sidecar(mesh, replica=1))
        await end_soon(mesh)

    route = {"timeout": "1s", "retry": {"num_retries": 2, "per_try_timeout": "200ms"}}
    impatient = changed(policies={"back": {"routes": [route]}})
    result = run(lose, topology=impatient, duration="30s")
    assert_accounted(result)
    assert seen == [False, True]
    assert requests_of(result)["back-v1-1"] > 0


def test_a_gray_replica_passes_its_health_checks_and_fails_requests():
    """Half of the requests go to it, and all of them fail; nobody takes it out."""
    check = {"interval": "100ms", "no_traffic_interval": "100ms", "timeout": "1s"}
    policy = {"health_check": check, "load_balancing": {"policy": "ROUND_ROBIN"}}
    policy["routes"] = [{"retry": {"num_retries": 0}}]

    async def gray(mesh):
        await mesh.sleep(0.5)
        await mesh.gray("back", error_rate=1.0, workload="v1", replica=0)

    result = run(gray, topology=changed(policies={"back": policy}), duration="3s")
    assert_accounted(result)
    windows = result.records[0].windows[20:]
    share = windows["failures"].sum() / windows["arrivals"].sum()
    # Round robin, and a Poisson count of 120 requests: four standard deviations.
    assert abs(share - 0.5) < 4 * (0.25 / 120) ** 0.5
