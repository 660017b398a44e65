"""What happened over the run: rates, latency, requests in flight.

Means over the replications by window.  The warm-up that the tables leave out is shaded,
and so is each timed fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from meshsim.plots.figure import NotebookFigure
from meshsim.plots.style import ACCENT, INK, MUTED, class_colours, tidy
from meshsim.state.codes import NO_INDEX
from meshsim.units import NS_PER_S

if TYPE_CHECKING:
    from meshsim.results import Result

__all__ = ["draw_timeline", "timeline"]

_WARM_UP_COLOUR = "#F5F5F5"
_ABOVE_TITLE_INCHES = 0.32
_FAULT_COLOUR = "#FBE9E7"


def timeline(result: Result) -> Figure:
    """Draw rates, latency and requests in flight over the run."""
    figure = NotebookFigure(figsize=(9, 7), layout="constrained")
    draw_timeline(figure.subplots(3, 1, sharex=True), result)
    return figure


def _shade_warm_up(axes: Any, result: Result) -> None:
    if result.measured.warm_up_s:
        axes.axvspan(0, result.measured.warm_up_s, color=_WARM_UP_COLOUR, zorder=0)


def _shade_faults(panels: Sequence[Any], result: Result) -> None:
    """Shade each timed fault in every panel and name it above the first."""
    end_s = result.records[0].duration_ns / NS_PER_S
    texts: dict[tuple[float, float], list[str]] = {}
    for text, begin_ns, fault_end_ns in result.catalog.fault_spans:
        begin_s = begin_ns / NS_PER_S
        stop_s = end_s if fault_end_ns == NO_INDEX else min(fault_end_ns / NS_PER_S, end_s)
        if begin_s < end_s:
            texts.setdefault((begin_s, stop_s), []).append(text)
    for (begin_s, stop_s), names in texts.items():
        for axes in panels:
            axes.axvspan(begin_s, stop_s, color=_FAULT_COLOUR, linewidth=0, zorder=0)
            axes.axvline(begin_s, color=ACCENT, linewidth=0.8, zorder=1)
        right = begin_s > 0.7 * end_s
        panels[0].annotate(
            ", ".join(names),
            (begin_s, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, -11),
            textcoords="offset points",
            ha="right" if right else "left",
            color=ACCENT,
            fontsize=8,
        )


def draw_timeline(panels: Sequence[Any], result: Result) -> None:
    """Draw into three axes that share their time."""
    rates, latencies, in_flight = panels
    tidy(rates, "Offered (dotted) and goodput", y_label="1/s")
    tidy(latencies, "Latency by arrival: p50 and p99 (dashed)", y_label="ms")
    tidy(in_flight, "Requests in flight", "time [s]")
    table = result.timeline()
    colours = class_colours(result.catalog.traffic)
    for name, rows in table.groupby("traffic", sort=False):
        colour = colours[str(name)]
        time_s = rows["time_s"] + result.measured.window_s / 2
        rates.plot(time_s, rows["offered_rps"], color=colour, linewidth=1.2, linestyle=":")
        rates.plot(time_s, rows["goodput_rps"], color=colour, linewidth=1.8, label=name)
        latencies.plot(time_s, rows["p50_ms"], color=colour, linewidth=1.8)
        latencies.plot(time_s, rows["p99_ms"], color=colour, linewidth=1.2, linestyle="--")
        in_flight.plot(time_s, rows["in_flight"], color=colour, linewidth=1.8)
    for axes in panels:
        highest = axes.dataLim.ymax
        axes.set_ylim(0, 1.2 * highest if 0 < highest < float("inf") else 1)
        axes.set_xlim(0, result.records[0].duration_ns / NS_PER_S)
        _shade_warm_up(axes, result)
    _shade_faults(panels, result)
    if result.measured.warm_up_s:
        rates.annotate(
            "warm-up",
            (0, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -11),
            textcoords="offset points",
            color=MUTED,
            fontsize=8,
        )
    _legend(rates)


def _legend(axes: Any) -> None:
    """Name the classes above the title, in as many lines as they need."""
    above_title = ScaledTranslation(0, _ABOVE_TITLE_INCHES, axes.figure.dpi_scale_trans)
    axes.legend(
        frameon=False,
        labelcolor=INK,
        ncols=4,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes + above_title,
        borderaxespad=0,
        borderpad=0,
    )
