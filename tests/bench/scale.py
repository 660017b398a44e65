"""What size costs: events/s, memory and start-up from 10 to 10,000 pods with sidecars.

The meshes are generated (`meshsim.topology.generate`: five layers, fan-out of three); offered
load is 20/s a pod, so 1,000 services of ten replicas serve 200,000 requests/s.
Each size runs in a process of its own, because peak memory is a process's; sizes of 100 and
10,000 pods alternate, because the machine's speed drifts.

Each process simulates twice, the second time four times as long: the difference of the two is
the engine at work, start-up and the opening of the first connections left out.  Start-up is
what the first call takes beyond its compiled loop.  A TLS handshake costs no CPU here: the largest
mesh opens half a million connections in its first seconds, and their handshakes, 1 ms each on
both sides, would keep it from a steady state all the while.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parents[2]
#: Services and replicas each, by number of pods.
SIZES = {10: (10, 1), 100: (10, 10), 1_000: (100, 10), 10_000: (1_000, 10)}
RATE_PER_POD = 20.0
#: Requests of the first and of the second run.
REQUESTS = (100_000, 400_000)
RATIO_MIN = 0.4
START_S_MAX = 10.0


def run_here(pods):
    """Simulate the mesh of `pods` pods once and return what it cost."""
    from meshsim.meshes import profile
    from meshsim.simulation import simulate
    from meshsim.topology.generate import generate

    sidecars = profile("istio-sidecar")
    plain = replace(sidecars, cost=replace(sidecars.cost, handshake_ns=0))
    services, replicas = SIZES[pods]
    rate = RATE_PER_POD * pods
    topology = generate(services=services, replicas=replicas, rate=rate)
    # The first call loads the compiled code; that is not a matter of size.
    simulate(generate(services=10, replicas=1), duration=0.01, replications=1, progress=False)
    events, cpu_s, start_s = [], [], []
    for requests in REQUESTS:
        wall, cpu = time.perf_counter(), time.process_time()
        result = simulate(
            topology,
            duration=requests / rate,
            replications=1,
            profile=plain,
            progress=False,
        )
        cpu_s.append(time.process_time() - cpu)
        start_s.append(time.perf_counter() - wall - result.engine["wall_s"])
        events.append(result.engine["events"])
    return {
        "pods": pods,
        "offered/s": rate,
        "requests": result.engine["requests"],
        "events": events[1],
        "events/s": (events[1] - events[0]) / (cpu_s[1] - cpu_s[0]),
        "start-up s": start_s[0],
        "memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run_apart(pods):
    """Run `run_here` in a fresh process."""
    process = subprocess.run(
        [sys.executable, __file__, str(pods)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def measure(rounds):
    """Measure every size once, and 100 against 10,000 pods `rounds` times."""
    rows = [run_apart(pods) for pods in SIZES]
    ratios = []
    for _ in range(rounds):
        small, large = run_apart(100), run_apart(10_000)
        ratios.append(large["events/s"] / small["events/s"])
    ratio = statistics.median(ratios)
    start_s = rows[-1]["start-up s"]
    floors = [
        (
            f"10,000 pods: at least {RATIO_MIN:.0%} of the events/s of 100 pods "
            f"(min {min(ratios):.2f}, median {ratio:.2f}, max {max(ratios):.2f})",
            ratio >= RATIO_MIN,
        ),
        (f"10,000 pods: start-up within {START_S_MAX:g} s ({start_s:.1f})", start_s < START_S_MAX),
    ]
    return rows, floors


if __name__ == "__main__":
    print(json.dumps(run_here(int(sys.argv[1]))))
