"""The log of stimuli: what a proxy's engine was told and what it answered, line by line.

Rule: the first line is a header, a JSON object with the format's version.  Every other line is
a JSON array: proxy index, stimulus, its arguments, its result.  A proxy's life begins with
"open", that of a rate limit service with "serve"; it ends with "close", which carries the digest
of its state; a proxy that is killed and comes back has two lives.  Lines of different proxies may
be mixed in any way, and files may be joined end to end, headers and all, because only the order
within one proxy matters.

A log is written as it grows: memory is bounded by one buffer, and what is lost when the process
is killed is what was in it.  A file without its last newline was cut off in the middle of a
line; that line is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from meshsim.controlplane.configuration import ListenerPolicy, ProxyConfiguration
from meshsim.errors import ConfigError, Problem

__all__ = ["FORMAT_VERSION", "Stimulus", "StimulusFile", "StimulusLog", "changed_parts"]

FORMAT_VERSION = 3
_FORMAT_NAME = "meshsim-stimuli"
#: Characters kept in memory before they are written.
_BUFFER_MAX = 1 << 18
#: Longest line: the configuration of a proxy that calls very much [bytes].
_LINE_MAX = 1 << 26


class StimulusLog:
    """Writes stimuli to a file.

    Parameters
    ----------
    path : str or Path
        Created, or emptied.

    Notes
    -----
    One log serves every proxy of a process.  Call `flush` now and then, so that little is lost
    if the process is killed, and `close` at the end.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._lines = [json.dumps({"format": _FORMAT_NAME, "version": FORMAT_VERSION})]
        self._size = 0
        self.flush()

    def write(self, line: str) -> None:
        """Take one line of JSON, without its newline."""
        self._lines.append(line)
        self._size += len(line)
        if self._size > _BUFFER_MAX:
            self.flush()

    def flush(self) -> None:
        """Hand over to the operating system what is in memory."""
        if self._lines:
            self._lines.append("")
            self._file.write("\n".join(self._lines))
            self._file.flush()
            self._lines.clear()
            self._size = 0

    def close(self) -> None:
        """Write the rest and close the file; a second time does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> StimulusLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def changed_parts(before: ProxyConfiguration, after: ProxyConfiguration) -> dict[str, Any]:
    """Return the bodies of what an engine reads and what is not as it was before."""
    parts: dict[str, Any] = {}
    for kind in ("clusters", "endpoints"):
        if getattr(after, kind) != getattr(before, kind):
            parts[kind] = after.body(kind)
    if (after.routes, after.labels) != (before.routes, before.labels):
        parts["routes"] = after.body("routes")
    if _read_of(after.listener) != _read_of(before.listener):
        parts["listener"] = after.body("listener")
    return parts


def _read_of(listener: ListenerPolicy) -> tuple[Any, ...]:
    """Return what an engine reads of a listener."""
    return listener.rate_limit, listener.adaptive_concurrency, listener.access


class Stimulus(NamedTuple):
    """One line of a log.

    Parameters
    ----------
    line : int
        Where it stands, from 1.
    proxy : int
        Index of the proxy.
    name : str
        Of the engine's method; "open" and "close" begin and end a life.
    arguments : tuple
        As the method takes them.
    result : object
        What it answered: None, bool, int, str or a list of int.
    """

    line: int
    proxy: int
    name: str
    arguments: tuple[Any, ...]
    result: Any


_NUMBERS = [int]
#: Types of the arguments of each stimulus, and of its result last; `_NUMBERS`: a list of int.
_TYPES: dict[str, tuple[Any, ...]] = {
    "open": (str, int, None),
    "apply": (dict, dict, int, _NUMBERS),
    "start": (str, str, str, dict, (int, None), int, int),
    "bound": (int, int, None),
    "route": (int, int, _NUMBERS),
    "heard": (int, int, int, _NUMBERS),
    "hear_reset": (int, dict, int, int),
    "tell": (int, int, int, int, int, _NUMBERS),
    "tell_of": (int, int, int, int, int, int, _NUMBERS),
    "pick": (int, int, int),
    "sent": (int, int, int, int),
    "ended": (int, int, str, bool, int, int, None),
    "finish": (int, None),
    "mirror": (int, int, int, _NUMBERS),
    "pace": (int, int, int, int),
    "admit": (str, str, str, dict, int, int, int, int),
    "disconnected": (int, None),
    "enter": (int, _NUMBERS),
    "leave": (int, int, bool, int, None),
    "authorize": ((str, None), str, str, str, dict, int),
    "first_check": (int, int, int),
    "checked": (int, int, int, int),
    "probed": (int, int, int, int, int, int, bool),
    "probe_lost": (int, int, int, bool),
    "can_wait": (int, bool),
    "can_open": (int, int),
    "can_send": (int, bool),
    "opened": (int, None),
    "closed": (int, None),
    "pending_added": (int, None),
    "pending_removed": (int, None),
    "close": (str,),
    "serve": (None,),
    "count": (str, list, int, int),
}


class StimulusFile:
    """A log to be read, once.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    cut : bool
        After iteration: whether the last line has no end.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.cut = False

    def __iter__(self) -> Iterator[Stimulus]:
        """Yield the stimuli in order.

        Raises
        ------
        ConfigError
            If the file is no log of stimuli of this version, or a line cannot be read; names
            file and line.
        OSError
            If the file cannot be opened.
        """
        with open(self.path, "rb") as file:
            number = 0
            for number, raw in enumerate(iter(lambda: file.readline(_LINE_MAX), b""), 1):
                if not raw.endswith(b"\n"):
                    if len(raw) == _LINE_MAX:
                        raise self._error(number, f"the line is longer than {_LINE_MAX} bytes")
                    if number == 1:
                        self._read_header(number, self._parse(number, raw))
                    self.cut = True
                    return
                value = self._parse(number, raw)
                if number == 1 or isinstance(value, dict):
                    self._read_header(number, value)
                else:
                    yield self._read(number, value)
            if number == 0:
                raise self._error(1, "this is no log of stimuli: it is empty")

    def _error(self, line: int, message: str, found: str = "") -> ConfigError:
        return ConfigError([Problem(message, file=self.path, line=line, found=found[:80])])

    def _parse(self, line: int, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            text = raw[:80].decode("ascii", "backslashreplace").strip()
            raise self._error(line, "the line cannot be read: the log is damaged", text) from None

    def _read_header(self, line: int, value: Any) -> None:
        if not isinstance(value, dict) or value.get("format") != _FORMAT_NAME:
            raise self._error(line, "this is no log of stimuli: it has no header")
        if value.get("version") != FORMAT_VERSION:
            raise ConfigError(
                [
                    Problem(
                        "a log of another version",
                        file=self.path,
                        line=line,
                        found=str(value.get("version")),
                        allowed=str(FORMAT_VERSION),
                    )
                ]
            )

    def _read(self, line: int, value: Any) -> Stimulus:
        """Return the stimulus of a line, all types checked."""
        if not (isinstance(value, list) and len(value) >= 2 and isinstance(value[1], str)):
            raise self._error(line, "no stimulus", str(value))
        proxy, name, *fields = value
        types = _TYPES.get(name)
        if types is None:
            raise self._error(line, "no stimulus has this name", name)
        fits = len(fields) == len(types) and all(map(_fits, fields, types))
        if not fits or not _fits(proxy, int) or proxy < 0:
            raise self._error(line, f"the values of {name!r} do not fit", str(value))
        return Stimulus(line, proxy, name, tuple(fields[:-1]), fields[-1])


def _fits(value: Any, wanted: Any) -> bool:
    """Return whether `value` is of a type of `_TYPES`; a bool is no int."""
    if wanted is None:
        return value is None
    if wanted is _NUMBERS:
        return isinstance(value, list) and all(type(item) is int for item in value)
    if isinstance(wanted, tuple):
        return any(_fits(value, item) for item in wanted)
    return type(value) is wanted
