"""Objects of every mesh family as access policies in the normal form.

Rule: an object is known by its API group and kind, Consul's and Kuma's own files by their kind
or type; the objects of one family are read together, because they refer to each other.  What
is no object of access is a mistake here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshsim.topology.access.consul import read_intentions
from meshsim.topology.access.fields import Fields, Remark
from meshsim.topology.access.istio import read_authorization_policy, read_peer_authentication
from meshsim.topology.access.kuma import KUMA_KINDS, KumaObject, read_permissions
from meshsim.topology.access.linkerd import LINKERD_KINDS, LinkerdObject, read_servers
from meshsim.topology.access.model import (
    AccessPolicy,
    PeerAuthenticationPolicy,
    Verdict,
)
from meshsim.topology.access.network import read_cilium_policy, read_network_policy

__all__ = ["OWN_KINDS", "AccessReading", "read_documents"]

#: Family by kind, and the API groups that the kind may have.
_KINDS: dict[tuple[str, str], str] = {
    ("security.istio.io", "AuthorizationPolicy"): "istio",
    ("security.istio.io", "PeerAuthentication"): "istio",
    ("networking.k8s.io", "NetworkPolicy"): "network",
    ("cilium.io", "CiliumNetworkPolicy"): "network",
    ("cilium.io", "CiliumClusterwideNetworkPolicy"): "network",
    ("consul.hashicorp.com", "ServiceIntentions"): "consul",
    ("", "service-intentions"): "consul",
    **{(group, kind): "kuma" for group in ("kuma.io", "") for kind in KUMA_KINDS},
    **{("policy.linkerd.io", kind): "linkerd" for kind in LINKERD_KINDS},
    **{("gateway.networking.k8s.io", kind): "linkerd" for kind in ("HTTPRoute", "GRPCRoute")},
}


#: Kinds that have a form of their own beside Kubernetes'.
OWN_KINDS = tuple(kind for group, kind in _KINDS if not group)


@dataclass
class AccessReading:
    """What objects say, and what is to be said of them."""

    policies: list[AccessPolicy] = field(default_factory=list)
    peer_authentication: list[PeerAuthenticationPolicy] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    """One object, opened."""

    kind: str
    namespace: str
    name: str
    body: Fields
    metadata: Fields
    created: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def spec(self) -> Fields:
        return self.body.fields("spec")


def read_documents(
    documents: Sequence[Mapping[str, Any]],
    *,
    root_namespace: str = "istio-system",
    default_intention: Verdict = "ALLOW",
) -> AccessReading:
    """Read objects of the meshes.

    Parameters
    ----------
    documents : sequence of mapping
        As their files say them.
    root_namespace : str
        Istio's: policies there hold for the mesh.
    default_intention : str
        What Consul does where no intention matches.

    Returns
    -------
    AccessReading
        Policies in the order in which they count; remarks name objects by their index.

    Examples
    --------
    >>> reading = read_documents([
    ...     {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
    ...      "metadata": {"name": "nothing", "namespace": "shop"}, "spec": {}}])
    >>> reading.policies[0].name, reading.policies[0].selector.namespaces
    ('AuthorizationPolicy shop/nothing', ('shop',))
    """
    reading = AccessReading()
    families: dict[str, list[_Object]] = {}
    for index, document in enumerate(documents):
        family, opened = _open(index, document, reading.remarks)
        if opened is not None:
            families.setdefault(family, []).append(opened)
    _read_istio(families.get("istio", []), root_namespace, reading)
    _read_network(families.get("network", []), reading)
    reading.policies += read_intentions(
        [(_consul_body(item), item.title) for item in families.get("consul", [])],
        default_intention,
    )
    reading.policies += read_permissions([_kuma_object(item) for item in families.get("kuma", [])])
    reading.policies += read_servers(
        [
            LinkerdObject(
                item.kind, item.namespace, item.name, item.metadata.labels("labels"), item.spec
            )
            for item in families.get("linkerd", [])
        ]
    )
    for items in families.values():
        for item in items:
            item.body.close()
    return reading


def _open(
    index: int, document: Mapping[str, Any], remarks: list[Remark]
) -> tuple[str, _Object | None]:
    """Return the family of an object and the object; None if it is not one of access."""
    stated = {str(key).lower(): value for key, value in document.items()}
    kind = stated.get("kind") or stated.get("type") or ""
    group = str(stated.get("apiversion") or "").rpartition("/")[0]
    family = _KINDS.get((group, str(kind)))
    if family is None:
        allowed = ", ".join(dict.fromkeys(name for _, name in _KINDS))
        found = f"{kind} ({group})" if group else str(kind)
        remarks.append(Remark(index, (), "not an object of access", found, allowed))
        return "", None
    body = Fields(dict(document), remarks, index, fold=family == "consul")
    body.ignore("apiVersion", "kind", "type", "status", "mesh")
    metadata = body.fields("metadata")
    name = metadata.text("name") or str(stated.get("name") or "")
    if not name:
        metadata.problem("a name is needed", "name", "text")
    metadata.ignore("annotations", "labels", "generation", "uid", "resourceVersion")
    namespace = metadata.text("namespace") or "default"
    created = metadata.text("creationTimestamp")
    return family, _Object(str(kind), namespace, name, body, metadata, created)


def _read_istio(objects: list[_Object], root_namespace: str, reading: AccessReading) -> None:
    for item in sorted(objects, key=lambda item: (item.created, item.name, item.namespace)):
        if item.kind == "PeerAuthentication":
            mode = read_peer_authentication(item.spec, item.title, item.namespace, root_namespace)
            reading.peer_authentication += [mode] if mode is not None else []
    for item in objects:
        if item.kind == "AuthorizationPolicy":
            policy = read_authorization_policy(
                item.spec, item.metadata, item.title, item.namespace, root_namespace
            )
            reading.policies += [policy] if policy is not None else []


def _read_network(objects: list[_Object], reading: AccessReading) -> None:
    for item in objects:
        if item.kind == "NetworkPolicy":
            reading.policies += read_network_policy(item.spec, item.title, item.namespace)
        else:
            cluster_wide = item.kind == "CiliumClusterwideNetworkPolicy"
            name = f"{item.kind} {item.name}" if cluster_wide else item.title
            namespace = "" if cluster_wide else item.namespace
            reading.policies += read_cilium_policy(item.body, name, namespace)


def _consul_body(item: _Object) -> Fields:
    item.body.ignore("name", "namespace", "partition", "meta")
    return item.spec if item.kind == "ServiceIntentions" else item.body


def _kuma_object(item: _Object) -> KumaObject:
    item.body.ignore("name", "creationTime", "modificationTime", "labels")
    labels = item.body.labels("labels") | item.metadata.labels("labels")
    stated = item.body.has("spec")
    spec = item.spec if stated else item.body
    return KumaObject(item.kind, f"{item.kind} {item.name}", labels, spec)
