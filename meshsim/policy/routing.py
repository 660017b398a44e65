"""Routes: which rule a request meets, and which destination of a split it goes to.

Rule: routes are tried in order; a route matches if any of its matches does (none: always); a
match holds if all its conditions do.  Matching looks at strings, so it is plain Python, run
once per (attributes, configuration) and remembered as an integer; what compiled code does per
request is `choose_split`, and `is_mirrored` for each mirror of the route.

How strings are compared, as Envoy does: path (without its query) by exact, prefix or regex,
where `ignore_case` bears on exact and prefix; a prefix is a prefix of characters, so ``/api``
matches ``/apis``.  Header names ignore case, values do not.  An absent header meets
no condition except `present: false`; inverted, it counts as empty, so that the inverse of a
condition is its negation (Istio's `withoutHeaders` sets treat_missing_header_as_empty).
Names and values of query parameters mind the case and are compared as they are written, without
decoding; the first of a repeated name counts, and one without a value is empty.
A regex must match the whole string.  Envoy's engine is RE2: Python's understands nearly all of
RE2's syntax, and more (lookaround, backreferences), and may take exponential time where RE2 is
linear.

References
----------
Envoy, api/envoy/config/route/v3/route_components.proto (RouteMatch, HeaderMatcher,
QueryParameterMatcher, WeightedCluster, RequestMirrorPolicy);
source/common/router/config_impl.cc; source/common/http/header_utility.cc.
Istio, pilot/pkg/networking/core/route/route.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from meshsim.jit import kernel_jit_inline
from meshsim.rng import PURPOSE_MIRROR, key_uniform, mix_in

__all__ = [
    "NO_ROUTE",
    "MatchRule",
    "RequestAttributes",
    "RouteRule",
    "StringRule",
    "choose_split",
    "is_mirrored",
    "match_route",
    "matches_string",
    "mirror_key",
]

#: No route matches: 404, response flag NR.
NO_ROUTE = -1

_NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True)
class RequestAttributes:
    """What of a request a route can look at.

    Parameters
    ----------
    method, path, authority : str
        `path` may carry a query, which conditions on the path ignore.
    headers : mapping of str to str
        Names in any case.
    """

    method: str = "GET"
    path: str = "/"
    authority: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class StringRule(Protocol):
    """A condition on a string: exactly one of exact, prefix, regex, present is not None."""

    @property
    def exact(self) -> str | None:
        """The whole string."""

    @property
    def prefix(self) -> str | None:
        """How the string begins."""

    @property
    def regex(self) -> str | None:
        """A pattern for the whole string."""

    @property
    def present(self) -> bool | None:
        """Whether there is a string at all."""

    @property
    def invert(self) -> bool:
        """Whether the condition is the opposite."""


class MatchRule(Protocol):
    """Conditions that must all hold; None and empty hold always."""

    @property
    def path(self) -> StringRule | None:
        """Condition on the path without its query."""

    @property
    def method(self) -> StringRule | None:
        """Condition on the method."""

    @property
    def authority(self) -> StringRule | None:
        """Condition on the authority (host)."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """Conditions (`StringRule`) on headers by name."""

    @property
    def query(self) -> Mapping[str, Any]:
        """Conditions (`StringRule`) on query parameters by name."""

    @property
    def ignore_case(self) -> bool:
        """Whether exact and prefix of `path` ignore case."""

    @property
    def source_labels(self) -> Mapping[str, str]:
        """Labels that the caller's workload must carry."""


class RouteRule(Protocol):
    """A route, as far as matching is concerned."""

    @property
    def match(self) -> Sequence[Any]:
        """Alternatives (`MatchRule`), any of which suffices; empty matches every request."""


@lru_cache(maxsize=1024)
def _pattern(regex: str) -> re.Pattern[str]:
    return re.compile(regex)


