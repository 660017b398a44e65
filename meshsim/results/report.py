"""A result for people and for programs: terminal report, notebook view, JSON.

Rule: the verdict comes first, then what the callers see, then where it goes and what it
costs, then everything the reader has to know before believing it.  A latency is written
"80.1 ±1.2": the estimate and the wider side of its 95 % interval; a dash is a value withheld,
and a note says why.
"""

from __future__ import annotations

import html as html_escape
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshsim.results import scaling
from meshsim.results.assumptions import assumption_lines
from meshsim.results.breakdown import PARTS
from meshsim.results.estimates import METRICS, SCARCE, TAIL_MINIMUM, Estimate
from meshsim.results.failures import flag_counts
from meshsim.results.failures import rows as failure_rows
from meshsim.results.failures import sentences as failure_sentences
from meshsim.results.verdict import STABLE, UNSTABLE
from meshsim.results.wording import WITHHELD, listed, number, percent
from meshsim.units import NS_PER_S, format_duration

if TYPE_CHECKING:
    from meshsim.results.result import Result

__all__ = ["Summary", "html", "text", "to_dict", "to_json"]

_ROWS_MAX = 12
#: Parts that exceed the latency by more than this share are told to add parallel branches.
_PARTS_EXCESS_MAX = 0.01
_JSON_METRICS = ("mean", "p50", "p90", "p99")

Table = tuple[list[str], list[list[str]]]

#: Title of each column, and how its values are written.
_DATA_PLANE: dict[str, tuple[str, Callable[[float], str]]] = {
    "proxies": ("proxies", "{:,.0f}".format),
    "requests_rps": ("requests/s", lambda value: number(value, 4)),
    "cpu_cores": ("CPU cores", number),
    "connections": ("connections", "{:,.0f}".format),
    "memory_mb": ("memory MB", number),
}


# --- Numbers as text ------------------------------------------------------------------------


def _with_error(estimate: Estimate) -> str:
    """Write an estimate with the wider side of its interval, to the same decimals."""
    if estimate.withheld:
        return WITHHELD
    half = max(estimate.high - estimate.value, estimate.value - estimate.low)
    if math.isnan(half):
        return number(estimate.value)
    if half == 0:
        return f"{number(estimate.value)} ±0"
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    return f"{estimate.value:,.{decimals}f} ±{half:,.{decimals}f}"


# --- Tables as rows of text -----------------------------------------------------------------


def _traffic(result: Result) -> Table:
    head = ["traffic", "offered/s", "goodput/s", "success", *(f"{m} ms" for m in METRICS)]
    rows = []
    for name, row in result.traffic().head(_ROWS_MAX).iterrows():
        estimates = result.estimates[str(name)]
        rows.append(
            [
                str(name),
                number(row["offered_rps"], 4),
                number(row["goodput_rps"], 4),
                percent(row["success"]),
                *(_with_error(estimates[metric]) for metric in METRICS),
            ]
        )
    return head, rows


def _edges(result: Result) -> Table:
    head = ["caller → service", "ended/s", "success", "mean ms", "p50 ms", "p99 ms", "retries"]
    table = result.edges().sort_values("requests_rps", ascending=False, kind="stable")
    rows = [
        [
            f"{row['caller']} → {row['service']}",
            number(row["requests_rps"], 4),
            percent(row["success"]),
            number(row["mean_ms"]),
            number(row["p50_ms"]),
            number(row["p99_ms"]),
            percent(row["retries_per_request"]),
        ]
        for _, row in table.head(_ROWS_MAX).iterrows()
    ]
    return head, rows


def _endpoints(result: Result) -> Table:
    head = ["endpoint", "workload", "arrived/s", "share", "utilisation", "queue", "refused"]
    table = result.endpoints().sort_values("utilisation", ascending=False, kind="stable")
    rows = [
        [
            row["endpoint"],
            row["workload"],
            number(row["requests_rps"], 4),
            percent(row["share"]),
            percent(row["utilisation"]),
            number(row["queue_mean"]),
            f"{row['rejected'] + row['reneged']:,}",
        ]
        for _, row in table.head(_ROWS_MAX).iterrows()
    ]
    return head, rows


