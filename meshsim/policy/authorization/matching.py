"""How access rules compare values: texts, paths, addresses, ports.

Rule (Istio's, which the other families are written in): ``abc`` is the whole value, ``abc*`` how
it begins, ``*abc`` how it ends, ``*`` any value that is present and not empty.  A text that
begins with ``~`` is a regular expression for the whole value.  Case counts, except in hosts.
In a path ``{*}`` stands for one segment and ``{**}`` for any number of them; the query does not
belong to the path.  An address block is an address or a CIDR block; a port is a number, a range
``8000-8080``, or the name that the workload gives its port.

A value that is absent meets nothing, so that a negated condition holds for it.

References
----------
istio/api security/v1beta1/authorization_policy.proto; istio/istio
pilot/pkg/security/authz/matcher (string.go, path.go), testdata http/allow-path-in.yaml; Envoy,
source/extensions/path/uri_template_lib (the segments of a template).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

__all__ = [
    "REGEX",
    "in_block",
    "is_block",
    "literal",
    "matches_host",
    "matches_path",
    "matches_port",
    "matches_text",
    "port_range",
]

#: What a regular expression begins with.
REGEX = "~"
#: What is special in a text that is compared.
_SPECIAL = re.compile(r"^~|^\*|\*$|\{\*\*?\}")
_TEMPLATE = re.compile(r"(\{\*\*?\})")
#: Envoy's characters of one segment, and of several.
_SEGMENT = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+"
_SEGMENTS = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=/]*"
_RANGE = re.compile(r"(\d+)-(\d+)")


def literal(text: str, prefix: bool = False) -> str:
    r"""Return the pattern of exactly `text`, or of values that begin with it.

    Examples
    --------
    >>> literal("/a"), literal("/a*"), literal("/a", prefix=True), literal("", prefix=True)
    ('/a', '~/a\\*', '/a*', '~(?s:.*)')
    """
    if prefix:
        plain = text and _SPECIAL.search(text) is None
        return text + "*" if plain else f"{REGEX}{re.escape(text)}(?s:.*)"
    return REGEX + re.escape(text) if _SPECIAL.search(text) else text


@lru_cache(maxsize=4096)
def _regex(text: str) -> re.Pattern[str]:
    return re.compile(text)


@lru_cache(maxsize=4096)
def _template(text: str) -> re.Pattern[str]:
    pieces = {"{*}": _SEGMENT, "{**}": _SEGMENTS}
    parts = (pieces.get(part, re.escape(part)) for part in _TEMPLATE.split(text))
    return re.compile("".join(parts))


@lru_cache(maxsize=4096)
def _block(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


def matches_text(pattern: str, value: str) -> bool:
    """Decide whether a present `value` meets `pattern`.

    Raises
    ------
    re.error
        If the pattern is a regular expression that is none.

    Examples
    --------
    >>> [matches_text(pattern, "abc") for pattern in ("abc", "ab*", "*bc", "*", "~a.c", "b*")]
    [True, True, True, True, True, False]
    >>> matches_text("*", "")
    False
    """
    if pattern == "*":
        return value != ""
    if pattern.startswith(REGEX):
        return _regex(pattern[1:]).fullmatch(value) is not None
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    return value == pattern


def matches_host(pattern: str, value: str) -> bool:
    """Decide whether the host `value` meets `pattern`, whatever the case."""
    if pattern.startswith(REGEX):
        return re.fullmatch(pattern[1:], value, re.IGNORECASE) is not None
    return matches_text(pattern.lower(), value.lower())


def matches_path(pattern: str, value: str) -> bool:
    """Decide whether the path `value`, of which the query is left out, meets `pattern`.

    Examples
    --------
    >>> matches_path("/books/{*}/pages", "/books/7/pages?from=3")
    True
    >>> matches_path("/books/{*}", "/books/7/pages"), matches_path("/{**}/pages", "/a/b/pages")
    (False, True)
    """
    path = value.partition("?")[0]
    if not pattern.startswith(REGEX) and _TEMPLATE.search(pattern):
        return _template(pattern).fullmatch(path) is not None
    return matches_text(pattern, path)


def is_block(text: str) -> bool:
    """Say whether `text` is an address or a block of addresses."""
    try:
        _block(text)
    except ValueError:
        return False
    return True


def in_block(block: str, address: str) -> bool:
    """Decide whether `address` lies in `block`; what is no address lies nowhere.

    Raises
    ------
    ValueError
        If `block` is no block of addresses.

    Examples
    --------
    >>> in_block("5.6.7.0/24", "5.6.7.8"), in_block("1.2.3.4", "1.2.3.5")
    (True, False)
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return found in _block(block)


def port_range(text: str) -> tuple[int, int] | None:
    """Return the first and the last port of a number or range, None if `text` is neither."""
    found = _RANGE.fullmatch(text)
    if found is not None:
        return int(found[1]), int(found[2])
    return (int(text), int(text)) if text.isdecimal() else None


def matches_port(pattern: str, port: int, name: str) -> bool:
    """Decide whether the port numbered `port` and called `name` meets `pattern`.

    Examples
    --------
    >>> [matches_port(text, 8080, "http") for text in ("8080", "8000-9000", "http", "80")]
    [True, True, True, False]
    """
    numbers = port_range(pattern)
    if numbers is None:
        return name != "" and pattern == name
    return numbers[0] <= port <= numbers[1]
