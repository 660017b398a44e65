"""Other weights of the splits to a service, as a topology that is pushed."""

from __future__ import annotations

from collections.abc import Mapping

from meshsim.errors import ConfigError, Problem
from meshsim.topology.model import Route, ServicePolicy, Topology

__all__ = ["with_weights"]


def with_weights(topology: Topology, service: str, weights: Mapping[str, int]) -> Topology:
    """Return `topology` with new weights of every split to `service`, by subset name.

    Raises
    ------
    ConfigError
        If no split has these subsets, or the weights are negative or sum to zero.
    """
    if sum(weights.values()) <= 0 or min(weights.values()) < 0:
        raise ConfigError([Problem("weights are >= 0 and not all 0", found=str(dict(weights)))])
    policy = topology.policies.get(service, ServicePolicy())
    known = {item.subset for route in policy.routes for item in route.split if item.subset}
    unknown = set(weights) - known
    if unknown or not known:
        found = ", ".join(sorted(unknown)) or service
        raise ConfigError([Problem("no weighted split has these subsets", found=found)])
    routes = tuple(_reweighted(route, weights) for route in policy.routes)
    changed = policy.model_copy(update={"routes": routes})
    return topology.model_copy(update={"policies": {**topology.policies, service: changed}})


def _reweighted(route: Route, weights: Mapping[str, int]) -> Route:
    if not any(item.subset for item in route.split):
        return route
    split = tuple(
        item.model_copy(update={"weight": weights.get(item.subset, 0)}) if item.subset else item
        for item in route.split
    )
    return route.model_copy(update={"split": split})