def _failures(result: Result) -> Table:
    return ["failures", "failed", "response flags"], failure_rows(result)[:_ROWS_MAX]


def _breakdown(result: Result) -> Table:
    head = ["time of a request", *(f"{part} ms" for part in PARTS)]
    table = result.breakdown()
    table = table[(table["of"] == "traffic") & (table["requests"] > 0)]
    rows = [
        [
            row["caller"],
            *(f"{number(row[f'{p}_ms'])} ({100 * row[f'{p}_share']:.0f} %)" for p in PARTS),
        ]
        for _, row in table[table["queue_share"].notna()].head(_ROWS_MAX).iterrows()
    ]
    return head, rows


def _data_plane(result: Result) -> Table:
    table = result.data_plane()
    columns = {name: column for name, column in _DATA_PLANE.items() if name in table}
    head = ["data plane", *(title for title, _ in columns.values())]
    rows = [
        [str(kind), *(write(row[name]) for name, (_, write) in columns.items())]
        for kind, row in table.iterrows()
    ]
    return head, rows


def _sections(result: Result) -> list[Table]:
    return [
        _traffic(result),
        _failures(result),
        _breakdown(result),
        _edges(result),
        _endpoints(result),
        _data_plane(result),
    ]


def _withheld_notes(result: Result) -> list[str]:
    """Say which estimates are withheld, and why: a line each metric, or each other reason."""
    scarce: dict[str, list[str]] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for name, estimates in result.estimates.items():
        for metric in METRICS:
            reason = estimates[metric].withheld
            count, is_scarce, _ = reason.partition(SCARCE)
            if is_scarce:
                scarce.setdefault(metric, []).append(f"{name} {count}")
            elif reason:
                others.setdefault((name, reason), []).append(metric)
    notes = [
        f"{metric} withheld, fewer than {TAIL_MINIMUM}{SCARCE}: {listed(names)}."
        for metric, names in scarce.items()
    ]
    classes: dict[tuple[str, str], list[str]] = {}
    for (name, reason), metrics in others.items():
        classes.setdefault((", ".join(metrics), reason), []).append(name)
    notes += [
        f"{listed(names)}: {metrics} withheld, {reason}."
        for (metrics, reason), names in classes.items()
    ]
    return notes


def _breakdown_notes(result: Result) -> list[str]:
    """Say that a class spends more time in its parts than it takes."""
    table = result.breakdown()
    parts = table[table["of"] == "traffic"].set_index("caller")[[f"{part}_ms" for part in PARTS]]
    latency_ms = result.traffic()["mean_ms"]
    longer = [
        str(name)
        for name, total_ms, mean_ms in zip(parts.index, parts.sum(axis=1), latency_ms, strict=True)
        if total_ms > (1 + _PARTS_EXCESS_MAX) * mean_ms
    ]
    if not longer:
        return []
    return [
        "time of a request: parallel branches are added up, and failed requests count, "
        f"so the parts of {listed(longer)} exceed the mean latency."
    ]


def _data_plane_notes(result: Result) -> list[str]:
    catalog = result.catalog
    if result.emulation or not catalog.proxies or catalog.connection_memory_bytes:
        return []
    return ["memory: of idle proxies; what each connection adds is not known and left out."]


