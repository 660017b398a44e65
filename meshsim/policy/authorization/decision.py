"""May this caller make this request?  The one evaluator of every family's access rules.

Rule: a request must pass, in this order,

1. the network policies of the packet's way: a DENY rule that matches drops; where any ALLOW
   policy holds, one of its rules must match, else the packet is dropped and the caller hears
   nothing.  A rule that matches but for its conditions on HTTP is Cilium's: 403;
2. the mutual TLS mode: plaintext in STRICT is reset;
3. each filter of the proxy.  Within a filter: a CUSTOM rule that matches asks the provider,
   whose answer is the policy's default; then a DENY rule that matches denies; then, where any
   ALLOW policy holds, one of its rules must match; a FIRST_MATCH policy does what the first
   rule that matches says, and its default where none does.

A workload that no policy selects admits everybody.  HTTP is answered 403 (or 404 where routes
are missing), another protocol is reset.  On a connection that is not HTTP an ALLOW rule with a
condition on HTTP never matches, and a DENY rule is taken without such conditions.

The answer names the policy and rule that gave it.  It depends on attributes alone and is
remembered by them.

References
----------
istio/istio pilot/pkg/security/authz/builder (builder.go, order of the filters) and
authz/model/model.go (TCP: checkError); istio/api security/v1beta1/authorization_policy.proto;
Envoy, source/extensions/filters/common/rbac; Cilium, Documentation/security/policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from meshsim.policy.authentication import DISABLE, STRICT
from meshsim.policy.authorization.peer_authentication import EffectiveMode
from meshsim.policy.authorization.rules import Party, Policy, Request, Rule, header_of
from meshsim.state.codes import ACCESS_ALLOWED as ALLOWED
from meshsim.state.codes import ACCESS_DROPPED as DROPPED
from meshsim.state.codes import ACCESS_FORBIDDEN as FORBIDDEN
from meshsim.state.codes import ACCESS_NOT_FOUND as NOT_FOUND
from meshsim.state.codes import ACCESS_RESET as RESET

__all__ = [
    "ALLOWED",
    "DROPPED",
    "FORBIDDEN",
    "NOT_FOUND",
    "OUTCOMES",
    "RESET",
    "Authorizer",
    "Decision",
]

#: What each outcome means to people.
OUTCOMES = {
    ALLOWED: "allowed",
    FORBIDDEN: "denied (403)",
    NOT_FOUND: "denied (404)",
    RESET: "denied (reset)",
    DROPPED: "dropped",
}
#: Most answers that one authorizer remembers.
_MEMORY_MAX = 65_536


@dataclass(frozen=True)
class Decision:
    """An answer and its reason.

    Parameters
    ----------
    outcome : int
        `ALLOWED`, `FORBIDDEN`, `NOT_FOUND`, `RESET` or `DROPPED`.
    reason : str
        A sentence, e.g. ``denied by DENY rule 2 of AuthorizationPolicy foo/viewers``.
    policy : str
        The policy that decided; "" if none did.
    rule : int
        Its rule, counted from 1; 0 if no single rule decided.
    """

    outcome: int
    reason: str
    policy: str = ""
    rule: int = 0

    @property
    def allowed(self) -> bool:
        """Whether the request passes."""
        return self.outcome == ALLOWED


class Authorizer:
    """The access rules in front of one workload.

    Parameters
    ----------
    target : Party
        The workload.
    policies : sequence of Policy
        That hold for it; in this order.
    mode : EffectiveMode or None
        Its mutual TLS mode; None if it has no proxy.
    """

    def __init__(
        self, target: Party, policies: Sequence[Policy], mode: EffectiveMode | None
    ) -> None:
        self.target = target
        self.policies = tuple(policies)
        self.mode = mode
        self._filters = tuple(dict.fromkeys(p.filter for p in self.policies if not p.network))
        self._memory: dict[tuple[Party, Request], Decision] = {}

    def decide(self, peer: Party, request: Request) -> Decision:
        """Return the answer to `request` of `peer`.

        Parameters
        ----------
        peer : Party
            Its `principal` is None if it speaks plaintext.
        request : Request
        """
        key = (peer, request)
        found = self._memory.get(key)
        if found is None:
            if len(self._memory) >= _MEMORY_MAX:
                self._memory.clear()
            found = self._memory[key] = self._decide(peer, request)
        return found

    @property
    def headers(self) -> frozenset[str]:
        """Names, in lower case, of the headers that some rule looks at."""
        conditions = (item for p in self.policies for rule in p.rules for item in rule.conditions())
        names = (header_of(condition.attribute) for condition in conditions)
        return frozenset(name for name in names if name is not None)

    def filters(self, request: Request) -> bool:
        """Say whether the proxy holds rules for the port of `request`."""
        return any(not policy.network for policy in self._bearing(request))

    def _decide(self, peer: Party, request: Request) -> Decision:
        if self.mode is None or self.mode.mode == DISABLE:
            peer = replace(peer, principal=None)
        network = self._network(peer, request)
        if not network.allowed:
            return network
        if self.mode is not None and self.mode.mode == STRICT and peer.principal is None:
            reason = f"denied by mode STRICT of {self.target.name} ({self.mode.reason}): "
            return Decision(RESET, reason + f"{peer.name} speaks plaintext", self.mode.reason)
        passed = [network] if network.policy else []
        for name in self._filters:
            decision = self._filter(name, peer, request)
            if not decision.allowed:
                return decision
            if decision.policy:
                passed.append(decision)
        if passed:
            return passed[-1]
        return Decision(ALLOWED, f"allowed: no policy restricts {self._where(request)}")

    def _where(self, request: Request) -> str:
        return f"port {request.port} of {self.target.name}"

    def _bearing(self, request: Request) -> Iterator[Policy]:
        return (policy for policy in self.policies if policy.bears_on(request))

    # --- Packets ---

    def _network(self, peer: Party, request: Request) -> Decision:
        policies = [policy for policy in self._bearing(request) if policy.network]
        for policy, number, rule in _rules(policies, "DENY"):
            if rule.matches(peer, request, self.target, without_http=True):
                reason = f"dropped by DENY rule {number} of {policy.name}"
                return Decision(DROPPED, reason, policy.name, number)
        almost: tuple[Policy, int] | None = None
        for policy, number, rule in _rules(policies, "ALLOW"):
            if not rule.matches(peer, request, self.target, without_http=True):
                continue
            if not rule.uses_http or rule.matches(peer, request, self.target):
                return _by_rule(ALLOWED, "allowed", policy, number)
            almost = almost or (policy, number)
        if almost is not None:
            policy, number = almost
            reason = f"denied: rule {number} of {policy.name} does not allow this request"
            outcome = FORBIDDEN if request.http else RESET
            return Decision(outcome, reason, policy.name, number)
        if any(policy.action == "ALLOW" for policy in policies):
            return _nothing_matched(DROPPED, "dropped", policies, peer)
        return Decision(ALLOWED, "allowed: no network policy")

    # --- The proxy ---

    def _filter(self, name: str, peer: Party, request: Request) -> Decision:
        policies = [
            policy
            for policy in self._bearing(request)
            if policy.filter == name and not policy.network
        ]
        for action in ("CUSTOM", "DENY"):
            for policy, number, rule in _rules(policies, action):
                if action == "CUSTOM" and policy.default == "ALLOW":
                    continue
                if self._matches(rule, action, peer, request):
                    return _by_rule(_refusal(policy, request), "denied", policy, number)
        ordered = [policy for policy in policies if policy.action == "FIRST_MATCH"]
        if ordered:
            return self._first_match(ordered, peer, request)
        allowing = [policy for policy in policies if policy.action == "ALLOW"]
        if not allowing:
            return Decision(ALLOWED, "allowed: no ALLOW policy")
        for policy, number, rule in _rules(allowing, "ALLOW"):
            if self._matches(rule, "ALLOW", peer, request):
                return _by_rule(ALLOWED, "allowed", policy, number)
        return _nothing_matched(_refusal(allowing[0], request), "denied", allowing, peer)

    def _first_match(self, policies: list[Policy], peer: Party, request: Request) -> Decision:
        for policy, number, rule in _rules(policies, "FIRST_MATCH"):
            if self._matches(rule, rule.action, peer, request):
                if rule.action == "ALLOW":
                    return _by_rule(ALLOWED, "allowed", policy, number)
                return _by_rule(_refusal(policy, request), "denied", policy, number)
        last = policies[-1]
        reason = f"by default ({last.default}) of {last.name}: no rule matches {peer.name}"
        if last.default == "ALLOW":
            return Decision(ALLOWED, f"allowed {reason}", last.name)
        return Decision(_refusal(last, request), f"denied {reason}", last.name)

    def _matches(self, rule: Rule, action: str, peer: Party, request: Request) -> bool:
        if request.http:
            return rule.matches(peer, request, self.target)
        if action == "ALLOW" and rule.uses_http:
            return False
        return rule.matches(peer, request, self.target, without_http=True)


def _rules(policies: Sequence[Policy], action: str) -> Iterator[tuple[Policy, int, Rule]]:
    """Yield the rules of the policies of one action, counted from 1 in each."""
    for policy in policies:
        if policy.action == action:
            for number, rule in enumerate(policy.rules, 1):
                yield policy, number, rule


def _refusal(policy: Policy, request: Request) -> int:
    if not request.http:
        return RESET
    return NOT_FOUND if policy.status == 404 else FORBIDDEN


def _by_rule(outcome: int, verb: str, policy: Policy, number: int) -> Decision:
    rule = policy.rules[number - 1]
    action = rule.action if policy.action == "FIRST_MATCH" else policy.action
    reason = f"{verb} by {action} rule {number} of {policy.name}"
    if rule.note:
        reason += f" ({rule.note})"
    if action == "CUSTOM":
        reason += " (its provider refuses)"
    return Decision(outcome, reason, policy.name, number)


def _nothing_matched(outcome: int, verb: str, policies: Sequence[Policy], peer: Party) -> Decision:
    names = [policy.name for policy in policies if policy.action == "ALLOW"]
    reason = f"{verb}: no ALLOW rule of {', '.join(names)} matches"
    if peer.principal is None and not policies[0].network:
        reason += f" ({peer.name} speaks plaintext and has no identity)"
    return Decision(outcome, reason, names[0])
