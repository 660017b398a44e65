"""Style that a machine can check and ruff does not: sizes, `__all__`, examples, nothing dead.

Taste is taught by example; this file holds what must not creep.
"""

import ast
import doctest
import importlib
import inspect
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
#: Where execution begins, and the oracles for readers and tests; every other module is
#: imported from one of these, directly or not.
ENTRY_POINTS = {"meshsim", "meshsim.__main__", "meshsim.theory", "emulator"}
#: Top-level names a contributor may add files under.
FOLDERS = {".ci", "data", "emulator", "meshsim", "notebooks", "tests", "topologies"}

# Written apart so that this file does not find itself.
LEFT_OVER = ("FIX" + "ME", "X" + "XX", "breakpoint" + "()")


def tracked_files() -> list[str]:
    """Return the files of the project as git knows them, or as they lie here without git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        return [p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("*.py")]
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


FILES = tracked_files()
PYTHON_FILES = [name for name in FILES if name.endswith(".py")]
LIBRARY_FILES = [name for name in PYTHON_FILES if name.startswith(("meshsim/", "emulator/"))]


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = [module_name(path) for path in LIBRARY_FILES if not path.endswith("__main__.py")]


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of `function` without its docstring (a long one is a virtue)."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", PYTHON_FILES)
def test_file_is_small_and_clean(path):
    lines = (ROOT / path).read_text().splitlines()
    left = [number for number, line in enumerate(lines, 1) if any(w in line for w in LEFT_OVER)]
    assert left == [], "lines left over from work"
    assert len(lines) <= MODULE_LINES_MAX


@pytest.mark.parametrize("path", PYTHON_FILES)
def test_functions_fit_a_screen(path):
    tree = ast.parse((ROOT / path).read_text())
    long = {f.name: code_lines(f) for f in functions(tree) if code_lines(f) > FUNCTION_LINES_MAX}
    assert long == {}


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_is_public(name):
    module = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module))
    assert ast.get_docstring(tree), f"{name} does not say what it is for"
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    if not defined:
        return
    public = set(getattr(module, "__all__", ()))
    assert defined <= public, f"{name}: neither private nor in __all__: {sorted(defined - public)}"
    assert len(public) == len(module.__all__), f"{name}: __all__ names something twice"
    missing = {item for item in public if not hasattr(module, item)}
    assert missing == set(), f"{name}: __all__ names what does not exist"


@pytest.mark.parametrize("path", LIBRARY_FILES)
def test_public_definitions_have_docstrings(path):
    tree = ast.parse((ROOT / path).read_text())
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    failures, _ = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert failures == 0


def references(path: str) -> set[str]:
    """Return every dotted name of the project that `path` imports or spells out in a string."""
    from test_layers import imported_modules

    text = (ROOT / path).read_text()
    names = {target for _, target in imported_modules(path, text)}
    # A lazy facade names its modules in strings.
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
            names.add(module_name(path) + node.value if node.value.startswith(".") else node.value)
    return {
        ".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)
    }


def test_no_module_is_dead():
    by_name = {module_name(path): path for path in LIBRARY_FILES}
    reached, todo = set(), [name for name in ENTRY_POINTS if name in by_name]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        todo += [found for found in references(by_name[name]) if found in by_name]
    assert set(by_name) - reached == set()


def test_every_file_lies_in_a_known_folder():
    top = {name.split("/")[0] for name in FILES if "/" in name}
    assert top <= FOLDERS
    assert not [name for name in FILES if name.endswith((".orig", ".rej", ".bak", "~"))]


def test_test_files_have_unique_names():
    names = [Path(name).name for name in PYTHON_FILES if name.startswith("tests/")]
    tests = [name for name in names if name.startswith("test_")]
    assert len(tests) == len(set(tests))
