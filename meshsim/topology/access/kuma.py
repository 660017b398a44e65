"""Kuma's MeshTrafficPermission, and the older TrafficPermission, in the normal form.

Rule: without mutual TLS of the Mesh nothing is enforced; with it, what no permission allows is
denied.  In a policy of the older form (``from``) a later entry overrides an earlier one, and a
policy for a narrower target one for a wider (Mesh, MeshSubset, MeshService); of equal ones the
first name counts.  In the newer form (``rules``) deny comes before allow.  Shadow policies are
not enforced, and AllowWithShadowDeny allows.

References
----------
Kuma, pkg/plugins/policies/meshtrafficpermission (api/v1alpha1, plugin/v1alpha1), pkg/plugins/
policies/core/rules (merging); kuma-website, policies/meshtrafficpermission.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshsim.policy.authorization.matching import literal
from meshsim.topology.access.fields import Fields
from meshsim.topology.access.model import (
    AccessPolicy,
    AccessRule,
    AccessSource,
    LabelExpression,
    Verdict,
    WorkloadSelector,
)

__all__ = ["KUMA_KINDS", "KumaObject", "read_permissions"]

#: Kinds that are read, all together.
KUMA_KINDS = ("Mesh", "MeshTrafficPermission", "TrafficPermission")
_FILTER = "kuma"
#: Targets, the widest first.
_TARGETS = ("Mesh", "MeshGateway", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane")
_SERVICE, _NAMESPACE = "kuma.io/service", "k8s.kuma.io/namespace"
_ACTIONS = ("Allow", "Deny", "AllowWithShadowDeny", "ALLOW", "DENY", "ALLOW_WITH_SHADOW_DENY")


class KumaObject(NamedTuple):
    """An object: its kind, its name for people, its labels, and its spec."""

    kind: str
    name: str
    labels: dict[str, str]
    spec: Fields


def read_permissions(objects: Sequence[KumaObject]) -> list[AccessPolicy]:
    """Return the permissions among `objects` in the normal form, in the order they count.

    Parameters
    ----------
    objects : sequence of KumaObject
        Mesh, MeshTrafficPermission and TrafficPermission.
    """
    meshes = [item for item in objects if item.kind == "Mesh"]
    secured = [bool(item.spec.fields("mtls").text("enabledBackend")) for item in meshes]
    for item in meshes:
        item.spec.fields("mtls").ignore("backends", "skipValidation")
    found: list[tuple[tuple[int, int, str], AccessPolicy]] = []
    for item in objects:
        if item.kind == "MeshTrafficPermission":
            found += _permission(item)
        elif item.kind == "TrafficPermission":
            found += [((1, 0, item.name), policy) for policy in _older(item)]
    if meshes and not any(secured):
        if found:
            meshes[0].spec.notice("the mesh has no mutual TLS: its permissions are not enforced")
        return []
    stated = [item for item in objects if item.kind != "Mesh" and not _is_shadow(item)]
    if not meshes and not stated:
        return []
    last = AccessPolicy(
        name="Kuma's default (mutual TLS without a permission)",
        action="FIRST_MATCH",
        filter=_FILTER,
    )
    return [*(policy for _, policy in sorted(found, key=lambda entry: entry[0])), last]


def _is_shadow(item: KumaObject) -> bool:
    return item.labels.get("kuma.io/effect") == "shadow"


def _permission(item: KumaObject) -> list[tuple[tuple[int, int, str], AccessPolicy]]:
    """Return the policies of a MeshTrafficPermission with the keys they are sorted by."""
    if _is_shadow(item):
        item.spec.ignore("targetRef", "from", "rules")
        item.spec.notice(f"{item.name} is a shadow policy: not enforced")
        return []
    target = item.spec.fields("targetRef")
    kind = target.choice("kind", _TARGETS, "Mesh")
    selector = _selector(target, kind)
    deny: list[AccessRule] = []
    allow: list[AccessRule] = []
    for rule in item.spec.items("rules"):
        stated = rule.fields("default")
        deny += _by_identity(stated, "deny", "DENY")
        allow += _by_identity(stated, "allow", "ALLOW")
        allow += _by_identity(stated, "allowWithShadowDeny", "ALLOW")
    entries = [_entry(entry, index) for index, entry in enumerate(item.spec.items("from"))]
    found = []
    rank = -_TARGETS.index(kind)
    for group, rules in ((0, deny), (1, entries[::-1]), (2, allow)):
        if rules:
            policy = AccessPolicy(
                name=item.name,
                action="FIRST_MATCH",
                selector=selector,
                rules=tuple(rules),
                filter=_FILTER,
            )
            found.append(((group, rank, item.name), policy))
    return found


def _by_identity(stated: Fields, key: str, action: Verdict) -> list[AccessRule]:
    rules = []
    for index, match in enumerate(stated.items(key)):
        identity = match.fields("spiffeID")
        value = identity.text("value")
        prefix = identity.choice("type", ("Exact", "Prefix"), "Exact") == "Prefix"
        if not value:
            match.problem("a match names a spiffeID", allowed="type and value")
            continue
        source = AccessSource(principals=(literal(value, prefix),))
        rules.append(AccessRule(sources=(source,), action=action, note=f"{key}[{index}]"))
    return rules


def _entry(entry: Fields, index: int) -> AccessRule:
    target = entry.fields("targetRef")
    kind = target.choice("kind", _TARGETS, "Mesh")
    stated = entry.fields("default").choice("action", _ACTIONS, "Deny")
    action: Verdict = "DENY" if stated.lower() == "deny" else "ALLOW"
    selector = _selector(target, kind)
    sources = () if kind == "Mesh" else (AccessSource(workloads=(selector,)),)
    return AccessRule(sources=sources, action=action, note=f"from[{index}]")


def _selector(target: Fields, kind: str) -> WorkloadSelector:
    """Return the workloads of a targetRef."""
    target.ignore("proxyTypes", "sectionName", "mesh", "kind", "namespace")
    tags = target.labels("tags") | target.labels("labels")
    name = target.text("name")
    if name and kind in ("MeshService", "MeshServiceSubset"):
        tags = {_SERVICE: name, **tags}
    return _of_tags(tags)


def _of_tags(tags: dict[str, str]) -> WorkloadSelector:
    """Return the workloads with these tags; ``*`` is any value, zones are not told apart."""
    services: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    present: list[LabelExpression] = []
    for key, value in tags.items():
        if key == _SERVICE and value != "*":
            services = (_service_name(value),)
        elif key == _NAMESPACE and value != "*":
            namespaces = (value,)
        elif value == "*" and not key.startswith("kuma.io/"):
            present.append(LabelExpression(key=key, operator="Exists"))
        elif not key.startswith("kuma.io/") and key != _NAMESPACE:
            labels[key] = value
    return WorkloadSelector(
        services=services, namespaces=namespaces, labels=labels, expressions=tuple(present)
    )


def _service_name(tag: str) -> str:
    """Return the service of a tag; on Kubernetes it is ``name_namespace_svc_port``.

    Examples
    --------
    >>> _service_name("orders_shop_svc_8080"), _service_name("orders")
    ('orders', 'orders')
    """
    name, separator, _ = tag.partition("_svc")
    return name.rpartition("_")[0] if separator and "_" in name else tag


def _older(item: KumaObject) -> list[AccessPolicy]:
    """Return a TrafficPermission: every source may call every destination."""
    sources = tuple(
        AccessSource(workloads=(_of_tags(source.labels("match")),))
        for source in item.spec.items("sources")
    )
    return [
        AccessPolicy(
            name=item.name,
            action="FIRST_MATCH",
            selector=_of_tags(destination.labels("match")),
            rules=(AccessRule(sources=sources),),
            filter=_FILTER,
        )
        for destination in item.spec.items("destinations")
    ]
