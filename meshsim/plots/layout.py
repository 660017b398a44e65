"""Where the nodes of a call graph go: in layers, callers to the left of what they call.

Rule: a node's layer is its longest distance from a source, with cycles broken by leaving out
the calls back.  A call that skips layers holds a place in each of them (a *bend*), so that it
is drawn around the nodes there and not through them.  Within a layer, places are ordered by
the mean position of their neighbours in the layer before and after in turn (the barycentre
heuristic), which removes most crossings.

References
----------
K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system
structures", IEEE SMC 11 (1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

__all__ = ["Layout", "Node", "Point", "layered"]

_SWEEPS = 12

#: (kind, name), e.g. ("service", "reviews").
Node = tuple[str, str]
Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Places of nodes and courses of calls.

    Parameters
    ----------
    nodes : dict
        Node -> (layer, height); heights of a layer are spread evenly about 0.
    courses : dict
        (caller, callee) -> points from the one to the other; two points for a call back.
    depth, breadth : int
        Number of layers, and of places in the widest one.
    """

    nodes: dict[Node, Point]
    courses: dict[tuple[Node, Node], list[Point]]
    depth: int
    breadth: int


def _without_cycles(calls: Any) -> Any:
    """Return `calls` without self-calls and without the calls that close a cycle."""
    acyclic: Any = nx.DiGraph()
    acyclic.add_nodes_from(calls.nodes)
    acyclic.add_edges_from(edge for edge in calls.edges if edge[0] != edge[1])
    sources = [node for node, degree in acyclic.in_degree if degree == 0] or None
    while not nx.is_directed_acyclic_graph(acyclic):
        # Searched from the sources, the last edge of a cycle is the call back.
        try:
            cycle = nx.find_cycle(acyclic, sources)
        except nx.NetworkXNoCycle:
            cycle = nx.find_cycle(acyclic)
        acyclic.remove_edge(*cycle[-1])
    return acyclic


def _with_bends(acyclic: Any, layer_of: dict[Node, int]) -> tuple[Any, dict[Any, list[Any]]]:
    """Split each call that skips layers; return the proper graph and the chain of each call."""
    proper: Any = nx.DiGraph()
    proper.add_nodes_from(acyclic.nodes)
    chains = {}
    for caller, callee in acyclic.edges:
        between = range(layer_of[caller] + 1, layer_of[callee])
        chain = [caller, *(("bend", caller, callee, layer) for layer in between), callee]
        nx.add_path(proper, chain)
        chains[caller, callee] = chain
    return proper, chains


def _ordered(proper: Any) -> list[list[Any]]:
    """Return the layers of `proper`, each in drawing order."""
    layers = [sorted(layer, key=str) for layer in nx.topological_generations(proper)]
    for sweep in range(_SWEEPS):
        forwards = sweep % 2 == 0
        neighbours = proper.predecessors if forwards else proper.successors
        heights = {node: height for layer in layers for node, height in _heights(layer)}
        for layer in layers[1:] if forwards else reversed(layers[:-1]):
            mean = {}
            for node in layer:
                near = [heights[other] for other in neighbours(node)]
                mean[node] = sum(near) / len(near) if near else heights[node]
            layer.sort(key=mean.__getitem__, reverse=True)
            heights.update(_heights(layer))
    return layers


def _heights(layer: list[Any]) -> list[tuple[Any, float]]:
    """Spread a layer evenly about height 0, the first at the top."""
    return [(node, (len(layer) - 1) / 2 - place) for place, node in enumerate(layer)]


def layered(calls: Any) -> Layout:
    """Place the nodes of `calls`.

    Parameters
    ----------
    calls : networkx.DiGraph
        May have cycles and self-calls.
    """
    acyclic = _without_cycles(calls)
    generations = list(nx.topological_generations(acyclic))
    layer_of = {node: layer for layer, nodes in enumerate(generations) for node in nodes}
    proper, chains = _with_bends(acyclic, layer_of)
    layers = _ordered(proper)
    # Layers that are narrower than the widest are stretched half-way towards it.
    widest = max((len(layer) for layer in layers), default=1)
    place: dict[Any, Point] = {}
    for x, layer in enumerate(layers):
        stretch = (1 + widest / len(layer)) / 2
        place |= {node: (float(x), height * stretch) for node, height in _heights(layer)}
    nodes = {node: place[node] for node in calls.nodes}
    courses = {edge: [place[node] for node in chains.get(edge, edge)] for edge in calls.edges}
    return Layout(nodes, courses, len(layers), widest)
