"""``meshsim emulate``: what it prints and writes, and how it fails."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mesh_scenarios import PAIR

from meshsim.cli import main


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR)
    return path


def status_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["emulate", *map(str, arguments)])
    return ended.value.code


def test_report_json_and_log_are_written(scenario, tmp_path, capsys):
    options = ("--duration", "1s", "--dilation", "1", "--seed", "7", "--processes", "1")
    files = ("--json", tmp_path / "r.json", "--record", tmp_path / "log", "--save", tmp_path / "s")
    assert status_of(scenario, *options, *files) in (None, 0)
    report = capsys.readouterr().out
    assert "pair · istio-sidecar · 1 replication of 1s · seed 7" in report
    assert re.search(r"\d+ requests, 1\.0 s emulated in [\d.]+ s", report)
    assert "as asked for" in report
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["emulation"]["processes"] == 2  # the replicas', and the edge
    assert written["emulation"]["accounting"]["left_over"] == 0
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(tmp_path / "log")])
    assert ended.value.code in (None, 0)
    assert "decisions were met again" in capsys.readouterr().out


def test_json_goes_to_stdout(scenario, capsys):
    options = ("--duration", "1s", "--dilation", "1", "--mesh", "none", "--json", "-")
    assert status_of(scenario, *options) in (None, 0)
    written = json.loads(capsys.readouterr().out)
    assert written["mesh"] == "none"
    assert written["emulation"]["mtls"] == "DISABLE"


@pytest.mark.parametrize(
    ("arguments", "status", "found"),
    [
        (("--processes", "0"), 2, "processes"),
        (("--processes", "some"), 2, "processes"),
        (("--dilation", "0"), 2, "dilation"),
        (("--change", "now:x=1"), 2, "change"),
        (("--change", "1s:x"), 2, "TIME:PATH=VALUE"),
        (("--mesh", "none", "--mtls", "STRICT"), 1, "mtls"),
        (("--mesh", "istoi-sidecar"), 1, "istio-sidecar"),
        (("--json", "/nowhere/r.json"), 1, "no such folder"),
        (("--record", "/nowhere/log"), 1, "no such folder"),
        (("--change", "1s:policies.bck.load_balancing.policy=RANDOM"), 1, "bck"),
        (("--change", "1s:services.back.replicas=3"), 1, "cannot change while it runs"),
        (("--host", "0.0.0.0"), 1, "every address"),
        (("--remote", "two", "--processes", "each"), 1, "--processes"),
        (("--broker", "mqtt://me@127.0.0.1"), 1, "named as the proxies are"),
    ],
)
def test_wrong_input_is_named_before_anything_starts(scenario, arguments, status, found, capsys):
    assert status_of(scenario, *arguments) == status
    assert found in capsys.readouterr().err


def test_what_fails_beside_the_load_is_told_after_the_report(tmp_path, capsys, monkeypatch):
    async def fail(mesh, fault):
        raise RuntimeError(f"no {fault.kind} today")

    monkeypatch.setattr("emulator.running.measuring.timed_fault", fail)
    scenario = tmp_path / "pair.yaml"
    scenario.write_text(PAIR + "faults: [{kind: kill, at: 1s, service: back}]\n")
    assert status_of(scenario, "--duration", "600s", "--dilation", "1") == 1
    said = capsys.readouterr()
    assert "stopped by a failure: the fault kill at 1s failed at" in said.out
    assert re.fullmatch(r"error: the fault kill at 1s failed .* no kill today\n", said.err)


#: Four proxies and the control plane, both ends; more means that requests flow.
BUS_CONNECTIONS = 10


def established(pid):
    """Return the open connections of a process and its children."""
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    count = 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            connections = process.net_connections(kind="tcp")
            count += sum(item.status == psutil.CONN_ESTABLISHED for item in connections)
    return count


def test_a_temporary_directory_that_no_socket_fits_into_is_named(scenario, tmp_path):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    run = subprocess.run(
        (sys.executable, "-m", "meshsim", "emulate", str(scenario), "--duration", "1s"),
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    # Newer interpreters go elsewhere by themselves.
    if run.returncode != 0:
        assert re.fullmatch(
            r"error: no process .*AF_UNIX path too long.*\n", run.stderr.strip("\r")
        )
        assert f"TMPDIR is {folder}" in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_prints_the_result(scenario, tmp_path, tmp_path_factory, number):
    command = (sys.executable, "-m", "meshsim", "emulate", str(scenario), "--duration", "600s")
    folder = tmp_path_factory.mktemp("t")  # a Unix socket's path has no room for a long name
    # A session of its own: the signal goes to every process of it, as a terminal's Ctrl-C does,
    # and as timeout(1) sends its own.
    run = subprocess.Popen(
        [*command, "--dilation", "1", "--record", str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        for _ in range(1200):
            if established(run.pid) > BUS_CONNECTIONS:
                break
            assert run.poll() is None, run.communicate()
            time.sleep(0.05)
        else:
            pytest.fail("the mesh did not start within a minute")
        os.killpg(run.pid, number)
        out, errors = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    assert run.returncode == 0, errors
    assert "stopped by hand" in out
    assert "UNSTABLE" not in out
    assert "Traceback" not in errors
    assert list(folder.glob("meshsim-run-*")) == []
    assert (tmp_path / "log").stat().st_size > 0
