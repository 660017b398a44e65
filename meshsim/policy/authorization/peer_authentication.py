"""Which mutual TLS mode a port of a workload is in.

Rule (Istio): the closest statement wins: of the port, then of the workload, then of its
namespace, then of the mesh; without any the mode is PERMISSIVE.  UNSET takes the mode of the
next wider scope.  Of several at one scope the oldest counts.  Statements about workloads that
are made in the root namespace are ignored there, as are ports without a selector.

References
----------
istio/api security/v1beta1/peer_authentication.proto; istio/istio
pilot/pkg/security/authn (ComposePeerAuthentication).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshsim.policy.authentication import DISABLE, PERMISSIVE, STRICT
from meshsim.policy.authorization.rules import Party, Selector

__all__ = ["UNSET", "EffectiveMode", "PeerAuthentication", "effective_mode"]

#: The mode of the next wider scope.
UNSET = "UNSET"
_MEANT = (STRICT, PERMISSIVE, DISABLE)
#: Scopes, the closest first.
_WORKLOAD, _NAMESPACE, _MESH = range(3)
_EVERYBODY = Selector()


@dataclass(frozen=True)
class PeerAuthentication:
    """A statement about modes.

    Parameters
    ----------
    name : str
        For people.
    mode : str
        STRICT, PERMISSIVE, DISABLE or UNSET.
    selector : Selector
        Whose; one of labels or services is about workloads, one of namespaces about these, an
        empty one about the mesh.
    ports : tuple of (int, str)
        Modes of single ports of the pod; only of workloads.
    """

    name: str
    mode: str = UNSET
    selector: Selector = _EVERYBODY
    ports: tuple[tuple[int, str], ...] = ()

    @property
    def scope(self) -> int:
        """How close the statement is; less is closer."""
        if self.selector.labels or self.selector.services:
            return _WORKLOAD
        return _NAMESPACE if self.selector.namespace_labels else _MESH


class EffectiveMode(NamedTuple):
    """A mode, and why."""

    mode: str
    reason: str


def effective_mode(
    statements: Sequence[PeerAuthentication], party: Party, port: int
) -> EffectiveMode:
    """Return the mode in which `party` listens at `port`.

    Parameters
    ----------
    statements : sequence of PeerAuthentication
        The oldest first.
    party : Party
    port : int
        Of the pod.

    Examples
    --------
    >>> mesh = PeerAuthentication("mesh", "STRICT")
    >>> effective_mode([mesh], Party("web"), 80)
    EffectiveMode(mode='STRICT', reason='mesh')
    """
    closest: dict[int, PeerAuthentication] = {}
    for statement in statements:
        if statement.selector.selects(party):
            closest.setdefault(statement.scope, statement)
    for scope in sorted(closest):
        statement = closest[scope]
        stated = dict(statement.ports).get(port) if scope == _WORKLOAD else None
        if stated in _MEANT:
            return EffectiveMode(str(stated), f"{statement.name}, port {port}")
        if statement.mode in _MEANT:
            return EffectiveMode(statement.mode, statement.name)
    return EffectiveMode(PERMISSIVE, "default: mode PERMISSIVE")
