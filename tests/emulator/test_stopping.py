"""Runs that end early: what is told, and what is kept."""

import os
import signal

import pytest
from mesh_scenarios import assert_accounted, pair
from run_leftovers import leftovers

from emulator.decisions.replay import replay
from emulator.running.harness import emulate
from emulator.running.result import _propagation
from emulator.running.run import Outcome
from meshsim.errors import IncompleteRun, MeshsimError
from meshsim.topology.model import TimedFault

S = 10**9


def run(*scripts, topology=None, **options):
    options = {"dilation": 1.0, "progress": False, **options}
    return emulate(topology or pair(), "600s", 1, scripts=scripts, **options)


def test_a_script_that_fails_ends_the_load_and_keeps_the_result():
    async def wrong(mesh):
        await mesh.sleep(0.5)
        await mesh.kill("bck")

    before = leftovers()
    message = r"the script wrong failed at [\d.]+ s: ConfigError: .*bck"
    with pytest.raises(IncompleteRun, match=message) as failed:
        run(wrong)
    assert leftovers() == before
    result = failed.value.result
    assert_accounted(result)
    assert result.emulation["accounting"]["completed"] > 0
    assert result.records[0].ended_ns < 60 * S
    assert "stopped by a failure: the script wrong failed" in result.report()
    assert result.verdict.name == "stable"


def test_a_timed_fault_that_fails_ends_the_load(monkeypatch):
    async def fail(mesh, fault):
        raise RuntimeError(f"no {fault.kind} today")

    monkeypatch.setattr("emulator.running.measuring.timed_fault", fail)
    faults = (TimedFault(kind="kill", at="1s", service="back"),)
    with pytest.raises(IncompleteRun, match=r"the fault kill at 1s failed .* no kill today"):
        run(topology=pair(faults=faults))


def end_outside(name):
    """Return a script that kills a process as anybody outside the mesh could."""

    async def outside(mesh):
        await mesh.sleep(0.5)
        os.kill(mesh._run.members[name].process.pid, signal.SIGKILL)

    return outside


def test_a_process_that_is_lost_ends_the_load_and_keeps_the_result(tmp_path):
    log = tmp_path / "log"
    before = leftovers()
    result = run(end_outside("node two"), record=log)
    assert leftovers() == before
    why = "stopped by a failure: the process 'node two' ended unexpectedly"
    assert result.records[0].limit.startswith(why)
    assert why in result.report()
    assert any("what it had counted is lost" in notice for notice in result.notices)
    assert result.emulation["accounting"]["left_over"] == 0
    assert result.emulation["accounting"]["completed"] > 0
    assert set(result.emulation["cpu_s"]) == {"edge", "node one"}
    assert result.verdict.name == "stable"
    replayed = replay(log)
    assert replayed.decisions > 0
    assert not [life for life in replayed.lives if life.divergence]


def test_the_loss_of_the_load_still_keeps_the_log(tmp_path):
    log = tmp_path / "log"
    before = leftovers()
    with pytest.raises(MeshsimError, match="'edge', with the load, ended unexpectedly"):
        run(end_outside("edge"), record=log)
    assert leftovers() == before
    assert replay(log).decisions > 0


def outcome(concerned, *rows):
    names = ("proxy", "version", "changed_ns", "effective_ns")
    propagation = [dict(zip(names, row, strict=True)) for row in rows]
    return Outcome(concerned=concerned, propagation=propagation)


def test_the_report_tells_how_a_change_reached_the_proxies():
    (said,) = _propagation(
        outcome(
            {2: 3},
            ("a", 2, 100, 10_000_100),
            ("a", 2, 100, 30_000_100),  # another type, which was later
            ("b", 2, 100, 20_000_100),
        )
    )
    assert said == (
        "configuration 2 was effective at 2 of 3 proxies, p50 25 ms, at most 30 ms of model time "
        "after the change."
    )
    assert _propagation(outcome({4: 2})) == ["configuration 4 was effective at 0 of 2 proxies."]
    assert _propagation(Outcome()) == []


def test_many_changes_are_told_of_together():
    rows = [("a", version, 0, version * 1_000_000) for version in range(2, 12)]
    (said,) = _propagation(outcome(dict.fromkeys(range(2, 12), 1), *rows))
    assert said.startswith("10 configurations up to 11 were effective at 10 of 10 proxies")
