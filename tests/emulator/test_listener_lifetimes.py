import asyncio
import contextlib
import socket
import struct

import psutil
import pytest
from identities import FOREIGN, RATINGS, REVIEWS, enrolled, rotate, until
from listener_clients import (
    GARBAGE,
    MS,
    PERMISSIVE,
    STRICT,
    Echo,
    Refused,
    ask,
    bare_context,
    client_of,
    hello_of,
    listening,
)

from emulator.access import listener as listener_module
from emulator.access.identity import verify_server


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"", "silent"),
        (b"\x16", "handshake_timeout"),
        ("hello", "handshake_timeout"),
        ("half a hello", "handshake_timeout"),
    ],
)
def test_the_slow_are_timed_out_while_others_are_served(run, first, reason):
    hello = hello_of(client_of())
    first = {"hello": hello, "half a hello": hello[:60]}.get(first, first)

    async def scenario():
        limits = {"first_byte_timeout_ns": 150 * MS, "handshake_timeout_ns": 150 * MS}
        async with listening(**limits) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            assert (await ask(port, client_of())).endswith(b"hello")
            with contextlib.suppress(ConnectionError):
                await reader.read()  # ends when the listener closes
            await until(lambda: listener.counters().get(f"refused.{reason}") == 1, reason)
            await until(lambda: listener.counters()["pending"] == 0, "nothing pending")
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(scenario())


def test_silence_after_the_handshake_is_timed_out(run):
    async def scenario():
        async with listening(idle_timeout_ns=150 * MS) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_of())
            busy = await asyncio.open_connection("127.0.0.1", port, ssl=client_of())
            busy[1].write(b"once")
            assert await busy[0].read(100) == f"{RATINGS}:once".encode()
            assert await reader.read() == b""
            assert listener.counters()["refused.silent_after_handshake"] == 1
            # Who has spoken once may be idle: that is the protocol's business.
            busy[1].write(b"twice")
            assert await busy[0].read(100) == f"{RATINGS}:twice".encode()
            for side in (writer, busy[1]):
                side.close()
                with contextlib.suppress(OSError):
                    await side.wait_closed()

    run(scenario())


def test_a_client_that_leaves_at_once_is_counted(run):
    async def scenario():
        async with listening() as (listener, port):
            for reset in (False, True):
                client = socket.create_connection(("127.0.0.1", port))
                if reset:
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.close()
            await until(lambda: listener.counters().get("refused.closed_early") == 2, "closed")
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(hello_of(client_of()))
            client.close()
            await until(
                lambda: listener.counters().get("refused.closed_in_handshake") == 1, "handshake"
            )

    run(scenario())


def test_too_many_connections_are_refused_and_room_is_given_back(run):
    async def scenario():
        async with listening(PERMISSIVE, max_connections=2) as (listener, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in held:
                writer.write(b"x")
                assert await reader.read(100) == b"None:x"
            for context in (None, client_of()):
                with pytest.raises(Refused):
                    await ask(port, context)
            assert listener.counters()["refused.too_many_connections"] == 2
            held[0][1].close()
            await until(lambda: listener.counters()["active"] == 1, "room")
            assert await ask(port) == b"None:hello"
            held[1][1].close()

    run(scenario())


def test_a_crowd_of_silent_clients_keeps_nobody_out(run):
    async def scenario():
        async with listening(max_pending=4) as (listener, port):
            crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
            assert (await ask(port, client_of())).endswith(b"hello")
            counts = listener.counters()
            assert counts["refused.too_many_pending"] == 17  # 20 and the one, less the 4 allowed
            for client in crowd:
                client.close()

    run(scenario())


def test_a_crowd_pushes_out_the_silent_before_those_who_shake_hands(run):
    async def scenario():
        async with listening(max_pending=3) as (listener, port):
            slow = socket.create_connection(("127.0.0.1", port))
            hello = hello_of(client_of())
            slow.sendall(hello)
            await until(lambda: listener.counters()["pending"] == 1, "accepted")
            slow.setblocking(False)
            # The server's answer says that it has begun to shake hands.
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(slow, 1) == b"\x16"
            silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
            await until(lambda: listener.counters()["pending"] == 3, "full")
            silent += [socket.create_connection(("127.0.0.1", port))]
            await until(lambda: listener.counters().get("refused.too_many_pending") == 1, "one out")
            silent[0].setblocking(False)
            async with asyncio.timeout(5):  # long before it would be closed for its silence
                with contextlib.suppress(ConnectionError):
                    assert await loop.sock_recv(silent[0], 1) == b""
            assert "refused.silent" not in listener.counters()
            for client in (slow, *silent):
                client.close()

    run(scenario())


def test_no_descriptors_left_is_survived(run, monkeypatch):
    monkeypatch.setattr(listener_module, "_ACCEPT_REST_S", 0.01)

    async def scenario():
        async with listening(PERMISSIVE) as (listener, port):
            real, failures = listener._socket, iter([OSError(24, "Too many open files")] * 2)

            class Exhausted:
                def accept(self):
                    for failure in failures:
                        raise failure
                    return real.accept()

                def __getattr__(self, name):
                    return getattr(real, name)

            listener._socket = Exhausted()
            assert await ask(port) == b"None:hello"
            assert listener.counters()["refused.accept_failed"] == 2

    run(scenario())


def test_close_lets_running_connections_live(run):
    async def scenario():
        async with listening() as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_of())
            writer.write(b"x")
            await reader.read(100)
            listener.close()
            listener.close()
            with pytest.raises(Refused):
                await ask(port, client_of())
            writer.write(b"y")
            assert (await reader.read(100)).endswith(b":y")
            writer.close()

    run(scenario())


