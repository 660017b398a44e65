"""The connection that comes back."""

import asyncio
import socket

import pytest
from bus_fakes import BROKERS, FAST, MESH, broker, run_clean, running, until

from emulator.control.bus import Bus, BusError, BusSettings, Credential, backoff_s
from meshsim.controlplane.topics import CONTROL_PLANE, Topics
from meshsim.errors import ConfigError

TOPICS = Topics(MESH)


def make_bus(url, user, password=None, subscriptions=None, settings=FAST, **options):
    received = []
    bus = Bus(
        url,
        Credential(user, user if password is None else password),
        subscriptions=[TOPICS.config(user, "+")] if subscriptions is None else subscriptions,
        on_message=lambda topic, payload, _: received.append((topic, payload)),
        settings=settings,
        **options,
    )
    return bus, received


def make_plane(url, **options):
    return make_bus(
        url, CONTROL_PLANE, subscriptions=TOPICS.control_plane_grant.subscribe, **options
    )[0]


def test_backoff_doubles_to_its_limit_and_differs_between_users():
    settings = BusSettings(backoff_base_s=0.1, backoff_max_s=5.0)
    for failures, whole_s in ((1, 0.1), (2, 0.2), (6, 3.2), (7, 5.0), (1000, 5.0)):
        waits = {backoff_s(f"proxy-{n}", failures, settings) for n in range(200)}
        assert len(waits) == 200
        assert whole_s / 2 <= min(waits) < 0.55 * whole_s  # 200 draws: missed once in 10^9
        assert 0.95 * whole_s < max(waits) <= whole_s


@pytest.mark.parametrize(
    "url", ["localhost", "http://x", "mqtt://", "mqtts://127.0.0.1", "mqtt://127.0.0.1:x"]
)
def test_a_url_that_is_no_broker_is_refused(url):
    with pytest.raises(ConfigError, match="broker"):
        make_bus(url, "a")


def test_a_bus_ends_when_it_is_cancelled_as_the_broker_answers():
    async def work():
        client = make_bus("mqtt://127.0.0.1:9", "a")[0]._new_client()
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(client._wait_for(answer, None))
        await asyncio.sleep(0)
        answer.set_result(None)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_messages_pass_in_order(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a"]) as server:
            bus, received = make_bus(server.url, "a")
            plane = make_plane(server.url)
            async with running(bus, plane):
                await bus.wait_connected()
                await plane.wait_connected()
                payloads = [b"%d" % number for number in range(200)]
                await asyncio.gather(
                    *(plane.publish(TOPICS.config("a", "routes"), item) for item in payloads)
                )
                await until(lambda: len(received) == 200)
                assert [payload for _, payload in received] == payloads

    run_clean(work())


def test_nothing_is_published_without_a_connection():
    async def work():
        bus, _ = make_bus("mqtt://127.0.0.1:9", "a")
        with pytest.raises(BusError, match="not connected"):
            await bus.publish("x", b"")

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_wrong_password_is_retried_with_patience(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a"]) as server:
            bus, _ = make_bus(server.url, "a", "guess")
            async with running(bus):
                await until(lambda: bus.counters["failed"] >= 3)
                assert bus.counters["connected"] == 0
                assert "not auth" in bus.last_error.lower()

    run_clean(work())


@pytest.mark.parametrize("where", ["nobody", "silent"])
def test_it_can_be_cancelled_while_it_connects(where):
    async def work():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            if where == "nobody":
                listener.close()
            bus, _ = make_bus(f"mqtt://127.0.0.1:{port}", "a")
            task = asyncio.create_task(bus.run())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_clean(work())


def test_a_broker_that_accepts_and_says_nothing_is_given_up():
    async def work():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            bus, _ = make_bus(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", "a")
            async with running(bus):
                await until(lambda: bus.counters["failed"] >= 2)
                assert "timed out" in bus.last_error

    run_clean(work())


def test_a_full_inbox_drops_and_counts(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as server:
            bus, received = make_bus(server.url, "a", settings=BusSettings(inbox=5))
            gate = asyncio.Event()
            bus._read = lambda client: gate.wait()  # never takes anything out
            plane = make_plane(server.url)
            async with running(bus, plane):
                await bus.wait_connected()
                await plane.wait_connected()
                for _ in range(8):
                    await plane.publish(TOPICS.config("a", "routes"), b"x")
                client = bus._client
                await until(lambda: client._queue.dropped == 3)
            assert bus.counters["dropped"] == 3
            assert received == []

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_what_a_proxy_says_on_each_connection_comes_after_it_listens(kind, tmp_path):
    async def work():
        greetings = []

        async def greet():
            greetings.append(bus.is_connected)

        async with broker(kind, tmp_path, ["a"]) as server:
            bus, _ = make_bus(server.url, "a", on_connect=greet)
            async with running(bus):
                for count in (1, 2):
                    await until(lambda count=count: len(greetings) == count)
                    await server.kill()
                    await until(lambda: not bus.is_connected)
                    await server.start()
                await until(lambda: len(greetings) == 3)
                assert greetings == [True] * 3

    run_clean(work())
