"""How fast this machine simulates: three cases that anyone can repeat.

- ``mm1``: one replica, Poisson arrivals, load 0.8.  Mean latency 5 ms by theory.
- ``chain_rand``: a gateway and two services of four replicas, random picks, load 0.4 to 0.7.
  Mean latency 80 ms by theory (Jackson network).
- ``sidecars``: three services of four replicas in a chain, two Envoys a hop, the less loaded
  of two random hosts, load 0.8.

The first two are the textbook's; their computed latency stands beside the rate, because a fast
wrong answer is worth nothing.  Rates are per second inside the compiled loop (`wall_s`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meshsim import kernel
from meshsim.progress import Report, silent
from meshsim.simulation import simulate
from meshsim.topology.model import Topology

__all__ = ["CASES", "Measurement", "measure", "table", "tandem", "to_json"]

#: Requests a case simulates: about a second of work.
REQUESTS = 500_000


@dataclass(frozen=True)
class Measurement:
    """One case on this machine.

    Parameters
    ----------
    case : str
        Its name in `CASES`.
    requests, events : int
        Completed requests and kernel events.
    wall_s : float
        Time inside the compiled loop [s].
    latency_mean_ms : float
        What was computed [ms].
    """

    case: str
    requests: int
    events: int
    wall_s: float
    latency_mean_ms: float


def tandem(
    name: str,
    rate: float,
    tiers: Mapping[str, tuple[int, str]],
    policy: str = "RANDOM",
    mesh: str = "none",
) -> Topology:
    """Return a chain of services, each calling the next when its own work is done.

    Parameters
    ----------
    name : str
        Of the scenario.
    rate : float
        Poisson arrivals at the first service [1/s], >= 0.
    tiers : mapping of str to (int, str)
        Per service the number of replicas and the mean of its exponential service time; one
        worker a replica, which it does not hold while the next service works.
    policy : str
        Load-balancing policy of every service.
    mesh : str
        Mesh profile.  Without proxies the wire takes no time, as in queueing theory; with
        them 50 us.
    """
    names = list(tiers)
    services = {}
    for index, (service, (replicas, mean)) in enumerate(tiers.items()):
        steps: list[dict[str, Any]] = [{"compute": {"exponential": mean}}]
        if index + 1 < len(names):
            steps.append({"call": names[index + 1]})
        workload = {"replicas": replicas, "concurrency": 1, "hold_worker": False, "steps": steps}
        services[service] = {"workloads": {"v1": workload}}
    wire = "0s" if mesh == "none" else "50us"
    latency = dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), wire)
    return Topology.model_validate(
        {
            "name": name,
            "mesh": mesh,
            "network": {"latency": latency},
            "services": services,
            "traffic": {"all": {"to": names[0], "arrivals": {"poisson": rate}}},
            "policies": {service: {"load_balancing": {"policy": policy}} for service in names},
        }
    )


_CHAIN = {"gateway": (1, "2ms"), "a": (4, "14ms"), "b": (4, "12ms")}

#: Scenario and offered rate [1/s] of each case.
CASES: dict[str, tuple[Topology, float]] = {
    "mm1": (tandem("mm1", 800.0, {"server": (1, "1ms")}), 800.0),
    "chain_rand": (tandem("chain_rand", 200.0, _CHAIN), 200.0),
    "sidecars": (
        tandem(
            "sidecars",
            3200.0,
            {"a": (4, "1ms"), "b": (4, "1ms"), "c": (4, "1ms")},
            policy="LEAST_REQUEST",
            mesh="istio-sidecar",
        ),
        3200.0,
    ),
}


def measure(report: Report = silent, requests: int | None = None) -> list[Measurement]:
    """Run every case once.

    Parameters
    ----------
    report : callable
        Told which case is at work.
    requests : int, optional
        About how many requests each case simulates, > 0; by default `REQUESTS`.

    Returns
    -------
    list of Measurement
    """
    if not kernel.compiled():
        kernel.prepare(report)
    measurements = []
    for index, (case, (topology, rate)) in enumerate(CASES.items()):
        report(index, len(CASES), case)
        result = simulate(
            topology, duration=(requests or REQUESTS) / rate, replications=1, progress=False
        )
        engine = result.engine
        measurements.append(
            Measurement(
                case,
                int(engine["requests"]),
                int(engine["events"]),
                engine["wall_s"],
                result.estimate("all", "mean").value,
            )
        )
    return measurements


def table(measurements: list[Measurement]) -> str:
    """Return `measurements` as a table to read.

    Examples
    --------
    >>> print(table([Measurement("mm1", 1000, 2000, 0.001, 5.0)]))
    case            requests/s      events/s   mean latency
    mm1              1,000,000     2,000,000       5.000 ms
    """
    lines = [f"{'case':<14}{'requests/s':>12}{'events/s':>14}{'mean latency':>15}"]
    lines += [
        f"{m.case:<14}{m.requests / m.wall_s:>12,.0f}{m.events / m.wall_s:>14,.0f}"
        f"{m.latency_mean_ms:>12.3f} ms"
        for m in measurements
    ]
    return "\n".join(lines)


def to_json(measurements: list[Measurement]) -> str:
    """Return `measurements` as a JSON list."""
    return json.dumps([asdict(m) for m in measurements], indent=2)
