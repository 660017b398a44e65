"""A mesh on a broker of the user's: Mosquitto, plain and with mutual TLS."""

from urllib.parse import urlencode

import pytest
from bus_fakes import FAST, bus_certificates, run_clean, running, until
from mesh_scenarios import PAIR, assert_accounted, pair
from own_brokers import mosquitto, needs_mosquitto

from emulator.clock import unix_s
from emulator.control.broker_url import check_broker, credential_for, password_in
from emulator.control.bus import Bus
from emulator.running.harness import emulate
from meshsim.cli import main
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.errors import ConfigError

FILES = ("ca", "cert", "key")


@needs_mosquitto
def test_a_mesh_runs_on_mosquitto_behind_its_access_list(tmp_path):
    with mosquitto(tmp_path, password="secret") as url:
        result = emulate(pair(), "1s", 1, dilation=1.0, broker=url, progress=False)
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert "secret" not in result.to_json()


@pytest.fixture
def certificates(tmp_path):
    """Return (authority, certificate, key) files of a broker and of its client."""
    authority = CertificateAuthority.create("cluster.local", unix_s())
    return [bus_certificates(tmp_path, authority, name) for name in ("broker", "client")]


def with_files(url, files):
    return f"{url.partition('?')[0]}?{urlencode(dict(zip(FILES, files, strict=True)))}"


@needs_mosquitto
def test_a_mesh_runs_on_mosquitto_with_mutual_tls(tmp_path, certificates):
    of_broker, of_client = certificates
    with mosquitto(tmp_path, of_broker, password="secret") as broker_url:
        url = with_files(broker_url, of_client)
        result = emulate(pair(), "1s", 1, dilation=1.0, broker=url, progress=False)
    assert "require_certificate true" in (tmp_path / "mosquitto.conf").read_text()
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert result.emulation["accounting"]["completed"] > 30
    assert result.emulation["broker"] == "127.0.0.1"
    for hidden in ("secret", str(of_client[2])):
        assert hidden not in result.to_json()


@needs_mosquitto
def test_the_command_line_runs_on_a_broker_with_mutual_tls(tmp_path, certificates, capsys):
    of_broker, of_client = certificates
    scenario = tmp_path / "pair.yaml"
    scenario.write_text(PAIR)
    with mosquitto(tmp_path, of_broker, password="secret") as broker_url:
        url = with_files(broker_url, of_client)
        options = ("--duration", "1s", "--dilation", "1", "--broker", url)
        with pytest.raises(SystemExit) as ended:
            main(["emulate", str(scenario), *options])
    captured = capsys.readouterr()
    assert ended.value.code in (None, 0), captured.err
    assert "verdict" in captured.out
    assert "secret" not in captured.out + captured.err


@needs_mosquitto
def test_mosquitto_refuses_who_has_no_certificate_of_its_authority(tmp_path, certificates):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    foreign = CertificateAuthority.create("cluster.local", unix_s())
    files = (certificates[0][0], *bus_certificates(stranger, foreign, "client")[1:])
    with mosquitto(tmp_path, certificates[0], password="secret") as broker_url:
        url = with_files(broker_url, files)
        credential = credential_for(url, "front-v1-0", "secret")
        bus = Bus(url, credential, subscriptions=(), on_message=lambda *_: None, settings=FAST)

        async def attempt():
            async with running(bus):
                await until(lambda: bus.counters["failed"] >= 2)

        run_clean(attempt())
    assert bus.counters["connected"] == 0


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:1883",
        "http://127.0.0.1",
        "mqtts://127.0.0.1",
        "mqtts://127.0.0.1?ca=a&cert=b",
        "mqtt://me:secret@127.0.0.1",
        "mqtts://127.0.0.1?ca=nowhere&cert=nowhere&key=nowhere",
    ],
)
def test_what_is_no_broker_is_refused(url):
    with pytest.raises(ConfigError, match="broker") as refused:
        check_broker(url)
    assert "secret" not in str(refused.value)


def test_a_password_is_every_users():
    url = "mqtt://:a%2Fb@127.0.0.1"
    assert password_in(url) == "a/b"
    assert credential_for(url, "front-v1-0", password_in(url)).password == "a/b"
