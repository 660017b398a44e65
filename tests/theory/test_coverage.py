"""Do 95 % intervals contain the truth in 95 of 100 cases?

The chain: Poisson arrivals at 200/s pass a gateway (one worker, 2 ms), one of four A (14 ms)
and one of four B (12 ms), chosen at random, all exponential, one after the other.  By Burke's
and Jackson's theorems the time in the system is the sum of three independent exponentials
with the rates 1/S - arrivals, so that its mean and quantiles are known exactly.

A *repeat* is one whole answer: ten replications of 60 s from an empty system, its `Result`
with warm-up deletion and verdict, and the question whether each interval holds the truth.
The acceptance is 93 to 97 % of 1,000 repeats for mean, p50 and p99; p90 is held to the same.
With fewer repeats, a count is refused if it has probability < 0.1 % under every coverage
from 93 to 97 %.

Measured with the simulator, topologies/chain.yaml, seeds 1000 to 1999: mean 95.0 % (940 of
989 shown), p50 95.7 % (946 of 989), p90 95.2 % (942 of 989), p99 94.6 % (934 of 987).  The
other 11 repeats were called unstable, the 1 of 100 that the verdict's level allows.
"""

import math

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as distributions

import meshsim
from meshsim.results import Result
from meshsim.state.codes import FLAG_COUNT
from meshsim.state.record import (
    ENDPOINT_RECORD_DTYPE,
    HOST_RECORD_DTYPE,
    PROXY_RECORD_DTYPE,
    SEGMENT_COUNT,
    SERIES_DTYPE,
    SPAN_DTYPE,
    WINDOW_COUNT,
    WINDOW_DTYPE,
    Catalog,
    RunRecord,
)
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT, SERIES_BIN_COUNT, bin_bounds_ns, quantile_ns

ARRIVALS = 200.0
GATEWAY_S, A_S, B_S = 0.002, 0.014, 0.012
ENDPOINTS = 4
DURATION_S = 60
REPLICATIONS = 10
RATES = (
    1 / GATEWAY_S - ARRIVALS,
    1 / A_S - ARRIVALS / ENDPOINTS,
    1 / B_S - ARRIVALS / ENDPOINTS,
)
METRICS = ("mean", "p50", "p90", "p99")
COVERAGE_MIN, COVERAGE_MAX = 0.93, 0.97

CATALOG = Catalog(
    scenario="chain",
    mesh="none",
    topology_hash="",
    traffic=("users",),
    edges=(),
    edge_is_entry=(),
    endpoints=(),
    endpoint_concurrency=(),
    endpoint_zones=(),
    proxies=(),
    proxy_memory_bytes=0.0,
    connection_memory_bytes=0.0,
    timed_faults=False,
    trigger=False,
)


# --- The truth ------------------------------------------------------------------------------


def survival(time_s):
    """Return the exact share of requests that take longer than `time_s`."""
    total = 0.0
    for rate in RATES:
        others = [other for other in RATES if other != rate]
        total += math.exp(-rate * time_s) * math.prod(other / (other - rate) for other in others)
    return total


def exact_ms(metric):
    """Return the exact mean or quantile [ms]."""
    if metric == "mean":
        return 1e3 * sum(1 / rate for rate in RATES)
    share = 1 - float(metric[1:]) / 100
    return 1e3 * optimize.brentq(lambda time_s: survival(time_s) - share, 0.0, 10.0)


# --- Records by Lindley's recursion ---------------------------------------------------------


def departures(arrivals, services):
    """Return when customers leave a first-come first-served server (Lindley, unrolled)."""
    work = np.cumsum(services)
    return work + np.maximum.accumulate(arrivals - (work - services))


def station(rng, arrivals, mean_s, servers):
    """Return departures of customers who choose one of `servers` queues at random."""
    choice = rng.integers(0, servers, len(arrivals))
    services = rng.exponential(mean_s, len(arrivals))
    left = np.empty(len(arrivals))
    for server in range(servers):
        mine = choice == server
        left[mine] = departures(arrivals[mine], services[mine])
    return left


def integral_in_system(times, ends):
    """Return the sum over `times` of how long before each of `ends` they were [s]."""
    ordered = np.sort(times)
    count = np.searchsorted(ordered, ends)
    return ends * count - np.concatenate([[0.0], np.cumsum(ordered)])[count]


def windows_of(arrived, left):
    """Return window records and histograms of the requests that arrived in the run."""
    width_s = DURATION_S / WINDOW_COUNT
    measured = arrived < DURATION_S
    window = (arrived[measured] / width_s).astype(int)
    latency_ns = ((left - arrived)[measured] * 1e9).astype(np.int64)
    bins = np.searchsorted(bin_bounds_ns(BIN_COUNT), latency_ns, side="right") - 1
    cells = np.bincount(window * BIN_COUNT + bins, minlength=WINDOW_COUNT * BIN_COUNT)
    windows = np.zeros((WINDOW_COUNT, 1), WINDOW_DTYPE)
    count = np.bincount(window, minlength=WINDOW_COUNT)
    windows["arrivals"][:, 0] = windows["successes"][:, 0] = count
    windows["latency_sum_ns"][:, 0] = np.bincount(window, latency_ns, WINDOW_COUNT)
    ends = np.linspace(0, DURATION_S, WINDOW_COUNT + 1)
    in_system = integral_in_system(arrived, ends) - integral_in_system(left, ends)
    windows["in_flight_ns"][:, 0] = np.diff(in_system) * 1e9
    return windows, cells.reshape(WINDOW_COUNT, 1, BIN_COUNT).astype(np.int32)


