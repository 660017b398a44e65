"""Figures of a validation: errors beside floor and band, and the distributions themselves.

Rule: made without pyplot, so that nothing is shown or kept; written as PNG beside the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from meshsim.validation.measurement import pooled
from meshsim.validation.score import Score

if TYPE_CHECKING:
    from meshsim.validation.outcome import Validation

__all__ = ["draw", "draw_distributions", "draw_errors"]

_PREDICTED, _MEASURED, _BAND = "#0072B2", "#D55E00", "#E4E4E4"
_METRICS = ("p50", "p90", "p99", "throughput")
_COLUMNS = 4
#: Up to this share the distributions are drawn.
_SHARE_MAX = 0.995


def draw(validation: Validation, folder: Path) -> tuple[str, ...]:
    """Write the figures into `folder`; return their names."""
    made = {
        "errors.png": draw_errors(validation.all_scores),
        "latencies.png": draw_distributions(validation),
    }
    for name, figure in made.items():
        figure.savefig(folder / name, format="png", dpi=110)
    return tuple(made)


def draw_errors(scores: Sequence[Score]) -> Figure:
    """Draw the signed error of each scenario on the same draws, with its floor, over the band."""
    shown = [item for item in scores if item.draws == "same" and not math.isnan(item.error)]
    names = list(dict.fromkeys(item.scenario for item in shown))
    figure = Figure(figsize=(11, 1.5 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(_METRICS), sharey=True)
    for axes, metric in zip(panels, _METRICS, strict=True):
        axes.set_title(f"{metric} [%]", loc="left", fontsize=10)
        axes.axvline(0, color="#777777", linewidth=0.8)
        for item in shown:
            if item.metric != metric:
                continue
            row = names.index(item.scenario)
            axes.barh(row, 200 * item.band, left=-100 * item.band, color=_BAND, height=0.8)
            floor = 0.0 if math.isnan(item.floor) else 100 * item.floor
            axes.errorbar(100 * item.error, row, xerr=floor, fmt="o", color=_PREDICTED, ms=4)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle("Error of the prediction (bar: noise floor; grey: band)", fontsize=11)
    return figure


def draw_distributions(validation: Validation) -> Figure:
    """Draw predicted and measured latency distributions of each scenario, first class."""
    names = [name for name in validation.predictions if validation.same.get(name)]
    rows = max(1, math.ceil(len(names) / _COLUMNS))
    figure = Figure(figsize=(11, 2.4 * rows), layout="constrained")
    panels: Any = figure.subplots(rows, _COLUMNS, squeeze=False)
    shares = np.linspace(0.005, _SHARE_MAX, 150)
    for axes, name in zip(panels.flat, names, strict=False):
        traffic, forecast = next(iter(validation.predictions[name].same.items()))
        measured = pooled([repeat[traffic] for repeat in validation.same[name]]).latencies
        for side, colour in ((measured, _MEASURED), (forecast.latencies, _PREDICTED)):
            if side.known:
                latencies = [side.quantile(float(share)) / 1e6 for share in shares]
                axes.plot(latencies, shares, color=colour, linewidth=1.3)
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_xlabel("ms", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    figure.suptitle("Latency: predicted (blue) and measured (orange)", fontsize=11)
    return figure
