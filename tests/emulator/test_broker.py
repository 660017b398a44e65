"""Who is let in, and what they may say and hear: the same rules on both brokers."""

import asyncio
import contextlib
import socket
import struct

import aiomqtt
import pytest
from bus_fakes import BROKERS, MESH, broker, run_clean, until

from emulator.control.broker import Broker, _filters_of
from meshsim.controlplane.topics import CONTROL_PLANE, Topics, encoded
from meshsim.errors import ConfigError

TOPICS = Topics(MESH)


def client(url, user, password=None, identifier=None, **options):
    host, port = url.removeprefix("mqtt://").split(":")
    return aiomqtt.Client(
        host,
        int(port),
        username=user,
        password=user if password is None else password,
        identifier=identifier or user,
        timeout=3,
        **options,
    )


async def heard(listener, quiet_s=0.3):
    """Return the topics that reach `listener` until it is quiet."""
    topics = []
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(quiet_s):
                message = await anext(aiter(listener.messages))
                topics.append(message.topic.value)
    return topics


@pytest.mark.parametrize("kind", BROKERS)
def test_only_known_users_with_their_password_get_in(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a"]) as bus:
            for user, password in (("a", "wrong"), ("b", "b"), ("a", ""), (None, "")):
                with pytest.raises(aiomqtt.MqttError):
                    async with client(bus.url, user, password, identifier="a"):
                        pass
            async with client(bus.url, "a"):
                pass
            if kind == "embedded":
                assert bus.counters()["connect"] == 4
                with pytest.raises(aiomqtt.MqttError):
                    async with client(bus.url, "a", identifier="b"):
                        pass

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_an_intruder_does_not_cut_off_the_one_whose_name_he_uses(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a"]) as bus, client(bus.url, "a") as victim:
            await victim.subscribe(TOPICS.config("a", "+"), qos=1)
            for _ in range(3):
                with pytest.raises(aiomqtt.MqttError):
                    async with client(bus.url, "a", "guess"):
                        pass
            async with client(bus.url, encoded(CONTROL_PLANE), CONTROL_PLANE) as plane:
                await plane.publish(TOPICS.config("a", "routes"), b"x", qos=1)
            assert await heard(victim) == [TOPICS.config("a", "routes")]

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_proxy_neither_speaks_nor_hears_beyond_its_own_topics(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a", "b"]) as bus:
            name = encoded(CONTROL_PLANE)
            async with (
                client(bus.url, "a") as one,
                client(bus.url, "b") as other,
                client(bus.url, name, CONTROL_PLANE) as plane,
            ):
                await plane.subscribe(TOPICS.control_plane_grant.subscribe[0], qos=1)
                for item in (TOPICS.config("b", "+"), TOPICS.of("csr", "b"), "#", "$SYS/#"):
                    await one.subscribe(item, qos=1)  # Mosquitto says yes and delivers nothing
                await other.subscribe(TOPICS.config("b", "+"), qos=1)
                await one.publish(TOPICS.config("b", "routes"), b"forged", qos=1)
                await one.publish(TOPICS.of("state", "b"), b"forged", qos=1)
                await one.publish(TOPICS.of("state", "a"), b"own", qos=1)
                await plane.publish(TOPICS.config("b", "clusters"), b"for b", qos=1)
                await other.publish(TOPICS.of("csr", "b"), b"secret", qos=1)
                assert await heard(other) == [TOPICS.config("b", "clusters")]
                assert await heard(plane) == [TOPICS.of("state", "a")]
                assert await heard(one) == []
            if kind == "embedded":
                assert bus.counters() == {
                    "connect": 0,
                    "publish": 2,
                    "subscribe": 4,
                    "malformed": 0,
                }

    run_clean(work())


def test_nothing_is_retained_and_no_will_is_left(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a", "b"]) as bus:
            async with client(bus.url, encoded(CONTROL_PLANE), CONTROL_PLANE) as plane:
                await plane.publish(TOPICS.config("b", "routes"), b"x", qos=1, retain=True)
            async with client(bus.url, "b") as listener:
                await listener.subscribe(TOPICS.config("b", "+"), qos=1)
                assert await heard(listener) == []
            will = aiomqtt.Will(TOPICS.config("b", "routes"), b"forged")
            with pytest.raises(aiomqtt.MqttError):
                async with client(bus.url, "a", will=will):
                    pass

    run_clean(work())


def test_the_newest_connection_of_a_user_counts(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            older = client(bus.url, "a")
            async with contextlib.AsyncExitStack() as stack:
                await older.__aenter__()
                newer = await stack.enter_async_context(client(bus.url, "a"))
                await until(older._disconnected.done)
                older._disconnected.exception()
                await newer.subscribe(TOPICS.config("a", "+"), qos=1)
                plane = client(bus.url, encoded(CONTROL_PLANE), CONTROL_PLANE)
                async with plane:
                    await plane.publish(TOPICS.config("a", "routes"), b"x", qos=1)
                assert await heard(newer) == [TOPICS.config("a", "routes")]
            await older.__aexit__(None, None, None)

    run_clean(work())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\xff\xff\xff\x7f",  # CONNECT of 256 MB
        b"\x10" + b"\xff" * 50,
        b"\x30\x05\x00\x03a/bx",  # PUBLISH before CONNECT
        b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x00\x00\x00",  # MQTT 5
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff",  # client id that is no UTF-8
    ],
)
def test_the_embedded_broker_survives_what_is_no_mqtt(data, tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            port = int(bus.url.rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            async with client(bus.url, "a"):
                pass

    run_clean(work())


def test_connections_beyond_the_limit_are_refused(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            port = int(bus.url.rsplit(":", 1)[1])
            sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
            await until(lambda: bus.counters()["malformed"] > 0)
            for item in sockets:
                # Reset instead of close: no end of file to be polite about.
                item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                item.close()
            await until(lambda: not bus._broker.writers)
            async with client(bus.url, "a"):
                pass

    run_clean(work())


def test_users_may_be_added_while_it_runs(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, []) as bus:
            bus.add_user(MESH, "late", "late")
            async with client(bus.url, "late"):
                pass

    run_clean(work())


def test_an_external_broker_is_not_ours_to_kill():
    outside = Broker.external("mqtt://127.0.0.1:1", retains=True)
    assert outside.is_running
    with pytest.raises(ConfigError, match="where it runs"):
        asyncio.run(outside.kill())


def test_filters_of_a_topic_are_those_that_match():
    assert set(_filters_of("a/b")) == {
        *("#", "a/#", "+/#", "a/b/#", "a/+/#", "+/b/#", "+/+/#"),
        *("a/b", "a/+", "+/b", "+/+"),
    }
