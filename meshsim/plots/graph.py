"""The service graph: who calls whom, how often, how well and how slowly.

Rule: callers to the left of what they call (`meshsim.plots.layout`).  The width of an arrow
grows with its rate; it is red if more than one request in a thousand fails.  Of a large mesh
the `_CALLS_MAX` busiest calls are drawn, and the title says so: more would not be legible.
"""

from __future__ import annotations

import heapq
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import networkx as nx
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from meshsim.plots.figure import NotebookFigure
from meshsim.plots.layout import Layout, Node, Point, layered
from meshsim.plots.style import ACCENT, INK, MUTED, class_colours, short_number

if TYPE_CHECKING:
    from meshsim.results import Result

__all__ = ["draw_graph", "graph", "graph_size"]

_CALLS_MAX = 40
_FAILING = 0.999
#: Wanted size of a layer and of a place in it [inch], and the largest figure.
_LAYER_INCHES = 2.7
_PLACE_INCHES = 0.85
_SIZE_MAX_INCHES = 40.0
#: Width of a letter at 9 points, and of the space about a name [inch].
_LETTER_INCHES = 0.085
_MARGIN_INCHES = 0.25
_NODE_HEIGHT = 0.5
_QUIET = "#B8BDC4"


def graph(result: Result) -> Figure:
    """Draw the services and their calls with rate, success and p99."""
    figure = NotebookFigure(figsize=graph_size(result), layout="constrained")
    draw_graph(figure.subplots(), result, figure.get_figwidth())
    return figure


def _calls(result: Result) -> Any:
    """Return the calls as a directed graph; its edges carry the rows of `edges()`.

    A node is (kind, name): a traffic class may be called like a service.  Of more than
    `_CALLS_MAX` calls, the busiest that hang together with the traffic are taken, one by one.
    """
    outgoing: dict[Node, list[tuple[float, int, Node, pd.Series[Any]]]] = {}
    for index, (_, row) in enumerate(result.edges().iterrows()):
        caller = ("traffic" if row["entry"] else "service", row["caller"])
        call = (-row["requests_rps"], index, caller, row)
        outgoing.setdefault(caller, []).append(call)
    calls: Any = nx.DiGraph()
    reached = {caller for caller in outgoing if caller[0] == "traffic"}
    waiting = [call for caller in sorted(reached) for call in outgoing[caller]]
    heapq.heapify(waiting)
    while waiting and calls.number_of_edges() < _CALLS_MAX:
        _, _, caller, row = heapq.heappop(waiting)
        service = ("service", row["service"])
        calls.add_edge(caller, service, row=row)
        if service not in reached:
            reached.add(service)
            for call in outgoing.get(service, []):
                heapq.heappush(waiting, call)
    return calls


def graph_size(result: Result) -> tuple[float, float]:
    """Return the size at which the graph is legible [inch]."""
    layout = layered(_calls(result))
    width = max(_LAYER_INCHES * layout.depth, 7.0)
    height = max(_PLACE_INCHES * layout.breadth + 0.8, 2.4)
    return min(width, _SIZE_MAX_INCHES), min(height, _SIZE_MAX_INCHES)


