"""The report of a validation: text, Markdown and HTML from one set of tables.

Rule: a number never stands alone.  Each error has the noise floor and the band beside it, and
what is outside comes first.  Figures need matplotlib, loaded when they are drawn; without it
the report says that it has none.
"""

from __future__ import annotations

import html
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meshsim.validation.score import BANDS, Score

if TYPE_CHECKING:
    from meshsim.validation.outcome import Validation

__all__ = ["html_table", "text", "write"]

_Table = tuple[Sequence[str], Sequence[Sequence[str]]]
_METRICS = (*BANDS, "w1_mean")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem } table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: right }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }
.outside { background: #fbe3e0 } .inside { background: #e6f4ea }
.indistinguishable { background: #fdf5d9 } .inconclusive { background: #eee }
"""


# --- Tables ---------------------------------------------------------------------------------


def _cell(item: Score | None) -> str:
    """Return error, floor and the mark of the verdict of one metric."""
    if item is None or math.isnan(item.error):
        return "-"
    unit = 100.0
    floor = "?" if math.isnan(item.floor) else f"{unit * item.floor:.1f}"
    return f"{unit * item.error:+.1f} ({floor}) {item.verdict}".strip()


def _score_table(validation: Validation, draws: str) -> _Table:
    """One row a scenario and class: error (floor) verdict of each metric, in percent."""
    cells: dict[tuple[str, str], dict[str, Score]] = {}
    for item in validation.all_scores:
        if item.draws == draws:
            cells.setdefault((item.scenario, item.traffic), {})[item.metric] = item
    rows = [
        (
            name if len(validation.predictions[name].same) == 1 else f"{name}/{traffic}",
            *(_cell(by_metric.get(metric)) for metric in _METRICS),
        )
        for (name, traffic), by_metric in cells.items()
    ]
    return (("scenario", *_METRICS), rows)


def _value_table(validation: Validation) -> _Table:
    """Predicted and measured values on the same draws."""
    rows = [
        (item.scenario, item.metric, f"{item.predicted:.4g}", f"{item.measured:.4g}")
        for item in validation.all_scores
        if item.draws == "same" and not math.isnan(item.predicted)
    ]
    return (("scenario", "metric", "predicted", "measured"), rows)


def _anchor_table(validation: Validation) -> _Table:
    rows = [
        (
            name,
            f"{anchor.requests}",
            f"{anchor.emulated_ms:.3f}",
            f"{anchor.simulated_ms:.3f}",
            f"{anchor.spread_ms:.3f}",
        )
        for name, anchor in validation.calibration.anchors.items()
    ]
    columns = ("A", "requests", "emulated mean ms", "simulated mean ms", "between repeats ms")
    return columns, rows


def _cost_table(validation: Validation) -> _Table:
    costs = validation.calibration
    stage_ms = sum(costs.harness_ns) / len(costs.harness_ns) / 1e6
    rows = [
        ("harness stage, mean (once a request)", f"{stage_ms:.3f} ms"),
        ("hop (there and back, beside CPU)", f"{costs.hop_ns / 1e6:.3f} ms"),
        ("request at the server (occupies the worker)", f"{costs.request_ns / 1e6:.3f} ms"),
        ("pass through a proxy (CPU)", f"{costs.pass_ns / 1e3:.1f} us"),
        ("handshake (CPU, each side)", f"{costs.handshake_ns / 1e3:.1f} us"),
    ]
    return ("cost", "on this machine"), rows


def _order_table(validation: Validation) -> _Table:
    rows = [
        (
            f"{item.group} ({item.draws})",
            " < ".join(item.predicted),
            " < ".join(item.measured),
            f"{item.verdict} {item.reason}".strip(),
        )
        for item in validation.orders
    ]
    return ("order by p90", "predicted", "measured", "verdict"), rows


def _sections(validation: Validation) -> list[tuple[str, str, _Table | None]]:
    """Return title, prose and table of each section of the report, in order."""
    counts = ", ".join(f"{count} {name}" for name, count in validation.counts.items())
    plan = validation.lengths
    bands = ", ".join(f"{name} {100 * band:g} %" for name, band in BANDS.items())
    protocol = (
        f"Predictions were written {validation.predicted_at} to {validation.predictions_path} "
        f"(SHA-256 {validation.digest[:16]}), before B was run. {plan.same} repeats with the "
        f"same draws and {plan.fresh} with fresh ones, interleaved, {plan.duration_s:g} s each "
        f"of which one sixth is warm-up, time dilation {validation.dilation:g}; wall time "
        f"{validation.wall_s / 60:.1f} minutes. Machine: "
        + ", ".join(f"{name} {value}" for name, value in validation.machine.items())
    )
    findings = "\n".join(f"- {item}" for item in validation.findings) or "- none"
    reading = (
        "Each cell: signed error of the prediction (noise floor: the emulator against itself) in "
        f"percent, errors in points, ks and w1_mean as distances. Bands: {bands}."
    )
    return [
        ("Verdict", f"Same draws: {counts}.", None),
        ("Findings", findings, None),
        ("Same draws", reading, _score_table(validation, "same")),
        ("Order of policies", "", _order_table(validation)),
        (
            "Fresh draws",
            "Counted where the floor is below half the band.",
            _score_table(validation, "fresh"),
        ),
        ("Calibration on A", "", _cost_table(validation)),
        ("Anchors", "", _anchor_table(validation)),
        ("Values", "Latencies in ms, throughput in 1/s.", _value_table(validation)),
        ("Protocol", protocol, None),
    ]


# --- Text and Markdown ----------------------------------------------------------------------


def text(validation: Validation) -> str:
    """Return the report for a terminal."""
    wanted = ("Verdict", "Findings", "Same draws", "Order of policies", "Calibration on A")
    lines = []
    for title, prose, table in _sections(validation):
        if title in wanted and (table is None or table[1]):
            lines += [title, *(f"  {line}" for line in prose.splitlines())]
            lines += _aligned(table) if table is not None else []
            lines.append("")
    return "\n".join(lines).rstrip()


def _aligned(table: _Table) -> list[str]:
    columns, rows = table
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def _markdown(validation: Validation, figures: Sequence[str]) -> str:
    lines = ["# Validation of the simulator", ""]
    for title, prose, table in _sections(validation):
        lines += [f"## {title}", "", prose, ""]
        if table is not None and table[1]:
            columns, rows = table
            lines.append("| " + " | ".join(columns) + " |")
            lines.append("|" + " --- |" * len(columns))
            lines += ["| " + " | ".join(row) + " |" for row in rows]
            lines.append("")
        if title == "Same draws":
            lines += [line for name in figures for line in (f"![{name}]({name})", "")]
    return "\n".join(lines)


# --- HTML -----------------------------------------------------------------------------------


def _html_of(table: _Table) -> str:
    columns, rows = table
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _html_cell(cell: str) -> str:
    word = cell.split(") ")[-1].split(" ")[0]
    known = word in ("inside", "outside", "indistinguishable", "inconclusive")
    mark = f' class="{word}" title="{word}"' if known else ""
    return f"<td{mark}>{html.escape(cell)}</td>"


def html_table(validation: Validation) -> str:
    """Return verdict, findings and scores for a notebook."""
    parts = [f"<style>{_STYLE}</style>"]
    for title, prose, table in _sections(validation)[:4]:
        parts.append(f"<b>{title}</b>{_html_prose(prose)}")
        if table is not None and table[1]:
            parts.append(_html_of(table))
    return "".join(parts)


def _html_prose(prose: str) -> str:
    lines = prose.splitlines()
    if lines and all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{html.escape(prose)}</p>"


def _html(validation: Validation, figures: Sequence[str]) -> str:
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        f"<title>Validation of the simulator</title><style>{_STYLE}</style>",
        "<h1>Validation of the simulator</h1>",
    ]
    for title, prose, table in _sections(validation):
        parts.append(f"<h2>{html.escape(title)}</h2>{_html_prose(prose)}")
        if table is not None and table[1]:
            parts.append(_html_of(table))
        if title == "Same draws":
            parts += [f'<img src="{name}" alt="{name}">' for name in figures]
    return "\n".join((*parts, "</html>", ""))


def write(validation: Validation, folder: Path) -> Path:
    """Write report.html, report.md, figures and validation.json into `folder`.

    Returns
    -------
    Path
        Of report.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures: Sequence[str] = ()
    if importlib.util.find_spec("matplotlib") is not None:
        from meshsim.validation.figures import draw

        figures = draw(validation, folder)
    (folder / "report.md").write_text(_markdown(validation, figures), encoding="utf-8")
    (folder / "validation.json").write_text(validation.to_json() + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_html(validation, figures), encoding="utf-8")
    return page
