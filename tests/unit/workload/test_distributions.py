import math
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from meshsim.errors import ConfigError
from meshsim.jit import JIT_ENABLED, kernel_jit
from meshsim.topology.model import Distribution
from meshsim.workload.distributions import (
    build_distributions,
    lognormal_sigma,
    mean_ns,
    sample_ns,
    second_moment_ns2,
)
from meshsim.workload.normal import normal_quantile

MS = 1_000_000
DECLARED = {
    "constant": "5ms",
    "exponential": {"exponential": "5ms"},
    "lognormal": {"lognormal": {"mean": "5ms", "p99": "20ms"}},
    "gamma_flat": {"gamma": {"mean": "5ms", "shape": 3.0}},
    "gamma_steep": {"gamma": {"mean": "5ms", "shape": 0.4}},
    "pareto": {"pareto_bounded": {"low": "1ms", "high": "100ms", "shape": 1.1}},
    "pareto_one": {"pareto_bounded": {"low": "1ms", "high": "100ms", "shape": 1.0}},
    "pareto_two": {"pareto_bounded": {"low": "1ms", "high": "100ms", "shape": 2.0}},
    "hyperexponential": {
        "hyperexponential": {
            "phases": [
                {"probability": 0.9, "mean": "500us"},
                {"probability": 0.1, "mean": "5500us"},
            ]
        }
    },
    "empirical": {"empirical": {"values": ["9ms", "1ms", "2ms", "2ms"]}},
}
NAMES = list(DECLARED)
ROWS, VALUES = build_distributions([Distribution.model_validate(d) for d in DECLARED.values()])
#: Draws a test makes; without JIT a draw costs microseconds.
COUNT = 20_000 if JIT_ENABLED else 2_000


@kernel_jit
def draw(rows, values, index, first_key, out):
    for i in range(out.shape[0]):
        out[i] = sample_ns(rows, values, index, np.uint64(first_key + i))


def draws(name: str, first_key: int = 1_000_000) -> np.ndarray:
    out = np.zeros(COUNT, np.int64)
    draw(ROWS, VALUES, NAMES.index(name), first_key, out)
    return out


def lognormal_cdf(x):
    sigma = lognormal_sigma(5.0 * MS, 20.0 * MS)
    return stats.lognorm.cdf(x, sigma, scale=5 * MS * math.exp(-sigma * sigma / 2))


CDF = {
    "exponential": lambda x: stats.expon.cdf(x, scale=5 * MS),
    "lognormal": lognormal_cdf,
    "gamma_flat": lambda x: stats.gamma.cdf(x, 3.0, scale=5 * MS / 3.0),
    "gamma_steep": lambda x: stats.gamma.cdf(x, 0.4, scale=5 * MS / 0.4),
    "pareto": lambda x: stats.truncpareto.cdf(x / MS, 1.1, 100.0),
    "hyperexponential": lambda x: (
        0.9 * stats.expon.cdf(x, scale=0.5 * MS) + 0.1 * stats.expon.cdf(x, scale=5.5 * MS)
    ),
}


@pytest.mark.parametrize("name", CDF)
def test_draws_follow_the_distribution(name):
    # Kolmogorov-Smirnov; seeds are fixed, so p > 0.001 either holds for ever or does not.
    assert stats.kstest(draws(name), CDF[name]).pvalue > 0.001


@pytest.mark.parametrize("name", NAMES)
def test_mean_is_the_declared_mean(name):
    declared = Distribution.model_validate(DECLARED[name])
    variance = second_moment_ns2(declared) - mean_ns(declared) ** 2
    # Four standard errors of the mean of independent draws, plus the rounding to 1 ns.
    bound = 4 * math.sqrt(max(variance, 0.0) / COUNT) + 1
    assert abs(draws(name).mean() - mean_ns(declared)) <= bound
    assert ROWS["mean_ns"][NAMES.index(name)] == mean_ns(declared)


@pytest.mark.parametrize("name", ["pareto", "pareto_one", "pareto_two"])
def test_pareto_moments_agree_with_quadrature(name):
    shape = {"pareto": 1.1, "pareto_one": 1.0, "pareto_two": 2.0}[name]
    declared = Distribution.model_validate(DECLARED[name])
    truth = stats.truncpareto(shape, 100.0)
    assert mean_ns(declared) / MS == pytest.approx(truth.expect(lambda x: x), rel=1e-6)
    second = truth.expect(lambda x: x * x)
    assert second_moment_ns2(declared) / MS**2 == pytest.approx(second, rel=1e-6)


