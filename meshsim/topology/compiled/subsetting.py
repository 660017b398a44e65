"""Subsets of clusters as rows: lanes over some of a cluster's hosts, and chains of them.

Rule: every set of hosts that a route of anybody can be sent to is a lane of each proxy that holds
the cluster, whatever its routes, so that a chain means the same at all of them.

A hash table over a subset names hosts by their place among all members, because a host can be in
several subsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meshsim.policy.subsets import SubsetRule, subset_chain
from meshsim.topology.compiled.layout import Rows

__all__ = ["ClusterSubsets", "table_of_subset"]

_Hosts = tuple[int, ...]
#: What a route asks for: labels, and its fallback list.
Asked = tuple[Mapping[str, str], Sequence[Mapping[str, str]]]


class ClusterSubsets:
    """The lanes of one cluster, and the chains of its routes.

    Parameters
    ----------
    rule : SubsetRule
    labels : sequence of mapping
        Of each host of the cluster, in the order of its members.

    Attributes
    ----------
    lanes : list of tuple of int
        Positions of the hosts of each lane.
    """

    def __init__(self, rule: SubsetRule, labels: Sequence[Mapping[str, str]]) -> None:
        self.lanes: list[_Hosts] = []
        self._rule = rule
        self._labels = labels
        self._numbers: dict[_Hosts, int] = {}

    def chain(self, asked: Asked, chains: list[int]) -> int:
        """Append the chain of what a route asks for to `chains`; return where it begins."""
        parts = subset_chain(self._rule, self._labels, *asked)
        start = len(chains)
        chains.append(len(parts))
        for part in parts:
            if part not in self._numbers:
                self._numbers[part] = len(self.lanes)
                self.lanes.append(part)
            chains.append(self._numbers[part])
        return start


def table_of_subset(table: Rows, hosts: Sequence[int]) -> Rows:
    """Return the hash table of a lane with its hosts named by their place among all members."""
    if len(table):
        table["table_index"] = np.array(hosts, np.int32)[table["table_index"]]
    return table
