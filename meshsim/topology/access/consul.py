"""Consul's service intentions in the normal form.

Rule: of a caller and a destination exactly one intention counts, the one of highest precedence:
exact to exact, any to exact, exact to any, any to any.  It allows, denies, or lists permissions
on HTTP, of which the first that matches decides; where none does, the default policy of the
ACLs decides, and not an intention of lower precedence.  A caller is the service that its
certificate names; equal intentions: deny comes first.

References
----------
Consul, website/content/docs/connect/intentions (precedence and match order),
config-entries/service-intentions; consul-k8s ServiceIntentions (camelCase).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from meshsim.policy.authorization.matching import REGEX, literal
from meshsim.topology.access.fields import Fields
from meshsim.topology.access.model import (
    AccessOperation,
    AccessPolicy,
    AccessRule,
    AccessSource,
    Verdict,
    WorkloadSelector,
)
from meshsim.topology.policies import StringMatch

__all__ = ["read_intentions"]

_ANY = "*"
_FILTER = "consul"
#: Of a header, besides exact, prefix and regex.
_HEADER_REGEX = {"suffix": "(?s:.*){}", "contains": "(?s:.*){}(?s:.*)"}


def read_intentions(entries: Sequence[tuple[Fields, str]], default: Verdict) -> list[AccessPolicy]:
    """Return all intentions in the normal form, in the order of their precedence.

    Parameters
    ----------
    entries : sequence of (Fields, str)
        The body of each config entry (keys fold), and its name for people.
    default : str
        ALLOW or DENY, where no intention or permission matches.
    """
    found: list[tuple[tuple[bool, bool, bool], AccessPolicy]] = []
    for body, name in entries:
        destination = body.fields("destination").text("name") or body.text("name")
        body.fields("destination").ignore("namespace")
        if not destination:
            body.problem("an intention names its destination", allowed="the name of a service")
            continue
        for source in body.items("sources"):
            caller = source.text("name")
            if not caller:
                source.problem("a source needs a name", "name", "the name of a service, or *")
                continue
            policy = _intention(source, caller, destination, name, default)
            denies = any(rule.action == "DENY" for rule in policy.rules[:1])
            found.append(((destination == _ANY, caller == _ANY, not denies), policy))
    if not entries:
        return []
    name = f"Consul's default policy ({default.lower()})"
    last = AccessPolicy(name=name, action="FIRST_MATCH", default=default, filter=_FILTER)
    return [*(policy for _, policy in sorted(found, key=lambda item: item[0])), last]


def _intention(
    source: Fields, caller: str, destination: str, name: str, default: Verdict
) -> AccessPolicy:
    for key in ("peer", "partition", "samenessGroup"):
        if source.has(key):
            source.notice(f"{key} is not read: services of this mesh alone are known", key)
    source.ignore("namespace", "description", "type", "precedence", "legacyID", "legacyMeta")
    sources = (
        AccessSource(principals=(_ANY,)) if caller == _ANY else AccessSource(services=(caller,)),
    )
    rules: list[AccessRule] = []
    for item in source.items("permissions"):
        operation = _operation(item.fields("http"))
        item.ignore("jwt")
        rules.append(AccessRule(sources=sources, operations=(operation,), action=_verdict(item)))
    if source.has("permissions"):
        note = "no permission matches; the default policy"
        rules.append(AccessRule(sources=sources, action=default, note=note))
    else:
        rules.append(AccessRule(sources=sources, action=_verdict(source)))
    services = () if destination == _ANY else (destination,)
    return AccessPolicy(
        name=f"intention {caller} -> {destination} of {name}",
        action="FIRST_MATCH",
        selector=WorkloadSelector(services=services),
        rules=tuple(rules),
        default=default,
        filter=_FILTER,
    )


def _verdict(fields: Fields) -> Verdict:
    if not fields.has("action"):
        fields.problem("an action is needed", "action", "allow, deny")
    return "ALLOW" if fields.choice("action", ("allow", "deny"), "deny") == "allow" else "DENY"


def _operation(http: Fields) -> AccessOperation:
    paths: tuple[str, ...] = ()
    if http.text("pathExact"):
        paths = (literal(http.text("pathExact")),)
    elif http.text("pathPrefix"):
        paths = (literal(http.text("pathPrefix"), prefix=True),)
    elif http.text("pathRegex"):
        paths = (REGEX + http.text("pathRegex"),)
    headers = {item.text("name"): _header(item) for item in http.items("header")}
    return AccessOperation.model_validate(
        {"methods": http.texts("methods"), "paths": paths, "headers": headers}
    )


def _header(fields: Fields) -> StringMatch:
    match: dict[str, Any] = {"invert": fields.boolean("invert")}
    for key in ("exact", "prefix", "regex"):
        if fields.text(key):
            return StringMatch.model_validate({**match, key: fields.text(key)})
    for key, pattern in _HEADER_REGEX.items():
        if fields.text(key):
            regex = pattern.format(re.escape(fields.text(key)))
            return StringMatch.model_validate({**match, "regex": regex})
    fields.ignore("present", "ignoreCase")
    return StringMatch.model_validate({**match, "present": True})
