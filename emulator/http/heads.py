"""Heads of HTTP/1.1 messages: parsed by httptools, and nothing ambiguous let through.

Rule: a proxy that reads a message otherwise than its neighbours lets requests be smuggled past
it, so whatever two readers could understand differently is refused.  `split_head` cuts a head at
its empty line and counts its bytes, which the parser does not; `parse_request_head` and
`parse_response_head` hand that head alone to httptools (llhttp, strict), apply the rules below,
and say how the body is framed; `emulator.http.bodies` then takes exactly the body's bytes, so that
what follows is the next message.

Refused, with the status of the answer (`HttpError.status`):

- 400: a line that does not end in CR LF, folded header lines, bytes that may not be there;
  Content-Length twice, not in digits, or together with Transfer-Encoding; a Host that is
  missing, double or not a host; Transfer-Encoding in HTTP/1.0, or other than chunked;
- 403: CONNECT and Upgrade (as Envoy, where no upgrade is configured);
- 417: an expectation other than 100-continue;
- 431: a head above `MAX_HEAD_BYTES`, headers above `MAX_HEADERS_BYTES` or more than
  `MAX_HEADERS_COUNT`;
- 505: a version other than 1.0 and 1.1.

Hop-by-hop headers, and those that Connection names, are not among `headers`.  The module knows
no socket and no clock.

References
----------
RFC 9110 (7.6.1, 10.1.1), RFC 9112 (2.2, 3.2, 6, 7.1); Envoy,
api/envoy/config/core/v3/protocol.proto (max_headers_count 100) and http_connection_manager.proto
(max_request_headers_kb 60).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from emulator.http.bodies import CHUNKED, UNTIL_CLOSE, HttpError

__all__ = [
    "CHECK_AGENT",
    "CONTINUE",
    "LAST_CHUNK",
    "MAX_HEADERS_BYTES",
    "MAX_HEADERS_COUNT",
    "MAX_HEAD_BYTES",
    "RequestHead",
    "ResponseHead",
    "encode_chunk",
    "encode_headers",
    "encode_own_response",
    "encode_request",
    "encode_status_line",
    "parse_request_head",
    "parse_response_head",
    "split_head",
]

#: Longest head, from the first byte to the empty line [bytes].
MAX_HEAD_BYTES = 64 * 1024
#: Longest header section: names, values and ": ", CR LF of each [bytes].
MAX_HEADERS_BYTES = 60 * 1024
MAX_HEADERS_COUNT = 100

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
#: User agent of a health check, as Envoy's.
CHECK_AGENT = b"Envoy/HC"
#: Who probes servers for their load.
PROBE_AGENT = b"meshsim/probe"

#: Methods whose requests say that they have no body (RFC 9110, 8.6).
_METHODS_WITH_BODY = (b"POST", b"PUT", b"PATCH")
_EMPTY_LINE = b"\r\n\r\n"
_HOST = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
#: Headers that a request's framing and routing depend on; all others are passed on unread.
_READ = _HOP_BY_HOP | {b"host", b"content-length", b"expect"}


class RequestHead(NamedTuple):
    """The head of a request.

    Parameters
    ----------
    method, target : bytes
        As received; an absolute-form target is cut to its path.
    host : str
        Authority without port, as written: services are told apart by case.
    http10 : bool
        Whether the peer speaks HTTP/1.0.
    keep_alive : bool
        Whether the peer wants to send another request.
    length : int
        Length of the body [bytes], or `CHUNKED`.
    expects_continue : bool
        Whether the peer waits for 100 Continue before it sends the body.
    headers : list of (bytes, bytes)
        End-to-end headers but Host and the framing, names in lower case, in order.
    """

    method: bytes
    target: bytes
    host: str
    http10: bool
    keep_alive: bool
    length: int
    expects_continue: bool
    headers: list[tuple[bytes, bytes]]


class ResponseHead(NamedTuple):
    """The head of a response; fields as those of `RequestHead`.

    `length` may also be `UNTIL_CLOSE`; `content_length` is the header where the response has
    one, even if no body follows (HEAD, 304) [bytes].
    """

    status: int
    length: int
    content_length: int | None
    keep_alive: bool
    headers: list[tuple[bytes, bytes]]


class _Collector:
    """The callbacks of httptools for one head.

    `read` are the headers of `_READ`, `headers` the others: most headers are only passed on.
    """

    __slots__ = ("complete", "headers", "read", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.read: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.read if name in _READ else self.headers
        headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def split_head(data: bytes, at: int) -> int:
    """Return where the head that starts at `at` ends, or -1 if it is incomplete.

    Parameters
    ----------
    data : bytes
        What was received and not yet consumed.
    at : int
        Offset of the head's first byte in `data`.

    Returns
    -------
    int
        Offset after the empty line, or -1.

    Raises
    ------
    HttpError
        431 for a head above `MAX_HEAD_BYTES`; 400 for a line that ends without CR.
    """
    found = data.find(_EMPTY_LINE, at)
    end = len(data) if found < 0 else found + 4
    # The verdict may not depend on how the head was cut into reads: what is beyond the limit
    # is not looked at.
    last = min(end, at + MAX_HEAD_BYTES)
    if data.count(b"\n", at, last) != data.count(b"\r\n", at, last):
        raise HttpError(400, "line feed without carriage return")
    if end > last:
        raise HttpError(431, "head too long")
    return -1 if found < 0 else end


def _check_sizes(head_bytes: int, collector: _Collector) -> None:
    if len(collector.headers) + len(collector.read) > MAX_HEADERS_COUNT:
        raise HttpError(431, "too many headers")
    # Only a head above the limit of the headers need be counted header by header.
    if head_bytes > MAX_HEADERS_BYTES:
        headers = collector.headers + collector.read
        total = sum(len(name) + len(value) + 4 for name, value in headers)
        if total > MAX_HEADERS_BYTES:
            raise HttpError(431, "headers too long")


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")]


class _Framing:
    """What the headers that are not merely passed on say."""

    __slots__ = ("chunked", "connection", "content_length", "expects_continue", "host")

    def __init__(self) -> None:
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.connection: list[bytes] = []
        self.expects_continue = False

    def read(self, name: bytes, value: bytes) -> None:
        """Take in one header of `_READ`."""
        if name == b"host":
            if self.host is not None:
                raise HttpError(400, "two Host headers")
            self.host = value
        elif name == b"content-length":
            # int() would take signs and underscores.
            if self.content_length is not None or not value.isdigit() or len(value) > 18:
                raise HttpError(400, "bad Content-Length")
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            if self.chunked or value.lower() != b"chunked":
                raise HttpError(400, "transfer coding not supported")
            self.chunked = True
        elif name == b"connection":
            self.connection += _tokens(value)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise HttpError(417, "expectation not supported")
            self.expects_continue = True

    def split(self, collector: _Collector) -> list[tuple[bytes, bytes]]:
        """Read the framing; return the end-to-end headers but Host and the framing."""
        for name, value in collector.read:
            self.read(name, value)
        if self.chunked and self.content_length is not None:
            raise HttpError(400, "Content-Length and Transfer-Encoding")
        kept = collector.headers
        if not self.connection:
            return kept
        named = [token for token in self.connection if token not in (b"close", b"keep-alive")]
        return [header for header in kept if header[0] not in named] if named else kept


def _keep_alive(version: str, connection: list[bytes]) -> bool:
    if version == "1.1":
        return b"close" not in connection
    return b"keep-alive" in connection and b"close" not in connection


def _authority(target: bytes, host: bytes | None) -> tuple[bytes, str]:
    """Return the path and the host of a request; the authority of a target counts more."""
    if target[:1] not in (b"/", b"*"):
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise HttpError(400, "bad target")
        authority, slash, path = rest.partition(b"/")
        target, host = slash + path or b"/", authority
    if not host:
        raise HttpError(400, "no Host header")
    name = host.decode("latin-1")  # as written: services are told apart by case
    if _HOST.fullmatch(name) is None:
        raise HttpError(400, "bad Host header")
    if ":" in name and not name.endswith("]"):
        name = name.rpartition(":")[0]
    return target, name


def parse_request_head(data: bytes) -> RequestHead:
    """Return the head of a request.

    Parameters
    ----------
    data : bytes
        One complete head, its empty line included (see `split_head`).

    Raises
    ------
    HttpError
        The request is refused; see the module.
    """
    collector = _Collector()
    parser = HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        raise HttpError(403, "upgrade refused") from None
    except HttpParserInvalidMethodError:
        raise HttpError(400, "bad method") from None
    except HttpParserError as error:
        raise HttpError(400, str(error)) from None
    if not collector.complete:
        raise HttpError(400, "no request line")
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise HttpError(505, "version not supported")
    http10 = version == "1.0"
    _check_sizes(len(data), collector)
    framing = _Framing()
    headers = framing.split(collector)
    if b"upgrade" in framing.connection:
        raise HttpError(403, "upgrade refused")
    if framing.chunked and http10:
        raise HttpError(400, "Transfer-Encoding in HTTP/1.0")
    target, host = _authority(collector.target, framing.host)
    return RequestHead(
        parser.get_method(),
        target,
        host,
        http10,
        _keep_alive(version, framing.connection),
        CHUNKED if framing.chunked else framing.content_length or 0,
        framing.expects_continue and not http10,
        headers,
    )


def parse_response_head(data: bytes, method: bytes) -> ResponseHead:
    """Return the head of a response to a request of `method`.

    Parameters
    ----------
    data : bytes
        One complete head, its empty line included.
    method : bytes
        Method of the request: a response to HEAD has no body, whatever its headers say.

    Raises
    ------
    HttpError
        502: the response cannot be passed on (ambiguous, oversized, or switching protocols).
    """
    collector = _Collector()
    parser = HttpResponseParser(collector)
    try:
        parser.feed_data(data)
    except (HttpParserUpgrade, HttpParserError) as error:
        raise HttpError(502, f"bad response: {error}") from None
    version = parser.get_http_version()
    status = parser.get_status_code()
    if not collector.complete:
        raise HttpError(502, "bad response: no status line")
    if version not in ("1.0", "1.1") or not 100 <= status <= 599 or status == 101:
        raise HttpError(502, "bad response: version or status")
    framing = _Framing()
    try:
        _check_sizes(len(data), collector)
        headers = framing.split(collector)
    except HttpError as error:
        raise HttpError(502, f"bad response: {error.reason}") from None
    length = UNTIL_CLOSE if framing.content_length is None else framing.content_length
    if framing.chunked:
        length = CHUNKED
    if method == b"HEAD" or status < 200 or status in (204, 304):
        length = 0
    keep_alive = length != UNTIL_CLOSE and _keep_alive(version, framing.connection)
    return ResponseHead(status, length, framing.content_length, keep_alive, headers)


# --- Writing ---------------------------------------------------------------------------------


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def encode_status_line(status: int) -> bytes:
    """Return the first line of a response; `status` is 100 to 599."""
    return _STATUS_LINES[status]


def encode_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header lines; names and values are those of a parsed head, hence well formed."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def encode_request(
    head: RequestHead, headers: Iterable[tuple[bytes, bytes]], extra: bytes = b""
) -> bytes:
    """Return the head of a request to be sent on, but for its empty line.

    Parameters
    ----------
    head : RequestHead
        As received.
    headers : iterable of (bytes, bytes)
        Those of `head.headers` that are sent on.
    extra : bytes
        Header lines of the proxy.
    """
    framing = b""
    if head.length == CHUNKED:
        framing = b"transfer-encoding: chunked\r\n"
    elif head.length > 0 or head.method in _METHODS_WITH_BODY:
        framing = b"content-length: %d\r\n" % head.length
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b%b" % (
        head.method,
        head.target,
        head.host.encode(),
        encode_headers(headers),
        framing,
        extra,
    )


def encode_chunk(piece: bytes) -> bytes:
    """Return `piece`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def encode_own_response(status: int, headers: Iterable[tuple[bytes, bytes]], close: bool) -> bytes:
    """Return a whole response of the proxy's own, without body."""
    last = (
        b"content-length: 0\r\nconnection: close\r\n\r\n" if close else b"content-length: 0\r\n\r\n"
    )
    return _STATUS_LINES[status] + encode_headers(headers) + last
