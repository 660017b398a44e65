"""Progress of what takes longer than two seconds.

Rule: work reports ``(done, total, name)`` through a function that it is given; who calls it
decides whether anything is drawn.  Below the API nothing prints.  On a terminal and in a
notebook a bar appears after two seconds and vanishes when the work ends; elsewhere (a pipe, a
log, a test) there is silence.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Bar", "Report", "reporter", "silent"]

#: ``report(done, total, name)``: `done` of `total` units are finished, `name` is at work.
Report = Callable[[float, float, str], None]

#: Work that ends sooner shows nothing [s].
DELAY_S = 2.0
#: Shortest time between two drawings [s].
INTERVAL_S = 0.1
_COLUMNS = 80


def silent(done: float, total: float, name: str) -> None:
    """Report to nobody."""


def _columns() -> int | None:
    """Return the width of the terminal; None in a notebook, which takes its own."""
    if not sys.stderr.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


class Bar:
    """One bar on stderr (a widget in a notebook), used as a `Report` and as a context.

    A new task, recognised by a smaller `done` or another `total`, starts a new bar; a task that
    is done removes its own.

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
        if done >= total:
            self.close()
            return
        with warnings.catch_warnings():
            # A notebook without ipywidgets gets a bar of text instead, and needs no warning.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        if self._bar is not None and (total != self._bar.total or done < self._bar.n):
            self.close()
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                delay=DELAY_S,
                mininterval=INTERVAL_S,
                # Adapted, it would become all that was done in the delay: no second drawing.
                miniters=0,
                # A terminal may say it has 0 rows and columns (script, docker run -t).
                nrows=24,
                ncols=_columns(),
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
