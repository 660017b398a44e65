"""The closed forms against published values, and against each other where two ways lead there.

Values without a comment follow from the named formula with the stated parameters.
"""

import cmath
import math

import numpy as np
import pytest

from meshsim import theory


@pytest.mark.parametrize(
    ("rate", "mean", "p99", "p999"),
    [
        (0.5, 2.0, 9.2103404, 13.815511),
        (0.9, 10.0, 46.051702, 69.077553),
        (0.95, 20.0, 92.103404, 138.15511),
    ],
)
def test_mm1(rate, mean, p99, p999):
    queue = theory.MMc(rate, 1.0)
    assert queue.sojourn_mean == pytest.approx(mean, rel=1e-12)
    assert queue.sojourn_quantile(0.99) == pytest.approx(p99, rel=1e-7)
    assert queue.sojourn_quantile(0.999) == pytest.approx(p999, rel=1e-7)
    assert queue.wait_mean == pytest.approx(mean - 1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("rate", "servers", "wait_probability", "mean", "p99"),
    [
        (9.0, 10, 0.66873152, 1.6687315, 6.2498767),
        (57.6, 64, 0.31066332, 1.0485411, 4.6611064),
        (95.0, 100, 0.50645685, 1.1012914, 4.724387),
    ],
)
def test_mmc(rate, servers, wait_probability, mean, p99):
    queue = theory.MMc(rate, 1.0, servers)
    assert queue.wait_probability == pytest.approx(wait_probability, rel=1e-7)
    assert queue.sojourn_mean == pytest.approx(mean, rel=1e-7)
    assert queue.sojourn_quantile(0.99) == pytest.approx(p99, rel=1e-7)


def test_mmc_in_milliseconds():
    assert theory.MMc(0.512, 1 / 12.5, 8).sojourn_mean == pytest.approx(16.075351, rel=1e-7)


def test_mmc_where_two_rates_coincide():
    # c mu - lambda = mu: the mixture degenerates; its neighbours bracket it.
    at, below = theory.MMc(2.0, 1.0, 3), theory.MMc(2.0 - 1e-6, 1.0, 3)
    assert at.sojourn_cdf(2.0) == pytest.approx(below.sojourn_cdf(2.0), abs=1e-6)


def test_quantile_inverts_the_cdf():
    queue = theory.MMc(9.0, 1.0, 10)
    for probability in (0.1, 0.5, 0.9, 0.999):
        assert queue.sojourn_cdf(queue.sojourn_quantile(probability)) == pytest.approx(probability)


@pytest.mark.parametrize(("load", "limit", "servers"), [(50, 0.01, 64), (10, 0.001, 21)])
def test_erlang_b_staffing(load, limit, servers):
    assert theory.erlang_b(servers, load) <= limit < theory.erlang_b(servers - 1, load)


def test_erlang_b():
    assert theory.erlang_b(1, 1.0) == 0.5
    assert theory.erlang_b(10, 8.0) == pytest.approx(0.12166106, rel=1e-7)
    assert theory.erlang_b(0, 3.0) == 1.0


def test_pooling_gain():
    ten, hundred = theory.MMc(8.0, 1.0, 10), theory.MMc(80.0, 1.0, 100)
    assert ten.wait_mean / hundred.wait_mean == pytest.approx(208.27205, rel=1e-6)


def test_md1():
    assert theory.mg1_wait(0.5, 1.0, 1.0) == 0.5
    assert theory.md1_wait_quantile(0.5, 1.0, 0.99) == pytest.approx(3.336256, rel=1e-6)
    # A load at which Erlang's alternating sum in double precision is noise, by another way.
    transform = theory.mg1_wait_transform(0.9, 1.0, lambda s: cmath.exp(-s))
    for time in (0.5, 3.5, 21.5, 40.5):
        expected = theory.laplace_cdf(transform, time)
        assert theory.md1_wait_cdf(0.9, 1.0, time) == pytest.approx(expected, abs=1e-5)
    # The wait exceeds the mean-matched exponential of M/M/1 nowhere in the tail.
    assert theory.md1_wait_quantile(0.9, 1.0, 0.99) < theory.MMc(0.9, 1.0).sojourn_quantile(0.99)


