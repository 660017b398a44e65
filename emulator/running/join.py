"""Nodes on other machines: the harness' questions and their answers, over the bus.

Rule: a mesh that is started with ``--remote NODE`` waits until somebody joins as that node with
the token it names; the one who joins hosts the node's replicas and answers the same verbs as a
node process.  Every message carries an HMAC under the token, its direction and its number: what
is forged, altered, repeated or late is dropped.  The token itself stays with the two; the
password on the bus is derived from it.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from emulator.clock import Clock
from emulator.control.broker import Broker
from emulator.control.broker_url import credential_for, password_in
from emulator.control.bus import Bus, BusError
from emulator.running.members import Member
from emulator.running.messages import Peer
from emulator.running.node import MESH, Node, run_loop
from meshsim.controlplane.topics import Grant, encoded
from meshsim.errors import ConfigError, MeshsimError

__all__ = ["BusCarrier", "RemoteNodes", "clock_offset", "join", "remote_names"]

_LOG = logging.getLogger("meshsim.join")
_HARNESS = "harness"
_ALIVE_S = 1.0
_SILENCE_MAX_S = 10.0
_MAC_BYTES = 32
_NUMBER_BYTES = 8
#: Messages that wait to be published; a conversation has a handful.
_QUEUE_MAX = 1000
_TIME_PROBES = 20


def _topic(node: str, kind: str) -> str:
    """Return the topic of what is "asked" of a node, or "said" by it."""
    return f"meshsim/{encoded(MESH)}/node/{encoded(node)}/{kind}"


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
    """

    def __init__(self, bus: Bus, node: str, token: str, sends: str) -> None:
        self._bus = bus
        self._topic = _topic(node, sends)
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
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        self.tokens = {node: os.urandom(16).hex() for node in nodes}
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
        said = tuple(_topic(node, "said") for node in self.nodes)
        asked = tuple(_topic(node, "asked") for node in self.nodes)
        broker.add_user(MESH, _HARNESS, self._password, Grant(asked, said))
        for node, token in self.tokens.items():
            grant = Grant((_topic(node, "said"),), (_topic(node, "asked"),))
            broker.add_user(MESH, node, _derived(token, "bus").hex(), grant)

    def urls(self, bus_url: str) -> dict[str, str]:
        """Return what to join with, by node."""
        scheme, _, address = bus_url.partition("://")
        address = address.rpartition("@")[2]
        return {
            node: f"{scheme}://{encoded(node)}:{token}@{address}"
            for node, token in self.tokens.items()
        }

    def start(self, bus_url: str) -> None:
        """Listen for those who join, and say how to."""
        if not self.nodes:
            return
        bus = Bus(
            bus_url,
            credential_for(bus_url, _HARNESS, password_in(bus_url) or self._password),
            subscriptions=[_topic(node, "said") for node in self.nodes],
            on_message=self._on_message,
        )
        self._tasks.append(asyncio.ensure_future(bus.run()))
        for node, token in self.tokens.items():
            carrier = self._carriers[node] = BusCarrier(bus, node, token, "asked")
            self._members[node].peer.carry(carrier)
            self._tasks.append(asyncio.ensure_future(carrier.run()))
        self._tasks.append(asyncio.ensure_future(self._watch()))
        for node, url in self.urls(bus_url).items():
            _LOG.warning("%s is awaited: meshsim emulate --join '%s'", node, url)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        del retained  # an old message has an old number
        for node, carrier in self._carriers.items():
            if topic == _topic(node, "said"):
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


def join(url: str, host: str = "127.0.0.1") -> None:
    """Host a node of a mesh that waits for it, until that mesh ends.

    Parameters
    ----------
    url : str
        As the harness says it: ``mqtt://NODE:TOKEN@broker:port``.
    host : str
        Address of this machine to listen on, where the mesh can reach it.

    Raises
    ------
    ConfigError
        If the URL names no node and token.
    MeshsimError
        If the broker or the harness cannot be reached, or is lost.
    """
    node, token, bus_url = _parts(url)
    run_loop(lambda: _serve(node, token, bus_url, host))


def _parts(url: str) -> tuple[str, str, str]:
    """Return node, token, and the URL of the bus."""
    parts = urlsplit(url)
    try:
        port, is_one = parts.port, True
    except ValueError:
        port, is_one = None, False
    if not (is_one and parts.username and parts.password and parts.hostname):
        raise ConfigError(f"join: found {url!r}, allowed: mqtt://NODE:TOKEN@host:port")
    address = parts.hostname if port is None else f"{parts.hostname}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return unquote(parts.username), unquote(parts.password), f"{parts.scheme}://{address}{query}"


async def _serve(name: str, token: str, bus_url: str, host: str) -> None:
    node = Node(name, {"bus_url": bus_url, "host": host, "record": ""})
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
        credential_for(bus_url, name, _derived(token, "bus").hex()),
        subscriptions=[_topic(name, "asked")],
        on_message=hear,
    )
    carrier = BusCarrier(bus, name, token, "said")
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
            await asyncio.wait_for(carrier.flush(), _ALIVE_S)
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
            await asyncio.wait_for(asked.wait(), _SILENCE_MAX_S)
        except TimeoutError:
            reason = bus.last_error or "the harness says nothing"
            raise MeshsimError(f"the mesh is lost: {reason}") from None


def remote_names(wanted: Sequence[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the processes of the nodes `wanted`.

    Raises
    ------
    ConfigError
        If the scenario has no such node.
    """
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"remote: found {unknown[0]!r}, allowed: {', '.join(known) or 'no node'}")
    return tuple(f"node {name}" for name in wanted)
