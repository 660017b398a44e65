"""Where the nodes of a call graph go."""

import networkx as nx
import pytest

from meshsim.plots.layout import layered


def node(name):
    return ("service", name)


def layout(*edges):
    calls = nx.DiGraph()
    calls.add_edges_from((node(a), node(b)) for a, b in edges)
    return layered(calls)


def layer(result, name):
    return result.nodes[node(name)][0]


def test_callers_are_left_of_what_they_call():
    result = layout(("a", "b"), ("b", "c"), ("a", "c"))
    assert [layer(result, name) for name in "abc"] == [0, 1, 2]
    assert result.depth == 3


def test_a_call_that_skips_a_layer_bends_around_the_nodes_there():
    result = layout(("a", "b"), ("b", "c"), ("a", "c"))
    course = result.courses[node("a"), node("c")]
    assert [x for x, _ in course] == [0, 1, 2]
    assert course[1] != result.nodes[node("b")]
    assert result.breadth == 2


def test_parallel_chains_do_not_cross():
    result = layout(("r", "a"), ("r", "b"), ("a", "y"), ("b", "x"))
    heights = {name: result.nodes[node(name)][1] for name in "abxy"}
    assert (heights["a"] > heights["b"]) == (heights["y"] > heights["x"])


@pytest.mark.parametrize(
    "edges", [[("a", "b"), ("b", "a")], [("a", "b"), ("b", "c"), ("c", "b")], [("a", "a")]]
)
def test_cycles_and_self_calls_are_placed(edges):
    result = layout(*edges)
    assert set(result.courses) == {(node(a), node(b)) for a, b in edges}
    assert layer(result, "a") == 0


def test_a_thousand_nodes_are_placed():
    tree = nx.balanced_tree(3, 6, create_using=nx.DiGraph)
    calls = nx.relabel_nodes(tree, {number: node(str(number)) for number in tree})
    assert layered(calls).depth == 7
