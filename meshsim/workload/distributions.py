"""Distributions of durations: declared ones to rows, and a draw from a row by key.

Rule: a draw is a function of (row, key) alone; the same key gives the same value, and by
inversion of one uniform u wherever the quantile function is closed, so that a slower service
makes each request slower (common random numbers):

- constant: its value;
- exponential: -mean * ln(1 - u);
- lognormal: exp(location + sigma * z(u)), z the normal quantile;
- bounded Pareto: low * (1 - u * (1 - (low / high)**shape))**(-1 / shape);
- empirical: the sorted value of index floor(u * count).

Two families need more than one uniform, taken from keys mixed from the given one:
hyperexponential (the branch, then the exponential) and gamma (squeeze-free rejection of
Marsaglia and Tsang; a shape below 1 by the power of one more uniform).

A result is rounded to whole nanoseconds, at least 0 and at most 2**62 ns (146 years).  This
layer cannot see the topology's classes; it accepts whatever has their fields.

References
----------
G. Marsaglia, W. W. Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000).
M. Crovella, M. Harchol-Balter, C. Murta, "Task assignment in a distributed system: improving
performance by unbalancing load", SIGMETRICS 1998 (the bounded Pareto).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meshsim.errors import ConfigError
from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import key_uniform, mix_in
from meshsim.state.workload import (
    CONSTANT,
    DISTRIBUTION_DTYPE,
    EMPIRICAL,
    EXPONENTIAL,
    GAMMA,
    HYPEREXPONENTIAL,
    LOGNORMAL,
    PARETO_BOUNDED,
)
from meshsim.workload.normal import normal_quantile

__all__ = [
    "DURATION_NS_MAX",
    "DistributionLike",
    "build_distributions",
    "lognormal_sigma",
    "mean_ns",
    "sample_ns",
    "second_moment_ns2",
]

#: No draw is longer [ns], 2**62.
DURATION_NS_MAX = 4611686018427387904.0
#: Half a step of the uniform grid: stands for 0, whose normal quantile is infinite.
_UNIFORM_MIN = 1.0 / 18014398509481984.0
#: Attempts of the gamma rejection; each succeeds with probability > 0.95.
_GAMMA_ATTEMPTS = 64


class DistributionLike(Protocol):
    """A declared distribution: `family` names the attribute that holds its parameters."""

    @property
    def family(self) -> str:
        """One of constant, exponential, lognormal, gamma, pareto_bounded, ..."""
        ...


# --- Draws ----------------------------------------------------------------------------------


@kernel_jit_inline
def _normal(key: np.uint64) -> float:
    return normal_quantile(max(key_uniform(key), _UNIFORM_MIN))


@kernel_jit
def _gamma(shape: float, key: np.uint64) -> float:
    """Return a gamma draw of unit scale."""
    raised = shape if shape >= 1.0 else shape + 1.0
    d = raised - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    value = d
    for attempt in range(_GAMMA_ATTEMPTS):
        z = _normal(mix_in(key, 2 * attempt + 1))
        root = 1.0 + c * z
        if root > 0.0:
            cube = root * root * root
            u = 1.0 - key_uniform(mix_in(key, 2 * attempt + 2))
            if math.log(u) < 0.5 * z * z + d - d * cube + d * math.log(cube):
                value = d * cube
                break
    if shape < 1.0:
        value *= math.pow(1.0 - key_uniform(key), 1.0 / shape)
    return value


@kernel_jit_inline
def _hyperexponential(values: Any, start: int, count: int, key: np.uint64) -> float:
    u = key_uniform(key)
    branch = 0
    while branch < count - 1 and u >= values[start + 2 * branch]:
        branch += 1
    mean_ns: float = values[start + 2 * branch + 1]
    return -mean_ns * math.log(1.0 - key_uniform(mix_in(key, 1)))


@kernel_jit
def _of_parameters(kind: int, location: float, scale: float, shape: float, key: np.uint64) -> float:
    """Return a draw of a family that is all in its parameters."""
    if kind == LOGNORMAL:
        return math.exp(location + scale * _normal(key))
    if kind == GAMMA:
        return scale * _gamma(shape, key)
    return location * math.pow(1.0 - key_uniform(key) * scale, -1.0 / shape)


@kernel_jit_inline
def sample_ns(distributions: Any, values: Any, index: int, key: np.uint64) -> int:
    """Return the draw of distribution `index` that belongs to `key` [ns].

    Parameters
    ----------
    distributions : ndarray[DISTRIBUTION_DTYPE], shape (n_distributions,)
        Read only.
    values : ndarray[float64], shape (n_values,)
        Read only.
    index : int
        Row of `distributions`.
    key : uint64
        Draw key; the same key gives the same value.

    Returns
    -------
    int
        Duration [ns], 0 to 2**62.

    Notes
    -----
    The body has as few branches as it can, and what it calls out of line takes scalars only:
    otherwise numba counts references to the arrays on every path, which costs three times what
    an exponential does.
    """
    kind = distributions["kind"][index]
    duration_ns = 0.0
    if kind == EXPONENTIAL:
        # 1 - u lies in (0, 1], so the logarithm is finite.
        duration_ns = -distributions["mean_ns"][index] * math.log(1.0 - key_uniform(key))
    elif kind == CONSTANT:
        duration_ns = distributions["mean_ns"][index]
    else:
        start = distributions["start"][index]
        count = distributions["count"][index]
        if kind == EMPIRICAL:
            duration_ns = values[start + int(key_uniform(key) * count)]
        elif kind == HYPEREXPONENTIAL:
            duration_ns = _hyperexponential(values, start, count, key)
        else:
            duration_ns = _of_parameters(
                kind,
                distributions["location"][index],
                distributions["scale"][index],
                distributions["shape"][index],
                key,
            )
    return int(min(duration_ns, DURATION_NS_MAX) + 0.5)


# --- From the declared form -----------------------------------------------------------------


def lognormal_sigma(mean: float, p99: float) -> float:
    """Return the standard deviation of the logarithm, given mean and 99th percentile.

    The smaller root of sigma * z - sigma**2 / 2 = ln(p99 / mean), z the 99 % normal quantile.

    Raises
    ------
    ConfigError
        Unless 0 < mean < p99 <= 14.97 * mean (no lognormal has such a p99).

    Examples
    --------
    >>> round(lognormal_sigma(5e6, 20e6), 6)
    0.701754
    """
    z = float(normal_quantile(0.99))
    if not 0 < mean < p99:
        raise ConfigError(f"lognormal: needs 0 < mean < p99; found mean {mean}, p99 {p99} [ns]")
    discriminant = z * z - 2.0 * math.log(p99 / mean)
    if discriminant < 0:
        raise ConfigError(
            f"lognormal: p99 is at most {math.exp(z * z / 2):.2f} times the mean; "
            f"found {p99 / mean:.2f} times"
        )
    return z - math.sqrt(discriminant)


def _pareto_moment(low: float, high: float, shape: float, order: float) -> float:
    """Return the moment of `order` of the bounded Pareto."""
    if low == high:
        return math.pow(low, order)
    norm = shape * math.pow(low, shape) / (1.0 - math.pow(low / high, shape))
    if shape == order:
        return norm * math.log(high / low)
    rest = order - shape
    return norm * (math.pow(high, rest) - math.pow(low, rest)) / rest


def mean_ns(distribution: DistributionLike) -> float:
    """Return the mean of a declared distribution [ns]."""
    parameters: Any = getattr(distribution, distribution.family)
    match distribution.family:
        case "constant":
            return float(parameters.value)
        case "exponential" | "lognormal" | "gamma":
            return float(parameters.mean)
        case "pareto_bounded":
            return _pareto_moment(parameters.low, parameters.high, parameters.shape, 1)
        case "hyperexponential":
            return float(sum(phase.probability * phase.mean for phase in parameters.phases))
        case "empirical":
            return float(sum(parameters.values) / len(parameters.values))
    raise ConfigError(f"unknown distribution family {distribution.family!r}")


def second_moment_ns2(distribution: DistributionLike) -> float:
    """Return the second moment (not the variance) of a declared distribution [ns**2]."""
    parameters: Any = getattr(distribution, distribution.family)
    match distribution.family:
        case "constant":
            return float(parameters.value) ** 2
        case "exponential":
            return 2.0 * float(parameters.mean) ** 2
        case "lognormal":
            sigma = lognormal_sigma(parameters.mean, parameters.p99)
            return float(parameters.mean) ** 2 * math.exp(sigma * sigma)
        case "gamma":
            return float(parameters.mean) ** 2 * float(1.0 + 1.0 / parameters.shape)
        case "pareto_bounded":
            return _pareto_moment(parameters.low, parameters.high, parameters.shape, 2)
        case "hyperexponential":
            return float(
                sum(2.0 * phase.probability * phase.mean**2 for phase in parameters.phases)
            )
        case "empirical":
            total = sum(float(value) ** 2 for value in parameters.values)
            return float(total / len(parameters.values))
    raise ConfigError(f"unknown distribution family {distribution.family!r}")


def _branches(parameters: Any) -> list[float]:
    """Return (cumulative probability, mean) pairs, the last cumulative probability being 1."""
    total = sum(phase.probability for phase in parameters.phases)
    if abs(total - 1.0) > 1e-9:
        raise ConfigError(f"hyperexponential: probabilities sum to {total:g}, not 1")
    pairs: list[float] = []
    cumulative = 0.0
    for phase in parameters.phases:
        cumulative += phase.probability / total
        pairs += [cumulative, float(phase.mean)]
    return pairs


def _fill(row: npt.NDArray[np.void], distribution: DistributionLike, start: int) -> list[float]:
    """Write one row (a view of length 1) and return the values it keeps in the shared array."""
    parameters: Any = getattr(distribution, distribution.family)
    row["mean_ns"] = mean_ns(distribution)
    row["start"] = start
    values: list[float] = []
    match distribution.family:
        case "constant":
            row["kind"] = CONSTANT
        case "exponential":
            row["kind"] = EXPONENTIAL
        case "lognormal":
            sigma = lognormal_sigma(parameters.mean, parameters.p99)
            row["kind"] = LOGNORMAL
            row["location"] = math.log(parameters.mean) - sigma * sigma / 2.0
            row["scale"] = sigma
        case "gamma":
            row["kind"] = GAMMA
            row["shape"] = parameters.shape
            row["scale"] = parameters.mean / parameters.shape
        case "pareto_bounded":
            if not 0 < parameters.low <= parameters.high:
                raise ConfigError("pareto_bounded: needs 0 < low <= high")
            row["kind"] = PARETO_BOUNDED
            row["location"] = parameters.low
            row["scale"] = 1.0 - (parameters.low / parameters.high) ** parameters.shape
            row["shape"] = parameters.shape
        case "hyperexponential":
            row["kind"] = HYPEREXPONENTIAL
            row["count"] = len(parameters.phases)
            values = _branches(parameters)
        case "empirical":
            row["kind"] = EMPIRICAL
            row["count"] = len(parameters.values)
            values = sorted(float(value) for value in parameters.values)
    return values


def build_distributions(
    distributions: Sequence[DistributionLike],
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.float64]]:
    """Return the rows of declared distributions, and the values they share.

    Parameters
    ----------
    distributions : sequence of DistributionLike
        `meshsim.topology.model.Distribution`, or objects with its fields.

    Returns
    -------
    rows : ndarray[DISTRIBUTION_DTYPE], shape (len(distributions),)
        Row i is distribution i.
    values : ndarray[float64], shape (n_values,)

    Raises
    ------
    ConfigError
        If a lognormal's p99, a Pareto's bounds or a hyperexponential's probabilities are
        impossible, or a family is unknown.
    """
    rows = np.zeros(len(distributions), DISTRIBUTION_DTYPE)
    values: list[float] = []
    for index, distribution in enumerate(distributions):
        values += _fill(rows[index : index + 1], distribution, len(values))
    return rows, np.array(values, np.float64)
