"""Text of a file, and the words of a problem: paths and near matches."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from meshsim.errors import ConfigError, Problem

__all__ = [
    "FILE_BYTES_MAX",
    "PROBLEMS_MAX",
    "FieldPath",
    "capped",
    "did_you_mean",
    "field_path",
    "read_text",
]

#: Largest file that is read [bytes].
FILE_BYTES_MAX = 16_000_000
#: Most problems listed of one file; the rest is counted.
PROBLEMS_MAX = 100

#: Keys and sequence indices (from 0) that lead to a value.
FieldPath = tuple[str | int, ...]


def field_path(path: Iterable[str | int]) -> str:
    """Write a path as people do.

    Examples
    --------
    >>> field_path(("policies", "reviews", "routes", 0, "timeout"))
    'policies.reviews.routes[0].timeout'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the choice nearest to `word`, or "" if none is near.

    Examples
    --------
    >>> did_you_mean("replcias", ["replicas", "concurrency"])
    'replicas'
    """
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower()[:200], by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else ""


def capped(problems: list[Problem]) -> list[Problem]:
    """Return at most `PROBLEMS_MAX` problems; a last one counts those left out."""
    if len(problems) <= PROBLEMS_MAX:
        return problems
    left_out = len(problems) - PROBLEMS_MAX
    return [*problems[:PROBLEMS_MAX], Problem(f"{left_out} more problems are not listed")]


def read_text(path: str | Path) -> str:
    """Return the text of a file.

    Raises
    ------
    ConfigError
        If it is missing, a directory, larger than `FILE_BYTES_MAX`, binary or not UTF-8.
    """
    path = Path(path)
    name = str(path)
    try:
        if path.is_dir():
            raise ConfigError([Problem("is a directory; a file is wanted", name)])
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        siblings = (item.name for item in path.parent.iterdir()) if path.parent.is_dir() else ()
        near = did_you_mean(path.name, siblings)
        raise ConfigError([Problem("file not found", name, suggestion=near)]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(f"cannot be read: {reason}", name)]) from None
    return _decode(data, name)


def _decode(data: bytes, name: str) -> str:
    if len(data) > FILE_BYTES_MAX:
        limit = f"at most {FILE_BYTES_MAX // 1_000_000} MB"
        raise ConfigError([Problem("the file is too large", name, allowed=limit)])
    if b"\0" in data:
        raise ConfigError([Problem("is a binary file; UTF-8 text is wanted", name)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text (byte 0x{data[error.start]:02x} in line {line})"
        raise ConfigError([Problem(message, name, line)]) from None
