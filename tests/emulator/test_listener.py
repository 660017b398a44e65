import asyncio
import contextlib
import logging
import socket
import ssl
import struct

import psutil
import pytest
import uvloop
from identities import AUTHORITY, FOREIGN, NOW, RATINGS, REVIEWS, enrolled, rotate, until

from emulator import listener as listener_module
from emulator.clock import Clock
from emulator.identity import Identity, verify_server
from emulator.listener import REASONS, Listener, ListenerLimits
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import ListenerPolicy
from meshsim.policy.authentication import spiffe_id

STRICT, PERMISSIVE, DISABLE = (ListenerPolicy(mode) for mode in ("STRICT", "PERMISSIVE", "DISABLE"))
MS = 1_000_000
STRANGER = spiffe_id("evil.local", "default", "ratings-v1")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on each kind of loop; nothing may be left behind."""

    def run_on_loop(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return run_on_loop


class Echo(asyncio.Protocol):
    """Answers each message with who sent it."""

    made = lost = 0

    def __init__(self, peer):
        self.peer = peer

    def connection_made(self, transport):
        Echo.made += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(f"{self.peer.principal}:".encode() + data)

    def connection_lost(self, exc):
        Echo.lost += 1


class Refused(Exception):
    """The server closed without an answer."""


async def ask(port, context=None, message=b"hello"):
    """Return the answer to `message` on a new connection."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError as error:
        raise Refused(type(error).__name__) from None
    try:
        writer.write(message)
        answer = await reader.read(1000)
    except OSError as error:
        raise Refused(type(error).__name__) from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not answer:
        raise Refused("closed")
    return answer


@contextlib.asynccontextmanager
async def listening(policy=STRICT, identity=None, **limits):
    """Yield a listener and its port; on leaving, every connection is gone."""
    Echo.made = Echo.lost = 0
    listener = Listener(
        policy, identity or enrolled(REVIEWS), Echo, Clock(), limits=ListenerLimits(**limits)
    )
    port = await listener.start()
    try:
        yield listener, port
    finally:
        listener.abort()
        async with asyncio.timeout(10):
            await listener.wait_closed()
        counts = listener.counters()
        assert (counts["active"], counts["pending"]) == (0, 0)
        assert Echo.made == Echo.lost == counts["admitted"]


def bare_context():
    """Return a client's context without a certificate, which takes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def client_of(principal=RATINGS, **enrolment):
    """Return a client's context that takes any server."""
    context = enrolled(principal, **enrolment).client_context()
    context.verify_mode = ssl.CERT_NONE
    return context


def stranger_of_our_root():
    """Return a certificate that our root signed for another trust domain."""
    authority = CertificateAuthority(AUTHORITY._key, AUTHORITY._root, "evil.local", ttl_s=3600.0)
    return client_of(STRANGER, authority=authority)


def old_tls():
    context = client_of()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def distrusting():
    """Return a client that knows another root, and so does not take our server."""
    return enrolled(RATINGS, authority=FOREIGN).client_context()


RATINGS_ONLY = ListenerPolicy("STRICT", principals=(RATINGS,))
REVIEWS_ONLY = ListenerPolicy("STRICT", principals=(REVIEWS,))


@pytest.mark.parametrize(
    ("policy", "context", "principal"),
    [
        (STRICT, client_of, RATINGS),
        (RATINGS_ONLY, client_of, RATINGS),
        (PERMISSIVE, client_of, RATINGS),
        (PERMISSIVE, lambda: None, None),
        (DISABLE, lambda: None, None),
    ],
)
def test_who_is_admitted(run, policy, context, principal):
    async def scenario():
        async with listening(policy) as (listener, port):
            client = context()
            assert await ask(port, client) == f"{principal}:hello".encode()
            counts = listener.counters()
            assert counts["admitted"] == counts["accepted"] == 1
            assert counts["handshakes"] == (client is not None)
            assert counts["refused"] == 0

    run(scenario())


@pytest.mark.parametrize(
    ("policy", "context", "reason"),
    [
        (STRICT, bare_context, "no_certificate"),
        (PERMISSIVE, bare_context, "no_certificate"),
        (STRICT, lambda: client_of(authority=FOREIGN), "certificate_untrusted"),
        (PERMISSIVE, lambda: client_of(authority=FOREIGN), "certificate_untrusted"),
        (STRICT, lambda: client_of(at=NOW - 7200), "certificate_expired"),
        (STRICT, lambda: client_of(at=NOW + 7200), "certificate_not_yet_valid"),
        (STRICT, stranger_of_our_root, "wrong_trust_domain"),
        (REVIEWS_ONLY, client_of, "principal_refused"),
        (STRICT, lambda: None, "plaintext_refused"),
        (ListenerPolicy("PERMISSIVE", principals=(RATINGS,)), lambda: None, "no_principal"),
        (ListenerPolicy("STRICT", trust_domains=()), client_of, "wrong_trust_domain"),
        (DISABLE, client_of, "tls_refused"),
        (STRICT, old_tls, "handshake_failed"),
        (STRICT, distrusting, "closed_in_handshake"),  # asyncio's clients leave without an alert
    ],
)
def test_who_is_refused_counted_and_logged(run, caplog, policy, context, reason):
    async def scenario():
        async with listening(policy) as (listener, port):
            for _ in range(3):
                with pytest.raises(Refused):
                    await ask(port, context())
            await until(lambda: listener.counters().get(f"refused.{reason}") == 3, reason)
            assert listener.counters()["refused"] == 3
            # Nothing of them reached a protocol, and the next one is served.
            assert Echo.made == 0
            listener.update(policy=PERMISSIVE)
            assert await ask(port) == b"None:hello"

    caplog.set_level(logging.INFO, listener_module.__name__)
    run(scenario())
    records = [r for r in caplog.records if f" {reason} " in r.getMessage()]
    assert [r.levelname for r in records] == ["WARNING", "WARNING", "INFO"]
    assert "PRIVATE" not in caplog.text
    assert "BEGIN" not in caplog.text


