"""The body of one request on its way up, kept while a retry may need it.

Rule: at most `REPLAY_MAX_BYTES` are kept; once more came, or no other try can follow, nothing is,
and the request is answered with what its last try brought.
"""

from __future__ import annotations

from emulator.http.bodies import CHUNKED
from emulator.http.heads import LAST_CHUNK, encode_chunk

__all__ = ["REPLAY_MAX_BYTES", "KeptBody"]

#: Longest request body that is kept for a retry [bytes].
REPLAY_MAX_BYTES = 1 << 20


class KeptBody:
    """The body of one request.

    Parameters
    ----------
    length : int
        As `RequestHead.length` says.

    Attributes
    ----------
    chunked : bool
        Whether it goes up in chunks.
    is_whole : bool
        Whether all of it has come.
    is_kept : bool
        Whether all that has come is kept.
    pieces : list of bytes
        What is kept.
    """

    __slots__ = ("chunked", "is_kept", "is_whole", "pieces")

    def __init__(self, length: int) -> None:
        self.chunked = length == CHUNKED
        self.is_whole = length == 0
        self.is_kept = True
        self.pieces: list[bytes] = []

    def keep(self, piece: bytes) -> None:
        """Keep a part that came, unless one before it was forgotten."""
        if self.is_kept:
            self.pieces.append(piece)

    def framed(self, piece: bytes) -> bytes:
        """Return a part as it goes over the wire."""
        return encode_chunk(piece) if self.chunked else piece

    def replayed(self) -> list[bytes]:
        """Return what has come so far as a new try sends it."""
        parts = [self.framed(piece) for piece in self.pieces]
        if self.chunked and self.is_whole:
            parts.append(LAST_CHUNK)
        return parts

    def forget(self) -> None:
        """Keep nothing from now on."""
        self.is_kept = False
        self.pieces.clear()
