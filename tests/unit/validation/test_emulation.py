"""The emulator as a program: its command line, its failures, the machine's counters."""

import sys

import pytest

from meshsim.topology import loads_topology
from meshsim.validation import emulation
from meshsim.validation.emulation import EmulatorFailed, Job, MachineTimes, emulate_in_subprocess
from meshsim.validation.scenarios import suite


def job_of(name, **fields):
    (scenario,) = [item for item in suite() if item.name == name]
    return Job(scenario.topology, 20.0, 7, change=scenario.change, **fields)


def command(job, tmp_path):
    return emulation._command(job, tmp_path / "s.yaml", tmp_path / "r")


def test_the_command_line_is_the_emulators(tmp_path):
    words = command(job_of("load-80", dilation=2.5), tmp_path)
    assert words[:4] == [sys.executable, "-m", "meshsim", "emulate"]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options == {
        "--duration": "20s",
        "--seed": "7",
        "--dilation": "2.5",
        "--draws": "same",
        "--save": str(tmp_path / "r"),
    }


def test_a_change_is_a_path_that_the_topology_has(tmp_path):
    job = job_of("configuration-push")
    text = command(job, tmp_path)[-1]
    at, assignment = text.split(":", 1)
    path, value = assignment.split("=", 1)
    assert at == "10s"
    from meshsim.topology import with_values

    split = with_values(job.topology, {path: value}).policies["server"].routes[0].split
    assert [(item.subset, item.weight) for item in split] == [("v1", 20), ("v2", 80)]


def test_a_failing_emulator_is_quoted(monkeypatch):
    script = "import sys; sys.exit('the port is taken')"
    monkeypatch.setattr(emulation, "_command", lambda *_: [sys.executable, "-c", script])
    with pytest.raises(EmulatorFailed, match=r"status 1(.|\n)*the port is taken"):
        emulate_in_subprocess(job_of("load-80"))


def test_an_emulator_that_never_ends_is_ended(monkeypatch):
    with pytest.raises(EmulatorFailed, match="did not end within"):
        emulation._run([sys.executable, "-c", "import threading; threading.Event().wait()"], 0.3)


def test_what_the_emulator_reads_is_what_was_meant(monkeypatch):
    seen = {}

    def note(job, scenario, saved):
        seen["topology"] = loads_topology(scenario.read_text())
        return [sys.executable, "-c", "raise SystemExit(3)"]

    monkeypatch.setattr(emulation, "_command", note)
    job = job_of("retries-timeout")
    with pytest.raises(EmulatorFailed):
        emulate_in_subprocess(job)
    assert seen["topology"] == job.topology


def test_the_machines_counters_are_read(tmp_path):
    path = tmp_path / "stat"
    path.write_text("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n")
    before = MachineTimes.now(path)
    path.write_text("cpu  150 0 60 820 60 0 0 10 0 0\n")
    steal, busy = MachineTimes.now(path).shares_since(before)
    assert (steal, busy) == (0.1, 0.7)
    nothing = MachineTimes.now(tmp_path / "absent")
    assert nothing.shares_since(nothing) == (0.0, 0.0)
