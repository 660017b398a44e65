"""The broker: embedded by default, an external one such as Mosquitto by choice.

Rule, embedded (amqtt, MQTT 3.1.1, loopback only): a client is let in if its user is known, its
password right and its client id the user's name; it may publish and subscribe what its grant
says (`meshsim.controlplane.topics`), and nothing is delivered to whom the topic is not granted.
What amqtt would let pass is closed here:

- it ends the session of the client id that a CONNECT names before it looks at the password, so
  that anybody could cut anybody off: here the password comes first;
- a will is published past the access list: a client with a will is refused;
- retained messages are replayed past the access list, to everybody: nothing is retained;
- a connection that never says CONNECT, or announces a packet of 256 MB, is closed;
- it loses a message if somebody subscribes while it is being delivered, and the session of a
  client that returns while its old one is being tidied away: both are done in one go here;
- it lets deliveries to a client that does not read pile up: such a client is cut off.

Certificates of clients are not enforced by amqtt, which is why it stays on loopback.  On a
network use Mosquitto with ``mqtts://`` and mutual TLS (`emulator.control.mosquitto`).

References
----------
OASIS MQTT 3.1.1, 3.1 (CONNECT); amqtt 0.12, amqtt/broker.py (_initialize_client_session,
_publish_retained_messages_for_subscription).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from meshsim.controlplane.signing import MESSAGE_BYTES_MAX
from meshsim.controlplane.topics import Grant, encoded, grants_of, is_within
from meshsim.errors import ConfigError

__all__ = ["PACKET_BYTES_MAX", "AccessPlugin", "Broker"]

_HOST = "127.0.0.1"
#: CONNECT must come within [s] ...
_CONNECT_TIMEOUT_S = 10.0
#: ... and be no longer than [bytes]; what follows no longer than a message and its topic.
_CONNECT_BYTES_MAX = 16 * 1024
PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + 64 * 1024
#: Connections beyond one for each user: newcomers while old ones are being found dead.
_CONNECTIONS_SPARE = 64
#: Messages under way to one client that does not confirm them.
_DELIVERIES_MAX = 1000
#: Topics have 5 levels.
_LEVELS_MAX = 8
_STOP_PATIENCE_S = 5.0
#: amqtt tells of every refused or broken connection; they are counted here.
for _name in ("amqtt", "transitions"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class AccessPlugin(BaseAuthPlugin, BaseTopicPlugin):
    """Who is let in, and what they may say and hear; plugin of amqtt.

    `passwords` and `grants` are by encoded user; `counters` counts refusals.
    """

    @dataclass
    class Config:
        """Nothing is configured by file: the broker hands its tables over."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self.passwords: dict[str, str] = {}
        self.grants: dict[str, Grant] = {}
        self.counters = dict.fromkeys(("connect", "publish", "subscribe"), 0)

    async def authenticate(self, *, session: Session) -> bool:
        """Decide on a CONNECT."""
        wanted = self.passwords.get(session.username or "")
        allowed = (
            wanted is not None
            and hmac.compare_digest(wanted.encode(), (session.password or "").encode())
            and session.client_id == session.username
            and not session.will_flag
        )
        self.counters["connect"] += not allowed
        return allowed

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Decide on a PUBLISH, a SUBSCRIBE, or a delivery."""
        user = session.username if session is not None else None
        grant = self.grants.get(user or "", Grant((), ()))
        filters = grant.publish if action == Action.PUBLISH else grant.subscribe
        allowed = any(is_within(topic or "", item) for item in filters)
        self.counters["publish" if action == Action.PUBLISH else "subscribe"] += not allowed
        return allowed

    def may_hear(self, user: str | None, topic: str) -> bool:
        """Decide on a delivery: a grant may have been taken away since the SUBSCRIBE."""
        grant = self.grants.get(user or "", Grant((), ()))
        return any(is_within(topic, item) for item in grant.subscribe)


class _CappedReader(StreamReaderAdapter):
    """Reads packets, but none that is too long; knows whose they are after CONNECT."""

    bytes_max = _CONNECT_BYTES_MAX
    session: Session | None = None

    async def read(self, n: int = -1) -> bytes:
        if n > self.bytes_max:
            raise NoDataError(f"{n} bytes announced")
        return bytes(await super().read(n))


class _Amqtt(AmqttBroker):
    """amqtt's broker with the gaps closed that the module names."""

    def __init__(self, port: int, connections_max: int) -> None:
        listener = {"type": "tcp", "bind": f"{_HOST}:{port}"}
        plugin = f"{AccessPlugin.__module__}.{AccessPlugin.__qualname__}"
        super().__init__({"listeners": {"default": listener}, "plugins": {plugin: {}}})
        self.connections_max = connections_max
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.deliveries: set[asyncio.Task[Any]] = set()
        self.refused = 0

    @property
    def access(self) -> AccessPlugin:
        plugin = self.plugins_manager.get_plugin(AccessPlugin.__name__)
        assert isinstance(plugin, AccessPlugin)
        return plugin

    @property
    def port(self) -> int:
        server = self._servers["default"].instance
        return int(server.sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        """Close the listening socket at once."""
        self._servers["default"].instance.close()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Serve one connection to its end."""
        if len(self.writers) >= self.connections_max:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.add(writer)
        capped = _CappedReader(reader)
        try:
            await self._client_connected(listener_name, capped, StreamWriterAdapter(writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away in the middle of a packet
        finally:
            self.tasks.discard(task)
            self.writers.discard(writer)
            writer.transport.abort()
            session = capped.session
            if session is not None and self._sessions.get(session.client_id, (None,))[0] is session:
                await self._delete_session(session.client_id)

    async def _initialize_client_session(
        self,
        reader: _CappedReader,
        writer: StreamWriterAdapter,
        remote_address: str,
        remote_port: int,
    ) -> tuple[BrokerProtocolHandler, Session]:
        """Read CONNECT; only after the password was right, take over from an older session."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                handler, session = await BrokerProtocolHandler.init_from_connect(
                    reader, writer, self.plugins_manager
                )
        except (AMQTTError, MQTTError, NoDataError, ValueError, TimeoutError) as error:
            self.refused += 1
            raise AMQTTError(f"no CONNECT: {error}") from None
        if not await self._authenticate(session, self.listeners_config["default"]):
            await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
            raise AMQTTError("not authorized")
        reader.bytes_max = PACKET_BYTES_MAX
        reader.session = session
        session.clean_session = True
        session.parent = 0
        _, older = self._sessions.get(session.client_id, (None, None))
        await self._delete_session(session.client_id)
        if older is not None:
            await older.handle_connection_closed()
        return handler, session

    async def retain_message(self, *_: Any, **__: Any) -> None:
        """Retain nothing: it would be replayed to users it is not granted to."""

    async def _session_monitor(self) -> None:
        """Do nothing: a session ends with its connection."""

    async def _run_broadcast(self, _: Any) -> None:
        """Deliver the next message."""
        broadcast = await self._broadcast_queue.get()
        topic = broadcast["topic"]
        for item in _filters_of(topic):
            for session, qos in self._subscriptions.get(item, ()):
                handler = self._get_handler(session)
                if handler is None or not self.access.may_hear(session.username, topic):
                    continue
                if len(handler.session.inflight_out) >= _DELIVERIES_MAX:
                    handler.writer._writer.transport.abort()
                    continue
                task = asyncio.create_task(
                    handler.mqtt_publish(topic, broadcast["data"], qos, retain=False)
                )
                self.deliveries.add(task)
                task.add_done_callback(self._on_delivered)

    def _on_delivered(self, task: asyncio.Task[Any]) -> None:
        self.deliveries.discard(task)
        if not task.cancelled():
            task.exception()  # a broken connection; its client will ask for what it missed