def test_mg1_lognormal_and_hyperexponential():
    assert theory.mg1_wait(0.8, 1.0, 2.0) == pytest.approx(4.0)
    second = 2 * (0.9 * 0.5**2 + 0.1 * 5.5**2)
    assert theory.mg1_wait(0.7, 1.0, second) == pytest.approx(7.5833333, rel=1e-8)


def hyperexponential_transform(s):
    return 0.9 / (1 + 0.5 * s) + 0.1 / (1 + 5.5 * s)


def test_mg1_wait_by_inversion():
    transform = theory.mg1_wait_transform(0.7, 1.0, hyperexponential_transform)
    assert theory.laplace_cdf(transform, 81.958837) == pytest.approx(0.999, abs=1e-7)
    exponential = theory.mg1_wait_transform(0.8, 1.0, lambda s: 1 / (1 + s))
    for time in (0.5, 5.0, 40.0):
        expected = 1 - 0.8 * math.exp(-0.2 * time)
        assert theory.laplace_cdf(exponential, time) == pytest.approx(expected, abs=1e-7)


def test_gim1():
    erlang_2 = theory.GIM1(lambda s: (1.6 / (1.6 + s)) ** 2, 0.8, 1.0)
    assert erlang_2.sigma == pytest.approx(0.7398529491, rel=1e-9)
    assert erlang_2.sojourn_mean == pytest.approx(3.8439798, rel=1e-7)
    assert erlang_2.sojourn_quantile(0.99) == pytest.approx(17.702181, rel=1e-7)
    poisson = theory.GIM1(lambda s: 0.8 / (0.8 + s), 0.8, 1.0)
    assert poisson.sojourn_mean == pytest.approx(5.0, rel=1e-9)


@pytest.mark.parametrize(
    ("rho", "arrival_scv", "service_scv", "low", "high"),
    [
        (0.8, 0.25, 0.5, 0.0, 1.78125),
        (0.8, 4.0, 3.0, 3.0, 18.5),
        (0.9, 1 / 3, 1 / 3, 0.0, 3.3518519),
    ],
)
def test_gg1_bounds(rho, arrival_scv, service_scv, low, high):
    bounds = theory.gg1_wait_bounds(rho, 1.0, arrival_scv, service_scv)
    assert bounds == pytest.approx((low, high), rel=1e-7, abs=1e-12)


def test_processor_sharing():
    assert theory.ps_sojourn(0.8, 1.0) == pytest.approx(5.0)
    assert theory.ps_sojourn(0.8, 1.0, size=2.0) == pytest.approx(10.0)


def test_priorities():
    assert theory.priority_waits([0.5, 0.3], [1, 1], [2, 2]) == pytest.approx([1.6, 8.0])
    assert theory.preemptive_sojourns([0.6, 0.3], [1, 1], [2, 2]) == pytest.approx([2.5, 25.0])
    # One class has nobody to overtake.
    assert theory.priority_waits([0.8], [1], [2]) == pytest.approx([4.0])


@pytest.mark.parametrize(("batch", "rate", "sojourn"), [(4, 0.8, 12.5), (10, 0.7, 18.333333)])
def test_fixed_batches(batch, rate, sojourn):
    assert theory.batch_mm1_sojourn(rate, 1.0, batch) == pytest.approx(sojourn, rel=1e-7)


def test_geometric_batches():
    # M^[geometric]/M/1 has N geometric: T = m / (mu - lambda) for mean size m.
    mean = 4.0
    second = mean * (2 * mean - 1)
    assert theory.batch_mm1_sojourn(0.8, 1.0, mean, second) == pytest.approx(4.0 / 0.2)


@pytest.mark.parametrize(
    ("rate", "servers", "capacity", "blocking", "mean", "p99"),
    [
        (0.8, 1, 10, 0.023492858, 3.7970975, 13.697009),
        (3.6, 4, 12, 0.048805113, 1.6709422, 5.6842072),
        (9.0, 5, 10, 0.44807948, 1.7745407, None),
    ],
)
def test_mmck(rate, servers, capacity, blocking, mean, p99):
    queue = theory.MMcK(rate, 1.0, servers, capacity)
    assert queue.blocking == pytest.approx(blocking, rel=1e-7)
    assert queue.sojourn_mean == pytest.approx(mean, rel=1e-7)
    if p99:
        assert queue.sojourn_quantile(0.99) == pytest.approx(p99, rel=1e-6)


