"""Durations, rates and sizes as people write them, and integers as the engine keeps them.

Rule: below the API time is `int` nanoseconds, sizes are `int` bytes, rates are `float` per
second.  Strings need a unit (``14ms``); a bare number is refused, because "is 5 seconds or
milliseconds?" has no right answer.  Durations follow Go's `time.ParseDuration`
(``1h2m3.5s``), which Istio and Kubernetes use.

References
----------
Go, time.ParseDuration; Kubernetes, resource.Quantity.
"""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = [
    "NS_PER_S",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_size",
    "seconds",
    "to_ns",
]

NS_PER_S = 1_000_000_000

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|k|kB|Ki|KiB|M|MB|Mi|MiB|G|GB|Gi|GiB)?")
_SIZE_UNIT = {
    "": 1,
    "B": 1,
    "k": 1_000,
    "kB": 1_000,
    "Ki": 1 << 10,
    "KiB": 1 << 10,
    "M": 10**6,
    "MB": 10**6,
    "Mi": 1 << 20,
    "MiB": 1 << 20,
    "G": 10**9,
    "GB": 10**9,
    "Gi": 1 << 30,
    "GiB": 1 << 30,
}
#: Above this a duration no longer fits int64 nanoseconds with room to add (146 years).
_DURATION_NS_MAX = 1 << 62


def parse_duration(text: str) -> int:
    """Read a duration such as ``"14ms"`` or ``"1h2m3.5s"`` [ns].

    Parameters
    ----------
    text : str
        Decimal numbers with units ns, us, ms, s, m or h; ``"0"`` needs no unit.

    Returns
    -------
    int
        Nanoseconds, >= 0, rounded to the nearest.

    Raises
    ------
    ValueError
        If `text` is not a duration, is negative, or exceeds 146 years.

    Examples
    --------
    >>> parse_duration("1.5s")
    1500000000
    """
    stripped = text.strip()
    if stripped == "0":
        return 0
    total = Decimal(0)
    position = 0
    for match in _DURATION.finditer(stripped):
        if match.start() != position:
            break
        total += Decimal(match[1]) * _UNIT_NS[match[2]]
        position = match.end()
    if not stripped or position != len(stripped):
        raise ValueError(f"not a duration: {text!r} (write e.g. 14ms, 1.5s, 1h30m)")
    if total > _DURATION_NS_MAX:
        raise ValueError(f"duration too long: {text!r} (at most 146 years)")
    return round(total)


def format_duration(duration_ns: int) -> str:
    """Write `duration_ns` in the largest unit that loses nothing.

    Examples
    --------
    >>> format_duration(14_000_000)
    '14ms'
    """
    for unit in ("h", "m", "s", "ms", "us"):
        if duration_ns and duration_ns % _UNIT_NS[unit] == 0:
            return f"{duration_ns // _UNIT_NS[unit]}{unit}"
    return f"{duration_ns}ns" if duration_ns else "0s"


def parse_size(text: str) -> int:
    """Read a size such as ``"64KiB"`` or ``"250"`` [bytes].

    Raises
    ------
    ValueError
        If `text` is not a size.

    Examples
    --------
    >>> parse_size("2KiB")
    2048
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r} (write e.g. 250, 2kB, 64KiB)")
    return round(Decimal(match[1]) * _SIZE_UNIT[match[2] or ""])


def format_size(size_bytes: int) -> str:
    """Write `size_bytes` in the largest binary unit that loses nothing.

    Examples
    --------
    >>> format_size(2048)
    '2KiB'
    """
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNIT[unit] == 0:
            return f"{size_bytes // _SIZE_UNIT[unit]}{unit}"
    return f"{size_bytes}B"


def seconds(duration_ns: int) -> float:
    """Convert nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def to_ns(duration: str | float | int) -> int:
    """Accept a duration string, or a number of seconds, as the API does [ns].

    Raises
    ------
    ValueError
        If the string is no duration or the number is negative or not finite.
    """
    if isinstance(duration, str):
        return parse_duration(duration)
    if not 0 <= duration < _DURATION_NS_MAX / NS_PER_S:
        raise ValueError(f"not a duration: {duration!r} seconds (0 to 146 years)")
    return round(duration * NS_PER_S)
