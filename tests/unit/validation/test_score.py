"""Verdicts on errors and on orders, with numbers one can check by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from meshsim.stats.histogram import BIN_COUNT, bin_index
from meshsim.validation.measurement import Measurement
from meshsim.validation.prediction import Forecast, Prediction
from meshsim.validation.score import (
    BANDS,
    INCONCLUSIVE,
    INDISTINGUISHABLE,
    INSIDE,
    OUTSIDE,
    judge,
    order,
    score,
)

GROUPS = 10


def measurement(scale=1.0, count=4000, failures=0, throughput=1.0):
    """Return latencies spread evenly from 1 to 100 ms, times `scale`."""
    groups = np.zeros((GROUPS, BIN_COUNT), np.int64)
    for number, value in enumerate(np.linspace(1, 100, count) * scale):
        groups[number % GROUPS, bin_index(int(value * 1e6))] += 1
    return Measurement(groups, count + failures, failures, round(count * throughput), 0, 50.0)


def forecast(scale=1.0, **fields):
    item = measurement(scale, **fields)
    return Forecast(item.latencies, item.throughput_rps, item.error_fraction)


def prediction(scale=1.0, load=0.6, unstable=False, name="x", **fields):
    both = {"load": forecast(scale, **fields)}
    return Prediction(name, both, both, load, unstable)


def by_metric(scores):
    return {item.metric: item for item in scores}


@pytest.mark.parametrize(
    ("error", "floor", "fresh", "verdict"),
    [
        (0.04, 0.01, False, INSIDE),
        (-0.04, 0.01, False, INSIDE),
        (0.06, 0.01, False, OUTSIDE),
        (0.06, 0.04, False, INDISTINGUISHABLE),
        (0.04, 0.06, False, INDISTINGUISHABLE),
        (0.30, 0.06, False, OUTSIDE),
        (0.04, 0.03, True, INCONCLUSIVE),
        (0.04, 0.02, True, INSIDE),
        (0.04, math.nan, False, INCONCLUSIVE),
        (math.nan, 0.01, False, INCONCLUSIVE),
    ],
)
def test_the_verdict_on_an_error_with_a_band_of_five_percent(error, floor, fresh, verdict):
    assert judge(error, floor, 0.05, fresh=fresh)[0] == verdict


def test_errors_are_signed_and_relative_to_what_was_measured():
    repeats = [{"load": measurement(1.00)}, {"load": measurement(1.00)}]
    scores = by_metric(score(prediction(1.10), repeats, "same"))
    assert scores["p50"].error == pytest.approx(0.10, abs=0.01)
    assert scores["p50"].verdict == OUTSIDE
    assert scores["p90"].verdict == OUTSIDE
    assert scores["p99"].verdict == INSIDE
    assert scores["ks"].error == pytest.approx(0.09, abs=0.01)
    assert scores["w1_mean"].error == pytest.approx(0.10, abs=0.01)
    assert scores["w1_mean"].verdict == ""
    assert (scores["throughput"].verdict, scores["errors"].verdict) == (INSIDE, INSIDE)
    assert set(scores) == {*BANDS, "w1_mean"} - {"denied"}


def test_the_floor_is_the_emulator_against_itself():
    repeats = [{"load": measurement(scale)} for scale in (0.96, 1.00, 1.04)]
    found = by_metric(score(prediction(1.07), repeats, "same"))["p50"]
    # Pairs differ by 4, 4 and 8 %.
    assert found.floor == pytest.approx(0.053, abs=0.005)
    assert found.verdict == INDISTINGUISHABLE


def test_shares_of_errors_are_compared_in_points():
    repeats = [{"load": measurement(failures=40)}, {"load": measurement(failures=44)}]
    scores = by_metric(score(prediction(failures=200), repeats, "same"))
    assert scores["errors"].error == pytest.approx(200 / 4200 - 84 / 8084, abs=1e-9)
    assert scores["errors"].verdict == OUTSIDE


def test_few_requests_carry_no_p99():
    repeats = [{"load": measurement(count=400)}, {"load": measurement(count=400)}]
    found = by_metric(score(prediction(), repeats, "same"))
    assert (found["p99"].verdict, found["p90"].verdict) == (INCONCLUSIVE, INSIDE)
    assert "4 requests beyond p99" in found["p99"].reason


def test_fresh_draws_need_more_requests_in_all():
    repeats = [{"load": measurement(count=1400)}, {"load": measurement(count=1400)}]
    assert by_metric(score(prediction(), repeats, "same"))["p99"].verdict == INSIDE
    assert by_metric(score(prediction(), repeats, "fresh"))["p99"].verdict == INCONCLUSIVE


def test_under_heavy_load_the_interval_must_cover():
    repeats = [{"load": measurement()}, {"load": measurement()}]
    far = by_metric(score(prediction(1.2, load=0.9), repeats, "same"))["p99"]
    near = by_metric(score(prediction(1.0, load=0.9), repeats, "same"))["p99"]
    assert (far.band, near.band) == (0.25, 0.25)
    assert far.verdict == OUTSIDE
    assert "does not cover" in far.reason
    assert near.verdict == INSIDE


def test_above_saturation_only_the_throughput_is_compared():
    repeats = [{"load": measurement()}, {"load": measurement()}]
    scores = by_metric(score(prediction(2.0, unstable=True), repeats, "same"))
    assert scores["throughput"].verdict == INSIDE
    assert {scores[name].verdict for name in scores if name in BANDS and name != "throughput"} == {
        INCONCLUSIVE
    }


def ordered(predicted, measured):
    predictions = {name: prediction(scale, name=name) for name, scale in predicted.items()}
    repeats = {
        name: [{"load": measurement(scale)}, {"load": measurement(1.01 * scale)}]
        for name, scale in measured.items()
    }
    return order("policies", predictions, repeats, "same", "load")


def test_the_order_must_be_exact():
    found = ordered({"a": 1.0, "b": 1.5, "c": 2.0}, {"a": 1.0, "b": 1.6, "c": 2.1})
    assert (found.verdict, found.measured) == (INSIDE, ("a", "b", "c"))
    found = ordered({"a": 1.0, "b": 1.5, "c": 2.0}, {"a": 1.0, "b": 2.1, "c": 1.6})
    assert (found.verdict, found.reason) == (OUTSIDE, "in the wrong order: b and c")


def test_a_pair_too_close_to_tell_is_not_counted():
    found = ordered({"a": 1.0, "b": 1.5}, {"a": 1.0, "b": 1.001})
    assert found.verdict == INCONCLUSIVE
    found = ordered({"a": 1.0, "b": 1.5, "c": 3.0}, {"a": 1.001, "b": 1.0, "c": 3.0})
    assert (found.verdict, found.reason) == (INSIDE, "too close to tell: a and b")


def test_refusals_of_access_rules_are_judged_where_there_are_any():
    def judged(denied, count=1000):
        return replace(measurement(), judged=count, denied=denied)

    repeats = [{"load": judged(200)}, {"load": judged(204)}]
    said = replace(forecast(), denied_fraction=0.205)
    told = Prediction("x", {"load": said}, {"load": said}, 0.5, False)
    found = by_metric(score(told, repeats, "same"))["denied"]
    assert (found.predicted, found.measured) == (0.205, 0.202)
    assert found.error == pytest.approx(0.003)
    assert found.floor == pytest.approx(0.004)
    assert found.verdict == INSIDE
    # A plane that judges nothing has no share: that is no agreement.
    none = [{"load": measurement()}, {"load": measurement()}]
    assert by_metric(score(told, none, "same"))["denied"].verdict == INCONCLUSIVE
    assert "denied" not in by_metric(score(prediction(), none, "same"))
    again = Forecast.from_dict(said.to_dict())
    assert again.denied_fraction == 0.205
    assert math.isnan(Forecast.from_dict(forecast().to_dict()).denied_fraction)
