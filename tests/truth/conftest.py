"""The truth suite: which cases run, in which tier, and what is reported of them."""

import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parent
for name in ("", "theory", "truth"):
    if str(_FOLDER.parent / name) not in sys.path:
        sys.path.insert(0, str(_FOLDER.parent / name))

from truth_cases import OPEN_CASES, read_cases  # noqa: E402 - found by the path above
from truth_report import Report  # noqa: E402
from truth_study import CHEAP_WIDENING, Examiner, is_cheap  # noqa: E402

_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser):
    group = parser.getgroup("truth")
    group.addoption("--cases", default=None, help="file of truth cases instead of the open ones")
    group.addoption("--truth-seed", type=int, default=1, help="other seeds for all truth cases")


def _is_cheap_tier(config):
    """Tell whether only cheap cases run, at a wider half-width: where slow tests are left out."""
    return "not slow" in config.getoption("markexpr")


def pytest_generate_tests(metafunc):
    if "truth_case" not in metafunc.fixturenames:
        return
    path = metafunc.config.getoption("--cases", None) or OPEN_CASES
    try:
        cases = read_cases(path)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--cases: {error}") from error
    patient = pytest.mark.timeout(3600)
    parameters = [
        pytest.param(
            case, id=case.id, marks=[patient] if is_cheap(case) else [patient, pytest.mark.slow]
        )
        for case in cases
    ]
    metafunc.parametrize("truth_case", parameters)


@pytest.fixture(scope="session")
def truth_report(request):
    report = Report()
    request.config.stash[_REPORT] = report
    return report


@pytest.fixture(scope="session")
def examiner(request):
    widen = CHEAP_WIDENING if _is_cheap_tier(request.config) else 1.0
    return Examiner(request.config.getoption("--truth-seed", 1), widen)


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash.get(_REPORT, None)
    if report is None or not report.entries:
        return
    terminalreporter.section("truth")
    for line in report.lines():
        terminalreporter.write_line(line)
    for line in report.table():
        terminalreporter.write_line(line)
    written = report.write(config.rootpath / "out" / "truth")
    terminalreporter.write_line(f"written: {', '.join(written)}")
