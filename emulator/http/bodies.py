"""Bodies of HTTP/1.1 messages: how many of the received bytes belong to one.

Rule: a body is framed by its length, by chunks or by the end of its connection.  `take` uses
exactly the bytes of the body, however they were cut on the way, so that what follows is the next
message.  Chunk sizes are 1 to 8 hexadecimal digits and lines end in CR LF; whatever else could be
understood in two ways is refused.  Extensions and trailers are read, bounded and dropped.

References
----------
RFC 9112, 6.3 and 7.1.
"""

from __future__ import annotations

import re

__all__ = [
    "CHUNKED",
    "MAX_CHUNK_LINE_BYTES",
    "MAX_TRAILERS_BYTES",
    "UNTIL_CLOSE",
    "Body",
    "ChunkedBody",
    "HttpError",
    "LengthBody",
    "UntilCloseBody",
    "body_of",
]

#: Framings of a body other than a length (`length` of a head).
CHUNKED = -1
UNTIL_CLOSE = -2

#: Longest line of a chunk's size and extensions, and longest trailer section [bytes].
MAX_CHUNK_LINE_BYTES = 4096
MAX_TRAILERS_BYTES = 8192

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class HttpError(Exception):
    """A message that is not passed on.

    Parameters
    ----------
    status : int
        HTTP status of the answer to a request so refused.
    reason : str
        What was wrong, for logs and counters.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class LengthBody:
    """A body of a stated length.

    Parameters
    ----------
    length : int
        Bytes to come, >= 0.
    """

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def take(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the body's bytes in `data` from `at` on, and the offset after them."""
        end = at + self.remaining
        if end >= len(data):
            piece = data[at:] if at else data
            self.remaining -= len(piece)
            self.done = self.remaining == 0
            return piece, len(data)
        self.remaining = 0
        self.done = True
        return data[at:end], end


class UntilCloseBody:
    """A body that ends with its connection; `done` is set by whoever sees that."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def take(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return everything from `at` on, and the end of `data`."""
        return data[at:], len(data)


class ChunkedBody:
    """A body in chunks; `take` returns their content without sizes, extensions and trailers."""

    __slots__ = ("_end_of_chunk", "_remaining", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self.done = False
        self._remaining = 0
        self._end_of_chunk = False  # the CR LF after a chunk's data is due
        self._trailer_bytes = -1  # read so far; -1: the last chunk has not come

    def take(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the content in `data` from `at` on, and the offset of what was not used.

        A line that is not complete is left; call again with it and what follows.

        Raises
        ------
        HttpError
            400: sizes or line ends are wrong, or a limit is exceeded.
        """
        pieces = []
        while not self.done:
            if self._remaining:
                piece = data[at : at + self._remaining]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                self._end_of_chunk = self._remaining == 0
                continue
            after = self._line(data, at)
            if after == at:
                break
            at = after
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), at

    def _line(self, data: bytes, at: int) -> int:
        """Read one line that is not content; return the offset after it, `at` if incomplete."""
        if self._end_of_chunk:
            mark = data[at : at + 2]
            if not b"\r\n".startswith(mark):
                raise HttpError(400, "chunk longer than its size")
            if len(mark) < 2:
                return at
            self._end_of_chunk = False
            return at + 2
        if self._trailer_bytes >= 0:
            return self._trailer(data, at)
        match = _CHUNK_LINE.match(data, at)
        if match is None:
            if data.find(b"\n", at) >= 0 or len(data) - at > MAX_CHUNK_LINE_BYTES:
                raise HttpError(400, "bad chunk size")
            return at
        if match.end() - at > MAX_CHUNK_LINE_BYTES:
            raise HttpError(400, "chunk extensions too long")
        self._remaining = int(match[1], 16)
        if self._remaining == 0:
            self._trailer_bytes = 0
        return match.end()

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        # A line that may still be ended by the last byte is no longer than without it.
        whole = len(data) - data.endswith(b"\r") if end < 0 else end
        length = max(whole - at, 0)
        if self._trailer_bytes + length > MAX_TRAILERS_BYTES:
            raise HttpError(400, "trailers too long")
        if end < 0:
            return at
        if length == 0:
            self.done = True
        elif _TRAILER.fullmatch(data, at, end) is None:
            raise HttpError(400, "bad trailer")
        self._trailer_bytes += length + 2
        return end + 2


Body = LengthBody | ChunkedBody | UntilCloseBody


def body_of(length: int) -> Body:
    """Return a reader of a body framed as `length` of its head says."""
    if length >= 0:
        return LengthBody(length)
    return ChunkedBody() if length == CHUNKED else UntilCloseBody()
