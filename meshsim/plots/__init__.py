"""Figures of a result: ``result.plot.latency()``, ``.timeline()``, ``.graph()``, ``.overview()``.

Rule: each method returns a matplotlib Figure, made without pyplot, so that no state is shared
and nothing is shown or kept unless the reader asks.  A figure shows only what the tables of
the result hold, and draws no curve beyond what its sample carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshsim.plots.graph import graph
from meshsim.plots.latency import latency
from meshsim.plots.overview import overview
from meshsim.plots.timeline import timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meshsim.results import Result

__all__ = ["Plots"]


@dataclass(frozen=True)
class Plots:
    """The figures of one result.

    Parameters
    ----------
    result : Result
    """

    result: Result

    def latency(self) -> Figure:
        """Draw the share of requests slower than a latency, by class, with its 95 % band."""
        return latency(self.result)

    def timeline(self) -> Figure:
        """Draw rates, latency and requests in flight over the run."""
        return timeline(self.result)

    def graph(self) -> Figure:
        """Draw the services and their calls with rate, success and p99."""
        return graph(self.result)

    def overview(self, path: str | Path | None = None) -> Figure:
        """Draw graph, latency and timeline on one page; write it as PNG if `path` is given."""
        figure = overview(self.result)
        if path is not None:
            figure.savefig(path, format="png", dpi=150)
        return figure