def lindley_record(repeat, replication):
    """Return one replication of the chain without the simulator."""
    rng = np.random.default_rng([2024, repeat, replication])
    # Later arrivals may overtake and delay measured ones: 5 s more, a hundred relaxation times
    # of the gateway and ten of A and B.
    expected = ARRIVALS * (DURATION_S + 5)
    count = int(expected + 8 * math.sqrt(expected))
    arrived = np.cumsum(rng.exponential(1 / ARRIVALS, count))
    left = station(rng, arrived, GATEWAY_S, 1)
    left = station(rng, left, A_S, ENDPOINTS)
    order = np.argsort(left)
    arrived, left = arrived[order], station(rng, left[order], B_S, ENDPOINTS)
    windows, histogram = windows_of(arrived, left)
    return RunRecord(
        seed=repeat,
        replication=replication,
        duration_ns=DURATION_S * 1_000_000_000,
        ended_ns=DURATION_S * 1_000_000_000,
        windows=windows,
        window_histogram=SparseHistogram.from_dense(histogram),
        series=np.zeros((SEGMENT_COUNT, 0), SERIES_DTYPE),
        series_histogram=SparseHistogram.from_dense(
            np.zeros((SEGMENT_COUNT, 0, SERIES_BIN_COUNT), np.int32)
        ),
        traffic_flags=np.zeros((SEGMENT_COUNT, 1, FLAG_COUNT), np.int64),
        edge_flags=np.zeros((SEGMENT_COUNT, 0, FLAG_COUNT), np.int64),
        endpoints=np.zeros((SEGMENT_COUNT, 0), ENDPOINT_RECORD_DTYPE),
        proxies=np.zeros((SEGMENT_COUNT, 0), PROXY_RECORD_DTYPE),
        hosts=np.zeros(0, HOST_RECORD_DTYPE),
        spans=np.zeros(0, SPAN_DTYPE),
    )


def lindley_result(repeat):
    """Return one repeat by Lindley's recursion."""
    records = [lindley_record(repeat, replication) for replication in range(REPLICATIONS)]
    return Result.from_records(CATALOG, records)


@pytest.fixture(scope="module")
def simulated_result(root):
    """Return the function that makes one repeat with the simulator."""
    chain = meshsim.load(root / "topologies" / "chain.yaml")

    def result(repeat):
        return meshsim.simulate(
            chain, duration=f"{DURATION_S}s", replications=REPLICATIONS, seed=1_000 + repeat
        )

    return result


# --- Counting -------------------------------------------------------------------------------


def count_covered(make_result, repeats):
    """Return how many intervals hold the truth and how many are shown, by metric."""
    truth = {metric: exact_ms(metric) for metric in METRICS}
    covered, shown = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
    for repeat in range(repeats):
        result = make_result(repeat)
        (name,) = result.catalog.traffic
        for metric in METRICS:
            estimate = result.estimate(name, metric)
            shown[metric] += not estimate.withheld
            covered[metric] += estimate.low <= truth[metric] <= estimate.high
    for metric in METRICS:
        print(f"{metric}: {covered[metric]} of {shown[metric]} shown, {repeats} repeats")
    return covered, shown


def check(covered, shown, repeats):
    """Refuse counts that no coverage from 93 to 97 % explains."""
    for metric in METRICS:
        # A stable run is called unstable in about 1 of 100 repeats; p99 rarely lacks samples.
        assert shown[metric] >= 0.96 * repeats, metric
        low = distributions.binom.ppf(0.0005, shown[metric], COVERAGE_MIN)
        high = distributions.binom.ppf(0.9995, shown[metric], COVERAGE_MAX)
        assert low <= covered[metric] <= high, metric


def test_the_generator_has_the_exact_distribution():
    pooled = np.zeros((1, BIN_COUNT), np.int64)
    results = [lindley_result(repeat) for repeat in range(10)]
    for result in results:
        pooled += result.measured.traffic_histogram(0).sum(axis=0)
    mean_ms = np.mean([result.estimate("users", "mean").value for result in results])
    # 100 replications: the interval of 10 has a half-width of 2.6 % for the mean and 6 % for
    # p99, so a standard error here of 0.4 and 0.9 %; four of them.
    assert mean_ms == pytest.approx(exact_ms("mean"), rel=0.016)
    assert quantile_ns(pooled, 0.99)[0] / 1e6 == pytest.approx(exact_ms("p99"), rel=0.036)


def test_coverage_of_the_estimators():
    repeats = 100
    check(*count_covered(lindley_result, repeats), repeats)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coverage_of_the_estimators_in_a_thousand_repeats():
    covered, shown = count_covered(lindley_result, 1_000)
    for metric in METRICS:
        assert shown[metric] >= 960, metric
        assert COVERAGE_MIN <= covered[metric] / shown[metric] <= COVERAGE_MAX, metric


def test_coverage_of_the_simulator(simulated_result):
    repeats = 30
    check(*count_covered(simulated_result, repeats), repeats)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_coverage_of_the_simulator_in_a_thousand_repeats(simulated_result):
    covered, shown = count_covered(simulated_result, 1_000)
    for metric in METRICS:
        assert shown[metric] >= 960, metric
        assert COVERAGE_MIN <= covered[metric] / shown[metric] <= COVERAGE_MAX, metric
