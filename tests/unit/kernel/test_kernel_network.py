"""Bad networks: extra latency, lost packets, zones cut off and lost.  Exact [ms]."""

import math

import numpy as np
import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.kernel.faults import fault_process
from meshsim.rng import mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.workload import DISTRIBUTION_DTYPE, IMPAIRMENT_DTYPE
from meshsim.topology.model import TimedFault
from meshsim.workload.impairments import message_ns, syn_ns

NODES = {"n0": {"zone": "west"}, "n1": {"zone": "east"}}
LATENCY = {"latency": dict.fromkeys(("same_node", "same_zone"), "0s") | {"same_region": "1ms"}}
PATIENT = {"a": {"routes": [{"timeout": "0s"}]}}


def between(*times, zone="west", policies=None, **fields):
    """Return a run of one replica in the east, asked from `zone`."""
    body = worker(nodes=["n1"], concurrency=9)
    traffic = {"load": {"to": "a", "zone": zone, "arrivals": recorded(*times)}}
    fields = {"network": LATENCY, "nodes": NODES, "policies": policies or {}, **fields}
    return Run({"a": body}, traffic=traffic, **fields)


def stays(run):
    return [span.end - span.start for span in run.spans()]


def test_extra_latency_is_paid_each_way():
    """Connect, then ask: two round trips of 2 ms; later one. Then 20 ms more for each."""
    run = between("0s", "10ms", "50ms").to(40)
    run.control.impair(("west", "east"), latency="10ms")
    assert stays(run.to(200)) == [4, 2, 22]
    run.control.heal()
    assert len(run.state.impairments) == 0


def test_one_way_is_half_of_it_whichever_way():
    for zones in (("west", "east"), ("east", "west")):
        run = between("0s", "50ms").to(40)
        run.control.impair(zones, latency="10ms", one_way=True)
        assert stays(run.to(200)) == [4, 12]


def test_other_pairs_and_one_node_are_as_before():
    run = between("0s", "50ms", zone="east").to(40)
    run.control.impair(("west", "east"), latency="10ms")
    assert stays(run.to(200)) == [0, 0]
    run = between("0s", "50ms", zone="east").to(40)
    run.control.impair(("east", "east"), latency="10ms")
    assert stays(run.to(200)) == [0, 20]


def test_latency_that_is_drawn_does_not_change_the_draws_of_the_wire():
    network = {"latency": {**LATENCY["latency"], "same_region": {"exponential": "3ms"}}}
    sound, late = (between("0s", "100ms", network=network, seed=5).to(90) for _ in range(2))
    late.control.impair(("west", "east"), latency="7ms")
    sound, late = stays(sound.to(500)), stays(late.to(500))
    assert late == pytest.approx([sound[0], sound[1] + 14], abs=1e-9)


def lossy(loss_out, loss_back=0.0):
    rows = np.zeros(1, IMPAIRMENT_DTYPE)
    rows["latency_out"] = rows["latency_back"] = NO_INDEX
    rows["loss_out"], rows["loss_back"] = loss_out, loss_back
    return rows


def message(rows, leg, key, base_ns=5_000_000):
    nothing = np.zeros(0, DISTRIBUTION_DTYPE), np.zeros(0)
    return message_ns(rows, *nothing, 0, leg, base_ns, np.uint64(key))


def test_lost_packets_are_sent_again_after_their_timeouts():
    """RTO = 200 ms + 10 ms; each next one twice as long: 5 ms + 210 * (2**n - 1)."""
    rows = lossy(0.5)
    count = 4000
    found = [message(rows, 0, mix_in(np.uint64(9), number)) / 1e6 for number in range(count)]
    expected = {5 + 210 * (2**losses - 1) for losses in range(9)}
    assert set(found) - expected <= {value for value in found if value > 50_000}
    for losses in range(3):
        share = sum(value >= 5 + 210 * (2**losses - 1) for value in found) / count
        # P(n or more) = 2**-n: four standard deviations.
        assert abs(share - 0.5**losses) <= 4 * (0.25 / count) ** 0.5
    assert {message(rows, leg, key) for leg in (1, 5) for key in range(50)} == {5_000_000}


def test_a_wire_that_loses_everything_is_given_up():
    """Sixteen timeouts: 0.2 s doubling to 102.4 s, then six of 120 s (tcp_retries2)."""
    assert message(lossy(1.0), 0, 1, base_ns=0) == 924_600_000_000
    assert syn_ns(lossy(1.0), 0, np.uint64(1)) == NEVER_NS


