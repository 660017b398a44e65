"""Records made by hand: what a run would leave behind, without a run."""

from dataclasses import replace

import numpy as np
import pytest

from meshsim.state.codes import FLAG_COUNT, FLAG_UF, FLAG_UT
from meshsim.state.record import (
    ENDPOINT_RECORD_DTYPE,
    HOST_RECORD_DTYPE,
    PROXY_RECORD_DTYPE,
    SEGMENT_COUNT,
    SEGMENT_STARTS,
    SERIES_DTYPE,
    SPAN_DTYPE,
    WINDOW_COUNT,
    WINDOW_DTYPE,
    Catalog,
    RunRecord,
)
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT, SERIES_BIN_COUNT, bin_index, series_bin_index

DURATION_S = 60
WINDOW_NS = DURATION_S * 1_000_000_000 // WINDOW_COUNT

CATALOG = Catalog(
    scenario="shop",
    mesh="istio-sidecar",
    topology_hash="0123456789abcdef",
    traffic=("browse", "buy"),
    edges=(("browse", "front"), ("buy", "front"), ("front", "cart")),
    edge_is_entry=(True, True, False),
    endpoints=(("front", "v1", "front-0"), ("front", "v2", "front-1"), ("cart", "v1", "cart-0")),
    endpoint_concurrency=(4, 4, 2),
    endpoint_zones=("a", "b", "a"),
    proxies=(("gateway", "ingress"), ("sidecar", "front-0"), ("sidecar", "cart-0")),
    proxy_memory_bytes=50e6,
    connection_memory_bytes=20e3,
    timed_faults=False,
    trigger=False,
)


def spans():
    """One trace: front calls cart twice; the second call fails after two tries."""
    rows = np.zeros(3, SPAN_DTYPE)
    rows["trace"] = 17
    rows["span"] = (1, 2, 3)
    rows["parent_span"] = (0, 1, 1)
    rows["edge"] = (0, 2, 2)
    rows["endpoint"] = (0, 2, -1)
    rows["status"] = (200, 200, 503)
    rows["response_flag"] = (0, 0, FLAG_UF)
    rows["tries"] = (1, 1, 2)
    rows["start_ns"] = (5_000_000_000, 5_002_000_000, 5_012_000_000)
    rows["end_ns"] = (5_030_000_000, 5_011_000_000, 5_029_000_000)
    rows["service_ns"] = (3_000_000, 8_000_000, 0)
    rows["queue_ns"] = (0, 1_000_000, 0)
    return rows


def server_records(requests):
    """Return the rows of endpoints, proxies and hosts for the requests up to each segment."""
    endpoints = np.zeros((SEGMENT_COUNT, 3), ENDPOINT_RECORD_DTYPE)
    endpoints["requests"] = endpoints["completed"] = requests[:, None] * [[3, 1, 4]] // 4
    ends_ns = np.array([*SEGMENT_STARTS[1:], WINDOW_COUNT]) * WINDOW_NS
    endpoints["busy_ns"] = ends_ns[:, None] * [[2, 1, 1]]
    endpoints["cpu_ns"] = endpoints["busy_ns"] // 2
    endpoints["queue_ns"] = ends_ns[:, None] // 2
    proxies = np.zeros((SEGMENT_COUNT, 3), PROXY_RECORD_DTYPE)
    proxies["requests"] = requests[:, None]
    proxies["cpu_ns"] = ends_ns[:, None] // 10
    proxies["connections"] = 5
    hosts = np.zeros(2, HOST_RECORD_DTYPE)
    hosts["endpoint"] = (0, 1)
    hosts["requests"] = (300, 100)
    hosts["latency_sum_ns"] = (300 * 20_000_000, 100 * 10_000_000)
    return {"endpoints": endpoints, "proxies": proxies, "hosts": hosts}


def record(replication, rate=100.0, mean_ms=20.0, growth=0.0, latency_shift=0.0):
    """One replication of independent exponential latencies at a constant rate.

    `growth` is added to the requests in flight per window; the first window's latencies are
    multiplied by 1 + `latency_shift`.
    """
    rng = np.random.default_rng([99, replication])
    windows = np.zeros((WINDOW_COUNT, 2), WINDOW_DTYPE)
    histogram = np.zeros((WINDOW_COUNT, 2, BIN_COUNT), np.int32)
    series = np.zeros((SEGMENT_COUNT, 3), SERIES_DTYPE)
    series_histogram = np.zeros((SEGMENT_COUNT, 3, SERIES_BIN_COUNT), np.int32)
    flags = np.zeros((SEGMENT_COUNT, 3, FLAG_COUNT), np.int64)
    for window in range(WINDOW_COUNT):
        segment = sum(window >= start for start in SEGMENT_STARTS[1:])
        for traffic, share in enumerate((0.9, 0.1)):
            count = int(rng.poisson(rate * share * DURATION_S / WINDOW_COUNT))
            failures = count // 20 if traffic else 0
            scale = mean_ms * 1e6 * (1 + latency_shift * (window == 0))
            latency = rng.exponential(scale, count - failures).astype(np.int64)
            cell = windows[window, traffic]
            cell["arrivals"] = cell["responses"] = count
            cell["successes"] = cell["good_responses"] = count - failures
            cell["failures"] = failures
            cell["latency_sum_ns"] = latency.sum()
            cell["service_ns"] = latency.sum() // 2
            cell["queue_ns"] = latency.sum() // 4
            cell["proxy_ns"] = cell["wire_ns"] = latency.sum() // 8
            in_flight = 3 + growth * window + 0.1 * rng.standard_normal()
            cell["in_flight_ns"] = round(in_flight * WINDOW_NS)
            np.add.at(histogram[window, traffic], [bin_index(int(v)) for v in latency], 1)
            flags[segment, traffic, 0] += count - failures
            flags[segment, traffic, FLAG_UT] += failures
            for edge in (traffic, 2):
                row = series[segment, edge]
                row["requests"] += count
                row["successes"] += count - failures
                row["latency_sum_ns"] += latency.sum()
                row["service_ns"] += latency.sum()
                row["retries"] += failures
                row["bytes"] += 1_000 * count
                np.add.at(
                    series_histogram[segment, edge], [series_bin_index(int(v)) for v in latency], 1
                )
    requests = series["requests"].sum(axis=1).cumsum() // 2
    return RunRecord(
        seed=7,
        replication=replication,
        duration_ns=DURATION_S * 1_000_000_000,
        ended_ns=DURATION_S * 1_000_000_000,
        windows=windows,
        window_histogram=SparseHistogram.from_dense(histogram),
        series=series,
        series_histogram=SparseHistogram.from_dense(series_histogram),
        traffic_flags=flags[:, :2],
        edge_flags=flags,
        **server_records(requests),
        spans=spans(),
        counters={"requests": int(windows["arrivals"].sum()), "events": 1_000_000},
        wall_s=0.1,
    )


@pytest.fixture(scope="session")
def make_record():
    """Return the function that makes one replication."""
    return record


@pytest.fixture(scope="session")
def catalog():
    """Names of the hand-made records."""
    return CATALOG


@pytest.fixture(scope="session")
def make_catalog():
    """Return a catalog with some fields changed."""
    return lambda **changes: replace(CATALOG, **changes)


@pytest.fixture(scope="session")
def records():
    """Ten replications of a stable system."""
    return [record(replication) for replication in range(10)]
