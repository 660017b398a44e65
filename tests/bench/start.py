"""From a fresh process to the first event, when everything has been compiled before.

The process reads its own clock when the first 20 ms of model time have been simulated: the
imports, the loading of compiled code, the topology and a handful of events.  Beside it the whole
of `meshsim run`, with the report and what that imports.
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


def first_event_here():
    """Print the CPU seconds of this process when the first millisecond has been simulated."""
    import meshsim

    def clock(env, mesh):
        yield env.timeout(0.001)
        print(time.process_time())

    topology = meshsim.load(SCENARIO)
    meshsim.simulate(topology, duration="20ms", replications=1, processes=[clock], progress=False)


def run_apart(*arguments: str) -> tuple[float, str]:
    """Return the CPU time of a process of its own [s], and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, process.stdout


def first_event() -> float:
    """Return the CPU time until the first event [s]."""
    return float(run_apart(__file__)[1])


def whole_run() -> float:
    """Return the CPU time of the shortest run with its report [s]."""
    run = ("-m", "meshsim", "run", str(SCENARIO), "--duration", "20ms", "--replications", "1")
    return run_apart(*run)[0]


def measure(rounds):
    """Time `rounds` processes of each kind; the first, untimed one fills the cache."""
    first_event()
    pairs = [(first_event(), whole_run()) for _ in range(rounds)]
    rows = [
        {
            "case": case,
            "CPU s min": min(cpus),
            "median": statistics.median(cpus),
            "max": max(cpus),
        }
        for case, cpus in zip(("first event", "with report"), zip(*pairs, strict=True), strict=True)
    ]
    median = rows[0]["median"]
    sentence = f"first event within {SECONDS_MAX:g} s of CPU (median {median:.2f})"
    return rows, [(sentence, median < SECONDS_MAX)]


if __name__ == "__main__":
    first_event_here()
