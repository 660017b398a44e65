"""Distributions as rows; equal ones share a row."""

from __future__ import annotations

from meshsim.state.codes import NO_INDEX
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.model import Distribution
from meshsim.workload.distributions import build_distributions

__all__ = ["Draws"]


class Draws:
    """Collects distributions; equal ones get one row."""

    def __init__(self) -> None:
        self._rows: dict[Distribution, int] = {}

    def row(self, distribution: Distribution | None) -> int:
        """Return the row of `distribution`, or NO_INDEX for None."""
        if distribution is None:
            return NO_INDEX
        return self._rows.setdefault(distribution, len(self._rows))

    def build(self) -> tuple[Rows, Rows]:
        """Return DISTRIBUTION rows and the values they share."""
        return build_distributions(list(self._rows))
