"""Error classes.

Rule: the user's mistakes raise `ConfigError`, which carries every problem of the input at
once; a broken invariant of ours raises `InvariantError`, which carries the story of the
entity.  Nothing raises a bare `Exception`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ConfigError",
    "IncompleteRun",
    "InvariantError",
    "LimitError",
    "MeshsimError",
    "Problem",
]


class MeshsimError(Exception):
    """Base of every error that meshsim raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One mistake in an input.

    Parameters
    ----------
    message : str
        What is wrong, as a sentence without the position.
    file : str
        File the value was read from; empty if it came from Python.
    line, column : int
        Position, counted from 1; 0 if unknown.
    path : str
        Field path, e.g. ``services.reviews.workloads.v1.replicas``.
    found : str
        The offending value as written.
    allowed : str
        What would be accepted.
    suggestion : str
        A near match ("did you mean"), or empty.
    """

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    found: str = ""
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        position = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = ": ".join(part for part in (position, self.path, self.message) if part)
        tail = [
            f"found {self.found}" if self.found else "",
            f"allowed: {self.allowed}" if self.allowed else "",
            f"did you mean {self.suggestion}?" if self.suggestion else "",
        ]
        return "; ".join([head, *(part for part in tail if part)])


class ConfigError(MeshsimError):
    """The input is wrong; `problems` lists everything that is.

    Parameters
    ----------
    problems : iterable of Problem or str
        At least one.
    """

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class LimitError(MeshsimError):
    """A stated limit was reached; the message names the limit and how to raise it."""


class IncompleteRun(MeshsimError):
    """A run was stopped because something of the user's failed beside it, such as a script.

    Parameters
    ----------
    message : str
        What failed, when and how.
    result : Result
        Of the run until then.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class InvariantError(MeshsimError):
    """A state that must not occur; a bug of meshsim, never the user's fault."""
