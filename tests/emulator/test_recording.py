import pickle

import numpy as np
import pandas as pd
import pytest
from kernel_runs import NS_PER_MS, Run, worker

from emulator.results.recording import COUNTERS, ExchangeOutcome, Recorder, merge, run_record
from meshsim.results import Result
from meshsim.rng import mix_in
from meshsim.state.codes import FLAG_UO, NO_INDEX
from meshsim.state.record import SEGMENT_STARTS, WINDOW_COUNT

DURATION_MS = 600


@pytest.fixture(scope="module")
def simulated():
    """A run with calls, retries, rejections and two classes, every exchange a span."""
    traffic = {
        "browse": {"to": "front", "arrivals": {"poisson": 300}},
        "buy": {"to": "back", "arrivals": {"poisson": 100}},
    }
    services = {
        "front": worker({"compute": {"exponential": "2ms"}}, {"call": "back"}, concurrency=4),
        "back": worker({"compute": {"exponential": "2ms"}}, queue_limit=2, error_rate=0.05),
    }
    policies = {
        "back": {"routes": [{"retry": {"num_retries": 1, "retry_on": ["5xx"]}}]},
        "front": {"circuit_breakers": {"max_requests": 3}},
    }
    run = Run(services, traffic=traffic, policies=policies, duration_ms=DURATION_MS)
    kernel = run.kernel
    for window in range(WINDOW_COUNT):
        run.to(DURATION_MS * (window + 1) / WINDOW_COUNT)
        kernel.end_window(window)
    run.to(3 * DURATION_MS)
    return run, kernel.record()


def outcomes(run, spans):
    """Return what outbound proxies and load generators would have said, in order of the end."""
    catalog = run.compiled.catalog
    classes = len(catalog.traffic)
    roots = {int(row["trace"]): int(row["start_ns"]) for row in spans if row["parent_span"] == 0}
    callers = {
        int(row["span"]): catalog.endpoints[row["endpoint"]][2]
        for row in spans
        if row["endpoint"] != NO_INDEX
    }
    calls = run.compiled.arrays["calls"]
    for row in spans:
        caller, service = catalog.edges[row["edge"]]
        entry = catalog.edge_is_entry[row["edge"]]
        call = calls[calls["edge"] == row["edge"]][0]
        proxy = f"gateway-{caller}" if entry else callers[int(row["parent_span"])]
        trace = int(row["trace"])
        yield ExchangeOutcome(
            proxy,
            service,
            "default",
            catalog.traffic[trace % classes],
            trace // classes,
            int(row["status"]),
            int(row["response_flag"]),
            int(row["tries"]) - 1,
            int(row["start_ns"]),
            int(row["end_ns"]),
            int(row["queue_ns"]),
            int(row["service_ns"]),
            int(call["request_bytes"]),
            int(call["response_bytes"]),
            roots[trace],
            catalog.endpoints[row["endpoint"]][2] if row["endpoint"] != NO_INDEX else "",
            f"{int(row['span']):x}",
            f"{int(row['parent_span']):x}",
            int(row["proxy_ns"] + row["wire_ns"]),
        )


@pytest.fixture(scope="module")
def recorded(simulated):
    """The same run, recorded by two processes that see every other request."""
    run, record = simulated
    recorders = [Recorder(run.compiled.catalog, DURATION_MS * NS_PER_MS) for _ in range(2)]
    for number, outcome in enumerate(outcomes(run, record.spans)):
        recorder = recorders[number % 2]
        recorder.exchange(outcome)
        if outcome.parent == "0":
            recorder.arrived(outcome.traffic, outcome.started_ns)
            recorder.request(
                outcome.traffic,
                outcome.started_ns,
                outcome.ended_ns,
                outcome.status,
                outcome.response_flag,
            )
    parts = [pickle.loads(pickle.dumps(recorder.arrays())) for recorder in recorders]
    catalog = run.compiled.catalog
    return run_record(merge(parts), catalog, DURATION_MS * NS_PER_MS, seed=1)


