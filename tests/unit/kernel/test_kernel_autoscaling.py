"""Replicas that come and go while the run goes on."""

import pytest
from kernel_runs import NO_WIRE, Run, recorded, worker

import meshsim as ms
from meshsim.topology.model import Topology


def test_a_removed_replica_finishes_what_it_has_and_gets_no_more():
    run = Run(
        {"a": worker({"sleep": "10ms"}, replicas=2, concurrency=9)},
        recorded(*["0s"] * 4, "5ms", "6ms"),
        policies={"a": {"load_balancing": {"policy": "ROUND_ROBIN"}}},
    )
    mesh = run.control
    run.to(1)
    mesh.remove_replicas("a", "v1")
    run.to(100)
    assert [span.endpoint for span in run.spans()].count("a-v1-1") == 2
    late = [span.endpoint for span in run.spans() if span.start >= 5]
    assert late == ["a-v1-0", "a-v1-0"]
    assert {span.status for span in run.spans()} == {200}
    assert run.kernel.replicas == [(1_000_000, "a", "v1", 1)]


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "LEAST_REQUEST", "RING_HASH", "MAGLEV"])
def test_replicas_may_go_and_others_come(policy):
    balancing = {"policy": policy}
    if policy in ("RING_HASH", "MAGLEV"):
        balancing["hash_source_ip"] = True
    run = Run(
        {"a": worker({"sleep": "1ms"}, replicas=3, concurrency=9)},
        traffic={"load": {"to": "a", "users": 20, "arrivals": {"poisson": 500.0}}},
        policies={"a": {"load_balancing": balancing}},
    )
    mesh = run.control
    run.to(500)
    mesh.remove_replicas("a", "v1", 2)
    run.to(1000)
    mesh.add_replicas("a", "v1", 2)
    run.to(2000)
    by_part = [
        {span.endpoint for span in run.spans() if begin <= span.start < begin + 490}
        for begin in (0, 502, 1002)
    ]
    assert by_part[0] == {"a-v1-0", "a-v1-1", "a-v1-2"}
    assert by_part[1] == {"a-v1-0"}
    assert by_part[2] == {"a-v1-0", "a-v1-3", "a-v1-4"}


def test_not_all_replicas_can_be_removed():
    mesh = Run({"a": worker(replicas=2)}, recorded("0s")).control
    with pytest.raises(ms.ConfigError, match="replicas to remove; found 2; allowed: 1 to 1"):
        mesh.remove_replicas("a", "v1", 2)


def scaled(cpu=1.0, **autoscale):
    body = {
        "replicas": 2,
        "concurrency": 1,
        "cpu": cpu,
        "steps": [{"compute": {"exponential": "10ms"}}],
        "autoscale": {"max_replicas": 10, "sync_period": "5s", **autoscale},
    }
    return Topology.model_validate(
        {
            "name": "scaled",
            "mesh": "none",
            "network": NO_WIRE,
            "services": {"a": {"workloads": {"v1": body}}},
            "traffic": {"load": {"to": "a", "arrivals": {"poisson": 300.0}}},
        }
    )


def test_an_autoscaler_finds_the_replicas_that_the_load_needs():
    # 300/s of 10 ms are 3 cores; at 60 % of each that is 5 replicas, within the tolerance 5 or 6
    result = ms.simulate(
        scaled(target_utilization=0.6), duration="120s", replications=4, progress=False
    )
    replicas = result.replicas()
    assert set(replicas.replication) == {0, 1, 2, 3}
    assert replicas.time_s.min() == 5.0  # the first sync
    assert set(replicas.groupby("replication").replicas.last()) <= {5, 6}
    assert any("replicas of a/v1: " in line for line in result.report().splitlines())


def test_new_replicas_take_time_to_start():
    result = ms.simulate(scaled(start_up="7s"), duration="30s", replications=1, progress=False)
    assert result.replicas().time_s.iloc[0] == 12.0


def test_utilisation_needs_a_cpu():
    with pytest.raises(ms.ConfigError, match="an autoscaled workload says its cpu"):
        ms.simulate(scaled(cpu=None), duration="1s", replications=1)
