"""The bus: one MQTT connection that comes back.

Rule: `Bus.run` keeps a connection to the broker for as long as it runs.  When it breaks (refused,
reset, silent for longer than the keep-alive, or a publish that is not answered in time), it is
closed for good and a new one is opened after a back-off that doubles from 0.1 s to 5 s, of which
each user takes its own share between half and all, so that a hundred proxies do not return in
one instant.  On each new connection the subscriptions are made first, then `on_connect` says
what the user holds.

Nothing is kept for a broken connection: what was not delivered is found out by the state that
is exchanged on the next one.  Everything has a limit: messages waiting to be read (beyond it
they are dropped, and counted), publishes under way, and the time each may take.

MQTT 3.1.1, because the embedded broker speaks nothing newer; QoS 1, clean sessions.

References
----------
OASIS MQTT 3.1.1; aiomqtt 2.5 (reconnecting is the caller's).
AWS Architecture Blog, "Exponential Backoff And Jitter" (2015): equal jitter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiomqtt

from meshsim.controlplane.topics import encoded
from meshsim.errors import ConfigError, MeshsimError, Problem

__all__ = [
    "PORTS",
    "Bus",
    "BusError",
    "BusSettings",
    "Credential",
    "backoff_s",
    "public_url",
]

_LOG = logging.getLogger("meshsim.bus")
#: Kept apart from the application's: aiomqtt and paho tell of every broken connection.
_CLIENT_LOG = logging.getLogger("meshsim.bus.client")
_CLIENT_LOG.setLevel(logging.CRITICAL)
#: Where a broker listens if its URL does not say.
PORTS = {"mqtt": 1883, "mqtts": 8883}
#: SUBACK: the broker refused.
_SUBSCRIBE_REFUSED = 0x80


class BusError(MeshsimError):
    """The bus cannot take a message now: not connected, or not answered in time."""


@dataclass(frozen=True)
class Credential:
    """Who somebody is on the bus.

    Parameters
    ----------
    user, password : str
        The user is the proxy's name, or `meshsim.controlplane.topics.CONTROL_PLANE`.
    tls : ssl.SSLContext, optional
        Of a client with its certificate: required for ``mqtts://``.
    client_id : str
        The user's name if empty.  A broker ends the older of two connections of one client id.
    """

    user: str
    password: str
    tls: ssl.SSLContext | None = None
    client_id: str = ""


@dataclass(frozen=True)
class BusSettings:
    """Limits of one connection, in real time.

    Parameters
    ----------
    timeout_s : float
        Of connecting and of each publish or subscribe [s].
    keepalive_s : int
        A broker that is silent for longer than this, when asked, is given up [s].
    inbox : int
        Messages that may wait to be read.
    publishes : int
        Publishes that may be under way.
    backoff_base_s, backoff_max_s : float
        First and longest wait before a new connection [s].
    """

    timeout_s: float = 5.0
    keepalive_s: int = 5
    inbox: int = 1000
    publishes: int = 64
    backoff_base_s: float = 0.1
    backoff_max_s: float = 5.0


def backoff_s(user: str, failures: int, settings: BusSettings) -> float:
    """Return how long `user` waits after its `failures`-th failure in a row, from 1 [s].

    The jitter is a hash of user and count: users differ, and a test can know it.

    Examples
    --------
    >>> [round(backoff_s("a", count, BusSettings()), 3) for count in (1, 2, 20)]
    [0.071, 0.125, 4.98]
    """
    whole = min(settings.backoff_base_s * 2.0 ** min(failures - 1, 30), settings.backoff_max_s)
    digest = hashlib.blake2b(f"{user}#{failures}".encode(), digest_size=8).digest()
    return whole * (0.5 + 0.5 * int.from_bytes(digest, "big") / 2**64)


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """Queue that counts what it could not take."""

    dropped = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if self.full():
            self.dropped += 1
        super().put_nowait(item)


class _Client(aiomqtt.Client):
    """aiomqtt's client without two of its races.

    It may ask the loop to watch a socket that was closed meanwhile: the descriptor may by then be
    another connection's, so it is looked at again.  And it waits with `asyncio.wait_for`, which
    before Python 3.12 drops a cancellation that comes with the answer.
    """

    async def _wait_for(self, fut: Awaitable[Any], timeout: float | None) -> Any:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        def register() -> None:
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), write)

        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        self._loop.call_soon_threadsafe(register)


class Bus:
    """One user's connection to the broker.

    Parameters
    ----------
    url : str
        ``mqtt://host:port`` or, with `credential.tls`, ``mqtts://host:port``.
    credential : Credential
    subscriptions : sequence of str
        Topic filters.
    on_message : callable
        (topic, payload, retained) for each message; must not block.
    on_connect : callable, optional
        Awaited on each new connection, after the subscriptions.
    settings : BusSettings, optional

    Raises
    ------
    ConfigError
        If the URL is none, or asks for TLS without a context.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        subscriptions: Sequence[str],
        on_message: Callable[[str, bytes, bool], None],
        on_connect: Callable[[], Awaitable[None]] | None = None,
        settings: BusSettings | None = None,
    ) -> None:
        self._host, self._port = _address(url, credential)
        self._url = public_url(url)
        self._credential = credential
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_connect = on_connect
        self._settings = settings or BusSettings()
        self._client: aiomqtt.Client | None = None
        self._broken = asyncio.Event()
        #: Done when the connection is over: no publish on it will be answered any more.
        self._ended: asyncio.Future[None] | None = None
        self._connected = asyncio.Event()
        self._publishes = asyncio.Semaphore(self._settings.publishes)
        #: Connections made, attempts and connections that failed, messages dropped unread.
        self.counters = {"connected": 0, "failed": 0, "dropped": 0}
        #: Why the last connection or attempt ended.
        self.last_error = ""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as known."""
        return self._client is not None

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._connected.wait()

    async def reach(self, patience_s: float) -> None:
        """Return when there is a connection, if there is one in time.

        Raises
        ------
        BusError
            With the broker's URL, the user, and why the last attempt failed.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self.wait_connected()
        except TimeoutError:
            why = self.last_error or f"no answer for {patience_s:g} s"
            user = encoded(self._credential.user)
            raise BusError(f"the broker {self._url} does not take {user}: {why}") from None

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        failures = 0
        while True:
            before = self.counters["connected"]
            try:
                await self._session()
            except aiomqtt.MqttError as error:
                self.last_error = str(error) or type(error).__name__
            self.counters["failed"] += 1
            failures = 1 if self.counters["connected"] > before else failures + 1
            wait_s = backoff_s(self._credential.user, failures, self._settings)
            _LOG.info("%s: %s; again in %.2f s", self._credential.user, self.last_error, wait_s)
            await asyncio.sleep(wait_s)

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish, and wait until the broker has it (QoS 1).

        Raises
        ------
        BusError
            If there is no connection, or it broke.
        """
        async with self._publishes:
            client, ended = self._client, self._ended
            if client is None or ended is None:
                raise BusError("not connected")
            work = asyncio.ensure_future(client.publish(topic, payload, qos=1, retain=retain))
            try:
                await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise BusError("disconnected")
                work.result()
            except aiomqtt.MqttError as error:
                if client is self._client:
                    # Unanswered for `timeout_s`: what the broker has is unknown, so start over.
                    self._broken.set()
                raise BusError(str(error)) from None
            finally:
                if not work.done():
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)

    async def _session(self) -> None:
        """Connect, serve until the connection breaks, close.

        Raises
        ------
        MqttError
            With the reason.
        """
        client = self._new_client()
        try:
            await _connect(client)
            for topic in self._subscriptions:
                codes = await client.subscribe(topic, qos=1)
                if any(_number(code) >= _SUBSCRIBE_REFUSED for code in codes):
                    raise aiomqtt.MqttError(f"not allowed to subscribe to {topic}")
            self._broken.clear()
            self._ended = asyncio.get_running_loop().create_future()
            self._client = client
            self._connected.set()
            self.counters["connected"] += 1
            await self._serve(client)
        finally:
            self._client = None
            self._connected.clear()
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)
            self.counters["dropped"] += _inbox(client).dropped
            await _dispose(client)

    async def _serve(self, client: aiomqtt.Client) -> None:
        reader = asyncio.create_task(self._read(client))
        broken = asyncio.create_task(self._broken.wait())
        greeter = asyncio.create_task(self._greet())
        tasks = {reader, broken, greeter}
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if ended == {greeter} and greeter.exception() is None:
                await asyncio.wait({reader, broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in (greeter, reader):
            error = None if task.cancelled() else task.exception()
            if error is not None:
                raise error
        raise aiomqtt.MqttError("a publish was not answered")

    async def _greet(self) -> None:
        if self._on_connect is not None:
            with contextlib.suppress(BusError):  # has ended the session by itself
                await self._on_connect()

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            self._on_message(message.topic.value, payload, message.retain)

    def _new_client(self) -> aiomqtt.Client:
        settings = self._settings
        client = _Client(
            self._host,
            self._port,
            identifier=self._credential.client_id or encoded(self._credential.user),
            username=encoded(self._credential.user),
            password=self._credential.password,
            tls_context=self._credential.tls,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            queue_type=_Inbox,
            max_queued_incoming_messages=settings.inbox,
            max_inflight_messages=settings.publishes,
            logger=_CLIENT_LOG,
        )
        for future in (client._connected, client._disconnected):
            future.add_done_callback(_see)  # aiomqtt may replace it before anybody looks
        client.pending_calls_threshold = settings.publishes + len(self._subscriptions)
        return client


def _address(url: str, credential: Credential) -> tuple[str, int]:
    """Return host and port of the broker at `url`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in PORTS or not host:
        allowed = "mqtt://host[:port], mqtts://host[:port]"
        found = public_url(url)
        raise ConfigError([Problem("not a broker", path="broker", found=found, allowed=allowed)])
    if (parts.scheme == "mqtts") != (credential.tls is not None):
        message = "mqtts:// and a client certificate belong together"
        raise ConfigError([Problem(message, path="broker", found=public_url(url))])
    return host, port or PORTS[parts.scheme]


