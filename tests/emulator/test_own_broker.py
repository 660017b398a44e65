"""A mesh on a Mosquitto of the user's own, as `--mosquitto-files` makes it ready."""

import asyncio
import contextlib
import os
import subprocess
import sys

import aiomqtt
import pytest
from bus_fakes import (
    MESH,
    Mosquitto,
    configuration,
    make_agent,
    make_control_plane,
    port_of,
    run_clean,
    running,
    until,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mesh_scenarios import PAIR, assert_accounted, pair
from own_brokers import mosquitto, needs_mosquitto

from emulator.control.broker_url import password_in
from emulator.running.harness import Emulation, emulate
from emulator.running.own_broker import prepare_mosquitto
from meshsim.cli import main
from meshsim.controlplane.signing import Signer
from meshsim.controlplane.topics import CONTROL_PLANE, HARNESS, Topics, encoded
from meshsim.errors import ConfigError

PROXY = "front-v1-0"
QUIET_S = 0.3


async def retained(url):
    """Return the topics with a message that `PROXY` finds on the broker at `url`."""
    topics = []
    port = int(url.rpartition(":")[2])
    client = aiomqtt.Client(
        "127.0.0.1", port, username=PROXY, password=password_in(url), identifier="somebody"
    )
    async with client:
        await client.subscribe(Topics(None).config(PROXY, "+"), qos=1)
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_S):
                    message = await anext(aiter(client.messages))
                topics.append(message.topic.value)
    return topics


@needs_mosquitto
def test_configuration_is_retained_while_a_mesh_runs_and_no_longer(tmp_path):
    found = []

    async def look(mesh):
        found.extend(await retained(url))

    options = {"dilation": 1.0, "progress": False, "scripts": [look]}
    with mosquitto(tmp_path) as url:
        result = emulate(pair(), "1s", 1, broker=url, **options)
        left = asyncio.run(retained(url))
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert len(found) == 4  # one of each type
    assert left == []


@needs_mosquitto
def test_two_meshes_on_one_broker_do_not_meet(tmp_path):
    with mosquitto(tmp_path) as url:
        options = {"dilation": 5.0, "progress": False, "broker": url}
        change = ("500ms", "policies.back.load_balancing.policy", "ROUND_ROBIN")
        both = [Emulation(pair(), "1s", 1, changes=[change], **options) for _ in range(2)]
        try:
            results = [emulation.result(90) for emulation in both]
        finally:
            for emulation in both:
                emulation.abort()
    for result in results:
        assert_accounted(result)
        assert result.emulation["accounting"]["failed"] == 0
        assert result.emulation["configuration_version"] == 2
        (notice,) = [text for text in result.notices if text.startswith("configuration 2 was")]
        assert "effective at 1 of 1 proxies" in notice


@needs_mosquitto
def test_what_a_killed_harness_left_on_the_broker_harms_no_other_run(tmp_path):
    scenario = tmp_path / "pair.yaml"
    scenario.write_text(PAIR)
    with mosquitto(tmp_path) as url:
        command = [sys.executable, "-m", "meshsim", "emulate", str(scenario), "--broker", url]
        killed = subprocess.Popen([*command, "--dilation", "1", "--duration", "600s"])
        try:
            while killed.poll() is None and len(asyncio.run(retained(url))) < 4:
                pass  # each look takes a while
        finally:
            killed.kill()
            killed.wait()
        left = asyncio.run(retained(url))
        result = emulate(pair(), "1s", 1, broker=url, dilation=1.0, progress=False)
        assert sorted(asyncio.run(retained(url))) == sorted(left)
    assert len(left) == 4  # one of each type, of a mesh whose name no other run has
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0


@needs_mosquitto
def test_what_another_control_plane_left_on_the_broker_is_not_believed(tmp_path):
    foreign = Signer(Ed25519PrivateKey.generate(), MESH)

    async def work():
        broker = Mosquitto(tmp_path, {PROXY: PROXY, CONTROL_PLANE: CONTROL_PLANE})
        await broker.start()
        try:
            async with aiomqtt.Client(
                "127.0.0.1",
                broker.port,
                username=encoded(CONTROL_PLANE),
                password=CONTROL_PLANE,
                identifier="before",
            ) as client:
                for kind in ("clusters", "endpoints", "routes", "listener"):
                    resource = configuration(PROXY, 6666).to_json(kind) | {"version": 9}
                    topic = Topics(MESH).config(PROXY, kind)
                    await client.publish(topic, foreign.seal(resource), qos=1, retain=True)
            agent = make_agent(broker.url, PROXY)
            async with running(agent):
                await until(lambda: agent.counters["refused"] == 4)
                assert agent.last_refusal == "bad signature"
                control = make_control_plane(
                    broker.url, {PROXY: configuration(PROXY, 9000)}, retain=True
                )
                async with running(control):
                    await until(lambda: port_of(agent) == 9000)
        finally:
            await broker.stop()

    run_clean(work())


def test_the_files_name_every_user_and_hide_the_password(tmp_path):
    folder = tmp_path / "files"
    options = {"broker": "mqtt://127.0.0.1:1999", "remote": ["two"]}
    written, stated = prepare_mosquitto(pair(), folder, **options)
    url = stated.read_text().strip()
    password = password_in(url)
    assert url == f"mqtt://:{password}@127.0.0.1:1999"
    assert len(password) == 32
    text = written.read_text()
    assert "listener 1999 127.0.0.1" in text
    assert "allow_anonymous false" in text
    users = [line.partition(":")[0] for line in (folder / "passwords").read_text().splitlines()]
    proxies = [PROXY, "back-v1-0", "back-v1-1", "gateway-users"]
    assert users == [*proxies, *map(encoded, (CONTROL_PLANE, "node two", HARNESS))]
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert path == stated or password not in path.read_text()
    assert folder.stat().st_mode & 0o077 == 0


def test_the_password_of_the_url_is_taken(tmp_path):
    _, stated = prepare_mosquitto(pair(), tmp_path, broker="mqtt://:a%2Fb@127.0.0.1")
    assert stated.read_text() == "mqtt://:a%2Fb@127.0.0.1\n"


def test_no_files_are_written_for_a_wrong_scenario(tmp_path):
    folder = tmp_path / "files"
    with pytest.raises(ConfigError, match="three"):
        prepare_mosquitto(pair(), folder, remote=["three"])
    assert not folder.exists()


def test_the_command_line_writes_the_files_and_ends(tmp_path, capsys):
    scenario, folder = tmp_path / "pair.yaml", tmp_path / "files"
    scenario.write_text(PAIR)
    with pytest.raises(SystemExit) as ended:
        main(["emulate", str(scenario), "--mosquitto-files", str(folder)])
    said = capsys.readouterr().out
    assert ended.value.code in (None, 0)
    assert f"mosquitto -c {folder / 'mosquitto.conf'}" in said
    assert f'--broker "$(cat {folder / "url"})"' in said
    assert password_in((folder / "url").read_text()) not in said
    assert sorted(os.listdir(folder)) == ["access", "mosquitto.conf", "passwords", "url"]
