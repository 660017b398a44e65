"""Staircases: their area, their ends."""

import itertools
import math

import pytest

from meshsim.workload.ramps import STEPS, ramp


def area(steps):
    return sum(value * (later - at) for (at, value), (later, _) in itertools.pairwise(steps))


@pytest.mark.parametrize(("first", "last"), [(1.0, 3.0), (3.0, 0.0), (0.5, 0.5)])
def test_a_linear_ramp_has_the_area_of_its_trapezium(first, last):
    steps = ramp(first, last, 8.0)
    assert area(steps) == pytest.approx(8.0 * (first + last) / 2)
    assert steps[-1] == (8.0, last)
    assert len(steps) == STEPS + 1


def test_an_exponential_ramp_approaches_its_end():
    """The area is last - (last - first) * tau / span * (1 - exp(-3)), tau = span / 3."""
    steps = ramp(0.2, 1.0, 3.0, exponential=True)
    expected = 3.0 * (1 - 0.8 / 3 * (1 - math.exp(-3)))
    # The middle of a step of width h misses by h**2 / 24 times the mean curvature: 0.1 %.
    assert area(steps) == pytest.approx(expected, rel=1e-3)
    assert steps[-1] == (3.0, 1.0)


def test_no_time_is_a_jump():
    assert ramp(1.0, 2.0, 0.0) == [(0.0, 2.0)]
