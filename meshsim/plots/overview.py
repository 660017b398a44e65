"""One page for the command line: graph, latency and timeline of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from meshsim.plots.figure import NotebookFigure
from meshsim.plots.graph import draw_graph, graph_size
from meshsim.plots.latency import draw_latency
from meshsim.plots.timeline import draw_timeline

if TYPE_CHECKING:
    from meshsim.results import Result

__all__ = ["overview"]


_WIDTH_INCHES = 14.0
_BELOW_INCHES = 6.0


def overview(result: Result) -> Figure:
    """Draw the graph above, the latency below to the left, the timeline to the right."""
    above = max(graph_size(result)[1], 3.0)
    figure = NotebookFigure(figsize=(_WIDTH_INCHES, above + _BELOW_INCHES), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(above, _BELOW_INCHES))
    draw_graph(figure.add_subfigure(grid[0, :]).subplots(), result, _WIDTH_INCHES)
    draw_latency(figure.add_subfigure(grid[1, 0]).subplots(), result)
    draw_timeline(figure.add_subfigure(grid[1, 1]).subplots(3, 1, sharex=True), result)
    return figure
