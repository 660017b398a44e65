"""How many requests are slower than a given latency, by traffic class.

The curve is one minus the distribution function on a logarithmic axis of shares, so that p50,
p99 and p99.9 are equally far apart and equally legible.  It ends where fewer than
`TAIL_MINIMUM` effective samples lie beyond, as the tables do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from meshsim.plots.figure import NotebookFigure
from meshsim.plots.style import INK, MUTED, class_colours, tidy
from meshsim.results.estimates import QUANTILES, TAIL_MINIMUM
from meshsim.stats.intervals import quantile_interval_ns

if TYPE_CHECKING:
    from meshsim.results import Result

__all__ = ["draw_latency", "latency"]

_NS_PER_MS = 1e6
_POINT_COUNT = 60


def latency(result: Result) -> Figure:
    """Draw the latency distribution of each class with its 95 % band."""
    figure = NotebookFigure(figsize=(8, 4.8), layout="constrained")
    draw_latency(figure.subplots(), result)
    return figure


def _percent_label(share: float, _: Any = None) -> str:
    return f"{100 * share:g} %"


def draw_latency(axes: Any, result: Result) -> None:
    """Draw the curves of every class into `axes`."""
    tidy(axes, "Requests slower than ...", "latency [ms]", "share of successful requests")
    colours = class_colours(result.catalog.traffic)
    smallest = 1 - max(QUANTILES.values())
    drawn = False
    for index, name in enumerate(result.catalog.traffic):
        mean = result.estimates[name]["mean"]
        if mean.withheld or math.isnan(mean.effective_samples):
            continue
        tail = max(TAIL_MINIMUM / mean.effective_samples, smallest)
        if tail >= 0.5:
            continue
        shares = np.geomspace(0.99, tail, _POINT_COUNT)
        histograms = result.measured.traffic_histogram(index)
        curve = np.array([quantile_interval_ns(histograms, 1 - share) for share in shares])
        value, low, high = curve.T / _NS_PER_MS
        known = np.isfinite(high)
        axes.fill_betweenx(
            shares[known], low[known], high[known], color=colours[name], alpha=0.18, linewidth=0
        )
        axes.plot(value, shares, color=colours[name], linewidth=1.8, label=name)
        drawn = True
    if not drawn:
        _say_why(axes, result)
        return
    axes.set_yscale("log")
    axes.set_ylim(0.8 * smallest, 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_label))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    for quantile_name, q in QUANTILES.items():
        axes.axhline(1 - q, color=MUTED, linewidth=0.6, linestyle=(0, (2, 3)))
        axes.annotate(
            quantile_name,
            (1, 1 - q),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8,
        )
    axes.legend(frameon=False, labelcolor=INK, loc="lower left")


def _say_why(axes: Any, result: Result) -> None:
    """Say in the empty axes why there is no curve."""
    reasons = [estimates["mean"].withheld for estimates in result.estimates.values()]
    reason = next((reason for reason in reasons if reason), "the sample is too small")
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"latency withheld\n{reason}", ha="center", color=MUTED, wrap=True)
