"""Names of a running mesh, and what is said of one that there is not."""

from __future__ import annotations

from collections.abc import Iterable

from meshsim.errors import ConfigError, Problem
from meshsim.yamlfile import did_you_mean

__all__ = ["row_of"]


def row_of(kind: str, name: str, known: Iterable[str]) -> int:
    """Return the place of `name` among the names of a kind.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    names = list(known)
    if name not in names:
        near = did_you_mean(name, names)
        allowed = ", ".join(names[:20])
        message = f"unknown {kind}"
        raise ConfigError([Problem(message, found=name, allowed=allowed, suggestion=near)])
    return names.index(name)
