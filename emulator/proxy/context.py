"""The context that travels with a request: ids, trace, attempt, deadline.

Rule: ``x-request-id`` and the trace id of ``traceparent`` are passed on, or created from the
request's draw key, so that they are the same in every run with the same draws; without a key they
count the proxy's requests.  Each try is a span of its own.  ``x-envoy-attempt-count`` is 1 for the
first try; ``x-meshsim-deadline`` is the earliest of those that hold: of the caller, the route and
the try (model time).  A workload passes it on if it propagates deadlines.

References
----------
W3C Trace Context; RFC 9562 (UUID version 4); Envoy, "HTTP header manipulation".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

from emulator.http.heads import RequestHead, encode_request
from meshsim.state.codes import NEVER_NS

__all__ = ["RequestContext", "TextHeaders", "decimal", "draw_key", "joined"]

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")
_DECIMAL = re.compile(rb"[0-9]{1,18}")
_KEY = re.compile(rb"[0-9a-f]{1,16}")
#: Request headers that the proxy writes itself.
_OWN = frozenset((b"x-request-id", b"traceparent", b"x-envoy-attempt-count", b"x-meshsim-deadline"))


def joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return `headers` by name, the values of a repeated name as one list (RFC 9110, 5.3)."""
    values = dict(headers)
    if len(values) < len(headers):
        for name in values:
            values[name] = b", ".join([value for key, value in headers if key == name])
    return values


def decimal(value: bytes | None) -> int:
    """Return a decimal header, -1 if it is absent or not one."""
    return -1 if value is None or _DECIMAL.fullmatch(value) is None else int(value)


def draw_key(value: bytes | None) -> int | None:
    """Return the draw key of ``x-meshsim-key``, None if it is absent or not one."""
    return None if value is None or _KEY.fullmatch(value) is None else int(value, 16)


def _digest(*parts: bytes) -> str:
    """Return 32 hexadecimal digits that depend on `parts` alone."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def _request_id(digest: str) -> bytes:
    """Return `digest` in the form of a random UUID."""
    variant = "89ab"[int(digest[16], 16) & 3]
    parts = (digest[:8], digest[8:12], "4" + digest[13:16], variant + digest[17:20], digest[20:])
    return "-".join(parts).encode()


class TextHeaders(Mapping[str, str]):
    """Headers as text, of which few are looked at: each is decoded when it is.

    Parameters
    ----------
    values : dict of bytes
        By name, in lower case.
    """

    __slots__ = ("_values",)

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.encode()].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, or `default`; without the cost of an exception."""
        value = self._values.get(name.encode())
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._values)

    def __len__(self) -> int:
        return len(self._values)


class RequestContext:
    """The heads of one request's tries.

    Parameters
    ----------
    head : RequestHead
        As received.
    values : dict of bytes
        Its headers by name.
    proxy : bytes
        Name of the proxy.
    number : int
        Number of the request at this proxy.
    """

    __slots__ = ("_base", "_flags", "_received_ns", "_span", "_trace")

    def __init__(
        self, head: RequestHead, values: dict[bytes, bytes], proxy: bytes, number: int
    ) -> None:
        key = values.get(b"x-meshsim-key")
        parent = _TRACEPARENT.fullmatch(values.get(b"traceparent", b""))
        request_id = values.get(b"x-request-id")
        if parent is None or not request_id:
            digest = _digest(proxy, b"%d" % number) if key is None else _digest(key)
            request_id = request_id or _request_id(digest)
        self._trace, self._flags = parent.groups() if parent else (digest.encode(), b"01")
        # Tries count up from here, spans of different proxies are apart.
        self._span = crc32(proxy) << 32 | number << 8 & 0xFFFFFFFF
        self._received_ns = decimal(values.get(b"x-meshsim-deadline"))
        kept = [pair for pair in head.headers if pair[0] not in _OWN]
        self._base = encode_request(head, kept, b"x-request-id: %b\r\n" % request_id)

    @property
    def received_ns(self) -> int:
        """Deadline that the request brought [ns], or -1."""
        return self._received_ns

    def encode_try(self, attempt_count: int, deadline_ns: int) -> bytes:
        """Return the head of a try that, if anything, must end by `deadline_ns`."""
        if self._received_ns >= 0:
            deadline_ns = min(deadline_ns, self._received_ns)
        deadline = b""
        if deadline_ns != NEVER_NS:
            deadline = b"x-meshsim-deadline: %d\r\n" % deadline_ns
        return b"%btraceparent: 00-%b-%016x-%b\r\nx-envoy-attempt-count: %d\r\n%b\r\n" % (
            self._base,
            self._trace,
            self._span + attempt_count,
            self._flags,
            attempt_count,
            deadline,
        )
