"""Progress of what takes longer than two seconds.

Rule: work reports ``(done, total, name)`` through a function that it is given; who calls it
decides whether anything is drawn.  Below the API nothing prints.  On a terminal and in a
notebook a bar appears after two seconds and vanishes when the work ends; elsewhere (a pipe, a
log, a test) there is silence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Bar", "Report", "reporter", "silent"]

#: ``report(done, total, name)``: `done` of `total` units are finished, `name` is at work.
Report = Callable[[float, float, str], None]

#: Work that ends sooner shows nothing [s].
DELAY_S = 2.0


def silent(done: float, total: float, name: str) -> None:
    """Report to nobody."""


class Bar:
    """One bar on stderr (a widget in a notebook), used as a `Report` and as a context.

    A new task, recognised by a smaller `done` or another `total`, starts a new bar.

    Parameters
    ----------
    visible : bool
        False only keeps `last`.
    """

    def __init__(self, visible: bool = True) -> None:
        self._visible = visible
        self._bar: Any = None
        #: The last report, for a message when the work is interrupted.
        self.last: tuple[float, float, str] | None = None

    def __call__(self, done: float, total: float, name: str) -> None:
        """Draw that `done` of `total` units are finished and `name` is at work."""
        self.last = (done, total, name)
        if not self._visible:
            return
        from tqdm.auto import tqdm

        if self._bar is not None and (total != self._bar.total or done < self._bar.n):
            self.close()
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                delay=DELAY_S,
                mininterval=0,
                leave=False,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}% |{bar:30}| {elapsed} < {remaining}",
            )
        self._bar.set_description_str(name, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def reporter(progress: bool | Report | None) -> Report:
    """Return what the argument `progress` of an API function asks for.

    Parameters
    ----------
    progress : bool, callable or None
        A function is used as it is; True draws a bar; False is silent; None draws a bar on a
        terminal or in a notebook, and is silent elsewhere.

    Returns
    -------
    callable
        ``report(done, total, name)``.

    Examples
    --------
    >>> reporter(False) is silent
    True
    """
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is True:
        return Bar()
    return silent if progress is False else progress
