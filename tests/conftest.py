"""What every test may use."""

import os
import signal
from pathlib import Path

import pytest

# Before anything imports matplotlib: no test opens a window.
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Let uint64 arithmetic be modular without JIT too; numpy scalars warn of it.

    A shell starts what runs in its background with interrupts ignored, and so would be whatever
    a test starts and interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        line = "ignore:overflow encountered:RuntimeWarning"
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real configuration, graphs and traces; tests that need them are skipped without."""
    folder = Path(os.environ.get("MESHSIM_SAMPLES", ROOT.parent / "shared" / "samples"))
    if not folder.is_dir():
        pytest.skip(f"no samples in {folder}; name their folder by MESHSIM_SAMPLES")
    return folder