def _filters_of(topic: str) -> Iterator[str]:
    """Yield every filter that matches `topic`; 3 * 2**levels of them at most."""
    levels = topic.split("/")[:_LEVELS_MAX]
    choices = [(level, "+") for level in levels]
    for count in range(len(levels) + 1):
        for prefix in itertools.product(*choices[:count]):
            yield "/".join((*prefix, "#"))
    for whole in itertools.product(*choices):
        yield "/".join(whole)


@dataclass
class Broker:
    """A broker to connect to, and to break.

    Use `embedded` or `external`.

    Parameters
    ----------
    url : str
        Where it is; of an embedded one known after `start`.
    retains : bool
        Whether configuration may be left on it as retained messages.
    """

    url: str = ""
    retains: bool = False
    _passwords: dict[str, str] = field(default_factory=dict)
    _grants: dict[str, Grant] = field(default_factory=dict)
    _port: int = 0
    _is_external: bool = False
    _broker: _Amqtt | None = None
    _counters: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def embedded(
        mesh: str,
        passwords: Mapping[str, str],
        *,
        grants: Mapping[str, Grant] | None = None,
        port: int = 0,
    ) -> Broker:
        """Return a broker that will run in this process, on loopback.

        Parameters
        ----------
        mesh : str
        passwords : mapping of str to str
            By user: proxies, and `meshsim.controlplane.topics.CONTROL_PLANE`.
        grants : mapping of str to Grant, optional
            Of users that are neither.
        port : int
            0 takes a free one.
        """
        all_grants = {**grants_of(mesh, passwords), **(grants or {})}
        return Broker(
            _passwords={encoded(user): password for user, password in passwords.items()},
            _grants={encoded(user): grant for user, grant in all_grants.items()},
            _port=port,
        )

    @staticmethod
    def external(url: str, *, retains: bool = True) -> Broker:
        """Return a broker that runs elsewhere, such as Mosquitto, which may retain."""
        return Broker(url=url, retains=retains, _is_external=True)

    @property
    def is_running(self) -> bool:
        """Whether an embedded broker runs; always true of an external one, as far as known."""
        return self._is_external or self._broker is not None

    def add_user(self, mesh: str, user: str, password: str, grant: Grant | None = None) -> None:
        """Let one more user in, also while running."""
        self._passwords[encoded(user)] = password
        self._grants[encoded(user)] = grant or grants_of(mesh, [user])[user]
        if self._broker is not None:
            self._broker.connections_max = self._connections_max

    @property
    def _connections_max(self) -> int:
        return 2 * len(self._passwords) + _CONNECTIONS_SPARE

    async def start(self) -> None:
        """Start an embedded broker; after `stop` or `kill`, on the same port."""
        if self._is_external or self._broker is not None:
            return
        broker = _Amqtt(self._port, self._connections_max)
        # The very tables, so that `add_user` reaches a running broker.
        broker.access.passwords = self._passwords
        broker.access.grants = self._grants
        await broker.start()
        self._broker = broker
        self._port = broker.port
        self.url = f"mqtt://{_HOST}:{self._port}"

    async def stop(self) -> None:
        """Stop an embedded broker; its clients see their connections close."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        self._counters = self._sum(broker)
        broker.stop_accepting()  # or whom we cut off is back before amqtt closes the listener
        for writer in list(broker.writers):
            writer.transport.abort()  # amqtt would wait for clients that do not read
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_PATIENCE_S):
                await broker.shutdown()
                for task in broker.deliveries:
                    task.cancel()
                await asyncio.gather(*broker.tasks, *broker.deliveries, return_exceptions=True)

    async def kill(self) -> None:
        """Break an embedded broker: connections reset, nothing said, everything forgotten.

        Raises
        ------
        ConfigError
            If the broker is external: it is not ours to kill.
        """
        if self._is_external:
            raise ConfigError("an external broker is killed where it runs")
        await self.stop()

    def counters(self) -> dict[str, int]:
        """Return refusals so far: connect, publish, subscribe, malformed."""
        return self._sum(self._broker) if self._broker is not None else dict(self._counters)

    def _sum(self, broker: _Amqtt) -> dict[str, int]:
        now = {**broker.access.counters, "malformed": broker.refused}
        return {name: value + self._counters.get(name, 0) for name, value in now.items()}