def matches_string(rule: StringRule, value: str | None, ignore_case: bool = False) -> bool:
    """Decide whether `value` (None: absent) meets `rule`.

    Raises
    ------
    re.error
        If the regex is none.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rule = SimpleNamespace(exact=None, prefix="/api", regex=None, present=None, invert=False)
    >>> matches_string(rule, "/apis"), matches_string(rule, "/API"), matches_string(rule, None)
    (True, False, False)
    """
    if rule.present is not None:
        return ((value is not None) == rule.present) != rule.invert
    if value is None:
        if not rule.invert:
            return False
        value = ""
    if rule.regex is not None:
        return (_pattern(rule.regex).fullmatch(value) is not None) != rule.invert
    wanted = rule.exact if rule.exact is not None else rule.prefix
    if wanted is None:
        return not rule.invert
    if ignore_case:
        wanted, value = wanted.lower(), value.lower()
    found = value == wanted if rule.exact is not None else value.startswith(wanted)
    return found != rule.invert


def _holds(
    match: MatchRule,
    request: RequestAttributes,
    headers: Mapping[str, str],
    source_labels: Mapping[str, str],
) -> bool:
    """Decide whether all conditions of `match` hold; `headers` have lower-case names."""
    path = request.path.partition("?")[0]
    if match.path is not None and not matches_string(match.path, path, match.ignore_case):
        return False
    if match.method is not None and not matches_string(match.method, request.method):
        return False
    if match.authority is not None and not matches_string(match.authority, request.authority):
        return False
    if any(source_labels.get(name) != value for name, value in match.source_labels.items()):
        return False
    if match.query:
        given = _parameters(request.path)
        if not all(matches_string(rule, given.get(name)) for name, rule in match.query.items()):
            return False
    return all(
        matches_string(rule, headers.get(name.lower())) for name, rule in match.headers.items()
    )


def _parameters(path: str) -> dict[str, str]:
    """Return the query parameters of `path` (Envoy, Utility::QueryParamsMulti: first values)."""
    found: dict[str, str] = {}
    for pair in path.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        found.setdefault(name, value)
    return found


def match_route(
    routes: Sequence[RouteRule],
    request: RequestAttributes,
    source_labels: Mapping[str, str] = _NO_LABELS,
) -> int:
    """Return the index of the first route that matches `request`.

    Parameters
    ----------
    routes : sequence of RouteRule
        In order; `meshsim.topology.model.Route` is one.
    request : RequestAttributes
    source_labels : mapping of str to str
        Labels of the caller's workload.

    Returns
    -------
    int
        Index into `routes`, or `NO_ROUTE`.

    Raises
    ------
    re.error
        If a regex is none.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    for index, route in enumerate(routes):
        if not route.match:
            return index
        if any(_holds(match, request, headers, source_labels) for match in route.match):
            return index
    return NO_ROUTE


@kernel_jit_inline
def choose_split(splits: Any, start: int, count: int, weight_total: int, uniform: float) -> int:
    """Choose a destination of a weighted split.

    Parameters
    ----------
    splits : ndarray[SPLIT_DTYPE], shape (n_splits,)
        The route's are ``splits[start : start + count]``.  Read only.
    start, count : int
        See `splits`; count >= 1.
    weight_total : int
        Sum of their weights, >= 1.
    uniform : float
        Draw in [0, 1); stands for Envoy's random value modulo `weight_total`.

    Returns
    -------
    int
        Row of `splits`: the first whose cumulative weight exceeds the value.  Weight 0 is
        never chosen.
    """
    value = int(uniform * weight_total)
    chosen = start
    while chosen < start + count - 1 and value >= splits["weight"][chosen]:
        value -= splits["weight"][chosen]
        chosen += 1
    return chosen


@kernel_jit_inline
def mirror_key(key: np.uint64, number: int) -> np.uint64:
    """Return the draw key of the copy that mirror `number` of a route gets of a request."""
    return mix_in(key, (PURPOSE_MIRROR << 24) + number)


@kernel_jit_inline
def is_mirrored(mirrors: Any, mirror: int, key: np.uint64) -> bool:
    """Decide whether a mirror gets a copy of a request.

    Parameters
    ----------
    mirrors : ndarray[MIRROR_DTYPE], shape (n_mirrors,)
        Read only.
    mirror : int
        Row of `mirrors`.
    key : uint64
        Draw key of the copy (`mirror_key`).
    """
    return key_uniform(key) < mirrors["share"][mirror]
