"""Which conditions a match entry becomes, and when it is left out."""

from typing import Any

import pytest

from meshsim.importers.documents import Manifest
from meshsim.importers.istio_match import read_match
from meshsim.importers.view import Findings
from meshsim.yamlfile import parse_yaml


def read(text: str) -> tuple[dict[str, Any] | None, Findings]:
    (document,) = parse_yaml(f"match: {text}\n", "m.yaml", strict_scalars=False)
    findings = Findings()
    manifest = Manifest("g", "VirtualService", "default", "v", document.value, document)
    conditions = read_match(findings.open(manifest).view("match"), 80, {"default"})
    findings.report_unread()
    if conditions is None:
        return None, findings
    return {".".join(path): value for path, (value, _) in conditions.items()}, findings


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("{uri: {prefix: /v2}}", {"path.prefix": "/v2"}),
        ("{uri: {exact: /A}, ignoreUriCase: true}", {"path.exact": "/A", "ignore_case": True}),
        ("{uri: {regex: '/v[12]'}}", {"path.regex": "/v[12]"}),
        ("{method: {exact: GET}, authority: {prefix: web}}",
         {"method.exact": "GET", "authority.prefix": "web"}),
        ("{headers: {Cookie: {regex: 'u=.*'}}}", {"headers.cookie.regex": "u=.*"}),
        ("{headers: {x: {}}}", {"headers.x.present": True}),
        ("{withoutHeaders: {x: {exact: a}}}", {"headers.x.exact": "a", "headers.x.invert": True}),
        ("{withoutHeaders: {x: {}}}", {"headers.x.present": True, "headers.x.invert": True}),
        ("{headers: {uri: {exact: /x}}}", {}),
        ("{sourceLabels: {app: web}}", {"source_labels": {"app": "web"}}),
        ("{scheme: {exact: http}, port: 80, gateways: [mesh, a]}", {}),
        (
            "{queryParams: {q: {exact: a}, r: {regex: b+}, s: {}}}",
            {"query.q.exact": "a", "query.r.regex": "b+", "query.s.present": True},
        ),
        ("{sourceNamespace: default, name: n, statPrefix: s}", {}),
    ],
)  # fmt: skip
def test_conditions(text: str, conditions: dict[str, Any]) -> None:
    found, findings = read(text)
    assert found == conditions
    assert findings.problems == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{port: 81}", "port 81 is not the simulated port 80"),
        ("{scheme: {exact: https}}", "scheme http"),
        ("{gateways: [ingress]}", "gateways only"),
        ("{sourceNamespace: prod}", "no workload in namespace prod"),
    ],
)
def test_an_entry_that_cannot_hold_is_left_out(text: str, reason: str) -> None:
    found, findings = read(text)
    assert found is None
    (notice,) = findings.notices
    assert f"match entry left out: {reason}" in notice or reason in notice


@pytest.mark.parametrize("text", ["{uri: {}}", "{uri: {exact: a, prefix: b}}", "{uri: /x}"])
def test_a_string_match_has_exactly_one_condition(text: str) -> None:
    _, findings = read(text)
    assert findings.problems


def test_unknown_keys_are_told() -> None:
    _, findings = read("{uri: {perfix: /x}}")
    assert any("match.uri.perfix is not read; did you mean prefix?" in n for n in findings.notices)
