"""Token buckets under Poisson requests against closed forms.

A continuous bucket of rate r and size b refuses as often as M/D/1 with room for b customers
loses: the tokens that are missing are the work in that queue.  A bucket filled by ticks is a
Markov chain from tick to tick.
"""

import math

import numpy as np
import pytest
from filter_rows import bucket

from meshsim.policy.rate_limit import take_token

REQUESTS = 150_000
SEED = 20260101
NS = 1_000_000_000


def lost_share_md1k(load: float, room: int) -> float:
    """Blocking probability of M/D/1/K with service 1 (Gross and Harris, 5.1.7, embedded chain).

    The infinite queue's departure probabilities p, cut at `room`: P = 1 - 1/(p0' + load) with
    p0' the first normalised by those below `room`.
    """
    arrivals = [math.exp(-load)]
    for number in range(1, room + 1):
        arrivals.append(arrivals[-1] * load / number)
    left = [1.0]
    for number in range(room - 1):
        total = left[number] - arrivals[number] * left[0]
        total -= sum(left[i] * arrivals[number - i + 1] for i in range(1, number + 1))
        left.append(total / arrivals[0])
    first = left[0] / sum(left)
    return 1 - 1 / (first + load)


def lost_share_of_ticks(load: float, room: int, fill: int, interval: float) -> float:
    """Refused share with `fill` tokens each `interval`: chain of the level just after a tick."""
    mean = load * interval
    arrivals = [math.exp(-mean)]
    while len(arrivals) < 400:
        arrivals.append(arrivals[-1] * mean / len(arrivals))
    matrix = np.zeros((room + 1, room + 1))
    lost = np.zeros(room + 1)
    for level in range(room + 1):
        for number, probability in enumerate(arrivals):
            matrix[level, min(room, max(level - number, 0) + fill)] += probability
            lost[level] += probability * max(number - level, 0)
    stationary = np.linalg.matrix_power(matrix, 1 << 14)[0]
    return float(stationary @ lost / mean)


def refused_share(rows, load):
    """Mean and standard error of the refused share, from 50 batches."""
    times = np.cumsum(np.random.default_rng(SEED).exponential(1 / load, REQUESTS))
    refused = [not take_token(rows, 0, int(time)) for time in times * NS]
    batches = np.reshape(refused, (50, -1)).mean(axis=1)[1:]
    return batches.mean(), batches.std(ddof=1) / math.sqrt(len(batches))


@pytest.mark.parametrize(
    ("load", "room", "wanted"), [(0.9, 10, 0.016631748), (1.0, 20, 0.025210084)]
)
def test_a_continuous_bucket_loses_as_an_md1_queue(load, room, wanted):
    assert lost_share_md1k(load, room) == pytest.approx(wanted, rel=1e-6)
    share, error = refused_share(bucket(room, 1, "1s", "CONTINUOUS"), load)
    assert abs(share - wanted) < 4 * error


@pytest.mark.parametrize(
    ("load", "room", "fill", "interval", "wanted"),
    [(0.9, 5, 1, 1, 0.055046494), (0.9, 20, 10, 10, 0.0068633941)],
)
def test_a_bucket_of_ticks_loses_as_its_chain(load, room, fill, interval, wanted):
    assert lost_share_of_ticks(load, room, fill, interval) == pytest.approx(wanted, rel=1e-6)
    share, error = refused_share(bucket(room, fill, f"{interval}s"), load)
    assert abs(share - wanted) < 4 * error
