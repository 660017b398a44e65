"""Score: how wrong a prediction is, beside how wrong the emulator is about itself.

Rule: the error of a metric is the prediction less the measurement, relative to the measurement
for latencies and throughput, absolute for the shares of errors and of denied requests (in points;
the latter where access rules judge any) and for the distances between the distributions.  The
*noise floor* is the mean of the same metric between any two repeats of the emulator.

Verdicts:

- ``inside``: the error is within the band, and so is the floor;
- ``outside``: the error is beyond the band and at least twice the floor;
- ``indistinguishable``: the emulator disagrees with itself too much to tell (a difference below
  twice the floor that is beyond the band, or a floor beyond the band);
- ``inconclusive``: nothing can be said (too few requests beyond the quantile, one repeat only,
  a scenario above saturation, or fresh draws with a floor of half the band or more).

Bands are judged on the same draws.  At loads of 0.9 and more the band of p99 is wider, and the
measured interval must cover the prediction besides.

References
----------
J. Dean, L. Barroso, "The tail at scale" (2013), for why p99; the bands are those that
published simulators reach on unseen scenarios (LatenSeer, SoCC 2023: 5 % end to end).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from meshsim.validation.measurement import Latencies, Measurement, pooled
from meshsim.validation.prediction import Forecast, Prediction

__all__ = [
    "BANDS",
    "INCONCLUSIVE",
    "INDISTINGUISHABLE",
    "INSIDE",
    "OUTSIDE",
    "VERDICTS",
    "Order",
    "Score",
    "judge",
    "order",
    "score",
]

INSIDE = "inside"
OUTSIDE = "outside"
INDISTINGUISHABLE = "indistinguishable"
INCONCLUSIVE = "inconclusive"
VERDICTS = (INSIDE, OUTSIDE, INDISTINGUISHABLE, INCONCLUSIVE)

#: Metric -> the largest error that passes [1].
BANDS = {
    "throughput": 0.02,
    "p50": 0.05,
    "p90": 0.08,
    "p99": 0.15,
    "errors": 0.01,
    "denied": 0.01,
    "ks": 0.05,
}
#: Reported without a band: Wasserstein-1 over the mean.
_UNBANDED = ("w1_mean",)
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
#: From this utilisation on, p99 has this band and its interval must cover the prediction.
HEAVY_LOAD = 0.9
_HEAVY_BAND = 0.25
#: Requests that must lie beyond a quantile: in one repeat with the same draws, where both planes
#: see the same few, and in all repeats together with fresh ones (as in `meshsim.results`).
_TAIL_MINIMUM = {"same": 5, "fresh": 30}
#: What is put in order within a group of scenarios.
_ORDER_QUANTILE = 0.9


@dataclass(frozen=True)
class Score:
    """One metric of one traffic class.

    Parameters
    ----------
    scenario, traffic, metric : str
    draws : str
        ``same`` or ``fresh``.
    predicted, measured : float
        Latencies in ms, throughput in 1/s, errors and denied as shares; NaN for distances.
    error, floor : float
        Signed error of the prediction, and the emulator's against itself [1].
    band : float
        NaN if the metric has none.
    verdict : str
        One of `VERDICTS`; empty without a band.
    reason : str
        Why the verdict is not about the numbers alone; may be empty.
    """

    scenario: str
    traffic: str
    draws: str
    metric: str
    predicted: float
    measured: float
    error: float
    floor: float
    band: float
    verdict: str
    reason: str = ""


def judge(error: float, floor: float, band: float, *, fresh: bool = False) -> tuple[str, str]:
    """Return the verdict on one error, and its reason.

    Parameters
    ----------
    error : float
        Signed [1].
    floor : float
        Noise floor, >= 0; NaN if unknown [1].
    band : float
        Largest error that passes [1].
    fresh : bool
        Whether the emulator had draws of its own.

    Examples
    --------
    >>> judge(0.03, 0.01, 0.05), judge(0.07, 0.01, 0.05)
    (('inside', ''), ('outside', ''))
    >>> judge(0.07, 0.04, 0.05)
    ('indistinguishable', 'below twice the noise floor')
    """
    if math.isnan(error):
        return INCONCLUSIVE, "no sample"
    if math.isnan(floor):
        return INCONCLUSIVE, "one repeat has no noise floor"
    if fresh and floor >= band / 2:
        return INCONCLUSIVE, "the noise floor is half the band or more"
    if abs(error) <= band and floor <= band:
        return INSIDE, ""
    if abs(error) < 2 * floor:
        return INDISTINGUISHABLE, "below twice the noise floor"
    if abs(error) <= band:
        return INDISTINGUISHABLE, "the noise floor is beyond the band"
    return OUTSIDE, ""


def score(
    prediction: Prediction, repeats: Sequence[Mapping[str, Measurement]], draws: str
) -> list[Score]:
    """Score every class of one scenario.

    Parameters
    ----------
    prediction : Prediction
    repeats : sequence of mapping of str to Measurement
        What `measure` made of each repeat; at least one.
    draws : str
        ``same`` or ``fresh``.
    """
    forecasts = prediction.same if draws == "same" else prediction.fresh
    return [
        _score_metric(
            prediction, name, forecast, [repeat[name] for repeat in repeats], draws, metric
        )
        for name, forecast in forecasts.items()
        for metric in (*BANDS, *_UNBANDED)
        if metric != "denied" or _is_judged(forecast, [repeat[name] for repeat in repeats])
    ]


def _is_judged(forecast: Forecast, repeats: Sequence[Measurement]) -> bool:
    """Return whether access rules judge anything, in the prediction or in a repeat."""
    sides: tuple[_Side, ...] = (forecast, *repeats)
    return not all(math.isnan(side.denied_fraction) for side in sides)


def _score_metric(
    prediction: Prediction,
    traffic: str,
    forecast: Forecast,
    repeats: Sequence[Measurement],
    draws: str,
    metric: str,
) -> Score:
    together = pooled(repeats)
    compare = _COMPARISONS[metric]
    error = compare(forecast, together)
    floors = [abs(compare(one, other)) for one, other in combinations(repeats, 2)]
    floor = sum(floors) / len(floors) if floors else math.nan
    heavy = metric == "p99" and prediction.load >= HEAVY_LOAD
    band = _HEAVY_BAND if heavy else BANDS.get(metric, math.nan)
    verdict, reason = "", ""
    if metric in BANDS:
        verdict, reason = judge(error, floor, band, fresh=draws == "fresh")
    if prediction.unstable and metric != "throughput":
        verdict, reason = INCONCLUSIVE, "above saturation only the throughput is compared"
    elif metric in _QUANTILES:
        requests = together.successes // (len(repeats) if draws == "same" else 1)
        verdict, reason = _check_sample(verdict, reason, metric, requests, draws)
        if heavy and verdict == INSIDE:
            verdict, reason = _check_cover(forecast, together, metric)
    predicted, measured = _value(metric, forecast), _value(metric, together)
    return Score(
        prediction.scenario,
        traffic,
        draws,
        metric,
        predicted,
        measured,
        error,
        floor,
        band,
        verdict,
        reason,
    )


def _check_sample(
    verdict: str, reason: str, metric: str, requests: int, draws: str
) -> tuple[str, str]:
    """Demand that enough of `requests` lie beyond the quantile."""
    beyond = requests * (1 - _QUANTILES[metric])
    if beyond < _TAIL_MINIMUM[draws]:
        return INCONCLUSIVE, f"{beyond:.0f} requests beyond {metric}, {_TAIL_MINIMUM[draws]} needed"
    return verdict, reason


def _check_cover(forecast: Forecast, together: Measurement, metric: str) -> tuple[str, str]:
    """Demand that the measured interval covers the prediction."""
    interval = together.interval(_QUANTILES[metric])
    predicted_ns = forecast.latencies.quantile(_QUANTILES[metric])
    if interval.low <= predicted_ns <= interval.high:
        return INSIDE, "the measured interval covers the prediction"
    low_ms, high_ms = interval.low / 1e6, interval.high / 1e6
    return OUTSIDE, f"the measured interval {low_ms:.0f} to {high_ms:.0f} ms does not cover it"


# --- Comparisons: the error of the first as a statement about the second ---------------------

_Side = Forecast | Measurement


def _relative(first: float, second: float) -> float:
    return first / second - 1 if second else math.nan


def _quantile_error(q: float) -> Callable[[_Side, _Side], float]:
    def compare(first: _Side, second: _Side) -> float:
        return _relative(first.latencies.quantile(q), second.latencies.quantile(q))

    return compare


def _transport(first: Latencies, second: Latencies) -> float:
    return first.transport(second) / second.mean if second.mean else math.nan


_COMPARISONS: dict[str, Callable[[_Side, _Side], float]] = {
    "throughput": lambda first, second: _relative(first.throughput_rps, second.throughput_rps),
    **{name: _quantile_error(q) for name, q in _QUANTILES.items()},
    "errors": lambda first, second: first.error_fraction - second.error_fraction,
    "denied": lambda first, second: first.denied_fraction - second.denied_fraction,
    "ks": lambda first, second: first.latencies.distance(second.latencies),
    "w1_mean": lambda first, second: _transport(first.latencies, second.latencies),
}


def _value(metric: str, side: _Side) -> float:
    """Return what a reader knows of a metric: ms, 1/s, a share; NaN for a distance."""
    if metric in _QUANTILES:
        return side.latencies.quantile(_QUANTILES[metric]) / 1e6
    if metric == "throughput":
        return side.throughput_rps
    shares = {"errors": side.error_fraction, "denied": side.denied_fraction}
    return shares.get(metric, math.nan)


# --- Order ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """How the scenarios of one group are ordered, best first, by the p90 of their latency.

    Parameters
    ----------
    group, draws : str
    predicted, measured : tuple of str
        Scenarios, best first.
    verdict, reason : str
        Inside: every pair is in the predicted order; a pair that differs by less than twice
        the noise floor is not counted.
    """

    group: str
    draws: str
    predicted: tuple[str, ...]
    measured: tuple[str, ...]
    verdict: str
    reason: str = ""


def order(
    group: str,
    predictions: Mapping[str, Prediction],
    repeats: Mapping[str, Sequence[Mapping[str, Measurement]]],
    draws: str,
    traffic: str,
) -> Order:
    """Compare the order of the scenarios of a group.

    Parameters
    ----------
    group : str
    predictions, repeats : mapping by scenario
        Of the scenarios of the group, at least two.
    draws, traffic : str
        ``same`` or ``fresh``; the class that is compared.
    """
    predicted, measured, floors = {}, {}, {}
    for name, prediction in predictions.items():
        forecast = (prediction.same if draws == "same" else prediction.fresh)[traffic]
        values = [repeat[traffic] for repeat in repeats[name]]
        predicted[name] = forecast.latencies.quantile(_ORDER_QUANTILE)
        measured[name] = pooled(values).latencies.quantile(_ORDER_QUANTILE)
        each = [item.latencies.quantile(_ORDER_QUANTILE) for item in values]
        pairs = [abs(one - other) for one, other in combinations(each, 2)]
        floors[name] = sum(pairs) / len(pairs) if pairs else math.nan
    wrong, unknown = [], []
    for one, other in combinations(predicted, 2):
        gap = measured[one] - measured[other]
        floor = math.hypot(floors[one], floors[other])
        if math.isnan(floor) or math.isnan(gap) or abs(gap) < 2 * floor:
            unknown.append(f"{one} and {other}")
        elif gap * (predicted[one] - predicted[other]) <= 0:
            wrong.append(f"{one} and {other}")
    verdict, reason = INSIDE, ""
    if wrong:
        verdict, reason = OUTSIDE, "in the wrong order: " + ", ".join(wrong)
    elif len(unknown) == math.comb(len(predicted), 2):
        verdict, reason = INCONCLUSIVE, "no pair differs by twice the noise floor"
    elif unknown:
        reason = "too close to tell: " + ", ".join(unknown)
    return Order(
        group,
        draws,
        tuple(sorted(predicted, key=predicted.__getitem__)),
        tuple(sorted(measured, key=measured.__getitem__)),
        verdict,
        reason,
    )
