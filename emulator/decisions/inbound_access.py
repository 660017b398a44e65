"""Access rules as a live proxy asks them: whether this peer may make this request.

Rule: the answer is `meshsim.policy.authorization`'s, the evaluator that a simulation compiles
into a table; this module says who the peer is by the principal of its certificate, and which
headers count.  A principal that nobody declared is known by what it says itself (namespace and
account); a peer in plaintext by nothing, so network policies, which look at labels, do not
judge it here: packets are lost at the caller's side.

Every question is a stimulus, logged with its answer, so that a replay asks it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from emulator.decisions.stimuli import StimulusLog
from meshsim.controlplane.access import ListenerAccess
from meshsim.controlplane.configuration import ListenerPolicy
from meshsim.policy.authorization import (
    Authorizer,
    Decision,
    EffectiveMode,
    Party,
    Request,
    labels_of,
)
from meshsim.state.codes import ACCESS_UNRESTRICTED
from meshsim.topology.compiled.access import policy_rules

__all__ = ["InboundAccess"]

_FORWARDED_FOR = "x-forwarded-for"
_PLAINTEXT = Party("a caller in plaintext")


class InboundAccess:
    """The access rules in front of one workload, as its proxy was told them.

    Parameters
    ----------
    index : int
        Of the proxy, for the log.
    log : StimulusLog, optional
    """

    def __init__(self, index: int, log: StimulusLog | None = None) -> None:
        self._index = index
        self._log = log
        self._access: ListenerAccess | None = None
        self._of_known: Authorizer | None = None
        self._of_strangers: Authorizer | None = None
        self._parties: dict[str, Party] = {}
        self._headers: frozenset[str] = frozenset()

    @property
    def active(self) -> bool:
        """Whether there are rules to judge by."""
        return self._of_known is not None

    def apply(self, policy: ListenerPolicy) -> None:
        """Put the access of `policy` in force."""
        access = policy.access
        if access == self._access:
            return
        self._access = access
        self._of_known = self._of_strangers = None
        if access is None or not access.policies:
            return
        target = access.target.party()
        rules = [policy_rules(item) for item in access.policies]
        mode = EffectiveMode(policy.mode, access.reason)
        self._of_known = Authorizer(target, rules, mode)
        self._of_strangers = Authorizer(target, [item for item in rules if not item.network], mode)
        self._parties = {item.principal: item.party() for item in access.callers if item.principal}
        self._headers = self._of_known.headers | {_FORWARDED_FOR}

    def decide(
        self, principal: str | None, method: str, path: str, host: str, headers: Mapping[str, str]
    ) -> Decision | None:
        """Return the answer and its reason; None if no rule bears on the request."""
        access = self._access
        if access is None or self._of_known is None or self._of_strangers is None:
            return None
        seen = {name: value for name, value in headers.items() if name in self._headers}
        request = Request(method, path, host, labels_of(seen), access.port, access.port_name)
        if principal is None:
            return self._of_strangers.decide(_PLAINTEXT, request)
        party = self._parties.get(principal)
        if party is None:
            return self._of_strangers.decide(Party(principal, principal=principal), request)
        decision = self._of_known.decide(party, request)
        if decision.allowed and not self._of_known.filters(request):
            return None
        return decision

    def authorize(
        self, principal: str | None, method: str, path: str, host: str, headers: Mapping[str, str]
    ) -> int:
        """Return ACCESS_* for a request.

        Parameters
        ----------
        principal : str or None
            SPIFFE id of the peer's certificate; None in plaintext.
        method, path, host : str
        headers : mapping of str to str
            Names in lower case.
        """
        if self._of_known is None:
            return ACCESS_UNRESTRICTED
        decision = self.decide(principal, method, path, host, headers)
        outcome = ACCESS_UNRESTRICTED if decision is None else decision.outcome
        if self._log is not None:
            seen = {name: value for name, value in headers.items() if name in self._headers}
            stimulus = [self._index, "authorize", principal, method, path, host, seen, outcome]
            self._log.write(json.dumps(stimulus, separators=(",", ":")))
        return outcome
