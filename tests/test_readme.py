"""README.md says nothing that does not work: its commands and its Python are executed."""

import re
import shlex
from pathlib import Path

import pytest

from meshsim.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONSOLE = "\n".join(re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = [
    line.split("#")[0].removeprefix("$ ").strip()
    for line in CONSOLE.splitlines()
    if line.startswith("$ meshsim ")
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that looks like the project, where commands may write."""
    (tmp_path / "topologies").symlink_to(ROOT / "topologies")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_works(command, project, request, capsys):
    if "--manifests manifests" in command:
        (project / "manifests").symlink_to(
            request.getfixturevalue("samples") / "istio" / "bookinfo"
        )
    words = shlex.split(command)
    arguments = words[1 : words.index(">")] if ">" in words else words[1:]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code in (None, 0), capsys.readouterr().err
    assert capsys.readouterr().out.strip()


def test_make_targets_exist():
    targets = re.findall(r"`make ([a-z-]+)`|^\$ make ([a-z-]+)", README, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in {first or second for first, second in targets}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("source", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_works(source, project):
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})


def test_files_that_are_named_exist():
    for name in re.findall(r"\]\(([^)#]+)\)|\b((?:topologies|notebooks)/[\w.-]+)", README):
        assert (ROOT / (name[0] or name[1])).exists(), name