def _notes(result: Result) -> list[str]:
    """Return what the reader has to know: method, withheld values, losses, notices."""
    measured = result.measured
    notes = [f"95 % intervals: {measured.method}; {measured.cut_text}."]
    if result.verdict.name == UNSTABLE:
        notes.append(
            "latencies withheld: the longer an unstable run, the higher they get; "
            "success is that of requests that ended, not of those still waiting."
        )
    else:
        notes += _withheld_notes(result)
    unfinished = sum(record.counters.get("unfinished", 0) for record in result.records)
    if unfinished:
        notes.append(f"{unfinished:,} measured requests had not ended when the run was stopped.")
    notes += _breakdown_notes(result) + _data_plane_notes(result)
    counts = {
        "traffic classes": len(result.catalog.traffic),
        "failures": len(failure_rows(result)),
        "edges": len(result.catalog.edges),
        "endpoints": len(result.catalog.endpoints),
    }
    notes += [
        f"{noun}: {_ROWS_MAX} of {count:,} are shown; --json has all."
        for noun, count in counts.items()
        if count > _ROWS_MAX
    ]
    notes += _access_notes(result)
    notes += scaling.sentences(result.records)
    notes += list(result.notices)
    return notes + assumption_lines(result.defaults)


def _access_notes(result: Result) -> list[str]:
    """Say that access rules refused requests: 403 and 404 are no failures (below 500)."""
    proxies = result.proxies()
    denied, allowed = (int(proxies[name].sum()) for name in ("rbac_denied", "rbac_allowed"))
    if not denied:
        return []
    worst = proxies.nlargest(1, "rbac_denied")["name"].item()
    judged = f"{denied:,} of the {denied + allowed:,} requests that they judged"
    return [f"access rules refused {judged}, most at {worst}; a 403 is no failure (below 500)."]


def _headline(result: Result) -> str:
    duration = format_duration(result.records[0].duration_ns)
    noun = "replication" if result.replications == 1 else "replications"
    return (
        f"{result.catalog.scenario} · {result.catalog.mesh} · "
        f"{result.replications} {noun} of {duration} · seed {result.seed}"
    )


def _engine(result: Result) -> str:
    engine = result.engine
    wall_s = engine["wall_s"]
    rate = f" ({engine['events'] / wall_s / 1e6:.1f} M events/s)" if wall_s else ""
    if result.emulation:
        emulated_s = result.records[0].ended_ns / NS_PER_S
        return (
            f"{engine['requests']:,} requests, "
            f"{emulated_s:,.1f} s emulated in {wall_s:.1f} s; "
            f"meshsim {result.version}, topology {result.catalog.topology_hash[:12]}"
        )
    simulated_s = sum(record.duration_ns for record in result.records) / NS_PER_S
    return (
        f"{engine['requests']:,} requests, {engine['events']:,} events, "
        f"{simulated_s:,.0f} s simulated in {wall_s:.2f} s{rate}; "
        f"meshsim {result.version}, topology {result.catalog.topology_hash[:12]}"
    )


def _aligned(table: Table) -> list[str]:
    """Lay a table out in columns: the first to the left, numbers to the right."""
    head, rows = table
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * max(len(line) for line in lines))
    return lines


def text(result: Result) -> str:
    """Return the report for a terminal."""
    verdict = result.verdict
    lines = [_headline(result), f"verdict: {verdict.name.upper()}: {verdict.reason}"]
    lines += [*failure_sentences(result), ""]
    for table in _sections(result):
        if table[1]:
            lines += [*_aligned(table), ""]
    lines += ["notes", *(f"  · {note}" for note in _notes(result)), ""]
    return "\n".join([*lines, _engine(result)])


