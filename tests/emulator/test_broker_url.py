"""A mesh on a broker of the user's: Mosquitto, plain and with mutual TLS."""

import asyncio

import pytest
from bus_fakes import MOSQUITTO, Mosquitto
from mesh_scenarios import assert_accounted, pair

from emulator.control.broker import mosquitto_files
from emulator.control.broker_url import check_broker, credential_for, password_in
from emulator.running.harness import emulate
from emulator.running.node import MESH
from meshsim.controlplane.topics import CONTROL_PLANE
from meshsim.errors import ConfigError

USERS = ("front-v1-0", "back-v1-0", "back-v1-1", "gateway-users", CONTROL_PLANE)


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_a_mesh_runs_on_mosquitto_behind_its_access_list(tmp_path):
    passwords = dict.fromkeys(USERS, "secret")
    broker = Mosquitto(tmp_path, passwords)
    broker.file = mosquitto_files(tmp_path, broker.port, MESH, passwords)
    asyncio.run(broker.start())
    try:
        url = f"mqtt://:secret@127.0.0.1:{broker.port}"
        result = emulate(pair(), "1s", 1, dilation=1.0, broker=url, progress=False)
    finally:
        asyncio.run(broker.stop())
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert "secret" not in result.to_json()


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:1883",
        "http://127.0.0.1",
        "mqtts://127.0.0.1",
        "mqtts://127.0.0.1?ca=a&cert=b",
        "mqtts://127.0.0.1?ca=nowhere&cert=nowhere&key=nowhere",
    ],
)
def test_what_is_no_broker_is_refused(url):
    with pytest.raises(ConfigError, match="broker"):
        check_broker(url)


def test_a_password_is_every_users():
    url = "mqtt://:a%2Fb@127.0.0.1"
    assert password_in(url) == "a/b"
    assert credential_for(url, "front-v1-0", password_in(url)).password == "a/b"
