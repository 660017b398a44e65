"""The log of stimuli: what a proxy's engine was told and what it answered, line by line.

Rule: the first line is a header, a JSON object with the format's version.  Every other line is
a JSON array: proxy index, stimulus, its arguments, its result.  A proxy's life begins with
"open" and ends with "close", which carries the digest of its state; a proxy that is killed and
comes back has two lives.  Lines of different proxies may be mixed in any way, and files may be
joined end to end, headers and all, because only the order within one proxy matters.

A log is written as it grows: memory is bounded by one buffer, and what is lost when the process
is killed is what was in it.  A file without its last newline was cut off in the middle of a
line; that line is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from meshsim.controlplane.configuration import ProxyConfiguration

__all__ = ["FORMAT_VERSION", "StimulusLog", "changed_parts"]

FORMAT_VERSION = 1
_FORMAT_NAME = "meshsim-stimuli"
#: Characters kept in memory before they are written.
_BUFFER_MAX = 1 << 18


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
    return parts
