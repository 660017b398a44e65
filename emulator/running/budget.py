"""How much time a machine needs for a mesh: the dilation, and which process hosts what.

Rule: one model second takes `dilation` real seconds.  The least dilation >= 1 is chosen at
which three things hold, and the result says which of them decided:

- the processors work at most 60 % of the time: hops/s * CPU seconds a hop <= 0.6 * cores.
  Beyond it the processes wait for one another, and that waiting is not the mesh's;
- a process serves at most 500 hops/s: timers and sockets of more get late;
- half of the service times are 20 ms or longer: an event loop's timers are late by up to
  1 ms, which is then at most 5 % of one of them.

A *hop* is one request to one replica, through the proxies on its way.  Offered hops are the
mean rates times the expected calls (`meshsim.topology.graph`); a probe of a server's load is
taken for one, and retries are not foreseen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshsim.errors import ConfigError
from meshsim.state.codes import NO_INDEX
from meshsim.topology.compiled.layout import Layout
from meshsim.topology.graph import operation_visits
from meshsim.topology.model import Step, Topology
from meshsim.topology.rates import class_rate
from meshsim.workload.distributions import mean_ns

__all__ = [
    "EDGE",
    "ENDPOINTS_MAX",
    "HOP_CPU_S",
    "HOP_CPU_SIDECARS_S",
    "PROCESSES_MAX",
    "Dilation",
    "Share",
    "assign",
    "choose_dilation",
    "hop_rates",
]

#: Name of the process of the gateways and the load.
EDGE = "edge"
#: More processes than this are not started; replicas then share them.
PROCESSES_MAX = 64
#: More replicas than this are not emulated: each has a proxy with listeners, a key and a
#: connection to the broker.  So many start in minutes on two busy cores; twice as many do not.
ENDPOINTS_MAX = 500

_CPU_SHARE_MAX = 0.6
_HOPS_PER_PROCESS_MAX = 500.0
_SERVICE_REAL_MIN_NS = 20_000_000
#: CPU time of one hop [s], all processes together.  Measured with the scenarios chain (no
#: sidecars) and bookinfo (two sidecars a hop, mutual TLS) on a shared virtual machine with two
#: cores and Python 3.11; the result states what a run really took.
HOP_CPU_S = 0.4e-3
HOP_CPU_SIDECARS_S = 0.6e-3


@dataclass(frozen=True)
class Dilation:
    """How many real seconds a model second takes, and what decided it."""

    factor: float
    reason: str


@dataclass(frozen=True)
class Share:
    """What one process hosts: endpoints by name, gateways by traffic class."""

    process: str
    endpoints: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def hop_rates(topology: Topology) -> dict[str, float]:
    """Return the offered requests to each service, probes included [1/s of model time]."""
    rates = dict.fromkeys(topology.services, 0.0)
    if not any(class_rate(item) for item in topology.traffic.values()):
        return rates  # users who never think offer what the mesh takes: nothing is foreseen
    for (service, _), rate in operation_visits(topology).items():
        rates[service] = rates.get(service, 0.0) + rate
    for service, policy in topology.policies.items():
        balancing = policy.load_balancing
        if balancing is not None and balancing.policy == "PREQUAL":
            rates[service] *= 1.0 + (balancing.r_probe or 0.0)
    return rates


def assign(
    topology: Topology, layout: Layout, processes: int | str | None = None
) -> tuple[Share, ...]:
    """Return what each process hosts; the first hosts all gateways and the load.

    Parameters
    ----------
    topology : Topology
    layout : Layout
    processes : int or "each", optional
        None: one for each modelled node (one for all replicas without a node); a number: that
        many, replicas dealt round robin; "each": one a replica.

    Raises
    ------
    ConfigError
        If `processes` is none of these, or more than `PROCESSES_MAX` are asked for.
    """
    names = layout.endpoint_names
    if processes is None:
        nodes = [int(node) for node in layout.endpoint_node]
        keys = ["replicas" if node == NO_INDEX else layout.nodes[node] for node in nodes]
        if len(set(keys)) > PROCESSES_MAX:
            keys = [f"replicas-{index % PROCESSES_MAX}" for index in range(len(names))]
    elif processes == "each":
        keys = list(names)
    elif isinstance(processes, int) and processes >= 1:
        keys = [f"replicas-{index % processes}" for index in range(len(names))]
    else:
        raise ConfigError(f"processes: found {processes!r}, allowed: a number >= 1, or 'each'")
    if len(set(keys)) > PROCESSES_MAX:
        raise ConfigError(f"processes: found {len(set(keys))}, allowed: up to {PROCESSES_MAX}")
    hosted: dict[str, list[str]] = {}
    for name, key in zip(names, keys, strict=True):
        hosted.setdefault(key, []).append(name)
    edge = Share(EDGE, (), tuple(topology.traffic))
    return edge, *(Share(f"node {key}", tuple(found)) for key, found in hosted.items())


def _durations_ns(steps: Sequence[Step]) -> Iterator[float]:
    for step in steps:
        duration = step.compute if step.compute is not None else step.sleep
        if duration is not None:
            yield mean_ns(duration)
        for sequence in step.sequences:
            yield from _durations_ns(sequence)


def _service_times_ns(topology: Topology) -> list[float]:
    """Return the mean of every timed step of every workload, those without time left out."""
    found = []
    for service in topology.services.values():
        for workload in service.workloads.values():
            for steps in (workload.steps, *workload.operations.values()):
                found += [value for value in _durations_ns(steps) if value > 0]
    return found


def choose_dilation(
    topology: Topology,
    layout: Layout,
    shares: Sequence[Share],
    cores: int,
    *,
    sidecars: bool,
) -> Dilation:
    """Return the dilation that the rule of this module asks for.

    Parameters
    ----------
    topology : Topology
    layout : Layout
    shares : sequence of Share
        From `assign`.
    cores : int
        Of this machine, >= 1.
    sidecars : bool
        Two proxies a hop and mutual TLS.
    """
    rates = hop_rates(topology)
    cost_s = HOP_CPU_SIDECARS_S if sidecars else HOP_CPU_S
    total = sum(rates.values())
    needs = {
        f"{total:.4g} hops/s at {1e3 * cost_s:g} ms of CPU stay within "
        f"{100 * _CPU_SHARE_MAX:.0f} % of {cores} cores": total * cost_s / (_CPU_SHARE_MAX * cores)
    }
    busiest = max(_process_rates(topology, layout, shares, rates).items(), key=lambda item: item[1])
    needs[f"{busiest[0]} serves at most {_HOPS_PER_PROCESS_MAX:g} hops/s"] = (
        busiest[1] / _HOPS_PER_PROCESS_MAX
    )
    times = _service_times_ns(topology)
    if times:
        needs[f"the median service time lasts {_SERVICE_REAL_MIN_NS / 1e6:g} ms"] = (
            _SERVICE_REAL_MIN_NS / statistics.median(times)
        )
    reason, needed = max(needs.items(), key=lambda item: item[1])
    if needed <= 1.0:
        return Dilation(1.0, "the machine keeps up")
    return Dilation(_two_digits_up(needed), f"so that {reason}")


def _process_rates(
    topology: Topology, layout: Layout, shares: Sequence[Share], rates: dict[str, float]
) -> dict[str, float]:
    """Return the hops/s of each process; replicas share the rate of their service."""
    service_of = {
        name: layout.workloads[index].service
        for name, index in zip(layout.endpoint_names, layout.endpoint_workload, strict=True)
    }
    replicas: dict[str, int] = {}
    for service in service_of.values():
        replicas[service] = replicas.get(service, 0) + 1
    found = {}
    for share in shares:
        offered = sum(class_rate(topology.traffic[name]) for name in share.classes)
        served = (rates[service_of[name]] / replicas[service_of[name]] for name in share.endpoints)
        found[share.process] = offered + sum(served)
    return found


def _two_digits_up(value: float) -> float:
    """Round up to two significant digits, so that a person can read it."""
    scale: float = 10 ** (1 - math.floor(math.log10(value)))
    return math.ceil(value * scale - 1e-9) / scale
