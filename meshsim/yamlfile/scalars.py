"""What a plain (unquoted) scalar means, by the strict table and by kubectl's."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["manifest_key", "manifest_scalar", "parse_scalar", "strict_scalar"]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_TRUE_11 = _TRUE | {"yes", "Yes", "YES", "on", "On", "ON", "y", "Y"}
_FALSE_11 = _FALSE | {"no", "No", "NO", "off", "Off", "OFF", "n", "N"}

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INTEGER_11 = re.compile(
    r"(?P<sign>[-+]?)(?:0b(?P<binary>[01_]+)|0x(?P<hexadecimal>[0-9a-fA-F_]+)"
    r"|0o?(?P<octal>[0-7_]+)|(?P<decimal>0|[1-9][0-9_]*))"
)
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
#: What two YAML versions read differently: pattern, and what a reader may take it for.
_TRAPS = (
    (re.compile(r"[-+]?0[0-9_]+"), "read as an octal number by YAML 1.1 and decimal by 1.2"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "a number in base 16, 8 or 2, or text"),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
        "read in base 60 by YAML 1.1",
    ),
    (re.compile(r"[-+]?[0-9][0-9.]*_[0-9_.]*"), "a number to YAML 1.1 and text to 1.2"),
    (_INFINITE, "not a finite number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?"), "read as a date by YAML 1.1"),
)
#: Longest number read as such; int() of a longer text takes quadratic time.
_NUMBER_LENGTH_MAX = 300
#: Larger numbers (and infinity) are not written out in a message.
_NUMBER_SHOWN_MAX = 1e18


def parse_scalar(text: str) -> Any:
    """Return the value of one plain scalar by the strict table.

    Raises
    ------
    ValueError
        If the text is one of YAML's traps; the message says what to write instead.

    Examples
    --------
    >>> parse_scalar("3"), parse_scalar("14ms"), parse_scalar("true")
    (3, '14ms', True)
    """
    return strict_scalar(text.strip())


def strict_scalar(text: str) -> Any:
    """Resolve a plain scalar of our own files; ValueError says why it is refused."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _TRUE_11 or text in _FALSE_11:
        instead = "true" if text in _TRUE_11 else "false"
        raise ValueError(
            f"a bare {text} is a boolean to some readers; write {instead} or {text!r} for text"
        )
    if len(text) > _NUMBER_LENGTH_MAX:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    for pattern, reason in _TRAPS:
        if pattern.fullmatch(text):
            raise ValueError(f"{reason}; write {_instead(text)} or {text!r} for text")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"the number is too large; write a smaller one or {text!r} for text")
        return number
    return text


def _instead(text: str) -> str:
    """Return the numbers that a trap may stand for, as they are written without doubt."""
    plain = text.replace("_", "")
    readings = [manifest_scalar(text)]
    if _FLOAT.fullmatch(plain):
        whole = plain.lstrip("-+").isdigit()
        readings.insert(0, int(plain) if whole else float(plain))
    numbers = [
        reading
        for reading in readings
        if not isinstance(reading, str) and abs(reading) < _NUMBER_SHOWN_MAX
    ]
    return " or ".join(map(str, dict.fromkeys(numbers))) or "a decimal number"


def manifest_scalar(text: str) -> Any:
    """Resolve a plain scalar as kubectl does (go-yaml v2)."""
    if text in _NULL:
        return None
    if text in _TRUE_11 or text in _FALSE_11:
        return text in _TRUE_11
    if len(text) > _NUMBER_LENGTH_MAX:
        return text
    match = _INTEGER_11.fullmatch(text)
    if match:
        for name, base in (("binary", 2), ("hexadecimal", 16), ("octal", 8), ("decimal", 10)):
            digits = (match[name] or "").replace("_", "")
            if digits:
                return int(match["sign"] + digits, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def manifest_key(text: str) -> str:
    """Return a key as sigs.k8s.io/yaml makes it text: ``on`` is read as a boolean, "true"."""
    value = manifest_scalar(text)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else text
