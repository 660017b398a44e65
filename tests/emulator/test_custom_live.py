"""Policies of the user's own on live sockets: the same function, in other processes."""

import custom_policies as own
import pytest

import meshsim as ms
from emulator.decisions.replay import replay
from meshsim.policy import custom
from meshsim.state.codes import FLAG_UO
from meshsim.topology.model import Topology


def pair(**policies):
    body = {"replicas": 3, "concurrency": 9, "steps": [{"sleep": "2ms"}]}
    return Topology.model_validate(
        {
            "name": "own",
            "mesh": "istio-sidecar",
            "services": {"a": {"workloads": {"v1": body}}},
            "traffic": {"load": {"to": "a", "arrivals": {"poisson": 60.0}}},
            "policies": {"a": policies},
        }
    )


def emulated(topology, **options):
    return ms.emulate(topology, "2s", dilation=1, processes=1, progress=False, **options)


def test_it_picks_and_learns_and_its_decisions_are_met_again(tmp_path):
    log = tmp_path / "log"
    result = emulated(pair(load_balancing=own.in_turn), record=log)
    requests = result.endpoints()["requests"].tolist()
    assert sum(requests) > 30
    assert max(requests) - min(requests) <= 1
    assert replay(log).divergences == ()


def picks_the_last(hosts, members, request, memory, now_ns, rng):
    return len(members) - 1


def test_a_function_of_a_notebook_reaches_the_processes():
    picks_the_last.__module__ = "__main__"
    policy = custom.define("load_balancer", picks_the_last)
    assert policy.name == "__main__:picks_the_last"
    result = emulated(pair(load_balancing=policy))
    served = result.endpoints().set_index("endpoint")["requests"]
    assert served["a-v1-2"] > 30
    assert served["a-v1-0"] == served["a-v1-1"] == 0


def test_admission_answers_for_the_service():
    result = emulated(pair(admission=own.every_other))
    refused = result.records[0].traffic_flags[:, 0, FLAG_UO].sum()
    assert abs(2 * refused - result.records[0].windows["arrivals"].sum()) <= 1


def test_positions_out_of_range_are_an_error_of_the_run():
    with pytest.raises(ms.ConfigError, match="returned no position of a member"):
        emulated(pair(load_balancing=own.beyond))
