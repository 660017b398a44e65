"""Figures are drawn from every kind of result, and say what the tables say."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")

from meshsim.results import Result
from meshsim.state.sparse import SparseHistogram


@pytest.fixture(scope="module")
def result(catalog, records):
    return Result.from_records(catalog, records)


def texts(figure):
    axes = [*figure.axes, *(inner for part in figure.subfigs for inner in part.axes)]
    return [text.get_text() for one in axes for text in one.texts]


def test_graph_names_every_service_and_call(result):
    found = texts(result.plot.graph())
    assert {"browse", "buy", "front\n37.5 % busy", "cart\n50 % busy"} <= set(found)
    assert any(text.startswith("89.7/s\np99 93") for text in found)
    assert any("99.96 % ok" in text for text in found)


def test_of_many_calls_the_busiest_that_hang_together_are_drawn(make_catalog, records):
    # A fan of 50 services, and one call that no traffic reaches.
    edges = [("browse", "front"), *(("front", f"s{k}") for k in range(50)), ("island", "coast")]
    catalog = make_catalog(edges=tuple(edges), edge_is_entry=(True, *(False,) * 51))
    record = records[0]
    series = np.repeat(record.series[:, :1], 52, axis=1)
    series["requests"] = 100 + np.arange(52)
    wide = replace(
        record,
        series=series,
        series_histogram=SparseHistogram.from_dense(
            np.repeat(record.series_histogram.dense()[:, :1], 52, axis=1)
        ),
        edge_flags=np.repeat(record.edge_flags[:, :1], 52, axis=1),
    )
    figure = Result.from_records(catalog, [wide]).plot.graph()
    names = {text.split("\n")[0] for text in texts(figure)}
    assert {"browse", "front", "s49", "s11"} <= names
    assert "s10" not in names
    assert "coast" not in names
    assert "40 of 52 calls" in figure.axes[0].get_title(loc="left")


def test_latency_has_a_curve_for_each_class_that_ends_with_its_sample(result):
    browse, buy = result.plot.latency().axes[0].get_lines()[:2]
    assert browse.get_ydata().min() == pytest.approx(0.001)
    effective = result.estimate("buy", "mean").effective_samples
    assert buy.get_ydata().min() == pytest.approx(30 / effective)


def test_timeline_starts_every_axis_at_zero(result):
    figure = result.plot.timeline()
    assert len(figure.axes) == 3
    assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)
    assert figure.axes[0].get_xlim() == (0.0, 60.0)


def test_an_unstable_run_shows_why_there_is_no_latency(catalog, make_record):
    result = Result.from_records(catalog, [make_record(0, growth=2.0)])
    (text,) = texts(result.plot.latency())
    assert text.startswith("latency withheld\nunstable: the backlog")
    result.plot.overview().draw_without_rendering()


def test_overview_is_written_as_png_whatever_the_name(result, tmp_path):
    result.plot.overview(tmp_path / "overview.partial")
    assert (tmp_path / "overview.partial").read_bytes().startswith(b"\x89PNG")


def test_timeline_shades_and_names_timed_faults(make_catalog, records):
    spans = (("slow cart", 10_000_000_000, 20_000_000_000), ("kill front", 50_000_000_000, -1))
    catalog = make_catalog(timed_faults=True, fault_spans=spans)
    panel = Result.from_records(catalog, records[:3]).plot.timeline().axes[0]
    # The second stays to the end of the run.
    shaded = [(patch.get_x(), patch.get_width()) for patch in panel.patches]
    assert shaded == [(10.0, 10.0), (50.0, 10.0)]
    assert {"slow cart", "kill front"} <= {text.get_text() for text in panel.texts}


@pytest.mark.parametrize("name", ["latency", "timeline", "graph", "overview"])
def test_notebooks_show_a_figure_as_a_picture(result, name):
    assert getattr(result.plot, name)()._repr_png_().startswith(b"\x89PNG\r\n\x1a\n")
