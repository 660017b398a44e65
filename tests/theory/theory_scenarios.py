"""Textbook queues as scenarios.

The unit of time is a millisecond and a mean service takes one, unless said; rates are per
millisecond.  There is no proxy and no wire, so all that is left of a request is its queue and
its service.
"""

from meshsim.topology.model import Topology

PER_MS = 1000.0
NO_WIRE = dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), "0s")


def ms(time: float) -> str:
    """Return `time` [ms] as the model reads a duration."""
    return f"{round(time * 1e6)}ns"


def exponential(mean: float = 1.0) -> dict:
    return {"exponential": ms(mean)}


def lognormal(mean: float, scv: float) -> dict:
    """Return a lognormal by its squared coefficient of variation."""
    from math import exp, log, sqrt

    from scipy.stats import norm

    variance = log(1 + scv)
    p99 = mean * exp(sqrt(variance) * norm.ppf(0.99) - variance / 2)
    return {"lognormal": {"mean": ms(mean), "p99": ms(p99)}}


def hyperexponential(*branches: tuple[float, float]) -> dict:
    """Return a mixture of exponentials, by pairs (probability, mean)."""
    phases = [{"probability": p, "mean": ms(mean)} for p, mean in branches]
    return {"hyperexponential": {"phases": phases}}


def poisson(rate: float) -> dict:
    return {"poisson": rate * PER_MS}


def workload(service: str | dict, call: str = "", **fields: object) -> dict:
    """Return a workload of one worker that computes, then perhaps calls."""
    steps: list[dict] = [{"compute": service}]
    if call:
        steps.append({"call": call})
    return {"concurrency": 1, "hold_worker": False, "steps": steps, **fields}


def topology(workloads: dict, traffic: dict, policies: dict | None = None) -> Topology:
    """Return a scenario of services with one workload each."""
    return Topology.model_validate(
        {
            "name": "theory",
            "mesh": "none",
            "network": {"latency": NO_WIRE},
            "services": {name: {"workloads": {"v1": body}} for name, body in workloads.items()},
            "traffic": traffic,
            "policies": policies or {},
        }
    )


def station(
    arrivals: dict, service: str | dict, policy: dict | None = None, **fields: object
) -> Topology:
    """Return one service that one traffic class calls."""
    return topology(
        {"station": workload(service, **fields)},
        {"load": {"to": "station", "arrivals": arrivals}},
        {"station": policy} if policy else None,
    )


def balanced(
    rate: float, replicas: int, policy: str, mean: float = 1.0, **fields: object
) -> Topology:
    """Return exponential replicas of one worker behind a load balancer; `rate` is in total."""
    return station(
        poisson(rate),
        exponential(mean),
        {"load_balancing": {"policy": policy, **fields}},
        replicas=replicas,
    )


def chain(rate: float, tiers: list[tuple[float, int, int]], policy: str, hold: bool) -> Topology:
    """Return a chain of services, each (mean service, replicas, workers), with one policy."""
    names = [f"tier{i}" for i in range(len(tiers))]
    workloads = {}
    for i, (mean, replicas, workers) in enumerate(tiers):
        call = names[i + 1] if i + 1 < len(tiers) else ""
        workloads[names[i]] = workload(
            exponential(mean), call, replicas=replicas, concurrency=workers, hold_worker=hold
        )
    return topology(
        workloads,
        {"load": {"to": names[0], "arrivals": poisson(rate)}},
        {name: {"load_balancing": {"policy": policy}} for name in names},
    )
