"""Headers of answers: what an outbound proxy adds to them, and what it heeds of an upstream's.

Rule: the response flag, and what goes with it; when a rate limit is reset, in real seconds of
the calendar if a header names a time.
"""

from __future__ import annotations

from emulator.clock import unix_s
from emulator.decisions.engine import ProxyEngine
from emulator.http.heads import ResponseHead
from meshsim.state.codes import FLAG_NAMES, FLAG_NONE, FLAG_RL, FLAG_UO

__all__ = ["flagged", "hear_reset", "own_headers"]

_FLAG = b"x-meshsim-flag"


def own_headers(
    engine: ProxyEngine, exchange: int, status: int, response_flag: int
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of an answer of the proxy's own."""
    headers: list[tuple[bytes, bytes]] = []
    if response_flag != FLAG_NONE:
        headers.append((_FLAG, FLAG_NAMES[response_flag].encode()))
    if response_flag == FLAG_UO:
        headers.append((b"x-envoy-overloaded", b"true"))
    if response_flag == FLAG_RL:
        headers += engine.refusal_headers(exchange)
    location = engine.location(exchange) if 300 <= status < 400 else None
    if location is not None:
        headers.append((b"location", location.encode("latin-1")))
    return tuple(headers)


def flagged(
    head: ResponseHead, values: dict[bytes, bytes], response_flag: int
) -> tuple[ResponseHead, bytes]:
    """Return an upstream's head without another proxy's flag, and this proxy's as a header line.

    Each proxy answers for itself.
    """
    if _FLAG in values:
        head = head._replace(headers=[pair for pair in head.headers if pair[0] != _FLAG])
    if response_flag == FLAG_NONE:
        return head, b""
    return head, b"x-meshsim-flag: %b\r\n" % FLAG_NAMES[response_flag].encode()


def hear_reset(engine: ProxyEngine, exchange: int, head: ResponseHead) -> None:
    """Tell the engine the headers of a response that the route of `exchange` looks for.

    Of a header that comes twice the first value counts.
    """
    wanted = {name.encode("latin-1") for name, _ in engine.reset_headers(exchange)}
    values: dict[str, str] = {}
    for name, value in head.headers:
        if name in wanted:
            values.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    engine.hear_reset(exchange, values, int(unix_s()))