def test_mmcc_is_erlang_b():
    assert theory.MMcK(8.0, 1.0, 10, 10).blocking == pytest.approx(theory.erlang_b(10, 8.0))


@pytest.mark.parametrize(
    ("rate", "servers", "patience_mean", "abandoned", "wait", "waits"),
    [
        (12.0, 10, 1.0, 0.21363235, 0.21363235, 0.75760784),
        (55.0, 50, 5.0, 0.094376139, 0.4718807, 0.95848448),
    ],
)
def test_erlang_a(rate, servers, patience_mean, abandoned, wait, waits):
    found = theory.patience(rate, 1.0, servers, patience_mean)
    assert found == pytest.approx((abandoned, wait, waits), rel=1e-7)


def test_erlang_a_agrees_with_its_chain():
    size = 200
    generator = np.zeros((size, size))
    for n in range(size - 1):
        generator[n, n + 1] = 12.0
        generator[n + 1, n] = min(n + 1, 10) + 0.5 * max(n + 1 - 10, 0)
    queue = theory.stationary(generator) @ np.maximum(np.arange(size) - 10, 0)
    abandoned, wait, _ = theory.patience(12.0, 1.0, 10, 2.0)
    assert wait == pytest.approx(queue / 12.0, rel=1e-9)
    assert abandoned == pytest.approx(0.5 * queue / 12.0, rel=1e-9)


def test_constant_patience():
    abandoned, wait, _ = theory.patience(1.2, 1.0, 1, 2.0, "constant")
    assert abandoned == pytest.approx(0.31181792, rel=1e-7)
    assert wait == pytest.approx(1.1718121, rel=1e-7)


@pytest.mark.parametrize(
    ("rate", "service_rates", "mean", "p99"),
    [
        (0.5, [1.0, 2.0, 1.25], 4.0, 12.130948),
        (0.9, [2.0, 1.7, 1.5, 1.3, 1.1], 11.325758, 30.940873),
    ],
)
def test_tandem(rate, service_rates, mean, p99):
    total = theory.tandem(rate, service_rates)
    assert total.mean == pytest.approx(mean, rel=1e-7)
    assert total.quantile(0.99) == pytest.approx(p99, rel=1e-7)


def test_hypoexponential_with_equal_rates_is_erlang():
    assert theory.Hypoexponential((2.0, 2.0)).cdf(1.0) == pytest.approx(1 - 3 * math.exp(-2))


def test_jackson_network_with_a_cycle():
    routing = [[0, 0.6, 0.4], [0.2, 0, 0], [0, 0, 0]]
    sojourn = theory.jackson_sojourn([0.5, 0, 0], routing, [2.0, 1.0, 0.8])
    assert sojourn == pytest.approx(2.6217843, rel=1e-7)


@pytest.mark.parametrize(
    ("users", "think", "service", "response", "throughput"),
    [(20, 1.0, 0.1, 1.0037451, 9.9813095), (100, 10.0, 0.05, 0.097223383, 9.9037128)],
)
def test_closed_loop(users, think, service, response, throughput):
    found = theory.closed_network(users, think, [service])
    assert found == pytest.approx((throughput, response), rel=1e-7)


def test_closed_loop_with_several_servers_agrees_with_its_chain():
    users, think, service, servers = 12, 2.0, 1.0, 3
    generator = np.zeros((users + 1, users + 1))
    for n in range(users):
        generator[n, n + 1] = (users - n) / think
        generator[n + 1, n] = min(n + 1, servers) / service
    p = theory.stationary(generator)
    throughput = sum(p[n] * min(n, servers) / service for n in range(users + 1))
    found = theory.closed_network(users, think, [service], [servers])
    assert found[0] == pytest.approx(throughput, rel=1e-9)
    assert found[1] == pytest.approx(users / throughput - think, rel=1e-9)


@pytest.mark.parametrize(("servers", "rate", "mean"), [(4, 3.6, 6.3830495), (10, 7.0, 2.0198043)])
def test_round_robin_split(servers, rate, mean):
    split = theory.round_robin_split(rate, 1.0, servers)
    assert split.sojourn_mean == pytest.approx(mean, rel=1e-7)


