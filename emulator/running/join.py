"""Nodes on other machines: the harness' questions and their answers, over the bus.

Rule: a mesh that is started with ``--remote NODE`` waits until somebody joins as that node with
the token it names; the one who joins hosts the node's replicas and answers the same verbs as a
node process.  What it listens on is told to the others, so it is one address of its machine, and
the broker is one that both machines reach.  Every message carries an HMAC under the token, its
direction and its number: what is forged, altered, repeated or late is dropped.  The token itself
stays with the two; the password on the embedded broker is derived from it, and that of a broker
that others use too is in the URL to join with, as the name of the mesh is.

Clocks of two machines differ: the harness asks for the other's time, several times, and believes
the answer that came back fastest; the origin of model time is then wrong by half of that round
trip at most, which the result states.

A node that is silent for ten seconds is taken for dead.

References
----------
RFC 2104 (HMAC); F. Cristian, "Probabilistic clock synchronization", Distributed Computing 3
(1989): the fastest of several round trips bounds the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from emulator.clock import Clock
from emulator.control.broker import Broker
from emulator.control.broker_url import EMBEDDED_MESH, credential_for, password_in
from emulator.control.bus import Bus, BusError, public_url
from emulator.running.addresses import checked_host, is_loopback
from emulator.running.members import Member
from emulator.running.messages import Peer
from emulator.running.node import Node
from emulator.running.node_process import run_loop
from meshsim.controlplane.topics import HARNESS, Topics, encoded, node_grants
from meshsim.errors import ConfigError, MeshsimError, Problem

__all__ = ["BusCarrier", "RemoteNodes", "clock_offset", "join"]

_LOG = logging.getLogger("meshsim.join")
_ALIVE_S = 1.0
_SILENCE_MAX_S = 10.0
_MAC_BYTES = 32
_NUMBER_BYTES = 8
#: Messages that wait to be published; a conversation has a handful.
_QUEUE_MAX = 1000
_TIME_PROBES = 20


def _derived(token: str, purpose: str) -> bytes:
    return hmac.new(token.encode(), purpose.encode(), hashlib.sha256).digest()


class BusCarrier:
    """Carries the messages of one conversation over MQTT.

    Parameters
    ----------
    bus : Bus
    node, token : str
        Whose conversation it is, and what authenticates it.
    sends : "asked" or "said"
        The direction of what is sent from here; the other one is received.
    mesh : str
        Its name on the bus.
    """

    def __init__(
        self, bus: Bus, node: str, token: str, sends: str, mesh: str = EMBEDDED_MESH
    ) -> None:
        self._bus = bus
        self._topic = Topics(mesh).node(node, sends)
        self._key = _derived(token, "messages")
        self._sends = sends.encode()
        self._hears = b"said" if sends == "asked" else b"asked"
        self._sent = 0
        self._heard = 0
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE_MAX)

    def _mac(self, direction: bytes, content: bytes) -> bytes:
        return hmac.new(self._key, direction + content, hashlib.sha256).digest()

    def open(self, payload: bytes) -> bytes | None:
        """Return the message in `payload`; None if it is not of this conversation, or old."""
        mac, content = payload[:_MAC_BYTES], payload[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(self._hears, content)):
            return None
        number = int.from_bytes(content[:_NUMBER_BYTES], "big")
        if number <= self._heard:
            return None
        self._heard = number
        return content[_NUMBER_BYTES:]

    def send(self, message: bytes) -> None:
        """Send one message as soon as the bus takes it."""
        self._sent += 1
        content = self._sent.to_bytes(_NUMBER_BYTES, "big") + message
        try:
            self._queue.put_nowait(self._mac(self._sends, content) + content)
        except asyncio.QueueFull:
            raise ConnectionResetError("the bus takes nothing") from None

    async def run(self) -> None:
        """Publish what is sent, in order, until cancelled; what the bus drops is sent again."""
        while True:
            payload = await self._queue.get()
            while True:
                try:
                    await self._bus.publish(self._topic, payload)
                    break
                except BusError:
                    await asyncio.sleep(0.1)
            self._queue.task_done()

    async def flush(self) -> None:
        """Return when everything sent was published."""
        await self._queue.join()

    def close(self) -> None:
        """Nothing is held."""


class RemoteNodes:
    """The harness' side: nodes that others host.

    Parameters
    ----------
    nodes : sequence of str
        Names of their processes.
    mesh : str
        Name of the mesh on the bus.
    """

    def __init__(self, nodes: Sequence[str], mesh: str = EMBEDDED_MESH) -> None:
        self.nodes = tuple(nodes)
        self.tokens = {node: os.urandom(16).hex() for node in nodes}
        self._mesh = mesh
        self._topics = Topics(mesh)
        self._password = os.urandom(16).hex()
        self._members = {node: Member(node) for node in nodes}
        self._carriers: dict[str, BusCarrier] = {}
        self._joined = {node: asyncio.Event() for node in nodes}
        self._heard_ns: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def admit(self, broker: Broker) -> None:
        """Let the harness and those who join into an embedded broker."""
        if not self.nodes:
            return
        passwords = {node: _derived(token, "bus").hex() for node, token in self.tokens.items()}
        passwords[HARNESS] = self._password
        for user, grant in node_grants(self._mesh, self.nodes).items():
            broker.add_user(self._mesh, user, passwords[user], grant)

    def urls(self, bus_url: str) -> dict[str, str]:
        """Return what to join with, by node."""
        parts = urlsplit(bus_url)
        query = dict(parse_qsl(parts.query))
        if self._mesh != EMBEDDED_MESH:
            query["mesh"] = self._mesh
        if password_in(bus_url):
            query["password"] = password_in(bus_url)
        tail = parts.netloc.rpartition("@")[2] + (f"?{urlencode(query)}" if query else "")
        return {
            node: f"{parts.scheme}://{encoded(node)}:{token}@{tail}"
            for node, token in self.tokens.items()
        }

    async def start(self, bus_url: str, patience_s: float) -> None:
        """Listen for those who join, and say how to.

        Raises
        ------
        MeshsimError
            If the broker cannot be reached within `patience_s`.
        """
        if not self.nodes:
            return
        password = password_in(bus_url) or self._password
        bus = Bus(
            bus_url,
            credential_for(bus_url, HARNESS, password, self._mesh),
            subscriptions=[self._topics.node(node, "said") for node in self.nodes],
            on_message=self._on_message,
        )
        self._tasks.append(asyncio.ensure_future(bus.run()))
        await bus.reach(patience_s)
        for node, token in self.tokens.items():
            carrier = self._carriers[node] = BusCarrier(bus, node, token, "asked", self._mesh)
            self._members[node].peer.carry(carrier)
            self._tasks.append(asyncio.ensure_future(carrier.run()))
        self._tasks.append(asyncio.ensure_future(self._watch()))
        for node, url in self.urls(bus_url).items():
            _LOG.warning("%s is awaited: meshsim emulate --join '%s'", node, url)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        del retained  # an old message has an old number
        for node, carrier in self._carriers.items():
            if topic == self._topics.node(node, "said"):
                message = carrier.open(payload)
                if message is not None:
                    self._heard_ns[node] = Clock.real_ns()
                    self._joined[node].set()
                    self._members[node].peer.receive(message)

    async def _watch(self) -> None:
        """Say that the mesh is there, and take note of nodes that have fallen silent."""
        while True:
            await asyncio.sleep(_ALIVE_S)
            for carrier in self._carriers.values():
                with contextlib.suppress(ConnectionResetError):
                    carrier.send(b"")
            for node, heard_ns in self._heard_ns.items():
                if Clock.real_ns() - heard_ns > _SILENCE_MAX_S * 1e9:
                    self._members[node].peer.lose()

    async def member(self, node: str) -> Member:
        """Return the node when somebody has joined as it."""
        await self._joined[node].wait()
        return self._members[node]

    async def close(self) -> None:
        """Leave the bus."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


