"""What the harness and its node processes say to one another, over whatever carries bytes.

Rule: either side asks by verb and gets one answer, in any order; what crosses is JSON and
arrays of numbers (npz without pickle), so that a node on another machine can be believed no
further than its numbers.  The carrier is a socket for processes of this machine and MQTT for
nodes that joined (`emulator.running.join`).  A lost carrier fails every open question at once.

A message on the wire is four bytes (length of the JSON, big-endian), the JSON, and the npz.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meshsim.errors import MeshsimError

__all__ = ["Answer", "Arrays", "Carrier", "Peer", "PeerLost", "SocketCarrier", "pack", "unpack"]

_LOG = logging.getLogger("meshsim.node")
Arrays = Mapping[str, npt.NDArray[Any]]

_LENGTH_BYTES = 4
_FRAME_BYTES = 8
#: A question without an answer for this long is an error [s]; reports of long runs are large.
_PATIENCE_S = 60.0


class PeerLost(MeshsimError):
    """The other side is gone, or does not answer."""


@dataclass(frozen=True)
class Answer:
    """What a verb returns: plain values and arrays.

    Parameters
    ----------
    values : mapping
        JSON-able.
    arrays : mapping of str to ndarray
        Of numbers or structured; no objects.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def pack(values: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """Return a message as bytes.

    Raises
    ------
    ValueError
        If an array holds objects.

    Examples
    --------
    >>> unpack(pack({"verb": "ready"}))[0]
    {'verb': 'ready'}
    """
    text = json.dumps(values).encode()
    buffer = io.BytesIO()
    if arrays:
        if any(array.dtype.hasobject for array in arrays.values()):
            raise ValueError("an array of objects cannot be sent")
        np.savez(buffer, allow_pickle=False, **dict(arrays))
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text + buffer.getvalue()


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return values and arrays of a message.

    Raises
    ------
    ValueError
        If the bytes are not a message.
    """
    end = _LENGTH_BYTES + int.from_bytes(message[:_LENGTH_BYTES], "big")
    if len(message) < end:
        raise ValueError("cut off")
    values = json.loads(message[_LENGTH_BYTES:end])
    if not isinstance(values, dict):
        raise ValueError("a message is an object")
    arrays = {}
    if len(message) > end:
        with np.load(io.BytesIO(message[end:]), allow_pickle=False) as stored:
            arrays = dict(stored)
    return values, arrays


class Carrier(Protocol):
    """Something that takes bytes to the other side."""

    def send(self, message: bytes) -> None:
        """Send one message; `OSError` if the other side is gone."""

    def close(self) -> None:
        """Release the carrier; nothing is received afterwards."""


#: ``await verb(values)`` answers a question.
Verb = Callable[[dict[str, Any]], Awaitable[Answer]]


class Peer:
    """One side of a conversation.

    Parameters
    ----------
    name : str
        Of the other side, for messages to people.
    verbs : mapping of str to coroutine function, optional
        What this side answers.

    Attributes
    ----------
    lost : asyncio.Event
        Set when the other side is gone.
    """

    def __init__(self, name: str, verbs: Mapping[str, Verb] | None = None) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self._verbs = verbs or {}
        self._carrier: Carrier | None = None
        self._open: dict[int, asyncio.Future[Answer]] = {}
        self._next = 0
        self._answering: set[asyncio.Task[None]] = set()

    def carry(self, carrier: Carrier) -> None:
        """Send over `carrier` from now on."""
        self._carrier = carrier

    async def ask(self, verb: str, patience_s: float = _PATIENCE_S, **values: Any) -> Answer:
        """Ask the other side to do `verb` and return its answer.

        Parameters
        ----------
        verb : str
        patience_s : float
            Real time to wait for the answer [s].
        **values
            Arguments, JSON-able.

        Raises
        ------
        PeerLost
            If the other side is gone or does not answer in time.
        MeshsimError
            If it says that it could not.
        """
        if self.lost.is_set() or self._carrier is None:
            raise PeerLost(f"{self.name} is gone: cannot {verb}")
        self._next += 1
        number = self._next
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            self._carrier.send(pack({"ask": number, "verb": verb, "values": values}))
            async with asyncio.timeout(patience_s):
                return await future
        except TimeoutError:
            text = f"{self.name} did not answer {verb} within {patience_s:g} s"
            raise PeerLost(text) from None
        except OSError:
            self.lose()
            raise PeerLost(f"{self.name} is gone: cannot {verb}") from None
        finally:
            self._open.pop(number, None)

    def receive(self, message: bytes) -> None:
        """Take one message from the carrier; what is not one is dropped."""
        try:
            values, arrays = unpack(message)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile):
            return
        if "ask" in values:
            task = asyncio.ensure_future(self._answer(values))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        future = self._open.get(values.get("answer", 0))
        if future is None or future.done():
            return
        if "error" in values:
            future.set_exception(MeshsimError(f"{self.name}: {values['error']}"))
        else:
            future.set_result(Answer(values.get("values", {}), arrays))

    async def _answer(self, values: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"answer": values["ask"]}
        arrays: Arrays = {}
        try:
            verb = self._verbs.get(values.get("verb", ""))
            if verb is None:
                raise MeshsimError(f"no such verb: {values.get('verb')!r}")
            answer = await verb(values.get("values", {}))
            reply["values"], arrays = dict(answer.values), answer.arrays
        except Exception as error:  # whatever it is, the asker has to know
            _LOG.debug("%s failed", values.get("verb"), exc_info=True)
            reply["error"] = f"{type(error).__name__}: {error}"
        if self._carrier is not None:
            try:
                self._carrier.send(pack(reply, arrays))
            except OSError:
                self.lose()

    def lose(self) -> None:
        """Take note that the other side is gone; every open question fails."""
        self.lost.set()
        for future in self._open.values():
            if not future.done():
                future.set_exception(PeerLost(f"{self.name} is gone"))

    def close(self) -> None:
        """Release the carrier and drop what is being answered."""
        for task in self._answering:
            task.cancel()
        if self._carrier is not None:
            self._carrier.close()
            self._carrier = None
        self.lose()


class SocketCarrier(asyncio.Protocol):
    """A connected pair of sockets to a process of this machine: messages after their length.

    Parameters
    ----------
    peer : Peer
        Gets what arrives, and learns when the other side is gone.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()

    @staticmethod
    async def connect(end: socket.socket, peer: Peer) -> SocketCarrier:
        """Let `peer` talk over `end`, which is closed with the carrier."""
        loop = asyncio.get_running_loop()
        _, carrier = await loop.create_unix_connection(lambda: SocketCarrier(peer), sock=end)
        peer.carry(carrier)
        return carrier

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        """Hand over every whole message."""
        received = self._received
        received += data
        while len(received) >= _FRAME_BYTES:
            end = _FRAME_BYTES + int.from_bytes(received[:_FRAME_BYTES], "big")
            if len(received) < end:
                return
            message = bytes(received[_FRAME_BYTES:end])
            del received[:end]
            self._peer.receive(message)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that the other side is gone."""
        self._transport = None
        self._closed.set()
        self._peer.lose()

    def send(self, message: bytes) -> None:
        """Send one message; `OSError` if the other side is gone."""
        if self._transport is None:
            raise ConnectionResetError("the other side is gone")
        self._transport.write(len(message).to_bytes(_FRAME_BYTES, "big") + message)

    def close(self) -> None:
        """Close when everything is sent."""
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Return when everything is sent and the socket is closed."""
        await self._closed.wait()