@pytest.mark.parametrize(
    ("rho", "choices", "sojourn"),
    [(0.5, 2, 1.265686), (0.95, 2, 3.383046), (0.99, 2, 5.4319966), (0.9, 3, 2.027856)],
)
def test_supermarket(rho, choices, sojourn):
    assert theory.supermarket_sojourn(rho, choices) == pytest.approx(sojourn, rel=1e-6)


def test_supermarket_tail():
    assert theory.supermarket_tail(0.7, 2, 4) == pytest.approx(0.0047475615, rel=1e-7)
    assert theory.supermarket_sojourn(0.8, 1) == pytest.approx(5.0)


def test_power_of_choices_lies_between_random_and_shortest():
    random = theory.power_of_choices_sojourn(1.6, 2, choices=1, truncation=60)
    two = theory.power_of_choices_sojourn(1.6, 2, choices=2, truncation=60)
    many = theory.power_of_choices_sojourn(1.6, 2, choices=40, truncation=60)
    assert random == pytest.approx(5.0, rel=1e-4)
    assert many < two < random
    # Forty draws of two miss neither: join the shortest queue, bounded below by M/M/2.
    assert theory.MMc(1.6, 1.0, 2).sojourn_mean < many


@pytest.mark.parametrize(
    ("rates", "switch", "sojourn"),
    [([1.5, 0.1], 0.2, 11.38529), ([1.2, 0.2], 0.05, 10.160408)],
)
def test_mmpp(rates, switch, sojourn):
    found = theory.mmpp_mm1_sojourn(rates, [1 / switch] * 2, 1.0)
    assert found == pytest.approx(sojourn, rel=1e-6)


def test_mmpp_of_equal_phases_is_poisson():
    assert theory.mmpp_mm1_sojourn([0.8, 0.8, 0.8], [1.0, 2.0, 3.0], 1.0) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("rate", "up", "down", "sojourn"), [(0.5, 100, 5, 2.7117794), (0.8, 200, 20, 24.318182)]
)
def test_server_that_pauses(rate, up, down, sojourn):
    assert theory.paused_mm1_sojourn(rate, 1.0, up, down) == pytest.approx(sojourn, rel=1e-7)


def test_nested_possession_of_one_worker_is_mg1():
    # Service is the sum of two exponentials of means 1 and 1/2.
    expected = 1.5 + theory.mg1_wait(0.4, 1.5, 2.0 + 2 * 0.5 + 0.5)
    assert theory.nested_possession_sojourn(0.4, 1.0, 1, 2.0, 1) == pytest.approx(expected)


def test_nested_possession_with_many_workers_is_a_tandem():
    # Nobody ever waits for the caller's worker: M/M/inf and then M/M/2.
    found = theory.nested_possession_sojourn(0.8, 2.0, 25, 1.0, 2, truncation=60)
    expected = 0.5 + theory.MMc(0.8, 1.0, 2).sojourn_mean
    assert found == pytest.approx(expected, rel=1e-8)


def test_nested_possession_is_felt():
    # Two workers, held during the call, carry less than the same two given back.
    held = theory.nested_possession_sojourn(0.6, 1.0, 2, 1.0, 1)
    given_back = theory.MMc(0.6, 1.0, 2).sojourn_mean + theory.MMc(0.6, 1.0).sojourn_mean
    assert held > given_back


@pytest.mark.parametrize(
    "build",
    [
        lambda: theory.MMc(1.0, 1.0).sojourn_mean,
        lambda: theory.mg1_wait(1.1, 1.0, 1.0),
        lambda: theory.mmpp_mm1_sojourn([2.0, 1.0], [1.0, 1.0], 1.0),
        lambda: theory.paused_mm1_sojourn(0.96, 1.0, 100, 5),
        lambda: theory.nested_possession_sojourn(1.0, 1.0, 1, 1.0, 1),
        lambda: theory.supermarket_sojourn(1.0),
        lambda: theory.round_robin_split(4.0, 1.0, 4).sojourn_mean,
    ],
)
def test_no_steady_state_is_said(build):
    with pytest.raises(ValueError, match="no steady state"):
        build()


def test_truncation_that_is_felt_is_said():
    with pytest.raises(ValueError, match="truncation 10 is felt"):
        theory.nested_possession_sojourn(0.8, 2.0, 3, 1.0, 1, truncation=10)
