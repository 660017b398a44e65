"""The accepting socket of a proxy: who connects, who is turned away, and for what reason.

Rule: a connection passes three steps before its protocol exists.

1. *First byte.*  It is peeked at, not read: 0x16 opens a TLS record, anything else is plaintext
   (the clients of HTTP speak first).  So one port serves both (PERMISSIVE), and a client of the
   wrong kind is refused before it costs a handshake.
2. *Handshake*, for TLS: OpenSSL verifies the chain and the validity period.
3. *Admission* by `meshsim.policy.authentication`: the only place that decides.

Each step has a deadline (model time), also the first byte after the handshake.  Connections that
are not admitted yet have a limit of their own; when it is reached, the oldest that has sent nothing
goes, or else the oldest: a crowd of silent clients cannot keep out those who get on.

Nothing of a refused connection reaches a protocol.  Every refusal is counted by reason and logged:
each one as INFO, and the 1st, 2nd, 4th, 8th ... of a reason as WARNING, so that a flood does not
fill the log.

Running connections live on through a rotation of certificates.  When the policy changes, those
that it would no longer admit are closed.

A listener binds the loopback address unless its caller names another.

References
----------
Envoy, source/extensions/filters/listener/tls_inspector (peek for a ClientHello) and
config.listener.v3.Listener.listener_filters_timeout; Istio, PeerAuthentication.  RFC 8446,
section 5.1 (ContentType handshake = 22).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from emulator.access.identity import Identity, peer_expired, peer_principal
from emulator.access.refusals import REASONS, Refused, reason_of
from emulator.clock import ModelClock, unix_s
from meshsim.controlplane.configuration import ListenerPolicy
from meshsim.policy.authentication import NO_PRINCIPAL, admit_connection
from meshsim.units import NS_PER_S

__all__ = ["Listener", "ListenerLimits", "Peer"]

_logger = logging.getLogger(__name__)

_TLS_HANDSHAKE = b"\x16"
#: Connections taken from the backlog before others get a turn.
_ACCEPTS_AT_ONCE = 64
#: Rest after accept failed (no file descriptors left), as asyncio's own servers do [real s].
_ACCEPT_REST_S = 1.0
#: Closes with a reset: linger on, 0 s.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class ListenerLimits:
    """Limits of one listener; times are model time.

    Parameters
    ----------
    max_connections : int
        Admitted connections at once.
    max_pending : int
        Accepted connections that are not admitted yet, at once.
    first_byte_timeout_ns : int
        From accept to the first byte: of the hello, or of a plaintext request [ns].
    handshake_timeout_ns : int
        From the first byte to the end of the handshake [ns].
    idle_timeout_ns : int
        From the end of the handshake to the first byte of a request [ns].  Long, because who is
        admitted may keep a connection in stock (Envoy: idle_timeout of 1 h).
    backlog : int
        Connections that the kernel completes ahead of us.
    """

    max_connections: int = 10_000
    max_pending: int = 1024
    first_byte_timeout_ns: int = 10 * NS_PER_S
    handshake_timeout_ns: int = 10 * NS_PER_S
    idle_timeout_ns: int = 3600 * NS_PER_S
    backlog: int = 1024


class Peer(NamedTuple):
    """Who is at the other end of an admitted connection."""

    #: SPIFFE id of the client, None in plaintext.
    principal: str | None
    tls: bool
    #: ``host:port``.
    address: str


class Listener:
    """Accept the connections of one proxy and admit those that the policy allows.

    Parameters
    ----------
    policy : ListenerPolicy
        Mode, trust domains and principals.
    identity : Identity or None
        Gives the certificate to present; without one every TLS client is refused.
    protocol_factory : callable
        Called with the `Peer` of an admitted connection; returns the asyncio.Protocol that
        serves it.  Its `connection_made` comes after the admission.
    clock : ModelClock
        Turns the limits into real time.
    name : str
        For the log.
    limits : ListenerLimits
    """

    def __init__(
        self,
        policy: ListenerPolicy,
        identity: Identity | None,
        protocol_factory: Callable[[Peer], asyncio.Protocol],
        clock: ModelClock,
        *,
        name: str = "listener",
        limits: ListenerLimits = ListenerLimits(),
    ) -> None:
        self._policy = policy
        self._identity = identity
        self._protocol_factory = protocol_factory
        self._name = name
        self._limits = limits
        self._first_byte_s = clock.real_s(limits.first_byte_timeout_ns)
        self._idle_s = clock.real_s(limits.idle_timeout_ns)
        self._handshake_s = clock.real_s(limits.handshake_timeout_ns)
        self._socket: socket.socket | None = None
        self._rest: asyncio.TimerHandle | None = None
        #: In the order of their accept; those that have sent nothing are in both.
        self._pending: dict[asyncio.Task[None], None] = {}
        self._silent: dict[asyncio.Task[None], None] = {}
        self._connections: set[_Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen, and return the port.

        Parameters
        ----------
        host : str
            Address to bind; only loopback is safe from other machines.
        port : int
            0 lets the machine choose.

        Raises
        ------
        OSError
            If the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(self._limits.backlog)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        loop.add_reader(listening.fileno(), self._accept)
        return int(listening.getsockname()[1])

    def update(
        self, *, policy: ListenerPolicy | None = None, identity: Identity | None = None
    ) -> None:
        """Take a new policy or identity; close the connections that it does not admit.

        A request under way on such a connection fails.
        """
        self._identity = identity or self._identity
        self._policy = policy or self._policy
        for connection in list(self._connections):
            allowed, reason = self._admits(connection.peer.tls, connection.peer.principal)
            if not allowed:
                self._refuse(connection.peer.address, "withdrawn", reason)
                connection.close()

    def close(self) -> None:
        """Stop accepting; admitted connections live on, the others are dropped."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        for task in self._pending:
            task.cancel()

    def abort(self) -> None:
        """Stop accepting and reset every connection: what a killed process leaves."""
        self.close()
        for connection in list(self._connections):
            connection.reset()

    async def wait_closed(self) -> None:
        """Wait until no connection is left, admitted or not."""
        await self._idle.wait()

    def counters(self) -> dict[str, int]:
        """Return what was counted so far, and how many connections there are now.

        ``accepted``, ``admitted``, ``handshakes`` (of those admitted, by TLS), ``resumed``,
        ``active``, ``pending``, ``refused`` and ``refused.<reason>`` for each reason met.
        """
        by_reason = {f"refused.{reason}": count for reason, count in self._refused.items()}
        totals = {key: self._counts[key] for key in ("accepted", "admitted", "handshakes")}
        return {
            **totals,
            "resumed": self._counts["resumed"],
            "active": len(self._connections),
            "pending": len(self._pending),
            "refused": self._refused.total(),
            **by_reason,
        }

    def _accept(self) -> None:
        """Take waiting connections from the kernel."""
        for _ in range(_ACCEPTS_AT_ONCE):
            if self._socket is None:
                return
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._refuse("unknown", "accept_failed", str(error))
                self._rest_from_accepting()
                return
            self._begin(accepted, f"{address[0]}:{address[1]}")

    def _rest_from_accepting(self) -> None:
        """Let the backlog wait until descriptors may be free again; else we would spin."""
        loop = asyncio.get_running_loop()
        listening = self._socket
        if listening is not None:
            loop.remove_reader(listening.fileno())
            self._rest = loop.call_later(
                _ACCEPT_REST_S, loop.add_reader, listening.fileno(), self._accept
            )

    def _begin(self, accepted: socket.socket, address: str) -> None:
        """Start the admission of an accepted connection."""
        self._counts["accepted"] += 1
        accepted.setblocking(False)
        if len(self._connections) >= self._limits.max_connections:
            self._refuse(address, "too_many_connections")
            accepted.close()
            return
        if len(self._pending) >= self._limits.max_pending:
            self._push_out()
        task = asyncio.get_running_loop().create_task(self._admit(accepted, address), name=address)
        self._pending[task] = self._silent[task] = None
        self._idle.clear()
        task.add_done_callback(functools.partial(self._end_admission, accepted))

    def _push_out(self) -> None:
        """Make room: the oldest that has sent nothing goes, or the oldest of all."""
        oldest = next(iter(self._silent or self._pending))
        del self._pending[oldest]
        self._silent.pop(oldest, None)
        oldest.cancel()
        self._refuse(oldest.get_name(), "too_many_pending")

    def _end_admission(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        self._silent.pop(task, None)
        self._settle()
        if task.cancelled():
            # Here and not in the task: one that is cancelled before its first step runs nothing.
            accepted.close()
        elif (error := task.exception()) is not None:
            # A bug, not a client's doing; the listener goes on.
            accepted.close()
            _logger.error("%s: admission of %s failed", self._name, task.get_name(), exc_info=error)

    def _settle(self) -> None:
        if not self._pending and not self._connections:
            self._idle.set()

    async def _admit(self, accepted: socket.socket, address: str) -> None:
        """Lead one connection through first byte and handshake."""
        loop = asyncio.get_running_loop()
        try:
            tls = await self._peek(loop, accepted)
            self._silent.pop(cast("asyncio.Task[None]", asyncio.current_task()), None)
            await loop.connect_accepted_socket(
                lambda: _Connection(self, address),
                accepted,
                ssl=self._context(tls),
                ssl_handshake_timeout=self._handshake_s if tls else None,
            )
        except Refused as refusal:
            self._refuse(address, *refusal.args)
            accepted.close()
        except OSError as error:
            # Also ssl.SSLError.  The transport has closed the socket, or there is none.
            self._refuse(address, reason_of(error), str(error))
            accepted.close()

    async def _peek(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> bool:
        """Wait for the first byte; return whether it opens TLS."""
        try:
            async with asyncio.timeout(self._first_byte_s):
                first = await _peek_byte(loop, accepted)
        except TimeoutError:
            raise Refused("silent") from None
        except OSError as error:
            raise Refused("closed_early", str(error)) from None
        if not first:
            raise Refused("closed_early")
        return first == _TLS_HANDSHAKE

    def _context(self, tls: bool) -> ssl.SSLContext | None:
        """Return the context to go on with; refuse what no identity could make good."""
        allowed, reason = self._admits(tls, None)
        if not allowed and not (tls and reason == NO_PRINCIPAL):
            raise Refused(reason)
        if not tls:
            return None
        if self._identity is None or self._identity.certificate_pem is None:
            raise Refused("no_identity")
        return self._identity.server_context()

    def _admits(self, tls: bool, principal: str | None) -> tuple[bool, str]:
        policy = self._policy
        return admit_connection(
            policy.mode, tls, principal, policy.trust_domains, policy.principals
        )

    def _decide(self, transport: asyncio.Transport, address: str) -> Peer:
        """Return the peer of a connection whose handshake is done, or refuse it."""
        connection = transport.get_extra_info("ssl_object")
        principal = None
        if connection is not None:
            principal = peer_principal(connection)
            if connection.session_reused:
                self._counts["resumed"] += 1
                if peer_expired(connection, unix_s()):
                    raise Refused("certificate_expired", "in a resumed session")
        allowed, reason = self._admits(connection is not None, principal)
        if not allowed:
            raise Refused(reason, f"principal {principal!r}")
        if len(self._connections) >= self._limits.max_connections:
            raise Refused("too_many_connections")
        return Peer(principal, connection is not None, address)

    def _refuse(self, address: str, reason: str, detail: str = "") -> None:
        """Count and log a refusal."""
        self._refused[reason] += 1
        count = self._refused[reason]
        level = logging.INFO if count & (count - 1) else logging.WARNING
        explained = ": ".join(part for part in (REASONS.get(reason, ""), detail) if part)
        _logger.log(
            level,
            "%s refused %s: %s (%s), %d so far",
            self._name,
            address,
            reason,
            explained,
            count,
        )


class _Connection(asyncio.Protocol):
    """An accepted connection; hands everything to the protocol once there is one."""

    def __init__(self, listener: Listener, address: str) -> None:
        self._listener = listener
        self._address = address
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.peer = Peer(None, False, address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide on the connection: for TLS, this comes after the handshake."""
        listener = self._listener
        self._transport = cast("asyncio.Transport", transport)
        try:
            self.peer = listener._decide(self._transport, self._address)
        except Refused as refusal:
            listener._refuse(self._address, *refusal.args)
            self._transport.abort()
            return
        listener._connections.add(self)
        listener._idle.clear()
        try:
            self._inner = listener._protocol_factory(self.peer)
            self._inner.connection_made(self._transport)
        except BaseException:
            # Ours is the bug; the client must not wait for an answer that never comes.
            self._transport.abort()
            raise
        listener._counts["admitted"] += 1
        listener._counts["handshakes"] += self.peer.tls
        if self.peer.tls:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(listener._idle_s, self._end_silence)

    def data_received(self, data: bytes) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._listener._connections.discard(self)
        self._listener._settle()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def close(self) -> None:
        """Close after what is written already."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close with a reset."""
        if self._transport is not None:
            raw: Any = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def _end_silence(self) -> None:
        """Close a connection that is admitted and says nothing."""
        self._listener._refuse(self._address, "silent_after_handshake")
        self.close()


async def _peek_byte(loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> bytes:
    """Return the first byte without taking it; empty if the client has left."""
    while True:
        try:
            return accepted.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            readable = asyncio.Event()
            loop.add_reader(accepted.fileno(), readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(accepted.fileno())
