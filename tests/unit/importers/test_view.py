"""Typed access that remembers what was asked for."""

import pytest

from meshsim.importers.documents import Manifest
from meshsim.importers.view import Findings, View, parse_quantity
from meshsim.yamlfile import parse_yaml

TEXT = """\
apiVersion: v1
kind: Thing
metadata: {name: t}
spec:
  text: hello
  number: 0.5
  count: 3
  flag: yes
  period: 1m30s
  cpu: 250m
  labels: {app: web}
  names: [a, b]
  items: [{x: 1}, {x: 2}]
  retires: {}
  nothing:
"""


def view(text: str = TEXT) -> tuple[View, Findings]:
    (document,) = parse_yaml(text, "t.yaml", strict_scalars=False)
    findings = Findings()
    root = findings.open(Manifest("", "Thing", "default", "t", document.value, document))
    return root.view("spec"), findings


def test_values_have_their_types() -> None:
    spec, findings = view()
    assert spec.text("text") == "hello"
    assert spec.number("number", 0, 1) == 0.5
    assert spec.integer("count") == 3
    assert spec.boolean("flag") is True
    assert spec.duration("period") == "90s"
    assert spec.quantity("cpu") == 0.25
    assert spec.labels("labels") == {"app": "web"}
    assert spec.texts("names") == ["a", "b"]
    assert [item.integer("x") for item in spec.views("items")] == [1, 2]
    assert spec.text("nothing") is None
    assert findings.problems == []


def test_wrong_types_are_problems_with_their_place_and_reading_goes_on() -> None:
    spec, findings = view()
    assert spec.integer("text") is None
    assert spec.duration("count") is None
    assert spec.duration("text") is None
    assert spec.view("names").value == {}
    assert spec.views("labels") == []
    assert spec.integer("count", 0, 2) is None
    assert [problem.line for problem in findings.problems] == [5, 7, 5, 12, 11, 7]
    assert findings.problems[0].path == "spec.text"
    assert "from 0 to 2" in findings.problems[-1].allowed


def test_unread_keys_are_told_with_the_nearest_known_one() -> None:
    spec, findings = view()
    assert not spec.has("retries")
    spec.ignore("text", "number", "flag", "period", "cpu", "labels", "names", "nothing")
    spec.not_simulated("count")
    spec.views("items")[0].integer("x")
    findings.report_unread()
    assert findings.notices == [
        "t.yaml:7: Thing default/t: spec.count is not simulated yet",
        "t.yaml:14: Thing default/t: spec.retires is not read; did you mean retries?",
        "t.yaml:13: Thing default/t: spec.items[1].x is not read",
    ]


def test_places_name_file_line_column_and_field() -> None:
    spec, _ = view()
    assert str(spec.views("items")[1].place("x")) == "t.yaml:13:20 spec.items[1].x"
    assert str(spec.place()) == "t.yaml:4:1 spec"


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("2", 2.0), ("1.5", 1.5), ("1k", 1e3), ("64Mi", 64 * 1024.0**2)],
)
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "m", "1 core", "1e", "--1", "1KiB"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)
