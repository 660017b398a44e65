"""What size costs: events/s, memory and start-up from 10 to 10,000 pods with sidecars.

The mesh is made of groups of ten services: one front calls three, each of which calls two, in
sequence.  Offered load is 200/s a front replica, so 10,000 pods serve 200,000 requests/s.
Each size runs in a process of its own, because peak memory is a process's; sizes of 100 and
10,000 pods alternate, because the machine's speed drifts.

Events/s is within the compiled loop; start-up is the whole call of `simulate` without it.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parents[2]
#: Services and replicas each, by number of pods.
SIZES = {10: (10, 1), 100: (10, 10), 1_000: (100, 10), 10_000: (1_000, 10)}
RATE_PER_REPLICA = 200.0
REQUESTS = 200_000
RATIO_MIN = 0.4
START_S_MAX = 10.0
#: Whom each of a group's ten services calls.
GROUP_CALLS = {0: (1, 2, 3), 1: (4, 5), 2: (6, 7), 3: (8, 9)}


def fleet(services, replicas):
    """Return a topology of `services` (a multiple of ten) with `replicas` each."""
    from meshsim.topology.model import Topology

    declared, traffic = {}, {}
    for start in range(0, services, 10):
        for member in range(10):
            calls = [{"call": f"s{start + callee}"} for callee in GROUP_CALLS.get(member, ())]
            workload = {
                "replicas": replicas,
                "concurrency": 16,
                "hold_worker": False,
                "steps": [{"compute": {"exponential": "1ms"}}, *calls],
            }
            declared[f"s{start + member}"] = {"workloads": {"v1": workload}}
        arrivals = {"poisson": RATE_PER_REPLICA * replicas}
        traffic[f"t{start}"] = {"to": f"s{start}", "arrivals": arrivals}
    return Topology.model_validate(
        {
            "name": f"fleet-{services}x{replicas}",
            "mesh": "istio-sidecar",
            "services": declared,
            "traffic": traffic,
        }
    )


def run_here(pods):
    """Simulate the mesh of `pods` pods once and return what it cost."""
    from meshsim.simulation import simulate

    services, replicas = SIZES[pods]
    topology = fleet(services, replicas)
    rate = RATE_PER_REPLICA * replicas * services / 10
    simulate(fleet(10, 1), duration=0.01, replications=1, progress=False)  # loads compiled code
    start = time.perf_counter()
    result = simulate(topology, duration=REQUESTS / rate, replications=1, progress=False)
    wall_s = time.perf_counter() - start
    engine = result.to_dict()["engine"]
    return {
        "pods": pods,
        "offered/s": rate,
        "requests": engine["requests"],
        "events": engine["events"],
        "events/s": engine["events"] / engine["wall_s"],
        "start-up s": wall_s - engine["wall_s"],
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
