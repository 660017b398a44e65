"""Tables, views and comparisons of a result."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from meshsim.errors import ConfigError
from meshsim.results import Result, parse_precision, relative_half_width
from meshsim.state.record import WINDOW_COUNT
from meshsim.state.sparse import SparseHistogram
from meshsim.stats.histogram import BIN_COUNT


@pytest.fixture(scope="module")
def result(catalog, records):
    return Result.from_records(
        catalog,
        records,
        notices=["HTTPRoute is not read yet: gateway.yaml:3."],
        defaults={
            "policies.cart.routes[0].retry.num_retries": "2: Istio default (retry.go)",
            "policies.cart.load_balancing.choice_count": "2: Envoy default",
        },
    )


def test_records_of_one_duration_are_needed(catalog):
    with pytest.raises(ValueError, match="records of one duration"):
        Result.from_records(catalog, [])


def test_traffic(result):
    table = result.traffic()
    browse = table.loc["browse"]
    # 90/s offered over 540 s: sd of the rate is sqrt(90 / 540) = 0.41
    assert browse["offered_rps"] == pytest.approx(90, abs=1.3)
    assert browse["p50_ms"] == pytest.approx(20 * math.log(2), rel=0.03)
    assert browse["p50_low_ms"] < browse["p50_ms"] < browse["p50_high_ms"]
    assert browse["success"] == 1.0
    assert browse["warm_up_s"] == 6.0
    assert browse["samples"] == browse["offered_rps"] * 540
    assert 0.1 * browse["samples"] < browse["effective_samples"] <= browse["samples"]
    assert table.loc["buy", "response_flags"] == "UT 2"
    assert "effective samples beyond p99.9" in table.loc["buy", "withheld"]
    assert math.isnan(table.loc["buy", "p99.9_ms"])


def test_edges_and_services_merge_to_the_same_requests(result):
    edges = result.edges()
    services = result.services()
    assert list(edges["service"]) == ["front", "front", "cart"]
    assert services.loc["front", "requests"] == edges["requests"][:2].sum()
    assert services.loc["front", "endpoints"] == 2
    assert services.loc["front", "utilisation"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert edges["retries"].tolist() == [0, 2, 2]
    assert edges["p99_ms"][0] == pytest.approx(20 * math.log(100), rel=0.05)


def test_endpoints_share_the_requests_of_their_service(result):
    table = result.endpoints()
    assert table["share"].tolist() == pytest.approx([0.75, 0.25, 1.0], abs=1e-3)
    assert table["utilisation"].tolist() == [0.5, 0.25, 0.5]
    assert table["queue_mean"].tolist() == [0.5] * 3
    assert table["cpu_cores"].tolist() == [1.0, 0.5, 0.5]


def test_proxies_and_data_plane(result):
    table = result.proxies()
    assert table["cpu_cores"].tolist() == [0.1] * 3
    # 50 MB idle and 5 connections of 20 kB
    assert table["memory_mb"].tolist() == pytest.approx([50.1] * 3)
    cost = result.data_plane()
    assert cost.loc["sidecar", "proxies"] == 2
    assert cost.loc["sidecar", "cpu_cores"] == pytest.approx(0.2)


def test_a_mesh_without_proxies_has_empty_tables(make_catalog, records):
    from dataclasses import replace

    bare = [replace(record, proxies=record.proxies[:, :0]) for record in records]
    result = Result.from_records(make_catalog(proxies=()), bare)
    assert result.proxies().empty
    assert result.data_plane().empty
    assert "data plane" not in result.report()
    assert result.hosts()["proxy"].tolist() == ["front-0", "front-0"]


def test_hosts_add_up_over_replications(result):
    table = result.hosts()
    assert table["requests"].tolist() == [3_000, 1_000]
    assert table["mean_ms"].tolist() == [20.0, 10.0]
    assert table["endpoint"].tolist() == ["front-0", "front-1"]


def test_flags_name_who_got_them(result):
    rows = result.flags()[["of", "caller", "service", "flag", "responses"]].to_numpy().tolist()
    assert rows == [["traffic", "buy", "", "UT", 2], ["edge", "buy", "front", "UT", 2]]


def test_breakdown_sums_to_the_mean_latency(result):
    row = result.breakdown().iloc[0]
    parts = [row[f"{part}_ms"] for part in ("queue", "service", "proxy", "wire")]
    assert sum(parts) == pytest.approx(result.estimate("browse", "mean").value, rel=1e-6)
    assert row["service_share"] == pytest.approx(0.5)


def test_timeline_covers_the_whole_run(result):
    table = result.timeline()
    browse = table[table["traffic"] == "browse"]
    assert len(browse) == 60
    assert browse["measured"].sum() == 54
    assert browse["offered_rps"].mean() == pytest.approx(90, rel=0.02)
    assert browse["in_flight"].mean() == pytest.approx(3.0, abs=0.1)
    assert browse["p50_ms"].mean() == pytest.approx(20 * math.log(2), rel=0.05)


def test_traces_are_trees(result):
    traces = result.traces()
    assert len(traces) == 10
    assert traces[3].replication == 3
    assert traces[0].tree().splitlines() == [
        "trace 17 of replication 0, from browse",
        "front-0 200                0.00 +30.00 ms  (service 3)",
        "├─ cart-0 200              2.00 +9.00 ms  (queue 1, service 8)",
        "└─ cart 503 UF 2 tries    12.00 +17.00 ms",
    ]


def test_unknown_class_or_metric(result):
    with pytest.raises(ConfigError, match="no such traffic class; found sell"):
        result.estimate("sell", "p99")
    with pytest.raises(ConfigError, match=r"no such metric; found p98; allowed: success, mean"):
        result.estimate("browse", "p98")


def test_json_has_the_promised_keys_and_no_nan(result):
    data = json.loads(result.to_json())
    assert list(data) == [
        "scenario",
        "mesh",
        "seed",
        "replications",
        "verdict",
        "engine",
        "traffic",
        "edges",
        "endpoints",
        "proxies",
    ]
    assert set(data["engine"]) == {"requests", "events", "wall_s"}
    browse = data["traffic"][0]
    assert list(browse) == [
        "name",
        "offered_rps",
        "completed_rps",
        "success",
        "latency_ms",
        "response_flags",
    ]
    assert set(browse["latency_ms"]) == {"mean", "p50", "p90", "p99"}
    assert set(browse["latency_ms"]["p99"]) == {"value", "low", "high"}
    assert set(data["endpoints"][0]) == {"service", "workload", "endpoint", "requests", "share"}
    assert set(data["proxies"][0]) == {"name", "cpu_cores", "requests"}


def test_an_emulated_run_has_no_modelled_cost(catalog, records):
    result = Result.from_records(catalog, records, emulation={"plane": "asyncio"})
    assert list(result.data_plane()) == ["proxies", "requests_rps", "connections"]
    assert {"cpu_cores", "memory_mb"}.isdisjoint(result.proxies())
    report = result.report()
    assert "data plane" in report
    assert "CPU cores" not in report
    assert "memory MB" not in report
    data = json.loads(result.to_json())
    assert set(data["proxies"][0]) == {"name", "requests"}


def test_json_of_an_unstable_run_says_why_a_value_is_null(catalog, make_record):
    result = Result.from_records(catalog, [make_record(0, growth=2.0)])
    data = json.loads(result.to_json())
    assert data["verdict"] == "unstable"
    p99 = data["traffic"][0]["latency_ms"]["p99"]
    assert p99["value"] is None
    assert p99["withheld"].startswith("unstable")
    assert data["edges"][0]["latency_ms"]["p99"]["withheld"].startswith("unstable")


def test_report_says_verdict_first_and_everything_withheld(result):
    lines = result.report().splitlines()
    assert lines[0] == "shop · istio-sidecar · 10 replications of 1m · seed 7"
    assert lines[1] == "verdict: STABLE: the backlog does not grow"
    assert lines[3].split()[:3] == ["traffic", "offered/s", "goodput/s"]
    notes = "\n".join(lines[lines.index("notes") :])
    assert "first 6 s deleted (10 %)" in notes
    assert "p99.9 withheld, fewer than 30 effective samples beyond: buy " in notes
    assert "HTTPRoute is not read yet: gateway.yaml:3." in notes
    assert "2 retries: Istio default (retry.go)" in notes
    assert "1 further default: meshsim explain SCENARIO policies" in notes
    assert max(len(line) for line in lines) <= 120


def test_summary_and_notebook_views(result):
    assert str(result.summary()).splitlines()[1] == "stable: the backlog does not grow"
    assert repr(result) == "<Result shop on istio-sidecar: stable>"
    page = result._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 6
    assert "<td style='text-align:left'>front → cart</td>" in page
    assert result.summary()._repr_html_().startswith("<p><b>shop")


def test_names_are_escaped_in_notebooks(make_catalog, records):
    hostile = make_catalog(scenario="<script>alert(1)</script>")
    assert "<script>" not in Result.from_records(hostile, records)._repr_html_()


def test_difference_pairs_replications(catalog, records, make_record):
    faster = [make_record(k, mean_ms=19.0) for k in range(10)]
    result, other = Result.from_records(catalog, records), Result.from_records(catalog, faster)
    table = result.difference(other, "mean")
    assert table.loc["browse", "difference_ms"] == pytest.approx(1.0, rel=0.01)
    p99 = result.difference(other, "p99").loc["browse"]
    # Common random numbers: far narrower than the +-2 ms of either p99.
    assert p99["low_ms"] < math.log(100) < p99["high_ms"]
    assert p99["high_ms"] - p99["low_ms"] < 1.0


def test_difference_needs_the_same_seeds(result, catalog, make_record):
    others = Result.from_records(catalog, [make_record(k) for k in range(1, 11)])
    with pytest.raises(ConfigError, match="the same traffic classes, seeds"):
        result.difference(others)


def test_precision(result):
    width = relative_half_width(result, "p50")
    widths = [result.estimate(name, "p50").relative_half_width for name in ("browse", "buy")]
    assert width == max(widths)
    assert not parse_precision("p50:1%").reached(result)
    assert parse_precision("p50:20%").reached(result)
    assert relative_half_width(result, "p99.9") == math.inf


def test_precision_is_relative_to_the_true_value(result):
    # gamma / (1 + gamma): a half-width of exactly gamma is not enough.
    width = relative_half_width(result, "p50")
    assert not parse_precision(f"p50:{100 * width:.6f}%").reached(result)


@pytest.mark.parametrize("text", ["p99", "p98:5%", "p99:0%", "p99:100%", "p99:5", ""])
def test_a_wrong_precision_is_refused(text):
    with pytest.raises(ConfigError, match="not a precision"):
        parse_precision(text)


def test_results_do_not_load_matplotlib():
    import subprocess

    code = "import sys, meshsim.results; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_are_copies(result):
    table = result.edges()
    table["requests"] = 0
    assert result.edges()["requests"][0] > 0
    assert np.isfinite(result.edges()["requests_rps"]).all()


def test_a_class_without_requests_says_so(make_catalog, records):
    from dataclasses import replace

    silent = []
    for record in records[:5]:
        windows = record.windows.copy()
        windows[:, 1] = np.zeros(1, windows.dtype)
        counts = record.window_histogram.dense()
        counts[:, 1] = 0
        histogram = type(record.window_histogram).from_dense(counts)
        silent.append(replace(record, windows=windows, window_histogram=histogram))
    result = Result.from_records(make_catalog(), silent)
    assert result.estimate("buy", "p99").withheld == "no request arrived"
    assert result.estimate("buy", "success").withheld == "no request ended"
    assert "buy: mean, p50, p90, p99, p99.9 withheld, no request arrived." in result.report()


def test_long_lists_are_cut_and_counted(make_catalog, make_record):
    names = tuple(f"class-{number:03}" for number in range(40))
    short = make_record(0)
    wide = {
        "windows": np.repeat(short.windows[:, :1], 40, axis=1),
        "traffic_flags": np.repeat(short.traffic_flags[:, :1], 40, axis=1),
        "window_histogram": SparseHistogram.from_dense(
            np.zeros((WINDOW_COUNT, 40, BIN_COUNT), np.int32)
        ),
    }
    result = Result.from_records(make_catalog(traffic=names), [replace(short, **wide)])
    report = result.report()
    assert "traffic classes: 12 of 40 are shown; --json has all." in report
    assert "class-012" not in report
    assert "class-004 and 35 more:" in report or "class-004 0 and 35 more" in report
    assert "endpoints()" not in report


def test_counters_add_up_and_gauges_are_means(result):
    own = "inbound.adaptive_concurrency.gradient_controller."
    found = [{own + "rq_blocked": 7, own + "concurrency_limit": 5}, {own + "concurrency_limit": 8}]
    first, second = (
        replace(record, stats={"a": stats})
        for record, stats in zip(result.records, found, strict=False)
    )
    table = Result.from_records(result.catalog, [first, second]).stats().set_index("stat")
    assert table["count"].to_dict() == {own + "rq_blocked": 7, own + "concurrency_limit": 6.5}