async def clock_offset(ask: Callable[[], Any]) -> tuple[int, int]:
    """Return how far another machine's clock is ahead, and the error at most [ns].

    Parameters
    ----------
    ask : callable
        Awaited for the other's time [ns].
    """
    best = (0, 1 << 62)
    for _ in range(_TIME_PROBES):
        begin_ns = Clock.real_ns()
        there_ns = await ask()
        end_ns = Clock.real_ns()
        error_ns = (end_ns - begin_ns + 1) // 2
        if error_ns < best[1]:
            best = there_ns - (begin_ns + end_ns) // 2, error_ns
    return best


# --- Who joins ------------------------------------------------------------------------------


class _Invitation(NamedTuple):
    """What a URL to join with says."""

    node: str
    token: str
    bus_url: str
    mesh: str
    password: str


def join(url: str, host: str = "127.0.0.1") -> None:
    """Host a node of a mesh that waits for it, until that mesh ends.

    Parameters
    ----------
    url : str
        As the harness says it: ``mqtt://NODE:TOKEN@broker:port``, for a broker that others use
        too with ``?mesh=NAME`` and its password.
    host : str
        Address of this machine to listen on, where the mesh can reach it.

    Raises
    ------
    ConfigError
        If the URL names no node and token, or this machine cannot listen on `host`.
    MeshsimError
        If the broker or the harness cannot be reached, or is lost.
    """
    invitation = _invitation(url)
    address = checked_host(host)
    if is_loopback(address) and not is_loopback(urlsplit(invitation.bus_url).hostname or ""):
        _LOG.warning("others are told %s, which only this machine can reach: see --host", address)
    run_loop(lambda: _serve(invitation, address))