def test_the_run_has_what_the_tables_can_hold(simulated):
    _, record = simulated
    assert (record.traffic_flags.sum(axis=(0, 1))[1:] > 0).any()
    assert record.series["retries"].sum() > 0
    assert record.windows["failures"].sum() > 10
    assert (record.windows["arrivals"].sum(axis=0) > 30).all()


def test_windows_are_those_of_the_simulation(simulated, recorded):
    _, record = simulated
    for name in record.windows.dtype.names:
        if name not in ("responses", "good_responses", "in_flight_ns"):
            assert recorded.windows[name].tolist() == record.windows[name].tolist(), name


def test_what_goes_by_the_clock_is_that_of_the_simulation(simulated, recorded):
    # No request of the kernel's spans arrives after the measured time, so both sides agree.
    _, record = simulated
    for name in ("responses", "good_responses", "in_flight_ns"):
        assert recorded.windows[name].tolist() == record.windows[name].tolist(), name


def test_edges_are_those_of_the_simulation(simulated, recorded):
    _, record = simulated
    for name in record.series.dtype.names:
        assert recorded.series[name].tolist() == record.series[name].tolist(), name


def test_histograms_are_those_of_the_simulation(simulated, recorded):
    _, record = simulated
    for name in ("window_histogram", "series_histogram"):
        mine, theirs = getattr(recorded, name), getattr(record, name)
        assert mine.shape == theirs.shape
        assert mine.starts.tolist() == theirs.starts.tolist()
        assert mine.bins.tolist() == theirs.bins.tolist()
        assert mine.counts.tolist() == theirs.counts.tolist()


def test_flags_are_those_of_the_simulation(simulated, recorded):
    _, record = simulated
    assert recorded.traffic_flags.tolist() == record.traffic_flags.tolist()
    assert recorded.edge_flags.tolist() == record.edge_flags.tolist()


def test_a_result_is_made_of_a_record(simulated, recorded):
    run, record = simulated
    mine = Result.from_records(run.compiled.catalog, [recorded])
    theirs = Result.from_records(run.compiled.catalog, [record])
    for name in ("traffic", "edges", "flags", "timeline"):
        pd.testing.assert_frame_equal(getattr(mine, name)(), getattr(theirs, name)())
    assert mine.report()
    assert mine.to_dict()["traffic"]
    assert len(mine.traces()) == len(theirs.traces()) > 0


def recorder_of(run, duration_ns=WINDOW_COUNT * NS_PER_MS):
    return Recorder(run.compiled.catalog, duration_ns)


def test_a_stay_in_many_windows_is_cut_at_their_ends(simulated):
    recorder = recorder_of(simulated[0])
    recorder.arrived("browse", 500_000)
    recorder.request("browse", 500_000, 3_250_000, 200, 0)
    in_flight = recorder.arrays()["windows"]["in_flight_ns"][:, 0]
    assert in_flight[:5].tolist() == [500_000, NS_PER_MS, NS_PER_MS, 250_000, 0]


def test_an_instant_at_the_end_of_a_window_belongs_to_it(simulated):
    recorder = recorder_of(simulated[0])
    assert [recorder.window_of(t) for t in (0, NS_PER_MS, NS_PER_MS + 1)] == [0, 0, 1]
    assert recorder.window_of(60 * NS_PER_MS + 1) == WINDOW_COUNT


def test_requests_after_the_measured_time_count_only_as_sent(simulated):
    recorder = recorder_of(simulated[0])
    late_ns = 61 * NS_PER_MS
    recorder.arrived("browse", late_ns)
    recorder.request("browse", late_ns, late_ns + 5, 200, 0)
    arrays = recorder.arrays()
    assert not arrays["windows"]["arrivals"].any()
    assert len(arrays["window_bins"]) == 0
    assert dict(zip(COUNTERS, arrays["counters"], strict=True))["completed"] == 1


