"""Who may ask what: access rules of every mesh family in one normal form, and their evaluator.

- `matching`: how values are compared.
- `rules`: what rules are made of.
- `peer_authentication`: mutual TLS modes and their precedence.
- `decision`: the evaluator, which says why.

Strings are matched in plain Python; a simulation compiles the answers into a table, a live
proxy remembers them by attributes.
"""

from meshsim.policy.authorization.decision import (
    ALLOWED,
    DROPPED,
    FORBIDDEN,
    NOT_FOUND,
    OUTCOMES,
    RESET,
    Authorizer,
    Decision,
)
from meshsim.policy.authorization.peer_authentication import (
    EffectiveMode,
    PeerAuthentication,
    effective_mode,
)
from meshsim.policy.authorization.rules import (
    Condition,
    LabelRule,
    Party,
    Policy,
    Request,
    Rule,
    Selector,
    labels_of,
)

__all__ = [
    "ALLOWED",
    "DROPPED",
    "FORBIDDEN",
    "NOT_FOUND",
    "OUTCOMES",
    "RESET",
    "Authorizer",
    "Condition",
    "Decision",
    "EffectiveMode",
    "LabelRule",
    "Party",
    "PeerAuthentication",
    "Policy",
    "Request",
    "Rule",
    "Selector",
    "effective_mode",
    "labels_of",
]
