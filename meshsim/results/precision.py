"""How precise a result is, and how precise it shall be.

Rule: a run asked for ``p99:5%`` is repeated with twice the replications until the half-width
of the 95 % interval is at most gamma / (1 + gamma) of the estimate in every traffic class,
gamma = 5 %.  The correction makes gamma hold relative to the true value; checking only when
the number of replications has doubled keeps repeated looks from eating the coverage.

References
----------
A. M. Law, "Simulation Modeling and Analysis", 5th ed., section 9.4.1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshsim.errors import ConfigError, Problem
from meshsim.results.estimates import METRICS

if TYPE_CHECKING:
    from meshsim.results.result import Result

__all__ = ["Precision", "parse_precision", "relative_half_width"]

_TEXT = re.compile(r"(?P<metric>[a-z0-9.]+):(?P<percent>\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Precision:
    """A wanted precision.

    Parameters
    ----------
    metric : str
        One of ``mean``, ``p50``, ``p90``, ``p99``, ``p99.9``.
    relative : float
        Half-width relative to the true value [1], in (0, 1).
    """

    metric: str
    relative: float

    def reached(self, result: Result) -> bool:
        """Tell whether every traffic class of `result` is that precise."""
        return relative_half_width(result, self.metric) <= self.relative / (1 + self.relative)


def parse_precision(text: str) -> Precision:
    """Read a precision such as ``"p99:5%"``.

    Raises
    ------
    ConfigError
        If `text` is not METRIC:PERCENT%, or out of range.

    Examples
    --------
    >>> parse_precision("p99:5%")
    Precision(metric='p99', relative=0.05)
    """
    match = _TEXT.fullmatch(text.strip())
    metric = match["metric"] if match else ""
    percent = float(match["percent"]) if match else 0.0
    if metric not in METRICS or not 0 < percent < 100:
        allowed = f"one of {', '.join(METRICS)}, then above 0 and below 100 %, e.g. p99:5%"
        raise ConfigError(
            [Problem("not a precision", path="precision", found=text, allowed=allowed)]
        )
    return Precision(metric, percent / 100)


def relative_half_width(result: Result, metric: str) -> float:
    """Return the widest relative half-width of `metric` over the traffic classes [1].

    Parameters
    ----------
    result : Result
    metric : str
        One of ``mean``, ``p50``, ``p90``, ``p99``, ``p99.9``.

    Returns
    -------
    float
        Infinite while the metric is withheld in any class.
    """
    widths = [result.estimate(name, metric).relative_half_width for name in result.catalog.traffic]
    return max(widths, default=math.inf)
