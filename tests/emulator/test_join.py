"""A node of the mesh on another machine, here another process that only knows the broker."""

import asyncio
import subprocess
import sys

import pytest
from mesh_scenarios import assert_accounted, pair
from own_brokers import mosquitto, needs_mosquitto
from run_leftovers import wait_for

from emulator.clock import Clock
from emulator.running.harness import Emulation
from emulator.running.join import BusCarrier, RemoteNodes, _invitation, clock_offset, join
from meshsim.errors import ConfigError


def joined(joins_at="127.0.0.1", **options):
    """Run `pair` with the node "two" in another process, which joins; return result and run."""
    options = {"dilation": 1.0, "progress": False, **options}
    emulation = Emulation(pair(), "2s", 1, remote=["two"], **options)
    other = None
    try:
        wait_for(lambda: emulation.done or emulation.join_urls)
        assert not emulation.done, emulation.result()
        (url,) = emulation.join_urls.values()
        other = subprocess.Popen(
            [sys.executable, "-m", "meshsim", "emulate", "--host", joins_at, "--join", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        result = emulation.result(90)
        said, _ = other.communicate(timeout=30)
    finally:
        emulation.abort()
        if other is not None and other.poll() is None:
            other.kill()
            other.communicate()
    assert other.returncode == 0, said
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    requests = result.records[0].endpoints[-1]["requests"]
    assert requests.min() > 0  # back-v1-1 lives on the node that joined
    assert any("on another machine" in notice for notice in result.notices)
    return result, emulation._run


def test_a_node_joins_and_serves():
    joined()


def test_each_machine_listens_where_it_is_told_to():
    # Two addresses of loopback stand for two machines.
    _, run = joined(joins_at="127.0.0.2", host="127.0.0.3")
    hosts = {name: address for name, (address, _) in run._addresses.items()}
    assert hosts == {
        "front-v1-0": "127.0.0.3",
        "back-v1-0": "127.0.0.3",
        "back-v1-1": "127.0.0.2",
    }


@needs_mosquitto
def test_a_node_joins_over_a_broker_with_passwords(tmp_path):
    with mosquitto(tmp_path, remote=["two"]) as url:
        result, run = joined(joins_at="127.0.0.2", host="127.0.0.3", broker=url)
    assert run.mesh.startswith("run-")
    assert run.mesh not in result.to_json()


class Wire:
    """Two carriers back to back, without a bus."""

    def __init__(self):
        self.carried = []

    async def publish(self, topic, payload):
        self.carried.append((topic, payload))


def sent(token="secret", node="two", sends="asked", messages=(b"one",)):
    async def run():
        wire = Wire()
        carrier = BusCarrier(wire, node, token, sends)
        running = asyncio.ensure_future(carrier.run())
        for message in messages:
            carrier.send(message)
        await carrier.flush()
        running.cancel()
        return [payload for _, payload in wire.carried]

    return asyncio.run(run())


def test_messages_are_believed_once_and_in_order():
    first, second = sent(messages=(b"one", b"two"))
    other = BusCarrier(Wire(), "two", "secret", "said")
    assert other.open(second) == b"two"
    assert other.open(second) is None  # repeated
    assert other.open(first) is None  # late


@pytest.mark.parametrize("changed", [{"token": "guess"}, {"sends": "said"}])
def test_messages_of_others_are_dropped(changed):
    (payload,) = sent(**changed)
    assert BusCarrier(Wire(), "two", "secret", "said").open(payload) is None


def test_an_altered_message_is_dropped():
    (payload,) = sent()
    altered = payload[:-1] + bytes([payload[-1] ^ 1])
    assert BusCarrier(Wire(), "two", "secret", "said").open(altered) is None
    assert BusCarrier(Wire(), "two", "secret", "said").open(b"") is None


def test_the_fastest_answer_sets_the_clock(monkeypatch):
    now_ns, delays_ns = [0], iter([20_000, 2_000, 10_000, *[20_000] * 20])
    monkeypatch.setattr(Clock, "real_ns", lambda: now_ns[0])

    async def ask():
        now_ns[0] += next(delays_ns)
        return now_ns[0] + 10**12

    # Half of the 2 us may have been the way there.
    assert asyncio.run(clock_offset(ask)) == (10**12 + 1_000, 1_000)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://127.0.0.1:1883",
        "two",
        "mqtt://two:secret@host:port",
        "mqtt://two:secret@127.0.0.1:1883'",
    ],
)
def test_a_wrong_url_is_refused_without_its_token(url):
    with pytest.raises(ConfigError, match="join") as refused:
        join(url)
    assert "secret" not in str(refused.value)


def test_the_url_to_join_with_says_what_the_broker_asks_for():
    remote = RemoteNodes(["node two"], "run-1")
    (url,) = remote.urls("mqtts://:a%2Fb@10.0.0.1:8883?ca=ca.pem").values()
    invitation = _invitation(url)
    assert invitation == (
        "node two",
        remote.tokens["node two"],
        "mqtts://10.0.0.1:8883?ca=ca.pem",
        "run-1",
        "a/b",
    )
    (embedded,) = RemoteNodes(["node two"]).urls("mqtt://127.0.0.1:1").values()
    assert "?" not in embedded
    assert len(_invitation(embedded).password) == 64  # derived from the token
