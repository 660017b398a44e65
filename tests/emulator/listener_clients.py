"""Clients of every kind for the tests of a listener, and a protocol to talk to."""

import asyncio
import contextlib
import socket
import ssl

import pytest
from identities import AUTHORITY, FOREIGN, RATINGS, REVIEWS, enrolled

from emulator.access.listener import Listener, ListenerLimits
from emulator.clock import Clock
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import ListenerPolicy
from meshsim.policy.authentication import spiffe_id

STRICT, PERMISSIVE, DISABLE = (ListenerPolicy(mode) for mode in ("STRICT", "PERMISSIVE", "DISABLE"))
MS = 1_000_000
STRANGER = spiffe_id("evil.local", "default", "ratings-v1")


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


GARBAGE = [
    b"\x00" * 100,
    b"\xff",
    b"\x80\x2e\x01\x00\x02",  # SSL 2
    b"\x16" + b"\xff" * 300,  # the first byte of TLS, then none of it
    b"\x16\x03\x01\x00\x05hello",
    b"\x16\x03\x01\xff\xff" + b"a" * 70_000,  # longer than any record
    b"GET / HTTP/1.1\r\n\r\n",
]


def hello_of(context):
    """Return the first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def shake_hands(port, context):
    """Shake hands as OpenSSL does by itself: who refuses says so."""
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, do_handshake_on_connect=True),
    ):
        pass
