"""The tables of a result: pandas DataFrames with the unit in each column name.

Rule: counts are totals over the measured part of all replications, rates are counts by that
time, latencies are of successful requests from their intended arrival (traffic) or as the
caller's side sees them (edges).  `samples` is how many requests an estimate rests on.

Cost: a row of `edges` takes 0.3 milliseconds, so a table is built when asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from meshsim.results.estimates import METRICS, Estimate, latency_estimates, share_estimate
from meshsim.results.measured import Measured
from meshsim.state.codes import FLAG_NAMES
from meshsim.state.record import WINDOW_COUNT
from meshsim.stats.histogram import quantile_ns
from meshsim.units import NS_PER_S

__all__ = [
    "data_plane",
    "edges",
    "endpoints",
    "flags",
    "hosts",
    "proxies",
    "services",
    "stats",
    "timeline",
    "traffic",
    "traffic_estimates",
]

_NS_PER_MS = 1e6
_BYTES_PER_MB = 1e6
#: Rows estimated together: 20 MB of histograms with ten replications.
_ROWS_AT_ONCE = 256

Row = dict[str, Any]


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any] | float) -> npt.NDArray[np.float64]:
    """Divide element by element, NaN where the denominator is 0."""
    whole = np.broadcast_to(np.asarray(whole, dtype=np.float64), part.shape)
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def _latency_columns(estimates: dict[str, Estimate]) -> Row:
    row: Row = {}
    for name in METRICS:
        estimate = estimates[name]
        row[f"{name}_ms"] = estimate.value
        row[f"{name}_low_ms"] = estimate.low
        row[f"{name}_high_ms"] = estimate.high
    mean = estimates["mean"]
    row["samples"] = mean.samples
    row["effective_samples"] = mean.effective_samples
    reasons = dict.fromkeys(estimates[name].withheld for name in METRICS)
    row["withheld"] = "; ".join(reason for reason in reasons if reason)
    return row


def _flag_text(counts: npt.NDArray[np.int64]) -> str:
    """Write the response flags that occurred, most frequent first, without "-"."""
    order = np.argsort(-counts[1:], kind="stable") + 1
    return ", ".join(f"{FLAG_NAMES[flag]} {counts[flag]}" for flag in order if counts[flag])


def _flag_totals(measured: Measured, table: str) -> npt.NDArray[np.int64]:
    kept = [
        getattr(record, table)[measured.cut.segment :].sum(axis=0) for record in measured.records
    ]
    total: npt.NDArray[np.int64] = np.sum(kept, axis=0)
    return total


def traffic_estimates(
    measured: Measured, traffic_index: int, withheld: str = ""
) -> dict[str, Estimate]:
    """Return success [1] and latencies [ms] of a traffic class, by metric."""
    successes = measured.traffic_field("successes", traffic_index)
    ended = successes + measured.traffic_field("failures", traffic_index)
    if not withheld and not measured.traffic_field("arrivals", traffic_index).any():
        withheld = "no request arrived"
    (latency,) = latency_estimates(
        measured.traffic_field("latency_sum_ns", traffic_index)[None],
        measured.traffic_histogram(traffic_index)[None],
        measured.method,
        withheld,
    )
    return {
        "success": share_estimate(successes, ended, measured.method),
        **latency,
    }


def traffic(measured: Measured, withheld: str = "") -> pd.DataFrame:
    """Return one row a traffic class: rates, success, latency with intervals, sample, method."""
    flag_counts = _flag_totals(measured, "traffic_flags")
    rows = []
    for index, name in enumerate(measured.catalog.traffic):
        estimates = traffic_estimates(measured, index, withheld)
        success = estimates["success"]
        rates = {
            column: measured.traffic_field(field, index).sum() / measured.time_total_s
            for column, field in (
                ("offered_rps", "arrivals"),
                ("completed_rps", "responses"),
                ("goodput_rps", "good_responses"),
            )
        }
        rows.append(
            {
                "traffic": name,
                **rates,
                "success": success.value,
                "success_low": success.low,
                "success_high": success.high,
                **_latency_columns(estimates),
                "warm_up_s": measured.warm_up_s,
                "method": measured.method,
                "response_flags": _flag_text(flag_counts[index]),
            }
        )
    return pd.DataFrame(rows).set_index("traffic") if rows else pd.DataFrame()


def _series_latencies(
    measured: Measured, rows: npt.NDArray[np.intp], withheld: str
) -> Iterator[dict[str, Estimate]]:
    """Yield the latency estimates of the rows that edges are counted in, some at a time."""
    sums = measured.series_field("latency_sum_ns", rows)
    for first in range(0, len(sums), _ROWS_AT_ONCE):
        end = min(first + _ROWS_AT_ONCE, len(sums))
        histograms = measured.series_histogram(rows, first, end)
        yield from latency_estimates(sums[first:end], histograms, measured.method, withheld)


def _series_rows(measured: Measured, rows: npt.NDArray[np.intp], withheld: str) -> Iterator[Row]:
    """Yield rates, success and latency of the rows that edges are counted in."""
    names = ("requests", "successes", "retries", "bytes")
    fields = {name: measured.series_field(name, rows) for name in names}
    time_s = measured.segments_time_s
    for row, estimates in enumerate(_series_latencies(measured, rows, withheld)):
        success = share_estimate(fields["successes"][row], fields["requests"][row], measured.method)
        requests, retries, size = (
            int(fields[name][row].sum()) for name in ("requests", "retries", "bytes")
        )
        yield {
            "requests": requests,
            "requests_rps": requests / time_s,
            "success": success.value,
            "success_low": success.low,
            "success_high": success.high,
            **_latency_columns(estimates),
            "retries": retries,
            "retries_per_request": retries / requests if requests else math.nan,
            "bytes_per_s": size / time_s,
        }


def edges(measured: Measured, withheld: str = "") -> pd.DataFrame:
    """Return one row a (caller, service) pair."""
    catalog = measured.catalog
    flag_counts = _flag_totals(measured, "edge_flags")
    each = np.arange(len(catalog.edges))
    rows = [
        {
            "caller": catalog.edges[index][0],
            "service": catalog.edges[index][1],
            "entry": catalog.edge_is_entry[index],
            **row,
            "response_flags": _flag_text(flag_counts[index]),
        }
        for index, row in enumerate(_series_rows(measured, each, withheld))
    ]
    # Without a call there is no row to name the columns.
    return pd.DataFrame(rows, columns=None if rows else ["caller", "service", "requests_rps"])


def services(measured: Measured, withheld: str = "") -> pd.DataFrame:
    """Return one row a called service: its edges merged, and the load of its endpoints."""
    called = [service for _, service in measured.catalog.edges]
    names = list(dict.fromkeys(called))
    number = {name: index for index, name in enumerate(names)}
    groups = np.array([number[service] for service in called], np.intp)
    load = endpoints(measured).groupby("service")
    utilisation = load["utilisation"].mean()
    cpu_cores = load["cpu_cores"].sum()
    count = load.size()
    rows = [
        {
            "service": service,
            **row,
            "endpoints": count.get(service, 0),
            "utilisation": utilisation.get(service, math.nan),
            "cpu_cores": cpu_cores.get(service, 0.0),
        }
        for service, row in zip(names, _series_rows(measured, groups, withheld), strict=True)
    ]
    return pd.DataFrame(rows).set_index("service") if rows else pd.DataFrame()


def endpoints(measured: Measured) -> pd.DataFrame:
    """Return one row an endpoint: requests, share of its service, utilisation, queue."""
    catalog = measured.catalog
    fields = ("requests", "rejected", "reneged", "completed", "busy_ns", "cpu_ns", "queue_ns")
    gain = {field: measured.cumulative("endpoints", field) for field in fields}
    names = catalog.endpoints or ((),) * 0
    time_ns = measured.segments_time_s * NS_PER_S
    concurrency = np.array(catalog.endpoint_concurrency, dtype=np.float64)
    table = pd.DataFrame(
        {
            "service": [name[0] for name in names],
            "workload": [name[1] for name in names],
            "endpoint": [name[2] for name in names],
            "zone": list(catalog.endpoint_zones),
            "requests": gain["requests"],
            "requests_rps": gain["requests"] / measured.segments_time_s,
            "utilisation": _ratio(gain["busy_ns"], concurrency * time_ns),
            "queue_mean": gain["queue_ns"] / time_ns,
            "cpu_cores": gain["cpu_ns"] / time_ns,
            "completed": gain["completed"],
            "rejected": gain["rejected"],
            "reneged": gain["reneged"],
        }
    )
    service_total = table.groupby("service")["requests"].transform("sum").to_numpy()
    table.insert(6, "share", _ratio(gain["requests"], service_total))
    return table


def proxies(measured: Measured) -> pd.DataFrame:
    """Return one row a proxy: requests, CPU [cores] and memory [MB], means of a replication.

    Memory is that of an idle proxy and of the connections open at the end of the run; a mesh
    whose `meshsim.topology.profile.ProxyCost` states no memory of a connection counts none.
    `rbac_allowed` and `rbac_denied` count the inbound requests that its access rules judged.
    """
    catalog = measured.catalog
    time_ns = measured.segments_time_s * NS_PER_S
    requests = measured.cumulative("proxies", "requests")
    open_at_end = [record.proxies["connections"][-1] for record in measured.records]
    connections = np.mean(open_at_end, axis=0)
    memory = catalog.proxy_memory_bytes + connections * catalog.connection_memory_bytes
    return pd.DataFrame(
        {
            "kind": [kind for kind, _ in catalog.proxies],
            "name": [name for _, name in catalog.proxies],
            "requests": requests,
            "requests_rps": requests / measured.segments_time_s,
            "cpu_cores": measured.cumulative("proxies", "cpu_ns") / time_ns,
            "connections": connections,
            "memory_mb": memory / _BYTES_PER_MB,
            "rbac_allowed": measured.cumulative("proxies", "rbac_allowed"),
            "rbac_denied": measured.cumulative("proxies", "rbac_denied"),
        }
    )


def data_plane(measured: Measured) -> pd.DataFrame:
    """Return what the proxies cost together, one row a kind of proxy; memory as in `proxies`."""
    table = proxies(measured)
    grouped = table.groupby("kind", sort=False)
    total = grouped[["requests_rps", "cpu_cores", "connections", "memory_mb"]].sum()
    total.insert(0, "proxies", grouped.size())
    return total


def hosts(measured: Measured) -> pd.DataFrame:
    """Return one row a (proxy, endpoint) pair, over the whole run of all replications."""
    catalog = measured.catalog
    rows = np.concatenate([record.hosts for record in measured.records])
    frame = pd.DataFrame({field: rows[field] for field in rows.dtype.names or ()})
    total = frame.groupby(["proxy", "endpoint"], as_index=False).sum()
    # Rows of proxies: one an endpoint, then one a traffic class.  Without proxies they stand
    # for the client libraries of those callers, and carry their names.
    callers = [name for _, _, name in catalog.endpoints] + list(catalog.traffic)
    names = [name for _, name in catalog.proxies] or callers
    proxy_names = [names[index] for index in total["proxy"]]
    endpoint_names = [catalog.endpoints[index] for index in total["endpoint"]]
    latency = _ratio(total["latency_sum_ns"].to_numpy(), total["requests"].to_numpy())
    return pd.DataFrame(
        {
            "proxy": proxy_names,
            "service": [name[0] for name in endpoint_names],
            "endpoint": [name[2] for name in endpoint_names],
            "requests": total["requests"],
            "errors": total["errors"],
            "mean_ms": latency / _NS_PER_MS,
        }
    )


def flags(measured: Measured) -> pd.DataFrame:
    """Return one row a response flag that occurred, by traffic class and by edge."""
    catalog = measured.catalog
    names = [("traffic", name, "") for name in catalog.traffic]
    names += [("edge", caller, service) for caller, service in catalog.edges]
    counts = np.concatenate(
        [_flag_totals(measured, "traffic_flags"), _flag_totals(measured, "edge_flags")]
    )
    rows = [
        {
            "of": names[row][0],
            "caller": names[row][1],
            "service": names[row][2],
            "flag": FLAG_NAMES[flag],
            "responses": int(counts[row, flag]),
            "responses_rps": counts[row, flag] / measured.segments_time_s,
        }
        for row, flag in zip(*np.nonzero(counts), strict=True)
        if flag
    ]
    columns = ["of", "caller", "service", "flag", "responses", "responses_rps"]
    return pd.DataFrame(rows, columns=columns)


#: How the names of Envoy's gauges end; everything else is a counter.
_GAUGES = (
    "_active",
    "_open",
    "active_faults",
    "burst_queue_size",
    "concurrency_limit",
    "gradient",
    "rtt_msecs",
)


def stats(measured: Measured) -> pd.DataFrame:
    """Return one row a counter or gauge of Envoy that is not 0.

    Counters are those of all replications together, over the whole run; gauges are what they are
    at the end of a run, the mean of the replications.  Names begin with the side of the proxy,
    e.g. ``outbound.fault.delays_injected``.
    """
    total: Counter[tuple[str, str]] = Counter()
    for record in measured.records:
        for proxy, counts in record.stats.items():
            for name, count in counts.items():
                total[proxy, name] += count
    rows = [
        (proxy, name, count / len(measured.records) if name.endswith(_GAUGES) else count)
        for (proxy, name), count in total.items()
    ]
    return pd.DataFrame(rows, columns=["proxy", "stat", "count"])


def timeline(measured: Measured) -> pd.DataFrame:
    """Return one row a window and traffic class, the warm-up included; no intervals.

    Rates and requests in flight are means over the replications; latencies are pooled and are
    those of the requests that *arrived* in the window.
    """
    windows = measured.windows
    replications = len(measured.records)
    per_s = 1 / (measured.window_s * replications)
    tables = []
    for index, name in enumerate(measured.catalog.traffic):
        total = {
            field: windows[field][:, :, index].sum(axis=0) for field in windows.dtype.names or ()
        }
        histogram = measured.timeline_histogram(index)
        start_s = np.arange(WINDOW_COUNT) * measured.window_s
        table = pd.DataFrame(
            {
                "traffic": name,
                "time_s": start_s,
                "measured": start_s >= measured.warm_up_s,
                "offered_rps": total["arrivals"] * per_s,
                "completed_rps": total["responses"] * per_s,
                "goodput_rps": total["good_responses"] * per_s,
                "mean_ms": _ratio(total["latency_sum_ns"], total["successes"]) / _NS_PER_MS,
                "p50_ms": quantile_ns(histogram, 0.5) / _NS_PER_MS,
                "p99_ms": quantile_ns(histogram, 0.99) / _NS_PER_MS,
                "in_flight": total["in_flight_ns"] * per_s / NS_PER_S,
            }
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
