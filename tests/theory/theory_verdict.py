"""When a simulated value agrees with theory, and when a test says nothing.

Rule: R >= 10 independent replications, the first fifth of each deleted.  A value passes if

    |mean - expected| <= t(0.9995, R - 1) * s / sqrt(R)

and the 95 % half-width is below the stated share of the expected value.  A wider interval is
*inconclusive*: the test is badly designed and fails.  Each check has one false alarm in a
thousand seeds; seeds are fixed, so a check that passes keeps passing until the code changes.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

import meshsim
from meshsim.state.record import SEGMENT_STARTS
from meshsim.stats.histogram import quantile_ns
from meshsim.topology.model import Topology

REPLICATIONS = 10
#: Windows before this one are warm-up: a fifth of the run, and the start of a segment.
FIRST_WINDOW = 12
FIRST_SEGMENT = SEGMENT_STARTS.index(FIRST_WINDOW)
NS_PER_MS = 1e6
#: A quantile read off the histogram is off by at most half a bin of 1/128.
HISTOGRAM_ERROR = 0.5 / 128


class Runs:
    """The replications of one scenario; every method returns one value a replication."""

    def __init__(
        self,
        topology: Topology,
        duration_ms: float,
        seed: int = 1,
        replications: int = REPLICATIONS,
        **options: object,
    ) -> None:
        result = meshsim.simulate(
            topology,
            duration=f"{round(duration_ms)}ms",
            replications=replications,
            seed=seed,
            progress=False,
            **options,
        )
        self.records = result.records
        self.measured_ms = duration_ms * (1 - FIRST_WINDOW / 60)
        assert [record.limit for record in self.records] == [""] * replications

    def field(self, name: str, traffic: int = 0) -> np.ndarray:
        """Sum a field of the windows after warm-up."""
        return np.array([r.windows[name][FIRST_WINDOW:, traffic].sum() for r in self.records])

    def mean(self, traffic: int = 0) -> np.ndarray:
        """Mean latency of successes [ms]."""
        sums = self.field("latency_sum_ns", traffic)
        return sums / self.field("successes", traffic) / NS_PER_MS

    def between(self, start: float, end: float) -> np.ndarray:
        """Mean latency of the first class [ms] of arrivals in a part of the run, from 0 to 1."""
        part = slice(round(60 * start), round(60 * end))
        sums = np.array([r.windows["latency_sum_ns"][part, 0].sum() for r in self.records])
        counts = np.array([r.windows["successes"][part, 0].sum() for r in self.records])
        return sums / counts / NS_PER_MS

    def quantile(self, q: float, traffic: int = 0) -> np.ndarray:
        """Quantile of the latency of successes [ms]."""
        bins = [
            r.window_histogram.dense()[FIRST_WINDOW:, traffic].sum(axis=0) for r in self.records
        ]
        return quantile_ns(np.array(bins), q) / NS_PER_MS

    def failed(self, traffic: int = 0) -> np.ndarray:
        """Share of requests that failed."""
        failures = self.field("failures", traffic)
        return failures / (failures + self.field("successes", traffic))

    def throughput(self, traffic: int = 0) -> np.ndarray:
        """Good responses per millisecond."""
        return self.field("good_responses", traffic) / self.measured_ms

    def endpoint(self, name: str) -> np.ndarray:
        """Gain of a cumulative counter of all endpoints after warm-up."""
        before = FIRST_SEGMENT - 1
        return np.array(
            [(r.endpoints[name][-1] - r.endpoints[name][before]).sum() for r in self.records]
        )


def error_of(values: Sequence[float], confidence: float) -> float:
    """Return the half-width of the two-sided t interval of the mean of `values`."""
    count = len(values)
    assert count >= REPLICATIONS
    t = stats.t.ppf(0.5 + confidence / 2, count - 1)
    return float(t * np.std(values, ddof=1) / np.sqrt(count))


def check(values: Sequence[float], expected: float, halfwidth: float, bias: float = 0.0) -> None:
    """Assert that `values` agree with `expected`.

    `halfwidth` and `bias` are relative to `expected`; `bias` is a known error of the value or
    of the theory (a histogram's bin, a finite number of servers).
    """
    half_95, half_999 = error_of(values, 0.95), error_of(values, 0.999)
    mean = float(np.mean(values))
    found = f"found {mean:.5g} +- {half_95:.2g} (95 %), expected {expected:.5g}"
    assert half_95 <= halfwidth * abs(expected), f"inconclusive, run longer: {found}"
    assert abs(mean - expected) <= half_999 + bias * abs(expected), found


def check_quantile(values: Sequence[float], expected: float, halfwidth: float) -> None:
    """Assert that quantiles read off a histogram agree with `expected`."""
    check(values, expected, halfwidth, bias=HISTOGRAM_ERROR)