def test_abort_resets_and_the_port_can_be_taken_again(run):
    async def scenario():
        async with listening(PERMISSIVE) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            await reader.read(100)
            listener.abort()
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            writer.close()
            await listener.wait_closed()
            assert await listener.start(port=port) == port
            assert await ask(port) == b"None:hello"

    run(scenario())


def test_it_listens_on_loopback_alone(run):
    async def scenario():
        async with listening() as (listener, _):
            assert listener._socket.getsockname()[0] == "127.0.0.1"

    run(scenario())


def test_a_protocol_that_fails_hurts_itself_alone(run):
    async def scenario():
        errors = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with listening(PERMISSIVE) as (listener, port):
            listener._protocol_factory = lambda peer: 1 // 0
            for context in (None, client_of()):
                with pytest.raises(Refused):
                    await ask(port, context)
            listener._protocol_factory = Echo
            assert await ask(port) == b"None:hello"
            assert listener.counters()["admitted"] == 1
            assert len(errors) == 2

    run(scenario())


def test_no_descriptor_leaks(run):
    process = psutil.Process()

    async def scenario():
        async with listening(max_pending=8, handshake_timeout_ns=100 * MS) as (listener, port):
            contexts = [client_of(), bare_context(), client_of(authority=FOREIGN), None]
            await ask(port, client_of())  # what a loop opens once, it has opened now
            before = process.num_fds()
            for round_ in range(10):
                crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
                crowd[8].sendall(GARBAGE[round_ % len(GARBAGE)])
                crowd[9].sendall(b"\x16")
                await asyncio.gather(*(ask(port, c) for c in contexts), return_exceptions=True)
                for client in crowd:
                    client.close()
            await until(lambda: listener.counters()["pending"] == 0, "nothing pending")
            await until(lambda: listener.counters()["active"] == 0, "nothing active")
            await until(lambda: process.num_fds() <= before, "descriptors given back")
            counts = listener.counters()
            assert counts["accepted"] == counts["admitted"] + counts["refused"] == 141

    run(scenario())


def test_rotation_under_load_drops_nothing(run):
    """Every 200 ms both sides rotate while requests never stop, on new and on kept connections."""

    async def scenario():
        server, client = enrolled(REVIEWS), enrolled(RATINGS)
        serials, answered, stop = set(), 0, asyncio.Event()

        async def load(port):
            nonlocal answered
            while not stop.is_set():
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client.client_context()
                )
                connection = writer.get_extra_info("ssl_object")
                verify_server(connection, REVIEWS)
                serials.add(connection.getpeercert()["serialNumber"])
                writer.write(b"hello")
                assert await reader.read(100) == f"{RATINGS}:hello".encode()
                answered += 1
                writer.close()
                await writer.wait_closed()

        async with listening(STRICT, server) as (listener, port):
            kept = await asyncio.open_connection("127.0.0.1", port, ssl=client.client_context())
            tasks = [asyncio.create_task(load(port)) for _ in range(3)]
            for _ in range(5):
                await asyncio.sleep(0.2)  # the interval under test
                rotate(server)
                rotate(client)
                kept[1].write(b"kept")
                assert await kept[0].read(100) == f"{RATINGS}:kept".encode()
            stop.set()
            await asyncio.gather(*tasks)
            counts = listener.counters()
            assert counts["refused"] == 0
            assert counts["admitted"] == answered + 1
            # One certificate to begin with, one a rotation; the last may come after the load.
            assert len(serials) >= 5
            kept[1].close()
            await kept[1].wait_closed()

    run(scenario())
