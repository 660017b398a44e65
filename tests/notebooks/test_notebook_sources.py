"""The notebooks' sources: they parse, tell a story, and use only what is public.

Whether they run is tested by `make notebooks`, which executes every cell.
"""

import ast
from pathlib import Path

import jupytext
import pytest

import meshsim

SOURCES = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.py"))


def cells(path: Path, kind: str) -> list[str]:
    """Return the cells of a kind, without IPython's magic lines."""
    sources = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == kind]
    return ["\n".join(s for s in source.splitlines() if s[:1] != "%") for source in sources]


def test_there_is_a_notebook():
    assert SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_notebook_tells_a_story(path):
    prose, code = cells(path, "markdown"), cells(path, "code")
    assert prose[0].startswith("# ")
    assert len(prose) >= len(code) / 2
    assert jupytext.read(path).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_notebook_uses_the_public_interface(path):
    used = {
        node.attr
        for source in cells(path, "code")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ms"
    }
    assert used
    assert used <= set(meshsim.__all__)
