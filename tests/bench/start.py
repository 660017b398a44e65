"""From a fresh process to the first event, when everything has been compiled before.

Upper bound: the whole process of a run so short that it holds a handful of events, so that
the imports, the loading of compiled code, the topology and the report are all counted.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "topologies" / "bookinfo.yaml"
SECONDS_MAX = 2.0


def run_once() -> float:
    """Return the wall time of one short run in a process of its own [s]."""
    start = time.perf_counter()
    arguments = ["run", str(SCENARIO), "--duration", "20ms", "--replications", "1"]
    subprocess.run(
        [sys.executable, "-m", "meshsim", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def measure(rounds):
    """Time `rounds` processes; the first, untimed one fills the cache."""
    run_once()
    walls = [run_once() for _ in range(rounds)]
    row = {
        "case": "fresh process",
        "min s": min(walls),
        "median s": statistics.median(walls),
        "max s": max(walls),
    }
    sentence = f"first event within {SECONDS_MAX:g} s (median {row['median s']:.2f})"
    return [row], [(sentence, row["median s"] < SECONDS_MAX)]
