"""Custom policies on their way to the processes that decide by them.

Rule: a scenario names a function (``module:function``); a node process gets the function itself,
by value where its module cannot be imported there (a notebook, a script), and compiles it.  A
node that joined from another machine gets names only: code does not travel to it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

import cloudpickle

from meshsim.policy.custom import define, find
from meshsim.topology.model import ClusterPolicy, Topology

__all__ = ["packed", "unpack"]


def packed(topology: Topology) -> dict[str, str]:
    """Return the custom policies of a scenario by name, each as text.

    Raises
    ------
    ConfigError
        If one of them is not known.
    """
    texts = {}
    for name, kind in dict(_named(topology)).items():
        policy = find(name, kind)
        learns = policy.learns.function if policy.learns else None
        parts = kind, policy.function, policy.memory, learns
        texts[name] = base64.b64encode(cloudpickle.dumps(parts)).decode()
    return texts


def _named(topology: Topology) -> Iterator[tuple[str, str]]:
    """Yield (name, kind) of every use of a custom policy."""
    for policy in topology.policies.values():
        clusters: list[ClusterPolicy] = [policy, *policy.subsets.values()]
        for cluster in clusters:
            if cluster.load_balancing and cluster.load_balancing.custom:
                yield cluster.load_balancing.custom, "load_balancer"
            if cluster.admission:
                yield cluster.admission, "admission"
        for route in policy.routes:
            if route.retry and route.retry.custom:
                yield route.retry.custom, "retry"


def unpack(texts: Mapping[str, str]) -> None:
    """Define the policies that `packed` wrote; only for what this run's own harness sends."""
    for text in texts.values():
        kind, function, memory, learns = cloudpickle.loads(base64.b64decode(text))
        policy = define(kind, function, memory)
        if learns is not None:
            policy.on_response(learns)