GARBAGE = [
    b"\x00" * 100,
    b"\xff",
    b"\x80\x2e\x01\x00\x02",  # SSL 2
    b"\x16" + b"\xff" * 300,  # the first byte of TLS, then none of it
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\xff\xff" + b"a" * 70_000,  # longer than any record
    b"GET / HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused(run, garbage):
    async def scenario():
        async with listening() as (listener, port):
            with pytest.raises(Refused):
                await ask(port, None, garbage)
            reason = "handshake_failed" if garbage[0] == 0x16 else "plaintext_refused"
            await until(lambda: listener.counters().get(f"refused.{reason}") == 1, reason)
            assert (await ask(port, client_of())).endswith(b"hello")

    run(scenario())


def hello_of(context):
    """Return the first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


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
        async with listening(first_byte_timeout_ns=150 * MS) as (listener, port):
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
            with contextlib.suppress(ConnectionError):
                assert await loop.sock_recv(silent[0], 1) == b""
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


def test_without_a_certificate_tls_is_refused_until_there_is_one(run):
    async def scenario():
        identity = Identity(REVIEWS)
        async with listening(STRICT, identity) as (listener, port):
            with pytest.raises(Refused):
                await ask(port, client_of())
            assert listener.counters()["refused.no_identity"] == 1
            rotate(identity)
            assert (await ask(port, client_of())).endswith(b"hello")

    run(scenario())


def test_a_new_policy_closes_whom_it_does_not_admit(run):
    async def scenario():
        async with listening(PERMISSIVE) as (listener, port):
            plain = await asyncio.open_connection("127.0.0.1", port)
            mutual = await asyncio.open_connection("127.0.0.1", port, ssl=client_of())
            for reader, writer in (plain, mutual):
                writer.write(b"x")
                assert (await reader.read(100)).endswith(b":x")
            listener.update(policy=STRICT)
            assert await plain[0].read() == b""
            assert listener.counters()["refused.withdrawn"] == 1
            mutual[1].write(b"y")
            assert (await mutual[0].read(100)).endswith(b":y")
            with pytest.raises(Refused):
                await ask(port)
            plain[1].close()
            mutual[1].close()

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


async def resume(port, context):
    """Return the answers to two requests, the second on the resumed session of the first."""
    answers, session = [], None
    loop = asyncio.get_running_loop()

    def exchange(session):
        raw = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(raw, session=session) as connection:
            resumable = connection.session
            connection.sendall(b"hello")
            answer = connection.recv(100)
            if answer:
                connection.unwrap()  # else the server forgets the session
            return answer, resumable

    for _ in range(2):
        answer, session = await loop.run_in_executor(None, exchange, session)
        answers.append(answer)
    return answers


def test_a_resumed_session_passes_the_same_questions(run, monkeypatch):
    async def scenario():
        async with listening() as (listener, port):
            context = client_of()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await resume(port, context) == [f"{RATINGS}:hello".encode()] * 2
            assert listener.counters()["resumed"] == 1
            times = iter([NOW + 7200])
            monkeypatch.setattr(listener_module, "unix_s", lambda: next(times))
            with contextlib.suppress(OSError):
                assert (await resume(port, context))[1] == b""
            await until(
                lambda: listener.counters().get("refused.certificate_expired") == 1, "expired"
            )

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


def shake_hands(port, context):
    """Shake hands as OpenSSL does by itself: who refuses says so."""
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, do_handshake_on_connect=True),
    ):
        pass


def test_an_expired_server_is_refused_by_its_clients_and_recovers(run):
    async def scenario():
        server = enrolled(REVIEWS)
        async with listening(STRICT, server) as (listener, port):
            client = enrolled(RATINGS)
            server.expire(AUTHORITY.expired(server.certificate_pem, NOW))
            with pytest.raises(Refused, match="SSLCertVerificationError"):
                await ask(port, client.client_context())
            loop = asyncio.get_running_loop()
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.run_in_executor(None, shake_hands, port, client.client_context())
            await until(lambda: listener.counters().get("refused.rejected_by_client") == 1, "alert")
            server.restore()
            assert (await ask(port, client.client_context())).endswith(b"hello")

    run(scenario())


def test_every_reason_is_explained():
    assert all(REASONS.values())
    assert set(listener_module._VERIFY_REASONS.values()) <= REASONS.keys()
