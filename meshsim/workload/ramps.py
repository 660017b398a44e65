"""A quantity that goes from one value to another in a span of time, as a staircase.

Rule: the span is cut into `STEPS` equal parts; within each the value is that of its middle, so
that a linear ramp has the area of its staircase; at the end the last value holds.  An exponential
ramp approaches the last value with a time constant of a third of the span (95 % of the way at
its end).
"""

from __future__ import annotations

import math

__all__ = ["STEPS", "ramp"]

#: Parts of a span: a step of a ramp from 0 to 1 is 5 %.
STEPS = 20
#: Time constants in the span of an exponential ramp.
_TIME_CONSTANTS = 3.0


def ramp(
    first: float, last: float, span_s: float, *, exponential: bool = False
) -> list[tuple[float, float]]:
    """Return (seconds from the beginning, value from then on) of each step.

    Parameters
    ----------
    first, last : float
        Values at the beginning and at the end.
    span_s : float
        >= 0 [s]; 0 is a jump.
    exponential : bool

    Examples
    --------
    >>> ramp(1.0, 3.0, 0.0)
    [(0.0, 3.0)]
    >>> ramp(0.0, 1.0, 10.0)[:2], ramp(0.0, 1.0, 10.0)[-1]
    ([(0.0, 0.025), (0.5, 0.075)], (10.0, 1.0))
    """
    if span_s <= 0.0:
        return [(0.0, last)]
    steps = []
    for number in range(STEPS):
        part = (number + 0.5) / STEPS
        way = 1.0 - math.exp(-_TIME_CONSTANTS * part) if exponential else part
        steps.append((number * span_s / STEPS, first + (last - first) * way))
    return [*steps, (span_s, last)]