def test_an_unfinished_request_stays_in_flight_to_the_end(simulated):
    recorder = recorder_of(simulated[0])
    recorder.arrived("buy", 58 * NS_PER_MS)
    recorder.unfinished("buy", 58 * NS_PER_MS)
    arrays = recorder.arrays()
    assert arrays["windows"]["in_flight_ns"][:, 1].sum() == 2 * NS_PER_MS
    assert dict(zip(COUNTERS, arrays["counters"], strict=True))["unfinished"] == 1


def test_a_lost_response_is_a_failure_without_latency(simulated):
    recorder = recorder_of(simulated[0])
    recorder.arrived("browse", 5)
    recorder.request("browse", 5, 50, 0, FLAG_UO)
    arrays = recorder.arrays()
    assert arrays["windows"]["failures"][0, 0] == 1
    assert arrays["windows"]["latency_sum_ns"].sum() == 0
    assert arrays["traffic_flags"][0, 0, FLAG_UO] == 1


def test_exchanges_of_nobody_are_counted_apart(simulated):
    recorder = recorder_of(simulated[0])
    known = ExchangeOutcome(
        "gateway-browse", "front", "", "browse", 0, 200, 0, 0, 5, 9, 0, 0, 1, 1, arrived_ns=4
    )
    for outcome in (
        known._replace(proxy="gateway-other"),
        known._replace(traffic=""),
        known._replace(arrived_ns=-1),
    ):
        recorder.exchange(outcome)
    arrays = recorder.arrays()
    counters = dict(zip(COUNTERS, arrays["counters"], strict=True))
    assert (counters["foreign"], counters["exchanges"]) == (3, 3)
    assert arrays["series"]["requests"].sum() == 0
    recorder.exchange(known)
    assert recorder.arrays()["series"]["requests"].sum() == 1


def test_snapshots_ask_what_is_watched(simulated):
    recorder = recorder_of(simulated[0])
    asked = []
    recorder.watch_endpoint(1, lambda now_ns: asked.append(now_ns) or (7, 6, 5, 4, 3, 2, 1, 0))
    ends_ns = recorder.segment_ends_ns()
    for segment, end_ns in enumerate(ends_ns):
        recorder.snapshot(segment, end_ns)
    expected = [NS_PER_MS * window for window in (*SEGMENT_STARTS[1:], WINDOW_COUNT)]
    assert asked == list(ends_ns) == expected
    rows = recorder.arrays()["endpoints"]
    assert rows["requests"][:, 1].tolist() == [7] * 6
    assert rows["requests"][:, 0].tolist() == [0] * 6


def test_now_gives_each_latency_once(simulated):
    recorder = recorder_of(simulated[0])
    for latency_ns in (10, 20):
        recorder.arrived("browse", 0)
        recorder.request("browse", 0, latency_ns, 200, 0)
    first = recorder.now()
    assert first["latencies_ns"].tolist() == [10, 20]
    assert (first["sent"], first["completed"], first["failed"]) == (2, 2, 0)
    assert len(recorder.now()["latencies_ns"]) == 0


def test_arrays_hold_no_objects_and_survive_npz(simulated, tmp_path):
    recorder = recorder_of(simulated[0])
    recorder.hosts([(0, 1, 5, 0, 99)])
    arrays = recorder.arrays()
    np.savez(tmp_path / "part.npz", **arrays)
    with np.load(tmp_path / "part.npz", allow_pickle=False) as stored:
        again = {name: stored[name] for name in stored.files}
    assert merge([again])["hosts"].tolist() == [(0, 1, 5, 0, 99)]
    assert set(again) == set(arrays)


def test_keys_of_64_bits_fit_a_span(simulated):
    recorder = recorder_of(simulated[0])
    key = int(mix_in(np.uint64(2**64 - 1), 3)) | 1 << 63
    recorder.exchange(
        ExchangeOutcome(
            *("gateway-browse", "front", "", "browse", 3, 200, 0, 1, 5, 9, 2, 1, 1, 1),
            arrived_ns=4,
            key=f"{key:016x}",
            parent="0",
        )
    )
    (span,) = recorder.arrays()["spans"]
    assert span["span"] == key & (1 << 63) - 1
    assert (span["trace"], span["tries"], span["endpoint"]) == (6, 2, NO_INDEX)
