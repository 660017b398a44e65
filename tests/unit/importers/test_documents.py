"""Which manifests a folder holds."""

from pathlib import Path

import pytest

from meshsim.errors import ConfigError
from meshsim.importers.documents import read_manifests


def service(name: str, namespace: str = "", version: str = "v1") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: {version}\nkind: Service\nmetadata: {{name: {name}{where}}}\n"


def test_files_are_read_in_order_of_their_path_with_all_documents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yml").write_text(service("two") + "---\n# nothing\n---\n" + service("three"))
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one"}}'
    )
    (tmp_path / "sub" / "c.yaml").write_text(service("four", "prod"))
    (tmp_path / ".hidden.yaml").write_text(service("five"))
    (tmp_path / "notes.txt").write_text("no manifest")
    manifests, notices = read_manifests(tmp_path)
    assert [item.name for item in manifests] == ["one", "two", "three", "four"]
    assert [item.namespace for item in manifests] == ["default"] * 3 + ["prod"]
    assert notices == []


def test_a_list_is_its_items_and_places_point_into_it(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n"
        "- apiVersion: v1\n  kind: Service\n  metadata:\n    name: one\n"
        "- apiVersion: v1\n  kind: Service\n  metadata:\n    name: two\n"
    )
    manifests, _ = read_manifests(tmp_path)
    assert [item.name for item in manifests] == ["one", "two"]
    assert manifests[1].position(("metadata", "name")) == (11, 5)
    assert manifests[1].position(("metadata", "absent")) == (10, 3)


def test_the_last_of_one_identity_wins_whatever_its_version(tmp_path: Path) -> None:
    head = "kind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [%s]}\n"
    (tmp_path / "a.yaml").write_text("apiVersion: networking.istio.io/v1alpha3\n" + head % "a")
    (tmp_path / "b.yaml").write_text("apiVersion: networking.istio.io/v1\n" + head % "b")
    manifests, notices = read_manifests(tmp_path)
    (only,) = manifests
    assert only.value["spec"] == {"hosts": ["b"]}
    assert "the last one wins" in notices[0]
    assert "b.yaml:1" in notices[0]


def test_other_yaml_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("one"))
    (tmp_path / "values.yaml").write_text("image:\n  tag: v1\n")
    manifests, notices = read_manifests(tmp_path)
    assert len(manifests) == 1
    assert notices == [f"{tmp_path}/values.yaml:1: not a Kubernetes manifest; left out"]


def test_a_file_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("one"))
    (tmp_path / "traffic.yaml").write_text("traffic: {}\n")
    _, notices = read_manifests(tmp_path, [tmp_path / "traffic.yaml"])
    assert notices == []


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: [\n")
    (tmp_path / "b.yaml").write_bytes(b"\x00\x01\x02")
    (tmp_path / "c.yaml").write_text("spec:\n  replicas: {{ .Values.replicas }}\n")
    (tmp_path / "d.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {}\n")
    with pytest.raises(ConfigError) as raised:
        read_manifests(tmp_path)
    text = str(raised.value)
    assert len(raised.value.problems) == 4
    assert "a.yaml:2" in text
    assert "b.yaml: is a binary file" in text
    assert "c.yaml:2:13: is a template" in text
    assert "d.yaml:3" in text
    assert "Service has no name" in text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the folder holds no manifest"),
        ({"a.txt": "x"}, "the folder holds no manifest"),
        ({"a.yaml": "x: 1\n"}, "no Kubernetes manifest in 1 files"),
    ],
)
def test_a_folder_without_manifests(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_manifests(tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder not found"):
        read_manifests(tmp_path / "absent")
