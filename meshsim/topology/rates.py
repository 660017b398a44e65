"""Mean rates of open-loop arrivals, and the same arrivals at another mean rate.

Rule: scaling keeps the shape.  Rates are multiplied where the process states rates; intervals
and recorded times are divided where it states times.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from meshsim.errors import ConfigError, Problem
from meshsim.topology.model import Arrivals, Piecewise, TrafficClass
from meshsim.units import NS_PER_S
from meshsim.workload.distributions import mean_ns

__all__ = ["class_rate", "mean_rate", "rate_path", "scaled_arrivals"]

#: The field of its mean rate, where an arrival process has one.
_RATE_FIELDS = {"poisson": "rate", "batch": "rate", "diurnal": "mean"}


def mean_rate(arrivals: Arrivals) -> float:
    """Return the mean rate of an open-loop arrival process [1/s].

    Of a piecewise rate, the mean over the time from its first to its last point; of recorded
    times, their number less one over the time they span.
    """
    if arrivals.poisson is not None:
        return arrivals.poisson.rate
    if arrivals.batch is not None:
        return arrivals.batch.rate
    if arrivals.diurnal is not None:
        return arrivals.diurnal.mean
    if arrivals.renewal is not None:
        return NS_PER_S / mean_ns(arrivals.renewal.interval)
    if arrivals.modulated_poisson is not None:
        phases = arrivals.modulated_poisson.phases
        total = sum(phase.mean_sojourn for phase in phases)
        return sum(phase.rate * phase.mean_sojourn for phase in phases) / total
    if arrivals.piecewise is not None:
        return _piecewise_mean(arrivals.piecewise)
    times = arrivals.recorded.times if arrivals.recorded is not None else ()
    span_ns = times[-1] - times[0] if times else 0
    return (len(times) - 1) * NS_PER_S / span_ns if span_ns else 0.0


def class_rate(traffic: TrafficClass) -> float:
    """Return the mean rate of a traffic class [1/s].

    Of a closed loop the most it can reach: its users over their mean think time (0 if they do
    not think, for the rate is then up to the mesh).
    """
    if traffic.arrivals is not None:
        return mean_rate(traffic.arrivals)
    if traffic.closed_loop is None:
        return 0.0
    think_ns = mean_ns(traffic.closed_loop.think_time)
    return traffic.closed_loop.users * NS_PER_S / think_ns if think_ns else 0.0


def rate_path(traffic: TrafficClass) -> str:
    """Return the path, below a traffic class, of what decides its mean rate.

    Its number if the arrivals state one, else all of them, or the closed loop.
    """
    if traffic.arrivals is None:
        return "closed_loop"
    family = traffic.arrivals.family
    field = _RATE_FIELDS.get(family)
    return f"arrivals.{family}.{field}" if field else f"arrivals.{family}"


def _piecewise_mean(piecewise: Piecewise) -> float:
    points = piecewise.points
    span = points[-1].at - points[0].at
    if span == 0:
        return points[-1].rate
    area = sum((b.at - a.at) * (a.rate + b.rate) / 2 for a, b in pairwise(points))
    return area / span


def scaled_arrivals(traffic: TrafficClass, rate: float, shown: str) -> Any:
    """Return the plain arrivals of a class, scaled to a mean rate [1/s].

    Raises
    ------
    ConfigError
        If the class is a closed loop, or a rate of 0 would have to be scaled; `shown` is the path
        in the message.
    """
    arrivals = traffic.arrivals
    if arrivals is None:
        message = "a closed loop has no rate; set closed_loop.users"
        raise ConfigError([Problem(message, path=shown)])
    plain = arrivals.model_dump(exclude_none=True)
    family = arrivals.family
    if family in _RATE_FIELDS:
        plain[family][_RATE_FIELDS[family]] = rate
        return plain
    now = mean_rate(arrivals)
    if now <= 0 or rate <= 0:
        message = f"{family} arrivals of {now:g}/s cannot be scaled to this rate"
        raise ConfigError([Problem(message, path=shown, found=f"{rate:g}", allowed="above 0")])
    ratio = rate / now
    if family in ("modulated_poisson", "piecewise"):
        rows = plain[family]["phases" if family == "modulated_poisson" else "points"]
        for row in rows:
            row["rate"] *= ratio
    elif arrivals.renewal is not None:
        plain["renewal"]["interval"] = _stretched(arrivals.renewal.interval, 1 / ratio)
    elif arrivals.recorded is not None:
        times = arrivals.recorded.times
        plain["recorded"]["times"] = [f"{round(time / ratio)}ns" for time in times]
    return plain


def _stretched(element: BaseModel, factor: float) -> dict[str, Any]:
    """Return the dump of a distribution with every duration multiplied by `factor`."""
    plain: dict[str, Any] = {}
    for name, value in element:
        if isinstance(value, BaseModel):
            plain[name] = _stretched(value, factor)
        elif isinstance(value, tuple):
            plain[name] = [
                _stretched(item, factor)
                if isinstance(item, BaseModel)
                else f"{round(item * factor)}ns"
                for item in value
            ]
        elif isinstance(value, int):
            plain[name] = f"{round(value * factor)}ns"
        else:
            plain[name] = value
    return plain
