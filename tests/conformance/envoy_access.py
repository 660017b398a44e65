"""Access rules in our normal form as Envoy's RBAC filters, as Istio's control plane writes them.

Rule: the DENY policies are one filter, the ALLOW policies the next; a rule is a policy of the
filter, its conditions on the caller are principals, those on the request permissions.

References
----------
istio/istio pilot/pkg/security/authz/builder and authz/model (generator.go, model.go).
"""

import re

from envoy_resources import extension

_ANY = {"any": True}


def rbac_filters(policies):
    """Return the RBAC filters of these `Policy` objects, in order."""
    return [
        extension(
            f"rbac-{action.lower()}",
            "filters.http.rbac.v3.RBAC",
            rules={"action": action, "policies": _rules(policies, action)},
        )
        for action in ("DENY", "ALLOW")
        if any(policy.action == action for policy in policies)
    ]


def _rules(policies, action):
    stated = [rule for policy in policies if policy.action == action for rule in policy.rules]
    return {f"{number:03}": _rule(rule) for number, rule in enumerate(stated)}


def _rule(rule):
    ours = [item for item in rule.when if item.attribute.startswith("source.")]
    theirs = [item for item in rule.when if item not in ours]
    return {
        "principals": [
            _all([_principal(item) for item in (*source, *ours)], "and_ids", "ids")
            for source in rule.sources or ((),)
        ],
        "permissions": [
            _all([_permission(item) for item in (*operation, *theirs)], "and_rules", "rules")
            for operation in rule.operations or ((),)
        ],
    }


def _all(conditions, kind, field):
    return {kind: {field: conditions}} if conditions else _ANY


def _any_of(condition, alternatives, kind, field, negation):
    either = {kind: {field: alternatives}}
    return {negation: either} if condition.negated else either


def _text(pattern, ignore_case=False):
    """Return a string matcher of one of Istio's patterns."""
    if pattern == "*":
        return {"safe_regex": {"regex": ".+"}}
    if pattern.endswith("*"):
        matcher = {"prefix": pattern[:-1]}
    elif pattern.startswith("*"):
        matcher = {"suffix": pattern[1:]}
    else:
        matcher = {"exact": pattern}
    return {**matcher, "ignore_case": ignore_case}


def _principal(condition):
    if condition.attribute == "source.principal":
        names = [_text(f"spiffe://{value}") for value in condition.values]
    else:
        assert condition.attribute == "source.namespace"
        names = [
            {"safe_regex": {"regex": f".*/ns/{re.escape(value)}/.*"}} for value in condition.values
        ]
    found = [{"authenticated": {"principal_name": name}} for name in names]
    return _any_of(condition, found, "or_ids", "ids", "not_id")


def _permission(condition):
    attribute = condition.attribute
    if attribute == "request.path":
        found = [{"url_path": {"path": _text(value)}} for value in condition.values]
    else:
        named = {"request.method": ":method", "request.host": ":authority"}
        name = named.get(attribute) or re.fullmatch(r"request\.headers\[(.+)\]", attribute)[1]
        ignore_case = attribute == "request.host"
        found = [
            {"header": {"name": name, "string_match": _text(value, ignore_case)}}
            for value in condition.values
        ]
    return _any_of(condition, found, "or_rules", "rules", "not_rule")
