"""The layer rule and the banned imports, read from the sources.

A module imports only from a lower layer or from its own package, so that what decides
(policy) can run without what drives it (kernel, sockets).  Imports inside functions and for
type checking count: a hidden dependency is one all the same.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Layer of each package or module directly under meshsim; "" is meshsim/__init__.py itself.
LAYERS = {
    "units": 0,
    "errors": 0,
    "jit": 0,
    "rng": 0,
    "progress": 0,
    "yamlfile": 0,
    "state": 1,
    "stats": 1,
    "theory": 1,
    "policy": 2,
    "workload": 2,
    "topology": 3,
    "results": 3,
    "importers": 4,
    "meshes": 4,
    "controlplane": 5,
    "explanation": 5,
    "loading": 5,
    "permission": 5,
    "kernel": 6,
    "simulation": 7,
    "benchmark": 8,
    "validation": 8,
    "": 9,
    "plots": 9,
    "cli": 10,
    "__main__": 11,
}
#: The first layer that knows the simulator; the emulator shares what is below.
SIMULATOR_LAYER = LAYERS["kernel"]
#: The same of the emulator's packages and modules; its face may import all of them.
EMULATOR_LAYERS = (
    "clock", "alarm", "decisions", "results", "access", "control", "http", "proxy", "workload",
    "running", "",
)  # fmt: skip
#: Modules that may import errors and other names of layer 0 from each other.
LAYER_ZERO = 0

#: Clocks and global randomness, and where each is allowed.
BANNED = {
    "time": {
        "meshsim/simulation.py",
        "meshsim/benchmark.py",
        "meshsim/validation/run.py",
        "emulator/clock.py",
    },
    "random": set(),
    "asyncio": {"emulator/"},
    "secrets": set(),
}

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("meshsim", "emulator")
    for path in (ROOT / package).rglob("*.py")
)


def imported_modules(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import in `text`.

    ``from a import b`` yields ``a.b`` where that is a module of the project, else ``a``.
    """
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                stem = ROOT / inner.replace(".", "/")
                is_module = stem.is_dir() or stem.with_suffix(".py").is_file()
                yield node.lineno, inner if is_module else module


def unit_of(module: str) -> str:
    """Return the package or module directly under meshsim that `module` belongs to."""
    return [*module.split("."), ""][1]


def layer_breaches(path: str, text: str) -> list[str]:
    """Return a sentence for each import of `text` that climbs up."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    breaches = []
    for line, target in imported_modules(path, text):
        if target.split(".")[0] == "emulator" and not path.startswith("emulator/"):
            breaches.append(f"{path}:{line}: imports the emulator ({target})")
        elif target.split(".")[0] == "emulator":
            one, other = (EMULATOR_LAYERS.index(unit_of(name)) for name in (module, target))
            if other > one:
                breaches.append(f"{path}:{line}: {module} imports {target}, which is above it")
        if target.split(".")[0] != "meshsim":
            continue
        unit, layer = unit_of(target), LAYERS.get(unit_of(target))
        if layer is None:
            breaches.append(f"{path}:{line}: {target} has no layer")
        elif path.startswith("emulator/"):
            if layer >= SIMULATOR_LAYER:
                breaches.append(f"{path}:{line}: the emulator imports {target}, layer {layer}")
        elif unit != unit_of(module):
            own = LAYERS.get(unit_of(module), -1)
            if layer > own or (layer == own != LAYER_ZERO):
                breaches.append(f"{path}:{line}: layer {own} imports {target}, layer {layer}")
    return breaches


def ban_breaches(path: str, text: str) -> list[str]:
    """Return a sentence for each import of a clock, of global randomness or of an event loop."""
    return [
        f"{path}:{line}: imports {target}"
        for line, target in imported_modules(path, text)
        if (top := target.split(".")[0]) in BANNED and not path.startswith(tuple(BANNED[top]))
    ]


@pytest.mark.parametrize("path", SOURCES)
def test_module_imports_only_from_lower_layers(path):
    assert layer_breaches(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", SOURCES)
def test_module_has_no_clock_of_its_own(path):
    assert ban_breaches(path, (ROOT / path).read_text()) == []


def test_every_unit_has_a_layer():
    units = {
        unit_of(path.removesuffix(".py").replace("/", "."))
        for path in SOURCES
        if path.startswith("meshsim/")
    } - {"__init__"}
    assert units <= LAYERS.keys()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("meshsim/policy/retry.py", "from meshsim.kernel import advance"),
        ("meshsim/policy/retry.py", "from .. import kernel"),
        ("meshsim/policy/retry.py", "def f():\n    import meshsim.simulation"),
        ("meshsim/policy/retry.py", "from meshsim.cost.proxy import cpu"),
        ("meshsim/kernel/loop.py", "import meshsim"),
        ("meshsim/kernel/loop.py", "import emulator.control.bus"),
        ("emulator/proxy/inbound.py", "from meshsim import simulation"),
        ("emulator/proxy/inbound.py", "from emulator.running import run"),
    ],
)
def test_a_climbing_import_is_found(path, text):
    assert len(layer_breaches(path, text)) == 1


def test_a_clock_is_found():
    assert ban_breaches("meshsim/policy/retry.py", "import time, random") == [
        "meshsim/policy/retry.py:1: imports time",
        "meshsim/policy/retry.py:1: imports random",
    ]
    assert ban_breaches("meshsim/simulation.py", "import time") == []
    assert ban_breaches("meshsim/kernel/loop.py", "import asyncio") != []
