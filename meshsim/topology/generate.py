"""Synthetic layered meshes of any size, the same for the same seed.

Rule: services stand in `depth` layers; traffic enters the first, and a service calls services
of the next layer only, so there is no cycle and a request ends.  Every service is called by at
least one other (or by traffic), so the load of each is above 0; and since every layer passes
on a finite number of calls, the load of each is finite: with calls of probability p and f of
them a service, a request causes 1 + fp + (fp)**2 + ... + (fp)**(depth - 1) calls on average.
Service times are then set so that no replica computes more than `utilisation` of the time.

The shape follows published counts.  Of 67,760 services of an Alibaba deployment 13 % are
entries, 39 % leaves and 48 % between [1]_; call graphs look like trees and few services are
called by very many (hot spots) [2]_: one call of every service is drawn with a density falling
as x**(-3/4) over the ranks x of the next layer.  Assumptions of ours, not measured: the call
probability of 0.4 (7.4 calls a request at 1,000 services and 20 at 10,000, where a service has
to call more to reach all of its layer), that half of the services call in parallel, at most
100 entries (each is a traffic class), and exponential service times.

References
----------
.. [1] Winchester et al., "Complexity at Scale: A Quantitative Analysis of an Alibaba
   Microservice Deployment", arXiv:2504.13141, table 1 (2025).
.. [2] Luo et al., "Characterizing Microservice Dependency and Performance: Alibaba Trace
   Analysis", SoCC 2021, doi:10.1145/3472883.3487003.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from meshsim.topology.base import Integer, Model, Number, Probability, Rate
from meshsim.topology.model import Provenance, Topology
from meshsim.topology.problems import read_model, refuse
from meshsim.yamlfile import Document

__all__ = ["SERVICES_MAX", "GenerateOptions", "GeneratedScenario", "generate", "generate_scenario"]

SERVICES_MAX = 10_000
_ENTRY_SHARE, _LEAF_SHARE = 0.13, 0.39
_ENTRIES_MAX = 100
#: Longest mean service time that is generated [s].
_SERVICE_TIME_MAX_S = 0.005


class GenerateOptions(Model):
    """What a generated mesh looks like.

    `fan_out` is the number of services that one calls, more where a layer would otherwise not
    be reached in full; `rate` is the total of all traffic [1/s]; `utilisation` the largest
    share of time that one worker of a replica computes.
    """

    services: Integer = Field(default=1000, ge=1, le=SERVICES_MAX)
    replicas: Integer = Field(default=10, ge=1, le=10_000)
    fan_out: Integer = Field(default=3, ge=1, le=100)
    depth: Integer = Field(default=5, ge=1, le=50)
    seed: Integer = Field(default=1, ge=0, lt=2**63)
    rate: Rate = 1000.0
    call_probability: Probability = 0.4
    parallel_share: Probability = 0.5
    utilisation: Number = Field(default=0.3, gt=0, lt=1)

    @model_validator(mode="after")
    def _deep_enough(self) -> GenerateOptions:
        if self.services < self.depth:
            raise ValueError(f"{self.depth} layers need at least {self.depth} services")
        return self


class GeneratedScenario(Model):
    """A scenario file whose services and traffic are generated."""

    name: str
    question: str = ""
    references: tuple[str, ...] = ()
    mesh: str = "istio-sidecar"
    generate: GenerateOptions


def generate(
    services: int = 1000,
    replicas: int = 10,
    fan_out: int = 3,
    depth: int = 5,
    seed: int = 1,
    rate: float = 1000.0,
    *,
    name: str = "generated",
    mesh: str = "istio-sidecar",
    **options: float,
) -> Topology:
    """Return a synthetic mesh.

    Parameters
    ----------
    services : int
        1 to 10,000.
    replicas : int
        Of each service.
    fan_out, depth : int
        Calls a service makes at most, and layers.
    seed : int
        The same seed gives the same mesh.
    rate : float
        Total rate of requests that enter [1/s].
    name, mesh : str
        As in a scenario file.
    **options : float
        `call_probability`, `parallel_share`, `utilisation` of `GenerateOptions`.

    Raises
    ------
    ConfigError
        If an option is unknown or out of range.

    Examples
    --------
    >>> mesh = generate(services=20, replicas=2, depth=3)
    >>> len(mesh.services), len(mesh.traffic)
    (20, 3)
    """
    said = {
        "services": services,
        "replicas": replicas,
        "fan_out": fan_out,
        "depth": depth,
        "seed": seed,
        "rate": rate,
        **options,
    }
    reading = read_model(Document(said, {}, "generate()"), GenerateOptions)
    refuse(reading.problems)
    assert reading.element is not None
    return generate_scenario(GeneratedScenario(name=name, mesh=mesh, generate=reading.element))


def generate_scenario(scenario: GeneratedScenario) -> Topology:
    """Return the topology that a scenario file with `generate` describes."""
    options = scenario.generate
    rng = np.random.default_rng(options.seed)
    layers = _layers(options)
    callees = _callees(layers, options, rng)
    visits = _visits(layers, callees, options)
    parallel = rng.random(options.services) < options.parallel_share
    origin = Provenance(default=f"generated: {options!r}")
    entry_rate = options.rate / len(layers[0])
    return Topology.model_validate(
        {
            "name": scenario.name,
            "question": scenario.question,
            "references": scenario.references,
            "mesh": scenario.mesh,
            "services": {
                _service_name(index): {
                    "workloads": {
                        "v1": {
                            "replicas": options.replicas,
                            "steps": _steps(
                                callees.get(index, []),
                                visits[index],
                                bool(parallel[index]),
                                options,
                            ),
                        }
                    }
                }
                for index in range(options.services)
            },
            "traffic": {
                f"entry-{index:04d}": {
                    "to": _service_name(index),
                    "arrivals": {"poisson": {"rate": entry_rate}},
                }
                for index in layers[0]
            },
            "provenance": {"services": origin, "traffic": origin},
        }
    )


def _service_name(index: int) -> str:
    return f"s{index:05d}"


def _layers(options: GenerateOptions) -> list[range]:
    """Return the service indices of each layer, first to last; none is empty."""
    depth, total = options.depth, options.services
    spare = total - depth
    entry = min(_ENTRIES_MAX, 1 + int(_ENTRY_SHARE * spare)) if depth > 1 else total
    leaf = max(1, round((_LEAF_SHARE if depth > 2 else 1.0) * spare)) if depth > 1 else 0
    growth = (leaf / entry) ** (1 / (depth - 1)) if depth > 1 else 1.0
    sizes = [entry]
    middle = total - entry - leaf
    for layer in range(1, depth - 1):
        weights = sum(growth ** (later - layer) for later in range(layer, depth - 1))
        size = max(1, min(round(middle / weights), middle - (depth - 2 - layer)))
        sizes.append(size)
        middle -= size
    if depth > 1:
        sizes.append(total - sum(sizes))
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _callees(
    layers: list[range], options: GenerateOptions, rng: np.random.Generator
) -> dict[int, list[int]]:
    """Return whom each service calls: a hot spot, and those who are dealt to it."""
    result: dict[int, list[int]] = {}
    for callers, layer in pairwise(layers):
        dealt = (rng.permutation(len(layer)) + layer.start).tolist()
        ranked = rng.permutation(len(layer)) + layer.start
        hot = ranked[_hot_ranks(rng, len(callers), len(layer))].tolist()
        for position, caller in enumerate(callers):
            chosen = dict.fromkeys([hot[position], *dealt[position :: len(callers)]])
            wanted = min(options.fan_out, len(layer))
            while len(chosen) < wanted:
                for callee in ranked[_hot_ranks(rng, wanted, len(layer))].tolist():
                    if len(chosen) < wanted:
                        chosen[callee] = None
            result[caller] = list(chosen)
    return result


def _hot_ranks(rng: np.random.Generator, count: int, size: int) -> npt.NDArray[np.int64]:
    """Return ranks in [0, size): the fourth power of a uniform has density x**(-3/4) / 4."""
    uniform = rng.random(count)
    return (uniform * uniform * uniform * uniform * size).astype(np.int64)


def _visits(
    layers: list[range], callees: dict[int, list[int]], options: GenerateOptions
) -> list[float]:
    """Return the rate of requests to each service [1/s]."""
    visits = [0.0] * options.services
    for index in layers[0]:
        visits[index] = options.rate / len(layers[0])
    for layer in layers:
        for caller in layer:
            for callee in callees.get(caller, ()):
                visits[callee] += visits[caller] * options.call_probability
    return visits


def _steps(
    callees: list[int], visits: float, parallel: bool, options: GenerateOptions
) -> list[dict[str, Any]]:
    mean_s = _SERVICE_TIME_MAX_S
    if visits > 0:
        mean_s = min(mean_s, options.utilisation * options.replicas / visits)
    steps: list[dict[str, Any]] = [
        {"compute": {"exponential": {"mean": f"{max(1, int(mean_s * 1e9))}ns"}}}
    ]
    calls = [
        {"call": {"service": _service_name(callee)}, "probability": options.call_probability}
        for callee in callees
    ]
    if parallel and len(calls) > 1:
        return [*steps, {"parallel": [[call] for call in calls]}]
    return [*steps, *calls]
