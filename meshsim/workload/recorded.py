"""Recorded arrivals: a text file with one time [s] a line."""

from __future__ import annotations

import math
from pathlib import Path

from meshsim.errors import ConfigError, Problem
from meshsim.units import NS_PER_S

__all__ = ["read_times_ns"]

#: Times beyond this do not fit a run [s] (146 years).
_TIME_S_MAX = (1 << 62) / NS_PER_S


def read_times_ns(path: Path) -> tuple[int, ...]:
    """Return the arrival times of a file with one time [s] a line [ns].

    Empty lines and lines that begin with ``#`` are skipped.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a line is no time >= 0, or times descend; every such
        line is listed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"cannot read: {error}", file=str(path))]) from error
    times: list[int] = []
    problems: list[Problem] = []
    for number, text in enumerate(lines, start=1):
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            time_s = float(stripped)
        except ValueError:
            time_s = math.nan
        if not 0 <= time_s < _TIME_S_MAX:
            problems.append(Problem("not a time [s]", str(path), number, 1, found=stripped))
        elif times and round(time_s * NS_PER_S) < times[-1]:
            problems.append(Problem("times descend", str(path), number, 1, found=stripped))
        else:
            times.append(round(time_s * NS_PER_S))
    if problems:
        raise ConfigError(problems)
    return tuple(times)
