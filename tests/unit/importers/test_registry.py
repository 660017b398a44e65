"""Readers run stage by stage and get all manifests of their kind."""

from pathlib import Path

import pytest

from meshsim.importers import registry
from meshsim.importers.assembly import Assembly, host_specificity
from meshsim.importers.documents import read_manifests
from meshsim.importers.view import View


def test_readers_run_in_stages_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_READERS", {})
    monkeypatch.setattr(registry, "_IGNORED", set())
    calls: list[str] = []

    def reader(views: list[View], assembly: Assembly) -> None:
        calls.append("+".join(view.manifest.name for view in views))
        for view in views:
            view.ignore("spec")

    registry.reads("g", "Route", family="new", stage=registry.Stage.ROUTES)(reader)
    registry.reads("g", "Pod", "Node", family="new")(reader)
    registry.ignores("g", "Secret")
    (tmp_path / "a.yaml").write_text(
        "---\n".join(
            f"apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nextra: 1\n"
            for group, kind, name in (
                ("g", "Route", "r1"),
                ("g", "Pod", "p"),
                ("g", "Route", "r2"),
                ("h", "Pod", "foreign"),
                ("g", "Secret", "s"),
            )
        )
    )
    manifests, _ = read_manifests(tmp_path)
    assembly = Assembly()
    assert registry.read_all(manifests, assembly) == {"new"}
    assert calls == ["p", "r1+r2"]
    notices = assembly.findings.notices
    assert [notice.split(": ", 1)[1] for notice in notices if "extra" in notice] == [
        "Pod default/p: extra is not read",
        "Route default/r1: extra is not read",
        "Route default/r2: extra is not read",
    ]
    assert f"not read yet: Pod (h) in {tmp_path}/a.yaml:16" in notices
    assert len(notices) == 4


@pytest.mark.parametrize(
    ("pattern", "host", "grade"),
    [
        ("a.b", "a.b", 1000),
        ("*.b", "a.b", 3),
        ("*", "a.b", 1),
        ("*.b", "b", 0),
        ("a", "a.b", 0),
    ],
)
def test_how_closely_a_host_is_named(pattern: str, host: str, grade: int) -> None:
    assert host_specificity(pattern, host) == grade