def _invitation(url: str) -> _Invitation:
    parts = urlsplit(url)
    try:
        port, is_one = parts.port, True
    except ValueError:
        port, is_one = None, False
    if not (is_one and parts.username and parts.password and parts.hostname):
        allowed = "mqtt://NODE:TOKEN@host:port, as the mesh says it"
        raise ConfigError(
            [Problem("not what a mesh says", path="join", found=public_url(url), allowed=allowed)]
        )
    node, token = unquote(parts.username), unquote(parts.password)
    query = dict(parse_qsl(parts.query))
    mesh = query.pop("mesh", EMBEDDED_MESH)
    password = query.pop("password", _derived(token, "bus").hex())
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = host if port is None else f"{host}:{port}"
    files = f"?{urlencode(query)}" if query else ""
    return _Invitation(node, token, f"{parts.scheme}://{address}{files}", mesh, password)


async def _serve(invitation: _Invitation, host: str) -> None:
    name, token, bus_url, mesh, password = invitation
    node = Node(name, {"bus_url": bus_url, "host": host, "record": "", "policies": {}})
    peer = Peer("the harness", node.verbs)
    asked = asyncio.Event()

    def hear(topic: str, payload: bytes, retained: bool) -> None:
        del topic, retained
        message = carrier.open(payload)
        if message is not None:
            asked.set()
            peer.receive(message)

    bus = Bus(
        bus_url,
        credential_for(bus_url, name, password, mesh),
        subscriptions=[Topics(mesh).node(name, "asked")],
        on_message=hear,
    )
    carrier = BusCarrier(bus, name, token, "said", mesh)
    peer.carry(carrier)
    work = (bus.run(), carrier.run(), _say_alive(carrier), _watch_harness(asked, bus))
    tasks = [asyncio.ensure_future(item) for item in work]
    stopped = asyncio.ensure_future(node.stopped.wait())
    try:
        await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ALIVE_S):
                await carrier.flush()
    finally:
        await node.close()
        for future in (stopped, *tasks):
            future.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        peer.close()


async def _say_alive(carrier: BusCarrier) -> None:
    """Say once a second that this node is there: the first time, that it has joined."""
    while True:
        with contextlib.suppress(ConnectionResetError):
            carrier.send(b"")
        await asyncio.sleep(_ALIVE_S)


async def _watch_harness(asked: asyncio.Event, bus: Bus) -> None:
    """Give up if the harness says nothing for too long."""
    while True:
        asked.clear()
        try:
            async with asyncio.timeout(_SILENCE_MAX_S):
                await asked.wait()
        except TimeoutError:
            reason = bus.last_error or "the harness says nothing"
            raise MeshsimError(f"the mesh is lost: {reason}") from None
