"""Taking resources in, and keeping count of the answers."""

import contextlib
import json

import numpy as np
import pytest
from bus_fakes import configuration

from meshsim.controlplane.acknowledgement import (
    Acknowledgement,
    Holding,
    Ledger,
    read_acknowledgements,
    read_held,
    write_acknowledgements,
    write_held,
)
from meshsim.controlplane.configuration import TYPES, missing_clusters
from meshsim.controlplane.snapshots import Held, digest_of
from meshsim.errors import ConfigError
from meshsim.state.codes import NEVER_NS


def resources(version=1, port=9000, clusters=("cart",)):
    whole = configuration("a", port, clusters)
    return {kind: whole.to_json(kind) | {"version": version} for kind in TYPES}


def full(holding, **of):
    answers = []
    for resource in resources(**of).values():
        answers += holding.on_resource(resource, 50)
    return answers


def port_of(holding):
    return holding.effective.endpoints["cart"][0].port


def test_nothing_takes_effect_before_everything_is_there():
    holding = Holding("a")
    parts = resources()
    for kind in TYPES[:-1]:
        assert holding.on_resource(parts[kind], 10) == []
        assert holding.effective.versions == {}
    answers = holding.on_resource(parts[TYPES[-1]], 20)
    assert {answer.kind for answer in answers} == set(TYPES)
    assert {(answer.version, answer.effective_ns, answer.reason) for answer in answers} == {
        (1, 20, "")
    }
    assert holding.is_complete


def test_the_order_of_arrival_does_not_matter():
    rng = np.random.default_rng(5)
    for _ in range(50):
        holding = Holding("a")
        full(holding)
        newer = [
            resource
            for version, clusters in ((2, ("cart", "cart|v2")), (3, ("cart|v3",)))
            for resource in resources(version, 9000 + version, clusters).values()
        ]
        for index in rng.permutation(len(newer)):
            with contextlib.suppress(ConfigError):  # overtaken
                holding.on_resource(newer[index], 60)
            assert missing_clusters(holding.effective) == set()
        assert dict(holding.effective.versions) == dict.fromkeys(TYPES, 3)
        assert list(holding.effective.clusters) == ["cart|v3"]


def test_routes_wait_for_their_clusters():
    holding = Holding("a")
    full(holding)
    newer = resources(2, 9002, ("cart", "cart|v2"))
    assert holding.on_resource(newer["routes"], 60) == []
    assert holding.on_resource(newer["endpoints"], 60) == []
    assert port_of(holding) == 9000
    answers = holding.on_resource(newer["clusters"], 70)
    assert {answer.kind for answer in answers} == {"routes", "endpoints", "clusters"}
    assert port_of(holding) == 9002


def test_a_message_delivered_twice_is_acknowledged_twice_with_the_first_time():
    holding = Holding("a")
    full(holding)
    again = holding.on_resource(resources()["routes"], 999)
    assert again == [Acknowledgement("routes", 1, 50)]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_or_equal_version_is_a_replay(version):
    holding = Holding("a")
    full(holding, version=2)
    with pytest.raises(ConfigError, match="replay: version"):
        holding.on_resource(resources(version, port=666)["endpoints"], 60)
    assert port_of(holding) == 9000


def test_what_cannot_be_applied_changes_nothing():
    def apply(candidate):
        if candidate.endpoints["cart"][0].port == 666:
            raise ConfigError("the engine cannot")

    holding = Holding("a", apply)
    full(holding)
    held = holding.held
    with pytest.raises(ConfigError, match="cannot"):
        holding.on_resource(resources(2, 666)["endpoints"], 60)
    assert (port_of(holding), holding.held) == (9000, held)
    assert holding.on_resource(resources(2, 667)["endpoints"], 60)
    assert port_of(holding) == 667


def test_what_is_held_has_versions_and_digests():
    holding = Holding("a")
    part = resources()["routes"]
    holding.on_resource(part, 10)
    assert holding.held == {"routes": Held(1, digest_of(part["body"]))}
    assert read_held(write_held(holding.held)) == holding.held


def test_answers_survive_the_wire():
    answers = [
        Acknowledgement("routes", 3, -5),
        Acknowledgement("clusters", 0, 7, "bad " + "x" * 600),
    ]
    first, second = read_acknowledgements(write_acknowledgements(answers))
    assert first == answers[0]
    assert second.reason == answers[1].reason[:500]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[3]",
        b"[" * 30_000,
        json.dumps([Acknowledgement("routes", -1, 0)._asdict()]).encode(),
        json.dumps([Acknowledgement("routes", 1, 0.5)._asdict()]).encode(),
        json.dumps([Acknowledgement("spam", 1, 0)._asdict()]).encode(),
        json.dumps([Acknowledgement("routes", 1, 0)._asdict()] * 17).encode(),
    ],
)
def test_a_malformed_answer_is_refused(payload):
    with pytest.raises(ConfigError):
        read_acknowledgements(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b'{"routes": 3}',
        b'{"routes": {"version": true, "digest": ""}}',
        b'{"routes": {"version": 9007199254740992, "digest": ""}}',
        b'{"spam": {"version": 1, "digest": ""}}',
        b'{"routes": {"version": 1, "digest": 5}}',
    ],
)
def test_a_malformed_statement_is_refused(payload):
    with pytest.raises(ConfigError):
        read_held(payload)


