"""Arrival processes: when the next request of a traffic class comes.

Rule: one function, `next_arrival_ns`, is asked once after each arrival (and once at the start)
and answers with the next one at or after `now_ns`, or `NEVER_NS`.  Every process keeps its
position in its ARRIVAL row.  All Poisson kinds are exact:

- POISSON: an exponential interval;
- BATCH: Poisson epochs at rate / size; `batch_size` says how many come at the epoch;
- MODULATED_POISSON: phases follow one another cyclically with exponential sojourns; a candidate
  arrival beyond the end of its phase is dropped and drawn anew from there (memorylessness).
  The process starts in its stationary state.  Sojourns are keyed by their number, so that the
  phases do not depend on the arrivals, nor on the multiplier;
- PIECEWISE: the integral of the rate reaches a unit exponential, solved in each linear piece.
  Before the first point the first rate holds, after the last the last.  Diurnal traffic is the
  same with a period, the sine cut into 288 pieces (five minutes of a day; the rate is off by at
  most 6e-5 of its amplitude);
- RENEWAL: an interval of any distribution; the first begins at the start of the run;
- RECORDED: the given times.

The multiplier scales the rate and may change at any time through `set_multiplier`: exact for the
Poisson kinds; a renewal process runs on a clock that is `multiplier` times as fast, so the rest
of the current interval shrinks or stretches; recorded times ignore it.

Intervals are rounded to whole nanoseconds; the mean of a rounded exponential is short by
1 / (24 m**2) of itself for a mean of m ns, below 1e-6 up to five million arrivals per second.

References
----------
P. Lewis, G. Shedler, "Simulation of nonhomogeneous Poisson processes with degree-two exponential
polynomial rate function", Operations Research 27 (1979) (inversion of the integrated rate).
W. Fischer, K. Meier-Hellstern, "The Markov-modulated Poisson process (MMPP) cookbook",
Performance Evaluation 18 (1993).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meshsim.errors import ConfigError
from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import key_uniform, mix_in, next_uint64, next_uniform
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.workload import (
    ARRIVAL_DTYPE,
    BATCH,
    MODULATED_POISSON,
    NO_ARRIVALS,
    PIECEWISE,
    POISSON,
    RECORDED,
    RENEWAL,
)
from meshsim.units import NS_PER_S
from meshsim.workload.distributions import DURATION_NS_MAX, sample_ns

__all__ = [
    "ArrivalsLike",
    "batch_size",
    "build_arrivals",
    "next_arrival_ns",
    "set_multiplier",
]

#: Linear pieces in one period of a diurnal rate.
DIURNAL_PIECES = 288


class ArrivalsLike(Protocol):
    """A declared open-loop process: `family` names the attribute that holds its parameters."""

    @property
    def family(self) -> str:
        """One of poisson, renewal, batch, modulated_poisson, piecewise, diurnal, recorded."""
        ...


# --- Poisson, batches -----------------------------------------------------------------------


@kernel_jit_inline
def _later_ns(now_ns: int, interval_ns: float) -> int:
    """Return `now_ns` + `interval_ns` rounded, or `NEVER_NS` if that is beyond all runs."""
    if interval_ns >= DURATION_NS_MAX:
        return NEVER_NS
    return now_ns + int(interval_ns + 0.5)


@kernel_jit_inline
def _unit_exponential(rng: Any) -> float:
    return -math.log(1.0 - next_uniform(rng))


@kernel_jit_inline
def next_arrival_ns(
    arrivals: Any, source: int, distributions: Any, values: Any, now_ns: int, rng: Any
) -> int:
    """Return the time of the next arrival of `source`, at or after `now_ns` [ns].

    Parameters
    ----------
    arrivals : ndarray[ARRIVAL_DTYPE], shape (n_sources,)
        Row `source` is modified in place.
    source : int
        Row of `arrivals`.
    distributions : ndarray[DISTRIBUTION_DTYPE], shape (n_distributions,)
        Read only.
    values : ndarray[float64], shape (n_values,)
        As returned by `build_arrivals`.  Read only.
    now_ns : int
        Current time [ns]: 0 at the start, later the arrival just served.
    rng : ndarray[uint64], shape (2,)
        Arrival stream of this source.  Advanced in place.

    Returns
    -------
    int
        Absolute time [ns], or `NEVER_NS` if there is no further arrival.
    """
    if arrivals["kind"][source] == POISSON:
        rate = arrivals["rate_per_ns"][source] * arrivals["multiplier"][source]
        next_ns = NEVER_NS
        if rate > 0.0:
            next_ns = _later_ns(now_ns, _unit_exponential(rng) / rate)
        arrivals["next_ns"][source] = next_ns
        return next_ns
    return _next_other_ns(arrivals, source, distributions, values, now_ns, rng)


@kernel_jit
def batch_size(arrivals: Any, source: int, rng: Any) -> int:
    """Return how many requests arrive at the current epoch of `source`; 1 unless BATCH.

    A fixed size that is not whole is its floor or the next integer, right in the mean; a
    geometric size is on 1, 2, ....

    Parameters
    ----------
    arrivals : ndarray[ARRIVAL_DTYPE], shape (n_sources,)
        Read only.
    source : int
        Row of `arrivals`.
    rng : ndarray[uint64], shape (2,)
        Arrival stream of this source.  Advanced in place.
    """
    if arrivals["kind"][source] != BATCH:
        return 1
    mean = arrivals["batch_size"][source]
    if mean <= 1.0:
        return 1
    u = next_uniform(rng)
    if arrivals["geometric"][source] == 1:
        return 1 + int(math.log(1.0 - u) / math.log(1.0 - 1.0 / mean))
    return int(mean + u)


# --- Modulated Poisson ----------------------------------------------------------------------


@kernel_jit
def _sojourn_ns(values: Any, start: int, phase: int, key: np.uint64, number: int) -> int:
    """Return the length of phase occurrence `number`, which is of kind `phase` [ns]."""
    mean_ns = values[start + 2 * phase + 1]
    draw_ns = -mean_ns * math.log(1.0 - key_uniform(mix_in(key, number + 1)))
    return int(min(draw_ns, DURATION_NS_MAX / 4.0) + 0.5)


@kernel_jit
def _begin_phases(arrivals: Any, source: int, values: Any, now_ns: int, rng: Any) -> None:
    """Start in a phase drawn in proportion to mean sojourns, which then has a full sojourn."""
    start = arrivals["start"][source]
    count = arrivals["count"][source]
    key = next_uint64(rng) | np.uint64(1)
    total = 0.0
    for phase in range(count):
        total += values[start + 2 * phase + 1]
    target = key_uniform(key) * total
    phase = 0
    target -= values[start + 1]
    while phase < count - 1 and target >= 0.0:
        phase += 1
        target -= values[start + 2 * phase + 1]
    arrivals["key"][source] = key
    arrivals["phase"][source] = phase
    arrivals["phase_number"][source] = 0
    arrivals["phase_end_ns"][source] = now_ns + _sojourn_ns(values, start, phase, key, 0)


@kernel_jit
def _next_modulated_ns(arrivals: Any, source: int, values: Any, now_ns: int, rng: Any) -> int:
    if arrivals["key"][source] == np.uint64(0):
        _begin_phases(arrivals, source, values, now_ns, rng)
    start = arrivals["start"][source]
    count = arrivals["count"][source]
    multiplier = arrivals["multiplier"][source]
    key = arrivals["key"][source]
    number = arrivals["phase_number"][source]
    phase = arrivals["phase"][source]
    end_ns = arrivals["phase_end_ns"][source]
    at_ns = now_ns
    while at_ns < NEVER_NS:
        if end_ns > at_ns:
            rate = values[start + 2 * phase] * multiplier
            if rate > 0.0:
                candidate_ns = _later_ns(at_ns, _unit_exponential(rng) / rate)
                if candidate_ns <= end_ns:
                    return candidate_ns
            at_ns = end_ns
        # The row follows only to the phase that holds now: the rest may be redrawn.
        number += 1
        phase = (phase + 1) % count
        end_ns += _sojourn_ns(values, start, phase, key, number)
        if at_ns <= now_ns:
            arrivals["phase_number"][source] = number
            arrivals["phase"][source] = phase
            arrivals["phase_end_ns"][source] = end_ns
        if multiplier <= 0.0 or end_ns >= NEVER_NS // 2:
            return NEVER_NS
    return NEVER_NS


# --- Rate given by linear pieces ------------------------------------------------------------


@kernel_jit
def _piece_crossing_ns(rate: float, slope: float, need: float) -> float:
    """Solve rate * x + slope * x**2 / 2 = need for the smallest x >= 0, without cancellation."""
    if need <= 0.0:
        return 0.0
    return 2.0 * need / (rate + math.sqrt(max(rate * rate + 2.0 * slope * need, 0.0)))


@kernel_jit
def _seek(arrivals: Any, source: int, values: Any, position: float) -> int:
    """Return the last point at or before `position` (`values` holds pairs time, rate)."""
    start = arrivals["start"][source]
    count = arrivals["count"][source]
    cursor = arrivals["cursor"][source]
    if values[start + 2 * cursor] > position:
        cursor = 0
    while cursor < count - 1 and values[start + 2 * (cursor + 1)] <= position:
        cursor += 1
    arrivals["cursor"][source] = cursor
    return int(cursor)


@kernel_jit
def _next_piecewise_ns(arrivals: Any, source: int, values: Any, now_ns: int, rng: Any) -> int:
    start = arrivals["start"][source]
    last = arrivals["count"][source] - 1
    multiplier = arrivals["multiplier"][source]
    period_ns = arrivals["period_ns"][source]
    if multiplier <= 0.0:
        return NEVER_NS
    need = _unit_exponential(rng) / multiplier
    ahead_ns = 0.0  # from now to the start of the rest of the walk
    position = float(now_ns)
    if period_ns > 0:
        position = float(now_ns % period_ns)
        periods = math.floor(need / arrivals["period_count"][source])
        need -= periods * arrivals["period_count"][source]
        ahead_ns = periods * period_ns
    cursor = _seek(arrivals, source, values, position)
    while True:
        if cursor == last:
            if period_ns == 0:
                rate = values[start + 2 * last + 1]
                if rate <= 0.0:
                    return NEVER_NS
                return _later_ns(now_ns, ahead_ns + need / rate)
            cursor = 0
            position = 0.0
        begin = values[start + 2 * cursor]
        end = values[start + 2 * cursor + 2]
        if end > position:
            first = values[start + 2 * cursor + 1]
            slope = (values[start + 2 * cursor + 3] - first) / (end - begin)
            rate = first + slope * (position - begin)
            mass = (rate + values[start + 2 * cursor + 3]) * 0.5 * (end - position)
            if need < mass:
                return _later_ns(now_ns, ahead_ns + _piece_crossing_ns(rate, slope, need))
            need -= mass
            ahead_ns += end - position
            position = end
        cursor += 1


# --- Renewal, recorded, and the choice ------------------------------------------------------


@kernel_jit
def _next_recorded_ns(arrivals: Any, source: int, values: Any, now_ns: int) -> int:
    if now_ns < arrivals["next_ns"][source]:
        return int(arrivals["next_ns"][source])
    cursor = arrivals["cursor"][source]
    if cursor >= arrivals["count"][source]:
        return NEVER_NS
    arrivals["cursor"][source] = cursor + 1
    return max(int(values[arrivals["start"][source] + cursor]), now_ns)


@kernel_jit
def _next_other_ns(
    arrivals: Any, source: int, distributions: Any, values: Any, now_ns: int, rng: Any
) -> int:
    kind = arrivals["kind"][source]
    multiplier = arrivals["multiplier"][source]
    next_ns = NEVER_NS
    if kind == RECORDED:
        next_ns = _next_recorded_ns(arrivals, source, values, now_ns)
    elif kind == MODULATED_POISSON:
        next_ns = _next_modulated_ns(arrivals, source, values, now_ns, rng)
    elif kind == PIECEWISE:
        next_ns = _next_piecewise_ns(arrivals, source, values, now_ns, rng)
    elif multiplier > 0.0 and kind == RENEWAL:
        index = arrivals["distribution"][source]
        interval_ns = sample_ns(distributions, values, index, next_uint64(rng))
        next_ns = _later_ns(now_ns, interval_ns / multiplier)
    elif multiplier > 0.0 and kind == BATCH:
        rate = arrivals["rate_per_ns"][source] * multiplier
        next_ns = _later_ns(now_ns, _unit_exponential(rng) / rate)
    arrivals["next_ns"][source] = next_ns
    return next_ns


@kernel_jit
def set_multiplier(
    arrivals: Any,
    source: int,
    distributions: Any,
    values: Any,
    multiplier: float,
    now_ns: int,
    rng: Any,
) -> int:
    """Change the rate of `source` at `now_ns` and return its next arrival, to replace the old.

    Parameters
    ----------
    arrivals, source, distributions, values, now_ns, rng
        As for `next_arrival_ns`.
    multiplier : float
        Scale of the declared rate, >= 0.

    Returns
    -------
    int
        Absolute time [ns], or `NEVER_NS`.
    """
    before = arrivals["multiplier"][source]
    pending_ns = arrivals["next_ns"][source]
    arrivals["multiplier"][source] = multiplier
    kind = arrivals["kind"][source]
    if kind == RECORDED and pending_ns >= now_ns:
        return int(pending_ns)
    if kind == RENEWAL and pending_ns < NEVER_NS and multiplier > 0.0 and before > 0.0:
        next_ns = _later_ns(now_ns, (pending_ns - now_ns) * (before / multiplier))
        arrivals["next_ns"][source] = next_ns
        return next_ns
    return next_arrival_ns(arrivals, source, distributions, values, now_ns, rng)


# --- From the declared form -----------------------------------------------------------------


def _modulated_values(parameters: Any) -> list[float]:
    """Return pairs (rate [1/ns], mean sojourn [ns])."""
    values: list[float] = []
    for phase in parameters.phases:
        if phase.mean_sojourn <= 0:
            raise ConfigError("modulated_poisson: mean_sojourn must be > 0")
        values += [phase.rate / NS_PER_S, float(phase.mean_sojourn)]
    return values


def _piecewise_values(parameters: Any) -> list[float]:
    """Return pairs (time [ns], rate [1/ns]), the first at time 0."""
    points = [(point.at, point.rate) for point in parameters.points]
    if any(later[0] < earlier[0] for earlier, later in pairwise(points)):
        raise ConfigError("piecewise: points must ascend in time")
    if points[0][0] > 0:
        points.insert(0, (0, points[0][1]))
    return [number for at, rate in points for number in (float(at), rate / NS_PER_S)]


def _diurnal_values(parameters: Any) -> list[float]:
    """Return pairs (time [ns], rate [1/ns]) over one period, both ends included."""
    if parameters.period <= 0:
        raise ConfigError("diurnal: period must be > 0")
    values: list[float] = []
    for piece in range(DIURNAL_PIECES + 1):
        at_ns = parameters.period * piece / DIURNAL_PIECES
        angle = 2.0 * math.pi * (at_ns + parameters.phase) / parameters.period
        rate = parameters.mean * (1.0 + parameters.amplitude * math.sin(angle))
        values += [at_ns, max(rate, 0.0) / NS_PER_S]
    return values


def _mass(values: list[float]) -> float:
    """Return the expected number of arrivals between the first and the last point."""
    pairs = list(zip(values[0::2], values[1::2], strict=True))
    return sum(
        (later[0] - earlier[0]) * (later[1] + earlier[1]) / 2.0
        for earlier, later in pairwise(pairs)
    )


def _fill(row: npt.NDArray[np.void], arrivals: ArrivalsLike) -> list[float]:
    """Write one row (a view of length 1) and return the values it keeps in the shared array."""
    parameters: Any = getattr(arrivals, arrivals.family)
    values: list[float] = []
    match arrivals.family:
        case "poisson":
            row["kind"] = POISSON
            row["rate_per_ns"] = parameters.rate / NS_PER_S
        case "renewal":
            row["kind"] = RENEWAL
        case "batch":
            row["kind"] = BATCH if parameters.rate > 0 else NO_ARRIVALS
            row["rate_per_ns"] = parameters.rate / parameters.size / NS_PER_S
            row["batch_size"] = parameters.size
            row["geometric"] = parameters.size_distribution == "geometric"
        case "modulated_poisson":
            values = _modulated_values(parameters)
            row["kind"] = MODULATED_POISSON if any(values[0::2]) else NO_ARRIVALS
            row["count"] = len(values) // 2
        case "piecewise":
            values = _piecewise_values(parameters)
            row["kind"] = PIECEWISE
            row["count"] = len(values) // 2
        case "diurnal":
            values = _diurnal_values(parameters)
            row["kind"] = PIECEWISE if parameters.mean > 0 else NO_ARRIVALS
            row["count"] = len(values) // 2
            row["period_ns"] = parameters.period
            row["period_count"] = _mass(values)
        case "recorded":
            values = [float(time_ns) for time_ns in parameters.times]
            if values != sorted(values):
                raise ConfigError("recorded: times must ascend")
            row["kind"] = RECORDED
            row["count"] = len(values)
        case family:
            raise ConfigError(f"unknown arrival process {family!r}")
    return values


def build_arrivals(
    arrivals: Sequence[ArrivalsLike | None],
    interval_distributions: Sequence[int],
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float64]]:
    """Return the rows of declared arrival processes, and the shared values extended by theirs.

    Parameters
    ----------
    arrivals : sequence of ArrivalsLike or None
        One a traffic class (`meshsim.topology.model.Arrivals`, or objects with its fields);
        None stands for a closed loop, which has no arrivals of its own.
    interval_distributions : sequence of int
        For each class the DISTRIBUTION row of a renewal process's interval, else `NO_INDEX`.
    values : ndarray[float64], shape (n_values,)
        As returned by `build_distributions`.  Read only.

    Returns
    -------
    rows : ndarray[ARRIVAL_DTYPE], shape (len(arrivals),)
        Multiplier 1, nothing drawn yet.
    values : ndarray[float64], shape (n_values + m,)
        The given values, followed by the phases, points and times.

    Raises
    ------
    ConfigError
        If points or times descend, or a sojourn or period is not positive.
    """
    rows = np.zeros(len(arrivals), ARRIVAL_DTYPE)
    rows["multiplier"] = 1.0
    rows["next_ns"] = -1
    rows["distribution"] = NO_INDEX
    extended = [float(value) for value in values]
    for index, process in enumerate(arrivals):
        rows["start"][index] = len(extended)
        if process is not None:
            rows["distribution"][index] = interval_distributions[index]
            extended += _fill(rows[index : index + 1], process)
    return rows, np.array(extended, np.float64)
