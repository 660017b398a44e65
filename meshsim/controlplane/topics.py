"""Topics of the bus, and who may use which.

Rule: every topic names one proxy, and a user is named as its proxy.  A proxy may say three
things, all about itself (what it holds, what it answers, which certificate it asks for), and
hear two, both its own (configuration, certificate).  The control plane is the mirror image, and
says hello to all when it comes (back), upon which each says what it holds.  Nobody else may
anything.

========================================== =================== ==================
topic                                      said by             heard by
========================================== =================== ==================
meshsim/<mesh>/config/<proxy>/<type>       control plane       the proxy
meshsim/<mesh>/certificate/<proxy>         control plane       the proxy
meshsim/<mesh>/hello                       control plane       every proxy
meshsim/<mesh>/state/<proxy>               the proxy           control plane
meshsim/<mesh>/ack/<proxy>                 the proxy           control plane
meshsim/<mesh>/csr/<proxy>                 the proxy           control plane
meshsim/<mesh>/node/<node>/asked           harness             a node that joined
meshsim/<mesh>/node/<node>/said            a node that joined  harness
========================================== =================== ==================

Names are percent-encoded, so that none contains a separator or a wildcard.

References
----------
OASIS MQTT 3.1.1, 4.7 (topic names and filters).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

__all__ = [
    "CONTROL_PLANE",
    "HARNESS",
    "Grant",
    "Topics",
    "encoded",
    "grants_of",
    "is_within",
    "node_grants",
]

#: User name of the control plane; percent-encoded names contain no blank, so no proxy has it.
CONTROL_PLANE = "control plane"
#: User name of the harness of an emulated mesh, to the nodes that other machines host.
HARNESS = "harness of nodes"
_SAID_BY_PROXY = ("state", "ack", "csr")


@dataclass(frozen=True)
class Grant:
    """Topic filters a user may publish to, and those it may subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def encoded(name: str) -> str:
    """Return `name` as one level of a topic, and as a user name.

    Examples
    --------
    >>> encoded("gateway-a/b+c")
    'gateway-a%2Fb%2Bc'
    """
    return quote(name, safe="")


def is_within(topic: str, allowed: str) -> bool:
    """Decide whether a topic or filter asks for no more than the filter `allowed` does.

    Examples
    --------
    >>> is_within("a/b", "a/+"), is_within("a/+", "a/+"), is_within("a/#", "a/+")
    (True, True, False)
    """
    asked = topic.split("/")
    for index, level in enumerate(allowed.split("/")):
        if level == "#":
            return True
        if index >= len(asked) or asked[index] == "#":
            return False
        if level != "+" and asked[index] != level:
            return False
    return len(asked) == len(allowed.split("/"))


class Topics:
    """Topics of one mesh.

    Parameters
    ----------
    mesh : str or None
        Its name; None stands for every mesh, in filters of access lists.
    """

    def __init__(self, mesh: str | None) -> None:
        self._root = f"meshsim/{'+' if mesh is None else encoded(mesh)}"

    def config(self, proxy: str, kind: str) -> str:
        """Return where a resource of `proxy` is published."""
        return f"{self._root}/config/{encoded(proxy)}/{kind}"

    @property
    def hello(self) -> str:
        """The topic on which the control plane says that it is there."""
        return f"{self._root}/hello"

    def of(self, family: str, proxy: str) -> str:
        """Return the topic of `proxy` in "state", "ack", "csr" or "certificate"."""
        return f"{self._root}/{family}/{encoded(proxy)}"

    def node(self, node: str, kind: str) -> str:
        """Return the topic of what is "asked" of a node on another machine, or "said" by it."""
        return f"{self._root}/node/{encoded(node)}/{kind}"

    def read(self, topic: str) -> tuple[str, str, str] | None:
        """Return (family, proxy, type or "") of a topic of this mesh, or None."""
        if not topic.startswith(f"{self._root}/"):
            return None
        levels = topic[len(self._root) + 1 :].split("/")
        if levels == ["hello"]:
            return "hello", "", ""
        if levels[0] == "config" and len(levels) == 3:
            return "config", unquote(levels[1]), levels[2]
        if levels[0] in (*_SAID_BY_PROXY, "certificate") and len(levels) == 2:
            return levels[0], unquote(levels[1]), ""
        return None

    def proxy_grant(self, proxy: str) -> Grant:
        """Return what `proxy` may say and hear."""
        return Grant(
            tuple(self.of(family, proxy) for family in _SAID_BY_PROXY),
            (self.config(proxy, "+"), self.of("certificate", proxy), self.hello),
        )

    @property
    def control_plane_grant(self) -> Grant:
        """What the control plane may say and hear."""
        return Grant(
            (f"{self._root}/config/+/+", f"{self._root}/certificate/+", self.hello),
            tuple(f"{self._root}/{family}/+" for family in _SAID_BY_PROXY),
        )


def grants_of(mesh: str | None, users: Iterable[str]) -> Mapping[str, Grant]:
    """Return the grants of `users`: proxies, and `CONTROL_PLANE` if it is among them.

    `mesh` is as in `Topics`.
    """
    topics = Topics(mesh)
    return {
        user: topics.control_plane_grant if user == CONTROL_PLANE else topics.proxy_grant(user)
        for user in users
    }


def node_grants(mesh: str | None, nodes: Iterable[str]) -> Mapping[str, Grant]:
    """Return the grants of nodes on other machines, and of the `HARNESS` that asks them.

    `mesh` is as in `Topics`.
    """
    topics = Topics(mesh)
    asked = {node: topics.node(node, "asked") for node in nodes}
    said = {node: topics.node(node, "said") for node in asked}
    grants = {node: Grant((said[node],), (asked[node],)) for node in asked}
    return {**grants, HARNESS: Grant(tuple(asked.values()), tuple(said.values()))}