def public_url(url: str) -> str:
    """Return what of `url` may be shown: no user, password or query, however it is written.

    Examples
    --------
    >>> public_url("mqtt://:secret@10.0.0.1:1883?password=x"), public_url("mqtt://two:a@b:1'")
    ('mqtt://10.0.0.1:1883', "mqtt://b:1'")
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def _number(code: Any) -> int:
    """Return a SUBACK's code, which is a number or has one."""
    return int(getattr(code, "value", code))


def _inbox(client: aiomqtt.Client) -> _Inbox:
    inbox = client._queue
    assert isinstance(inbox, _Inbox)
    return inbox


async def _connect(client: aiomqtt.Client) -> None:
    """Connect; if cancelled meanwhile, wait for the attempt to end.

    aiomqtt connects in a thread that cannot be cancelled: left alone, it would open a socket
    that nobody closes.
    """
    attempt = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(attempt)
    except asyncio.CancelledError:
        await asyncio.gather(attempt, return_exceptions=True)
        raise


async def _dispose(client: aiomqtt.Client) -> None:
    """Close the connection, whatever state it is in; leave no socket, task or error behind."""
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)
    paho: Any = client._client
    if paho.socket() is not None:  # aiomqtt leaves it open when CONNACK does not come
        paho._sock_close()
    task = client._misc_task
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for future in (client._connected, client._disconnected):
        _see(future) if future.done() else future.add_done_callback(_see)


def _see(future: asyncio.Future[Any]) -> None:
    """Look at how `future` ended: asyncio need not warn that nobody did."""
    if not future.cancelled():
        future.exception()
