"""What every test may use."""

import os
from pathlib import Path

import pytest

# Before anything imports matplotlib: no test opens a window.
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent


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
