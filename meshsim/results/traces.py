"""Sampled requests as span trees.

Rule: a span is one exchange: a caller's request to a service with all its attempts.  Spans of
one trace form a tree by `parent_span`; siblings are in the order of their start.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from meshsim.state.codes import FLAG_NAMES, NO_INDEX
from meshsim.state.record import Catalog, RunRecord

__all__ = ["Span", "Trace", "traces"]

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Span:
    """One request of a caller to a service.

    Parameters
    ----------
    caller, service, endpoint : str
        Who called what; the endpoint of the last attempt, empty if there was none.
    status : int
        HTTP status.
    response_flag : str
        Envoy's flag, ``"-"`` for none.
    tries : int
        Attempts made.
    start_ms, duration_ms : float
        Start on the clock of the run, and duration [ms].
    queue_ms, service_ms, proxy_ms, wire_ms : float
        Time by part of this hop [ms].
    children : tuple of Span
        Requests made on behalf of this one.
    """

    caller: str
    service: str
    endpoint: str
    status: int
    response_flag: str
    tries: int
    start_ms: float
    duration_ms: float
    queue_ms: float
    service_ms: float
    proxy_ms: float
    wire_ms: float
    children: tuple[Span, ...] = ()

    def _label(self) -> str:
        words = [self.endpoint or self.service, str(self.status)]
        if self.response_flag != FLAG_NAMES[0]:
            words.append(self.response_flag)
        if self.tries != 1:
            words.append(f"{self.tries} tries")
        return " ".join(words)

    def _parts(self) -> str:
        parts = [
            f"{name} {value:.3g}"
            for name, value in (
                ("queue", self.queue_ms),
                ("service", self.service_ms),
                ("proxy", self.proxy_ms),
                ("wire", self.wire_ms),
            )
            if value
        ]
        return f"  ({', '.join(parts)})" if parts else ""


@dataclass(frozen=True)
class Trace:
    """One sampled request.

    Parameters
    ----------
    replication, number : int
        Which replication, and which request of it.
    root : Span
    """

    replication: int
    number: int
    root: Span

    def tree(self) -> str:
        """Draw the spans as an indented tree; times in ms, starts relative to the root."""
        lines = [f"trace {self.number} of replication {self.replication}, from {self.root.caller}"]
        rows: list[tuple[str, Span]] = []
        stack: list[tuple[str, str, Span]] = [("", "", self.root)]
        while stack:
            first, rest, span = stack.pop()
            rows.append((first + span._label(), span))
            for index, child in reversed(list(enumerate(span.children))):
                last = index == len(span.children) - 1
                head, tail = ("└─ ", "   ") if last else ("├─ ", "│  ")
                stack.append((rest + head, rest + tail, child))
        width = max(len(text) for text, _ in rows)
        for text, span in rows:
            start = span.start_ms - self.root.start_ms
            times = f"{start:8.2f} +{span.duration_ms:.2f} ms"
            lines.append(f"{text:<{width}} {times}{span._parts()}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.tree()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.tree())}</pre>"


def traces(catalog: Catalog, records: Sequence[RunRecord]) -> tuple[Trace, ...]:
    """Return the sampled requests of all replications, in the order they were made.

    A span whose parent was not recorded, because the run stopped first, is left out.
    """
    found = []
    for record in records:
        rows = record.spans
        children: dict[tuple[int, int], list[int]] = {}
        for index in sorted(range(len(rows)), key=lambda i: int(rows["start_ns"][i])):
            key = (int(rows["trace"][index]), int(rows["parent_span"][index]))
            children.setdefault(key, []).append(index)
        for (number, parent), roots in children.items():
            if parent == 0:
                found += [
                    Trace(record.replication, number, _span(catalog, record, children, root))
                    for root in roots
                ]
    return tuple(found)


def _span(
    catalog: Catalog, record: RunRecord, children: dict[tuple[int, int], list[int]], index: int
) -> Span:
    """Build the span of row `index` and those below it (a call graph is at most ~100 deep)."""
    row = record.spans[index]
    caller, service = catalog.edges[row["edge"]]
    endpoint = int(row["endpoint"])
    below = children.get((int(row["trace"]), int(row["span"])), [])
    return Span(
        caller=caller,
        service=service,
        endpoint="" if endpoint == NO_INDEX else catalog.endpoints[endpoint][2],
        status=int(row["status"]),
        response_flag=FLAG_NAMES[row["response_flag"]],
        tries=int(row["tries"]),
        start_ms=int(row["start_ns"]) / _NS_PER_MS,
        duration_ms=int(row["end_ns"] - row["start_ns"]) / _NS_PER_MS,
        queue_ms=int(row["queue_ns"]) / _NS_PER_MS,
        service_ms=int(row["service_ns"]) / _NS_PER_MS,
        proxy_ms=int(row["proxy_ns"]) / _NS_PER_MS,
        wire_ms=int(row["wire_ns"]) / _NS_PER_MS,
        children=tuple(_span(catalog, record, children, child) for child in below),
    )
