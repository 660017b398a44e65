"""One look for every figure: colours, axes, numbers.

Colours are those of Okabe and Ito, which readers with any colour vision can tell apart.

References
----------
M. Okabe, K. Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["ACCENT", "GRID", "INK", "MUTED", "class_colours", "short_number", "tidy"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00")
INK = "#222222"
MUTED = "#777777"
GRID = "#E4E4E4"
ACCENT = "#C62828"


def class_colours(names: tuple[str, ...]) -> dict[str, str]:
    """Return a colour for each traffic class, the same in every figure."""
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}


def short_number(value: float) -> str:
    """Write a number for a label: three digits, ``k`` and ``M``.

    Examples
    --------
    >>> short_number(1234.0), short_number(0.05)
    ('1.23k', '0.05')
    """
    if math.isnan(value):
        return "-"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def tidy(axes: Any, title: str, x_label: str = "", y_label: str = "") -> None:
    """Give an axes the house look: title to the left, light grid, no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x_label, color=MUTED)
    axes.set_ylabel(y_label, color=MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