# --- Summary --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The answer in a few lines; prints itself, in a terminal and in a notebook."""

    result: Result

    def __str__(self) -> str:
        verdict = self.result.verdict
        lines = [_headline(self.result), f"{verdict.name}: {verdict.reason}"]
        lines += failure_sentences(self.result)
        return "\n".join([*lines, *_aligned(_traffic(self.result))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _html_head(self.result) + _html_table(_traffic(self.result))


# --- Notebook -------------------------------------------------------------------------------


def _html_row(tag: str, cells: list[str]) -> str:
    sides = ["left"] + ["right"] * (len(cells) - 1)
    inside = "".join(
        f"<{tag} style='text-align:{side}'>{html_escape.escape(cell)}</{tag}>"
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{inside}</tr>"


def _html_table(table: Table) -> str:
    head, rows = table
    lines = [_html_row("th", head), *(_html_row("td", row) for row in rows)]
    return f"<table><thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody></table>"


def _html_head(result: Result) -> str:
    verdict = result.verdict
    told = "".join(f"<br>{html_escape.escape(line)}" for line in failure_sentences(result))
    colour = "#2e7d32" if verdict.name == STABLE else "#c62828"
    return (
        f"<p><b>{html_escape.escape(_headline(result))}</b><br>"
        f"<span style='color:{colour};font-weight:bold'>{verdict.name}</span>: "
        f"{html_escape.escape(verdict.reason)}{told}</p>"
    )


def html(result: Result) -> str:
    """Return the view of a result in a notebook: verdict, traffic, and the rest folded."""
    first, *others = _sections(result)
    folded = "".join(_html_table(table) for table in others if table[1])
    notes = "".join(f"<li>{html_escape.escape(note)}</li>" for note in _notes(result))
    return (
        f"<div>{_html_head(result)}{_html_table(first)}"
        f"<details><summary>edges, endpoints, data plane, notes</summary>{folded}"
        f"<ul>{notes}</ul></details>"
        f"<p style='color:gray'>{html_escape.escape(_engine(result))}</p></div>"
    )


# --- JSON -----------------------------------------------------------------------------------


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _edge_latency(row: Any) -> dict[str, Any]:
    latency: dict[str, Any] = {}
    for metric in _JSON_METRICS:
        value = _known(row[f"{metric}_ms"])
        if value is None:
            latency[metric] = {"value": None, "withheld": row["withheld"]}
            continue
        low, high = _known(row[f"{metric}_low_ms"]), _known(row[f"{metric}_high_ms"])
        latency[metric] = {"value": value, "low": low, "high": high}
    return latency


def to_dict(result: Result) -> dict[str, Any]:
    """Return the result as plain values, with the keys that `to_json` promises."""
    catalog = result.catalog
    flags = flag_counts(result.flags())
    return {
        "scenario": catalog.scenario,
        "mesh": catalog.mesh,
        "seed": result.seed,
        "replications": result.replications,
        "verdict": result.verdict.name,
        "engine": result.engine,
        **({"emulation": dict(result.emulation)} if result.emulation else {}),
        "traffic": [
            {
                "name": name,
                "offered_rps": float(row["offered_rps"]),
                "completed_rps": float(row["completed_rps"]),
                "success": _known(row["success"]),
                "latency_ms": {
                    metric: result.estimates[str(name)][metric].to_dict()
                    for metric in _JSON_METRICS
                },
                "response_flags": flags.get((str(name), ""), {}),
            }
            for name, row in result.traffic().iterrows()
        ],
        "edges": [
            {
                "caller": row["caller"],
                "service": row["service"],
                "requests": int(row["requests"]),
                "rps": float(row["requests_rps"]),
                "success": _known(row["success"]),
                "retries": int(row["retries"]),
                "latency_ms": _edge_latency(row),
                "response_flags": flags.get((row["caller"], row["service"]), {}),
            }
            for _, row in result.edges().iterrows()
        ],
        "endpoints": [
            {
                "service": row["service"],
                "workload": row["workload"],
                "endpoint": row["endpoint"],
                "requests": int(row["requests"]),
                "share": _known(row["share"]),
            }
            for _, row in result.endpoints().iterrows()
        ],
        "proxies": [
            {
                "name": row["name"],
                **({"cpu_cores": float(row["cpu_cores"])} if "cpu_cores" in row else {}),
                "requests": int(row["requests"]),
            }
            for _, row in result.proxies().iterrows()
        ],
    }


def to_json(result: Result) -> str:
    """Return the result as JSON; a withheld value is null with its reason."""
    return json.dumps(to_dict(result), indent=2, allow_nan=False, ensure_ascii=False)