def draw_graph(axes: Any, result: Result, width_inches: float) -> None:
    """Draw the graph into `axes`, about `width_inches` wide."""
    calls = _calls(result)
    layout = layered(calls)
    inches = width_inches / max(layout.depth, 1)
    half_width = {
        node: (max(len(node[1]), 8) * _LETTER_INCHES + _MARGIN_INCHES) / 2 / inches
        for node in calls.nodes
    }
    busiest = max((d["row"]["requests_rps"] for *_, d in calls.edges(data=True)), default=0.0) or 1
    for caller, service, data in calls.edges(data=True):
        row = data["row"]
        course = list(layout.courses[caller, service])
        width = 0.8 + 3.2 * row["requests_rps"] / busiest
        path = _path(course, half_width[caller], half_width[service])
        colour = ACCENT if row["success"] < _FAILING else _QUIET
        arrow = {"arrowstyle": "-|>", "mutation_scale": 8 + 2 * width, "linewidth": width}
        axes.add_patch(FancyArrowPatch(path=path, color=colour, zorder=1, **arrow))
        _label(axes, course, half_width[caller], row)
    _draw_nodes(axes, result, layout, half_width)
    edge = max(half_width.values(), default=0.5) + 0.06
    axes.set_xlim(-edge, layout.depth - 1 + edge)
    axes.set_ylim(-layout.breadth / 2 - 0.05, layout.breadth / 2 + 0.05)
    axes.set_axis_off()
    title = f"{result.catalog.scenario} on {result.catalog.mesh}: {result.verdict}"
    drawn, total = calls.number_of_edges(), len(result.catalog.edges)
    if drawn < total:
        title += f" ({drawn} of {total:,} calls: the busiest)"
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")


def _path(course: list[Point], leave: float, arrive: float) -> Path:
    """Return a smooth path along `course`, horizontal at each of its points.

    A call back, or of itself, runs above: it leaves and arrives at the top.
    """
    (x, y), (end_x, end_y) = course[0], course[-1]
    if end_x <= x:
        top = max(y, end_y) + 1.4 * _NODE_HEIGHT
        side = arrive / 2 if (x, y) == (end_x, end_y) else 0.0
        start, end = (x + side, y + _NODE_HEIGHT / 2), (end_x - side, end_y + _NODE_HEIGHT / 2)
        vertices = [start, (start[0], top), (end[0], top), end]
        return Path(vertices, [Path.MOVETO] + [Path.CURVE4] * 3)
    points = [(x + leave, y), *course[1:-1], (end_x - arrive, end_y)]
    vertices = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
    return Path(vertices, [Path.MOVETO] + [Path.CURVE4] * (len(vertices) - 1))


def _label(axes: Any, course: list[Point], leave: float, row: pd.Series[Any]) -> None:
    """Write rate, p99 and success at the end of a call, or on its bend."""
    parts = [f"{short_number(row['requests_rps'])}/s"]
    if not math.isnan(row["p99_ms"]):
        parts.append(f"p99 {short_number(row['p99_ms'])} ms")
    if row["success"] < 1:
        parts.append(f"{100 * row['success']:.4g} % ok")
    (x, y), (end_x, end_y) = course[0], course[-1]
    if len(course) > 2:
        x, y = course[1]
    elif end_x > x:
        # The middle of the visible curve: its vertical part, where calls are farthest apart.
        x, y = (x + leave + end_x - leave) / 2, (y + end_y) / 2
    else:
        x, y = (x + end_x) / 2, max(y, end_y) + 1.1 * _NODE_HEIGHT
    axes.text(
        x,
        y,
        "\n".join(parts),
        ha="center",
        va="center",
        color=ACCENT if row["success"] < _FAILING else MUTED,
        fontsize=7.5,
        linespacing=1.1,
        zorder=2,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.95},
    )


def _draw_nodes(
    axes: Any, result: Result, layout: Layout, half_width: dict[tuple[str, str], float]
) -> None:
    """Draw traffic classes filled, services with their mean utilisation."""
    colours = class_colours(result.catalog.traffic)
    load = result.endpoints().groupby("service")["utilisation"].mean()
    for node, (x, y) in layout.nodes.items():
        kind, name = node
        half = half_width[kind, name]
        source = kind == "traffic"
        axes.add_patch(
            FancyBboxPatch(
                (x - half, y - _NODE_HEIGHT / 2),
                2 * half,
                _NODE_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=colours[name] if source else "white",
                edgecolor=colours[name] if source else INK,
                linewidth=1.0,
                zorder=3,
            )
        )
        text = name
        if not source and not math.isnan(load.get(name, math.nan)):
            text += f"\n{short_number(100 * load[name])} % busy"
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            color="white" if source else INK,
            fontsize=9,
            zorder=4,
        )