def test_moments_of_the_other_families():
    moments = {
        "constant": (5.0, 25.0),
        "exponential": (5.0, 50.0),
        "gamma_flat": (5.0, 25.0 * 4 / 3),
        # 0.9 * 0.5 + 0.1 * 5.5, and twice the weighted squares.
        "hyperexponential": (1.0, 2 * (0.9 * 0.25 + 0.1 * 30.25)),
        "empirical": (3.5, (81 + 1 + 4 + 4) / 4),
    }
    for name, (first, second) in moments.items():
        declared = Distribution.model_validate(DECLARED[name])
        assert mean_ns(declared) == pytest.approx(first * MS, rel=1e-12)
        assert second_moment_ns2(declared) == pytest.approx(second * MS * MS, rel=1e-12)


def test_lognormal_has_the_declared_p99():
    sigma = lognormal_sigma(5e6, 20e6)
    location = math.log(5e6) - sigma * sigma / 2
    assert math.exp(location + sigma * NormalDist().inv_cdf(0.99)) == pytest.approx(20e6, rel=1e-12)
    # The smaller root: at the larger one the 99th percentile falls again as sigma grows.
    assert sigma < NormalDist().inv_cdf(0.99)


@pytest.mark.parametrize(("mean", "p99"), [(5.0, 5.0), (5.0, 4.0), (0.0, 1.0), (1.0, 15.0)])
def test_impossible_lognormal_is_refused(mean, p99):
    with pytest.raises(ConfigError, match="lognormal"):
        lognormal_sigma(mean, p99)


def test_normal_quantile_agrees_with_the_standard_library():
    probabilities = [10.0**-k for k in range(1, 17)] + [k / 997 for k in range(1, 997)]
    for probability in probabilities:
        expected = NormalDist().inv_cdf(probability)
        assert normal_quantile(probability) == pytest.approx(expected, rel=1e-14, abs=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_value(name):
    assert np.array_equal(draws(name), draws(name))


def test_inversion_keeps_the_order_of_requests():
    # The quantile of a request is its key's: a slower law makes the same requests slow.
    for name in ("lognormal", "pareto"):
        # Draws of one exponential value, equal after rounding, may come in any order.
        order = np.lexsort((draws(name), draws("exponential")))
        assert np.all(np.diff(draws(name)[order]) >= 0)


def test_empirical_draws_only_given_values():
    values, counts = np.unique(draws("empirical"), return_counts=True)
    assert values.tolist() == [1 * MS, 2 * MS, 9 * MS]
    # 2 ms is given twice: half of all draws, within four binomial standard deviations.
    assert abs(counts[1] / COUNT - 0.5) < 4 * 0.5 / math.sqrt(COUNT)


def test_the_longest_draw_fits():
    rows, values = build_distributions(
        [Distribution.model_validate({"exponential": "1000000h"})]  # 114 years
    )
    out = np.zeros(COUNT, np.int64)
    draw(rows, values, 0, 1, out)
    assert out.min() >= 0
    assert out.max() == 1 << 62


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"hyperexponential": {"phases": [{"probability": 0.5, "mean": "1ms"}]}},
            "sum to 0.5",
        ),
        ({"pareto_bounded": {"low": "2ms", "high": "1ms", "shape": 1.0}}, "low <= high"),
    ],
)
def test_impossible_parameters_are_refused(declared, message):
    # The declared model may refuse earlier; what reaches this layer is refused here.
    family, fields = next(iter(declared.items()))
    phases = fields.pop("phases", None)
    parameters = SimpleNamespace(**{k: _plain(v) for k, v in fields.items()})
    if phases:
        parameters.phases = [SimpleNamespace(probability=0.5, mean=MS)]
    with pytest.raises(ConfigError, match=message):
        build_distributions([SimpleNamespace(family=family, **{family: parameters})])


def _plain(value):
    return int(value.removesuffix("ms")) * MS if isinstance(value, str) else value


def test_unknown_family_is_refused():
    with pytest.raises(ConfigError, match="zipf"):
        build_distributions([SimpleNamespace(family="zipf", zipf=None)])
