"""One entry of an Istio route match, as conditions the simulator can test.

Rule: every condition that can be decided while reading (scheme, port, gateways, the namespace
of the caller) is decided here; what depends on the request becomes a field of the model's route
match.  An entry with a condition that is false, or that this version cannot express, is left out:
requests without that property would not match it, and leaving the condition out would widen the
match.

References
----------
istio/api networking/v1alpha3/virtual_service.proto (HTTPMatchRequest);
istio/istio pilot/pkg/networking/core/route/route.go (TranslateRouteMatch).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from meshsim.importers.view import View
from meshsim.topology.model import Provenance

__all__ = ["Conditions", "read_match"]

#: Value and place by path below the model's route match.
Conditions = dict[tuple[str, ...], tuple[Any, Provenance]]

_KINDS = ("exact", "prefix", "regex")
#: Keys under `headers` that Istio ignores: they have conditions of their own.
_NOT_HEADERS = frozenset({"uri", "scheme", "method", "authority"})


def read_match(entry: View, port: int, namespaces: Collection[str]) -> Conditions | None:
    """Read one entry.

    Parameters
    ----------
    entry : View
        Of ``match[i]``.
    port : int
        The port the routed service is simulated with.
    namespaces : collection of str
        Where callers live.

    Returns
    -------
    dict or None
        Value and place by path in the model's route match; None if the entry cannot hold.
    """
    entry.ignore("name", "statPrefix")
    conditions: Conditions = {}
    for key, field in (("uri", "path"), ("method", "method"), ("authority", "authority")):
        _add_string(entry, key, (field,), conditions)
    if entry.boolean("ignoreUriCase"):
        conditions["ignore_case",] = (True, entry.place("ignoreUriCase"))
    _add_headers(entry, conditions)
    _add_query(entry, conditions)
    labels = entry.labels("sourceLabels")
    if labels:
        conditions["source_labels",] = (labels, entry.place("sourceLabels"))
    reason = _impossible(entry, port, namespaces)
    if reason:
        entry.notice(f"match entry left out: {reason}")
        return None
    return conditions


def _impossible(entry: View, port: int, namespaces: Collection[str]) -> str:
    """Return why the entry can hold for no request here, or ""."""
    gateways = entry.texts("gateways")
    if gateways and "mesh" not in gateways:
        return "it holds at gateways only, which are not simulated yet"
    wanted = entry.integer("port", 1, 65_535)
    if wanted is not None and wanted != port:
        return f"port {wanted} is not the simulated port {port}"
    if entry.has("scheme"):
        kind, value = _string(entry.view("scheme"))
        if not _holds(kind, value, "http"):
            return "in-mesh requests have scheme http"
    source = entry.text("sourceNamespace")
    if source is not None and set(namespaces) != {source}:
        if source in namespaces:
            return "sourceNamespace among several is not simulated yet"
        return f"no workload in namespace {source}"
    return ""


def _holds(kind: str, value: str, text: str) -> bool:
    if kind == "exact":
        return text == value
    if kind == "prefix":
        return text.startswith(value)
    return kind == "regex" and re.fullmatch(value, text) is not None


def _string(view: View) -> tuple[str, str]:
    """Return which of exact, prefix, regex is set, and its value; ("", "") if none is."""
    found = [kind for kind in _KINDS if view.has(kind)]
    if len(found) > 1:
        view.problem("exactly one condition is wanted", allowed=", ".join(_KINDS))
    kind = found[0] if found else ""
    value = (view.text(kind) if kind else "") or ""
    if kind == "regex":
        try:
            re.compile(value)
        except re.error as error:
            view.problem(f"not a regular expression: {error}", kind, found=repr(value)[:60])
            return kind, ""
    return kind, value


def _add_string(entry: View, key: str, path: tuple[str, ...], conditions: Conditions) -> None:
    if not entry.has(key):
        return
    view = entry.view(key)
    kind, value = _string(view)
    if kind:
        conditions[*path, kind] = (value, view.place(kind))
    else:
        view.problem("a condition is wanted", allowed=", ".join(_KINDS))


def _add_headers(entry: View, conditions: Conditions) -> None:
    for key, invert in (("headers", False), ("withoutHeaders", True)):
        headers = entry.view(key)
        for name in list(headers.value):
            if name in _NOT_HEADERS:
                headers.ignore(name)
                headers.notice(f"{name} is no header; Istio ignores it here", name)
                continue
            path = ("headers", name.lower())
            if any(known[:2] == path for known in conditions):
                headers.ignore(name)
                headers.notice(f"a second condition on {name} is not simulated yet", name)
                continue
            view = headers.view(name)
            kind, value = _string(view)
            if kind:
                conditions[*path, kind] = (value, view.place(kind))
            else:
                conditions[*path, "present"] = (True, headers.place(name))
            if invert:
                conditions[*path, "invert"] = (True, headers.place(name))


def _add_query(entry: View, conditions: Conditions) -> None:
    parameters = entry.view("queryParams")
    for name in list(parameters.value):
        view = parameters.view(name)
        kind, value = _string(view)
        if kind:
            conditions["query", name, kind] = (value, view.place(kind))
        else:
            conditions["query", name, "present"] = (True, parameters.place(name))
