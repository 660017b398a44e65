"""From a fresh process to the first event, when everything has been compiled before.

Upper bound: the whole process of a run so short that it holds a handful of events, so that
the imports, the loading of compiled code, the topology and the report are all counted.
The floor holds for CPU time, because the wall time of a busy machine says nothing.
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "topologies" / "bookinfo.yaml"
SECONDS_MAX = 2.0


def run_once() -> tuple[float, float]:
    """Return the CPU and the wall time of one short run in a process of its own [s]."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["run", str(SCENARIO), "--duration", "20ms", "--replications", "1"]
    subprocess.run(
        [sys.executable, "-m", "meshsim", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, time.perf_counter() - start


def measure(rounds):
    """Time `rounds` processes; the first, untimed one fills the cache."""
    run_once()
    cpus, walls = zip(*(run_once() for _ in range(rounds)), strict=True)
    row = {
        "case": "fresh process",
        "CPU s min": min(cpus),
        "median": statistics.median(cpus),
        "max": max(cpus),
        "wall s min": min(walls),
    }
    sentence = f"first event within {SECONDS_MAX:g} s of CPU (median {row['median']:.2f})"
    return [row], [(sentence, row["median"] < SECONDS_MAX)]
