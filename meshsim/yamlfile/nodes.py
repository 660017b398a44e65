"""YAML text to nodes with positions, within the limits.

Rule: events are counted as they come, and an aliased node counts with all it repeats, so that
a text that unfolds into too much is refused before anything of it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from meshsim.errors import Problem
from meshsim.yamlfile.text import did_you_mean

__all__ = ["DEPTH_MAX", "NODES_MAX", "Node", "Stopped", "compose"]

#: Most values (scalars, sequences, mappings) of one file after its aliases are expanded.
NODES_MAX = 1_000_000
#: Deepest nesting, aliases expanded.
DEPTH_MAX = 100

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Stopped(Exception):
    """Reading cannot go on: carries the one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Node:
    """A value while it is read; an aliased one is shared, its size counted each time."""

    __slots__ = (
        "children",
        "closed",
        "column",
        "depth",
        "line",
        "mapping",
        "plain",
        "size",
        "tag",
        "text",
    )

    def __init__(self, event: Any, text: str | None, plain: bool) -> None:
        mark = event.start_mark
        self.line: int = mark.line + 1
        self.column: int = mark.column + 1
        self.tag: str | None = event.tag
        self.text = text
        self.plain = plain
        self.mapping = isinstance(event, yaml.MappingStartEvent)
        self.children: list[Node] = []
        self.size = 1
        self.depth = 1
        self.closed = text is not None


def compose(text: str, file: str) -> list[Node]:
    """Return the root nodes of the documents; sizes and depths are within the limits."""
    roots: list[Node] = []
    open_nodes: list[Node] = []
    anchors: dict[str, Node] = {}
    count = 0
    for event in _events(text, file):
        if isinstance(event, yaml.ScalarEvent):
            node = Node(event, event.value, event.implicit[0])
        elif isinstance(event, yaml.AliasEvent):
            node = _aliased(event, anchors, file)
        elif isinstance(event, yaml.CollectionStartEvent):
            node = Node(event, None, False)
            open_nodes.append(node)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
            node.closed = True
        elif isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
            continue
        else:
            continue
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            count += 1
            if event.anchor:
                anchors[event.anchor] = node
        if node.closed:
            _attach(node, open_nodes, roots, file)
        _check_limits(node, count, len(open_nodes), file)
    return roots


def _aliased(event: Any, anchors: dict[str, Node], file: str) -> Node:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    node = anchors.get(event.anchor)
    if node is None:
        message = "the alias names no anchor"
        near = did_you_mean(event.anchor, anchors)
        raise Stopped(Problem(message, file, line, column, "", f"*{event.anchor}", suggestion=near))
    if not node.closed:
        message = "the alias stands inside what it repeats"
        raise Stopped(Problem(message, file, line, column, "", f"*{event.anchor}"))
    return node


def _attach(node: Node, open_nodes: list[Node], roots: list[Node], file: str) -> None:
    if not open_nodes:
        roots.append(node)
        return
    parent = open_nodes[-1]
    parent.children.append(node)
    parent.size += node.size
    parent.depth = max(parent.depth, node.depth + 1)
    _check_limits(parent, parent.size, parent.depth, file)


def _check_limits(node: Node, count: int, depth: int, file: str) -> None:
    if max(count, node.size) > NODES_MAX:
        message = "too many values, counting what aliases repeat"
        allowed = f"at most {NODES_MAX:,} values"
        raise Stopped(Problem(message, file, node.line, node.column, allowed=allowed))
    if max(depth, node.depth) > DEPTH_MAX:
        allowed = f"at most {DEPTH_MAX} levels"
        raise Stopped(Problem("nested too deeply", file, node.line, node.column, allowed=allowed))


def _events(text: str, file: str) -> Iterator[Any]:
    """Yield the events of the YAML parser; its errors become `Stopped`."""
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_event():
            yield loader.get_event()
    except yaml.YAMLError as error:
        raise Stopped(_syntax_problem(error, text, file)) from None
    except (UnicodeError, ValueError) as error:
        raise Stopped(Problem(f"is not text that YAML allows: {error}", file)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    if mark is None:
        return Problem(f"is not YAML: {reason}", file)
    lines = text.split("\n")
    written = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in written[: mark.column + 1]:
        reason = "a tab stands where YAML allows only spaces; indent with spaces"
    context = getattr(error, "context", None)
    message = f"is not YAML: {reason}" + (f" ({context})" if context else "")
    return Problem(message, file, mark.line + 1, mark.column + 1, found=written.strip()[:60])
