"""Istio's AuthorizationPolicy and PeerAuthentication in the normal form.

Rule: a policy in the root namespace holds for the mesh, another for its own namespace; its
selector restricts it there.  ALLOW without rules allows nothing, ``rules: [{}]`` allows all;
DENY and CUSTOM without rules do nothing.  AUDIT and dry runs do not enforce.  A policy with
targetRefs is for gateways and waypoints, and not for sidecars.

A mode in the root namespace holds for the mesh; with a selector it is ignored there, as Istio
does.  Modes of ports need a selector.

References
----------
istio/api security/v1beta1/authorization_policy.proto, peer_authentication.proto; istio/istio
pilot/pkg/security/authz/model/model.go, pilot/pkg/model/authentication.go.
"""

from __future__ import annotations

from meshsim.topology.access.fields import Fields
from meshsim.topology.access.model import (
    AccessCondition,
    AccessOperation,
    AccessPolicy,
    AccessRule,
    AccessSource,
    PeerAuthenticationPolicy,
    WorkloadSelector,
)

__all__ = ["read_authorization_policy", "read_peer_authentication"]

_MODES = ("STRICT", "PERMISSIVE", "DISABLE", "UNSET")
_DRY_RUN = "istio.io/dry-run"
_SOURCE = {
    "principals": "principals",
    "namespaces": "namespaces",
    "ip_blocks": "ipBlocks",
    "remote_ip_blocks": "remoteIpBlocks",
    "request_principals": "requestPrincipals",
}
_OPERATION = {"hosts": "hosts", "ports": "ports", "methods": "methods", "paths": "paths"}


def _negative(key: str) -> str:
    return f"not{key[0].upper()}{key[1:]}"


def _scoped(fields: Fields, namespace: str, root_namespace: str) -> WorkloadSelector:
    """Return whose workloads an object of `namespace` is about."""
    selector = fields.fields("selector")
    return selector.selector("" if namespace == root_namespace else namespace)


def read_authorization_policy(
    spec: Fields, metadata: Fields, name: str, namespace: str, root_namespace: str
) -> AccessPolicy | None:
    """Return an AuthorizationPolicy in the normal form, None if nothing enforces it.

    Parameters
    ----------
    spec, metadata : Fields
        Of the object.
    name, namespace : str
        Its name for people, and its namespace.
    root_namespace : str
        Policies there hold for the mesh.
    """
    action = spec.choice("action", ("ALLOW", "DENY", "CUSTOM", "AUDIT"), "ALLOW")
    spec.ignore("provider")
    rules = tuple(_rule(item, namespace) for item in spec.items("rules"))
    selector = _scoped(spec, namespace, root_namespace)
    if spec.has("targetRefs") or spec.has("targetRef"):
        spec.notice(f"{name} is for gateways and waypoints (targetRefs), not for sidecars")
        return None
    if metadata.labels("annotations").get(_DRY_RUN) == "true" or action == "AUDIT":
        spec.notice(f"{name} does not enforce (AUDIT or {_DRY_RUN})")
        return None
    if action == "CUSTOM":
        spec.notice(f"{name}: its provider is taken to refuse", "provider")
    return AccessPolicy.model_validate(
        {
            "name": name,
            "action": action,
            "selector": selector,
            "rules": rules,
            "filter": "istio",
        }
    )


def _rule(fields: Fields, namespace: str) -> AccessRule:
    sources = (_source(item.fields("source"), namespace) for item in fields.items("from"))
    operations = (_operation(item.fields("operation")) for item in fields.items("to"))
    when = tuple(
        AccessCondition(
            key=item.text("key"),
            values=_with_namespace(item, "values", namespace),
            not_values=_with_namespace(item, "notValues", namespace),
        )
        for item in fields.items("when")
    )
    return AccessRule(sources=tuple(sources), operations=tuple(operations), when=when)


def _with_namespace(fields: Fields, key: str, namespace: str) -> tuple[str, ...]:
    """Return values; a service account without a namespace is of the policy's own."""
    values = fields.texts(key)
    if fields.text("key") == "source.serviceAccount":
        return _accounts(values, namespace)
    return values


def _accounts(values: tuple[str, ...], namespace: str) -> tuple[str, ...]:
    return tuple(value if "/" in value else f"{namespace}/{value}" for value in values)


def _source(fields: Fields, namespace: str) -> AccessSource:
    found: dict[str, tuple[str, ...]] = {}
    for name, key in _SOURCE.items():
        found[name] = fields.texts(key)
        found[f"not_{name}"] = fields.texts(_negative(key))
    for name, key in (
        ("service_accounts", "serviceAccounts"),
        ("not_service_accounts", "notServiceAccounts"),
    ):
        found[name] = _accounts(fields.texts(key), namespace)
    return AccessSource.model_validate(found)


def _operation(fields: Fields) -> AccessOperation:
    found: dict[str, tuple[str, ...]] = {}
    for name, key in _OPERATION.items():
        found[name] = fields.texts(key)
        found[f"not_{name}"] = fields.texts(_negative(key))
    return AccessOperation.model_validate(found)


def read_peer_authentication(
    spec: Fields, name: str, namespace: str, root_namespace: str
) -> PeerAuthenticationPolicy | None:
    """Return a PeerAuthentication in the normal form, None if Istio ignores it."""
    selector = _scoped(spec, namespace, root_namespace)
    mode = spec.fields("mtls").choice("mode", _MODES, "UNSET")
    port_modes = spec.fields("portLevelMtls")
    numbers = port_modes.keys()
    ports = {
        number: port_modes.fields(number).choice("mode", _MODES, "UNSET") for number in numbers
    }
    about_workloads = bool(selector.labels or selector.expressions)
    if about_workloads and namespace == root_namespace:
        spec.notice(f"{name} is ignored: a selector in the root namespace", "selector")
        return None
    if ports and not about_workloads:
        spec.notice(f"{name}: modes of ports need a selector", "portLevelMtls")
        ports = {}
    return PeerAuthenticationPolicy.model_validate(
        {"name": name, "selector": selector, "mode": mode, "ports": ports}
    )
