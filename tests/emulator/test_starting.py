"""The start of a run: who cannot reach the broker says so, and a stop ends it."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading

import psutil
import pytest
from mesh_scenarios import PAIR, pair
from run_leftovers import leftovers, wait_for

from emulator.control.broker import Broker
from emulator.running.harness import Emulation, emulate
from emulator.running.members import ProcessServer
from emulator.running.node import Node
from emulator.running.node_process import node_main
from emulator.running.node_spec import NodeSpec
from meshsim.errors import MeshsimError
from meshsim.meshes import resolve


@contextlib.contextmanager
def elsewhere(broker):
    """Run a broker in a thread of its own, as if it were somebody else's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(broker.start(), loop).result(10)
        yield broker
        asyncio.run_coroutine_threadsafe(broker.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def failure_of(url, **options):
    """Return why a mesh on the broker at `url` does not start; nothing may be left of it."""
    before = leftovers()
    with pytest.raises(MeshsimError) as failed:
        emulate(pair(), "1s", 1, dilation=1.0, broker=url, progress=False, **options)
    assert leftovers() == before
    return str(failed.value)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("emulator.running.run._BUS_PATIENCE_S", 1.0)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("remote", [(), ("two",)])
def test_a_dead_broker_is_named_soon(remote):
    port = free_port()
    said = failure_of(f"mqtt://:secret@127.0.0.1:{port}", remote=remote)
    assert f"the broker mqtt://127.0.0.1:{port} does not take" in said
    assert "refused" in said
    assert "secret" not in said


@pytest.mark.usefixtures("impatient")
def test_a_wrong_password_is_named_soon():
    with elsewhere(Broker.embedded("other", {})) as broker:
        said = failure_of(broker.url.replace("//", "//:secret@"))
    assert "does not take control%20plane" in said
    assert "uthori" in said  # "not authorised", as the client library spells it
    assert "secret" not in said


def unready(mesh, password):
    """Return why a node of `mesh` with this password, and no control plane, is not ready."""

    async def work():
        broker = Broker.embedded("mesh", {"back-v1-1": "right"})
        await broker.start()
        spec = NodeSpec(
            topology=resolve(pair()).model_dump_json(),
            endpoints=("back-v1-1",),
            classes=(),
            mesh=mesh,
            bus_url=broker.url,
            control_plane_key="00" * 32,
            enrolments={"back-v1-1": {"password": password, "token": "", "principal": ""}},
            seed=1,
            duration_ns=10**9,
            dilation=1.0,
        )
        node = Node("node two")
        try:
            await node.verbs["start"](spec.to_values())
            with pytest.raises(MeshsimError) as failed:
                await node.verbs["ready"]({})
        finally:
            await node.close()
            await broker.stop()
        return str(failed.value)

    return asyncio.run(work())


def test_a_node_says_which_proxy_the_broker_does_not_take(monkeypatch):
    monkeypatch.setattr("emulator.running.node._BUS_PATIENCE_S", 0.5)
    assert "does not take back-v1-1" in unready("other", "wrong")


def test_a_node_says_which_proxy_hears_nothing(monkeypatch):
    monkeypatch.setattr("emulator.running.node._READY_PATIENCE_S", 0.2)
    assert unready("mesh", "right").startswith("back-v1-1 has no configuration: nothing came")


def test_a_stop_before_load_began_ends_the_start():
    before = leftovers()
    emulation = Emulation(pair(), "600s", 1, dilation=1.0, progress=False)
    emulation.stop()
    with pytest.raises(MeshsimError, match="interrupted before load began"):
        emulation.result(60)
    assert leftovers() == before


def test_a_stop_while_a_node_is_awaited_ends_the_start(tmp_path):
    before = leftovers()
    log = tmp_path / "log"
    options = {"dilation": 1.0, "progress": False, "record": log}
    emulation = Emulation(pair(), "600s", 1, remote=["two"], **options)
    wait_for(lambda: emulation._run is not None and "node one" in emulation._run.members)
    emulation.stop()
    with pytest.raises(MeshsimError, match="interrupted before load began"):
        emulation.result(60)
    assert leftovers() == before
    assert not log.exists()


def test_an_interrupt_of_the_start_is_one_line(tmp_path):
    scenario = tmp_path / "pair.yaml"
    scenario.write_text(PAIR)
    command = (sys.executable, "-m", "meshsim", "emulate", str(scenario), "--duration", "600s")
    # A session of its own: the signal goes to every process of it, as a terminal's Ctrl-C does.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, start_new_session=True, **pipes)
    try:
        wait_for(lambda: psutil.Process(run.pid).children())
        os.killpg(run.pid, signal.SIGINT)
        out, errors = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    assert (run.returncode, out) == (1, "")
    assert errors == "error: interrupted before load began\n"


UNGUARDED = f"""
from emulator.running.harness import emulate
from meshsim.topology.load import loads_topology

emulate(loads_topology('''{PAIR}'''), "1s", dilation=1.0, progress=False)
"""


def test_a_program_without_guard_is_told_so_once(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED)
    command = (sys.executable, str(program))
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert ran.stderr.count("Traceback") == 1
    assert "if __name__ ==" in ran.stderr.splitlines()[-1]


def test_a_start_that_is_given_up_leaves_nothing(monkeypatch):
    before = leftovers()
    has_started, given_up = threading.Event(), threading.Event()
    start = ProcessServer._start

    def started(server, name, main):
        member = start(server, name, main)
        members.append(member)
        has_started.set()
        given_up.wait()
        return member

    async def work():
        server = ProcessServer()
        launching = asyncio.ensure_future(server.launch("one", node_main))
        await asyncio.to_thread(has_started.wait)
        launching.cancel()
        await asyncio.sleep(0)
        given_up.set()
        with pytest.raises(asyncio.CancelledError):
            await launching
        server.close()

    members = []
    monkeypatch.setattr(ProcessServer, "_start", started)
    asyncio.run(work())
    assert leftovers() == before
    assert members[0].process is None
    members.clear()
    gc.collect()  # an open socket would be told of
