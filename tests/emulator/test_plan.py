"""What is decided, and what is refused, before anything starts."""

import socket
from pathlib import Path

import pytest
from mesh_scenarios import pair

import meshsim
from emulator.running.addresses import checked_host
from emulator.running.budget import ENDPOINTS_MAX
from emulator.running.join import join
from emulator.running.plan import plan_run
from meshsim.errors import ConfigError
from meshsim.topology import with_values

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
BACK = "policies.back.load_balancing.policy"


def refusal(topology=None, **options):
    with pytest.raises(ConfigError) as refused:
        plan_run(pair() if topology is None else topology, "1s", 1, **options)
    return str(refused.value)


# --- Addresses ------------------------------------------------------------------------------


def test_the_address_of_this_machine_is_told():
    assert plan_run(pair(), "1s", 1, host="127.0.0.2").host == "127.0.0.2"
    assert checked_host("localhost") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", ""])
def test_every_address_is_no_address(host):
    assert "host: cannot listen on it" in refusal(host=host)


def test_an_address_of_another_machine_is_refused():
    assert "found 192.0.2.1" in refusal(host="192.0.2.1")  # RFC 5737: nobody's


def test_a_name_that_stands_for_nothing_is_refused(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "Name or service not known" in refusal(host="elsewhere")


def test_who_joins_names_an_address_too():
    with pytest.raises(ConfigError, match="every address"):
        join("mqtt://two:token@127.0.0.1:1883", "0.0.0.0")


def test_the_embedded_broker_is_for_this_machine(monkeypatch):
    monkeypatch.setattr("emulator.running.plan.checked_host", lambda host: host)
    assert "--broker" in refusal(host="10.0.0.1", remote=["two"])
    elsewhere = plan_run(pair(), "1s", 1, host="10.0.0.1", remote=["two"], broker="mqtt://10.0.0.9")
    assert (elsewhere.host, elsewhere.remote) == ("10.0.0.1", ("node two",))
    assert plan_run(pair(), "1s", 1, host="10.0.0.1").host == "10.0.0.1"


# --- Nodes on other machines ----------------------------------------------------------------


def test_a_node_that_the_scenario_lacks_is_refused():
    assert "found three; allowed: one, two" in refusal(remote=["three"])
    assert plan_run(pair(), "1s", 1, remote=["two"]).remote == ("node two",)


@pytest.mark.parametrize("processes", ["each", 1, 2])
def test_a_node_that_shares_processes_cannot_be_elsewhere(processes):
    assert "--processes" in refusal(remote=["two"], processes=processes)


def test_a_node_without_replicas_cannot_be_elsewhere():
    empty = with_values(pair(), {"services.back.workloads.v1.nodes": ["one"]})
    assert "no replicas" in refusal(empty, remote=["two"])


# --- Changes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("services.back.workloads.v1.replicas", 3),
        ("services.back.workloads.v1.concurrency", 4),
        ("services.back.workloads.v1.labels", {"version": "v9"}),
        ("traffic.users.rate", 10),
    ],
)
def test_what_no_proxy_is_told_cannot_change(path, value):
    said = refusal(changes=[("500ms", path, value)])
    assert said.startswith(f"{path}: cannot change while it runs")
    assert "policies.SERVICE" in said


def test_a_change_that_changes_nothing_is_refused():
    twice = [("100ms", BACK, "RANDOM"), ("200ms", BACK, "RANDOM")]
    assert "changes nothing that a proxy is told" in refusal(changes=twice)


def test_changes_are_made_in_the_order_of_time():
    changes = [("900ms", BACK, "ROUND_ROBIN"), ("100ms", BACK, "RANDOM")]
    plan = plan_run(pair(), "1s", 1, changes=changes)
    told = [item.topology.policies["back"].load_balancing.policy for item in plan.changes]
    assert told == ["RANDOM", "ROUND_ROBIN"]
    assert [item.at_ns for item in plan.changes] == [100_000_000, 900_000_000]


# --- Size -----------------------------------------------------------------------------------


def test_a_mesh_that_no_machine_could_start_is_refused():
    said = refusal(meshsim.load(TOPOLOGIES / "thousand.yaml"))
    assert "10,000 replicas" in said
    assert f"up to {ENDPOINTS_MAX}" in said


# --- Brokers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["mqtt://me:secret@127.0.0.1", "mqtt:/:secret@127.0.0.1", "mqtts://:secret@127.0.0.1"]
)
def test_a_refused_broker_is_named_without_its_password(url):
    said = refusal(broker=url)
    assert said.startswith("broker: ")
    assert "secret" not in said


def test_a_broker_of_a_named_user_is_refused_with_the_rule():
    assert "users are named as the proxies are" in refusal(broker="mqtt://me@127.0.0.1")
