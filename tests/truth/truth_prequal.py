"""Prequal's load ramp: clients of replicas that share their machines with antagonists.

Every replica has an allocation of CPU; on some machines antagonists leave no more than that, on
the others there is some to spare.  The load goes up in steps, told as shares of all allocations.
Weighted round robin equalises what replicas use (CPU), and as a query costs the same everywhere,
so does plain round robin: above an allocation the contended replicas fall behind until their
queries reach the deadline.  Prequal sends to where the latency is.

What the paper leaves open is decided here: a fifth of the machines is contended, the others have
twice an allocation to spare, and a query costs 40 ms of CPU.  The clients begin one after the
other, so that their round robins do not go round in step: as Envoy's do not, which begin anywhere.

References
----------
B. Wydrowski et al., "Load is not what you should balance: Introducing Prequal", NSDI 2024,
section 5.1 and figure 6.
"""

import re
from typing import Any

import numpy as np
from theory_scenarios import PER_MS
from truth_cases import Case, seed_of
from truth_metrics import ratio
from truth_runs import EngineRuns, engine_runs
from truth_study import Claims, NotYet

from meshsim.topology.model import Topology

_CONTENDED_SHARE, _SPARE = 0.2, 2.0
_WORK_MS = 40.0
#: One step: a replica that gets 3 % too much is a deadline behind after 167 s.
_STEP_MS = 200_000.0
_SEEDS = 3
_MANY = 100_000
#: Failures (late queries) beyond which a 99.9th percentile is at the deadline.
_LATE = 1e-3


def load_ramp(case: Case) -> Claims:
    """Return the study of the claims about the two balancers."""
    found = re.search(r"(\d+) clients x (\d+) replicas.* (\d*\.?\d+) s deadline", case.model)
    steps = re.search(r"steps \(([\d. ]+)\)", case.model)
    reached = re.search(r"WRR p99.9 hits the .* at (\d*\.?\d+)x", str(case.expected))
    if found is None or steps is None or reached is None:
        raise NotYet(f"no ramp in {case.model!r}")
    clients, replicas = int(found[1]), int(found[2])
    deadline_s, limit = float(found[3]), float(reached[1])
    loads = [float(text) for text in steps[1].split()]
    prequal = {
        "policy": "PREQUAL",
        "q_rif": case.params["QRIF"],
        "r_probe": case.params["probes_per_query"],
    }

    def late(load: float, balancer: dict[str, Any], number: int) -> np.ndarray:
        """Return the share of queries that reach the deadline, by seed."""
        scenario = _shared(clients, replicas, load, deadline_s, balancer)
        runs: EngineRuns = engine_runs(scenario, _STEP_MS, seed_of(1, number), _SEEDS, 0)
        return ratio(runs.field("failures"), runs.ended)

    def compute() -> dict[str, bool]:
        weighted = {
            load: late(load, {"policy": "ROUND_ROBIN"}, row)
            for row, load in enumerate(loads)
            if load <= limit
        }
        probed = [late(load, prequal, row).max() for row, load in enumerate(loads)]
        below = max(share.max() for load, share in weighted.items() if load < limit)
        at_limit = weighted[limit].min()
        return {
            f"WRR below {limit:g}x: late at most {below:.2%}": below < _LATE,
            f"WRR at {limit:g}x: late at least {at_limit:.2%}": at_limit > _LATE,
            f"Prequal to {loads[-1]:g}x: late at most {max(probed):.2%}": max(probed) == 0,
        }

    return Claims(compute, f"{_SEEDS} seeds of {_STEP_MS / 1e3:g} s a step")


def _shared(
    clients: int, replicas: int, load: float, deadline_s: float, balancer: dict[str, Any]
) -> Topology:
    contended = round(_CONTENDED_SHARE * replicas)
    body = {
        "concurrency": _MANY,
        "discipline": "PROCESSOR_SHARING",
        "on_timeout": "cancel_work",
        "steps": [{"compute": f"{_WORK_MS}ms"}],
    }
    workloads = {
        "contended": {**body, "replicas": contended, "cpu": 1.0},
        "spare": {**body, "replicas": replicas - contended, "cpu": 1.0 + _SPARE},
    }
    rate = load * replicas / _WORK_MS / clients
    cycle_s = replicas / (rate * PER_MS)
    policy = {"load_balancing": balancer, "routes": [{"timeout": f"{deadline_s}s"}]}
    policy["circuit_breakers"] = dict.fromkeys(("max_requests", "max_pending_requests"), _MANY)
    return Topology.model_validate(
        {
            "name": "prequal",
            "mesh": "none",
            "network": {"latency": dict.fromkeys(_PLACES, "200us")},
            "services": {"station": {"workloads": workloads}},
            "traffic": {
                f"client-{number}": {"to": "station", "arrivals": _from(cycle_s * share, rate)}
                for number, share in enumerate(np.arange(clients) / clients)
            },
            "policies": {"station": policy},
        }
    )


def _from(time_s: float, rate: float) -> dict[str, Any]:
    """Return Poisson arrivals of a rate [1/ms] that begin at a time."""
    step = [{"at": f"{time_s:.6f}s", "rate": value} for value in (0.0, rate * PER_MS)]
    return {"piecewise": {"points": [{"at": "0s", "rate": 0.0}, *step]}}


_PLACES = ("same_node", "same_zone", "same_region", "cross_region")
