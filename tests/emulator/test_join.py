"""A node of the mesh on another machine, here another process that only knows the broker."""

import asyncio
import subprocess
import sys
import threading

import pytest
from mesh_scenarios import assert_accounted, pair

from emulator.clock import Clock
from emulator.running.harness import Emulation
from emulator.running.join import BusCarrier, clock_offset, join, remote_names
from meshsim.errors import ConfigError


def test_a_node_joins_and_serves():
    emulation = Emulation(pair(), "2s", 1, dilation=1.0, remote=["two"], progress=False)
    other = None
    try:
        while not emulation.join_urls:
            assert not emulation.done, emulation.result()
            threading.Event().wait(0.01)
        (url,) = emulation.join_urls.values()
        other = subprocess.Popen(
            [sys.executable, "-m", "meshsim", "emulate", "--join", url],
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


def test_the_fastest_answer_sets_the_clock():
    delays = iter([0.02, 0.0, 0.01, *[0.02] * 20])

    async def ask():
        await asyncio.sleep(next(delays))
        return Clock.real_ns() + 10**12

    offset_ns, error_ns = asyncio.run(clock_offset(ask))
    assert abs(offset_ns - 10**12) <= error_ns
    assert error_ns < 5_000_000


@pytest.mark.parametrize("url", ["mqtt://127.0.0.1:1883", "two", "mqtt://two:secret@host:port"])
def test_a_wrong_url_is_refused(url):
    with pytest.raises(ConfigError, match="join"):
        join(url)


def test_a_node_that_the_scenario_lacks_is_refused():
    assert remote_names(["one"], {"one": 0}) == ("node one",)
    with pytest.raises(ConfigError, match="three"):
        remote_names(["three"], {"one": 0})