def test_propagation_runs_from_the_change_to_its_effect():
    ledger = Ledger(timeout_ns=100)
    ledger.on_published("a", "routes", 2, 10, 20)
    assert (ledger.deadline_ns, ledger.awaited) == (120, 1)
    ledger.on_answer("a", Acknowledgement("routes", 2, 25), 30)
    assert [tuple(row) for row in ledger.propagations] == [("a", "routes", 2, 10, 20, 25)]
    assert (ledger.deadline_ns, ledger.awaited) == (NEVER_NS, 0)


@pytest.mark.parametrize("claimed_ns", [-1, 19, 31, 2**70])
def test_an_impossible_time_is_not_believed(claimed_ns):
    ledger = Ledger()
    ledger.on_published("a", "routes", 2, 10, 20)
    ledger.on_answer("a", Acknowledgement("routes", 2, claimed_ns), 30)
    assert ledger.propagations[0].effective_ns == 30


def test_an_overtaken_change_counts_from_its_own_time():
    ledger = Ledger()
    ledger.on_published("a", "routes", 2, 10, 20)
    ledger.on_published("a", "routes", 3, 40, 50)
    ledger.on_answer("a", Acknowledgement("routes", 2, 45), 60)
    assert (ledger.awaited, ledger.counters["stray"]) == (1, 1)
    ledger.on_answer("a", Acknowledgement("routes", 3, 55), 60)
    assert tuple(ledger.propagations[0]) == ("a", "routes", 3, 10, 50, 55)


def test_lost_answers_are_pushed_again_and_refusals_are_not():
    ledger = Ledger(timeout_ns=100)
    for number, proxy in enumerate("abc"):
        ledger.on_published(proxy, "routes", 2, 0, 10 * number)
    ledger.on_answer("b", Acknowledgement("routes", 2, 0, "no"), 50)
    assert ledger.overdue(99) == {}
    assert ledger.overdue(100) == {"a": frozenset({"routes"})}
    assert ledger.deadline_ns == 120
    assert ledger.overdue(200) == {"c": frozenset({"routes"})}
    assert ledger.overdue(300) == {"a": frozenset({"routes"})}
    assert ledger.counters == {"ack": 0, "nack": 1, "stray": 0, "lost": 3}
    assert [proxy for proxy, _ in ledger.refusals] == ["b"]
    ledger.forget("a")
    ledger.forget("c")
    assert ledger.awaited == 0


def waits_of(ledger, proxy, begin_ns, count):
    """Return how long each of `count` pushes in vain was waited for."""
    waits, now_ns = [], begin_ns
    for _ in range(count):
        waits.append(ledger.deadline_ns - now_ns)
        now_ns = ledger.deadline_ns
        assert ledger.overdue(now_ns - 1) == {}
        assert ledger.overdue(now_ns) == {proxy: frozenset({"routes"})}
        ledger.on_published(proxy, "routes", 2, 0, now_ns)
    return waits


def test_who_does_not_answer_is_pushed_to_ever_less_often():
    ledger = Ledger(timeout_ns=100)
    ledger.on_published("a", "routes", 2, 0, 0)
    assert waits_of(ledger, "a", 0, 7) == [100, 200, 400, 800, 1600, 1600, 1600]
    assert ledger.counters["lost"] == 7


def test_a_newer_version_does_not_end_the_back_off_and_a_word_of_the_proxy_does():
    ledger = Ledger(timeout_ns=100)
    ledger.on_published("a", "routes", 2, 0, 0)
    ledger.overdue(100)
    ledger.on_published("a", "routes", 3, 150, 150)
    assert ledger.deadline_ns == 350
    ledger.on_heard("b", 180)
    assert ledger.deadline_ns == 350
    ledger.on_heard("a", 180)
    assert ledger.deadline_ns == 280
    ledger.on_heard("a", 200)  # nothing is lost since: the wait is not begun anew
    assert ledger.deadline_ns == 280
    ledger.on_answer("a", Acknowledgement("routes", 3, 210), 220)
    assert ledger.deadline_ns == NEVER_NS
    ledger.on_published("a", "routes", 4, 300, 300)
    assert ledger.deadline_ns == 400


def test_a_dead_proxy_does_not_hold_up_the_others():
    ledger = Ledger(timeout_ns=100)
    ledger.on_published("dead", "routes", 2, 0, 0)
    ledger.overdue(100)
    ledger.on_published("alive", "routes", 2, 0, 150)
    assert ledger.deadline_ns == 250
    assert ledger.overdue(250) == {"alive": frozenset({"routes"})}
    assert ledger.overdue(300) == {"dead": frozenset({"routes"})}