def test_a_connection_waits_for_its_syn_and_the_answer():
    """P(n or more) = (1 - 0.7 * 0.6)**n = 0.58**n; waits of 1, 3, 7, ... s."""
    rows, count = lossy(0.3, 0.4), 4000
    keys = [np.uint64(mix_in(np.uint64(3), number)) for number in range(count)]
    waits = [syn_ns(rows, 0, key) / 1e9 for key in keys]
    assert {wait for wait in waits if wait < 1000} == {0, 1, 3, 7, 15, 31, 63}
    for losses in (1, 2, 3, 7):
        share = sum(wait >= 2**losses - 1 for wait in waits) / count
        assert abs(share - 0.58**losses) < 4 * (0.25 / count) ** 0.5


def test_losses_cost_requests_a_timeout():
    """A tenth of the packets each way: 1 - 0.9**2 of the requests are late by 200 ms or more."""
    run = between(*(f"{number * 10}ms" for number in range(2000)), policies=PATIENT)
    run.to(5).control.impair(("west", "east"), loss=0.1)
    late = [stay >= 200 for stay in stays(run.to(200_000)) if stay < 5000]
    assert len(late) > 1990
    assert abs(sum(late) / len(late) - 0.19) < 4 * math.sqrt(0.19 * 0.81 / len(late)) + 0.01


def test_a_zone_that_is_cut_off_answers_nobody_until_healed():
    policies = {"a": {"routes": [{"timeout": "100ms"}]}}
    run = between("0s", "50ms", "300ms", policies=policies).to(40)
    run.control.partition("east")
    run.to(200).control.heal(zone="east")
    ended = [(span.end - span.start, span.status) for span in run.to(1000).spans()]
    # The connection of the second was given up with it.
    assert ended == [(4, 200), (100, 504), (4, 200)]


def test_a_lost_zone_resets_nobody_and_its_replicas_are_dead():
    policies = {"a": {"routes": [{"timeout": "100ms"}]}}
    body = worker({"sleep": "30ms"}, replicas=2, concurrency=9)
    traffic = {"load": {"to": "a", "zone": "west", "arrivals": recorded("0s", "1ms", "200ms")}}
    rotation = {"a": {"load_balancing": {"policy": "ROUND_ROBIN"}, **policies["a"]}}
    run = Run({"a": body}, traffic=traffic, network=LATENCY, nodes=NODES, policies=rotation)
    run.to(10).control.lose_zone("east")
    assert run.state.endpoints["alive"].tolist() == [1, 0]
    outcomes = {span.endpoint: (span.status, span.flag) for span in run.to(150).spans("load>a")}
    assert outcomes == {"a-v1-0": (200, "-"), "a-v1-1": (504, "UT")}
    run.control.restore(zone="east")
    run.control.heal(zone="east")
    assert run.to(500).spans()[-1].status == 200


def test_connections_to_a_lost_zone_time_out():
    cluster = {"connection_pool": {"connect_timeout": "250ms"}, "routes": [{"timeout": "0s"}]}
    run = between("10ms", policies={"a": cluster})
    run.control.lose_zone("east")
    assert run.to(2000).outcomes() == [(10, 260, 503, "UF")]


def test_health_checks_time_out_over_a_bad_network():
    check = {"interval": "20ms", "unhealthy_interval": "20ms", "timeout": "10ms"}
    check |= {"unhealthy_threshold": 1, "no_traffic_interval": "20ms"}
    run = between("5ms", "500ms", policies={"a": {"health_check": check}})
    run.to(100).control.partition("east")
    assert run.to(600).outcomes()[1][2:] == (503, "UH")


def test_timed_faults_of_the_network_begin_and_end():
    policies = {"a": {"routes": [{"timeout": "30ms"}]}}
    run = between("0s", "50ms", "150ms", "250ms", "350ms", policies=policies).to(1)
    for fault in (
        TimedFault(
            kind="network", zones=("west", "east"), latency="5ms", at="40ms", duration="60ms"
        ),
        TimedFault(kind="zone_loss", zone="east", at="200ms", duration="100ms"),
    ):
        run.env.process(fault_process(run.env, run.control, fault))
    ended = run.to(1000).spans()
    assert [round(span.end - span.start) for span in ended[:3]] == [4, 12, 2]
    assert ended[3].status != 200
    assert ended[4].status == 200


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda mesh: mesh.impair(("west", "eastt"), loss=0.1), "unknown zone.*did you mean east"),
        (lambda mesh: mesh.impair(("west",), loss=0.1), "a pair of zones"),
        (lambda mesh: mesh.impair("west", loss=0.1), "a pair of zones"),
        (lambda mesh: mesh.impair(("west", "east"), loss=1.1), r"share is in \[0, 1\]"),
        (lambda mesh: mesh.partition("north"), "unknown zone"),
        (lambda mesh: mesh.lose_zone("north"), "unknown zone"),
    ],
)
def test_what_is_not_meant_is_refused(verb, message):
    with pytest.raises(ConfigError, match=message):
        verb(between("0s").control)
