"""Access objects of the meshes, and the identities of the pods they speak of.

Rule: objects are collected while the folder is read, and turned into access policies at the
end by `meshsim.topology.access.read_documents`, because objects of one family refer to each
other.  Who is who then comes from the pods: the namespace of a workload, its serviceAccountName
(``default`` unless it says otherwise), and the pod's port that a Service's port leads to.
Without such objects no identities are written.  What the traffic file says of access comes
first, and wins over the pods.

References
----------
Kubernetes API reference: ServicePort v1 core (targetPort), PodSpec v1 core
(serviceAccountName).
"""

from __future__ import annotations

from typing import Any

from meshsim.errors import Problem
from meshsim.importers.assembly import Assembly, Branch, ServiceRecord
from meshsim.importers.registry import Stage, not_read_yet, reads
from meshsim.importers.view import View
from meshsim.topology.access import Access, ServiceIdentity, read_documents
from meshsim.topology.access.fields import Remark
from meshsim.topology.access.kuma import KUMA_KINDS
from meshsim.topology.access.linkerd import LINKERD_KINDS
from meshsim.topology.model import Provenance
from meshsim.yamlfile import field_path

__all__ = ["collect_access", "collect_routes_of_servers", "write_access"]


@reads(
    "security.istio.io",
    "AuthorizationPolicy",
    "PeerAuthentication",
    family="istio",
    stage=Stage.ROUTES,
)
@reads("networking.k8s.io", "NetworkPolicy", family="kubernetes")
@reads("cilium.io", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", family="cilium")
@reads("consul.hashicorp.com", "ServiceIntentions", family="consul")
@reads("", "service-intentions", family="consul")
@reads("kuma.io", *KUMA_KINDS, family="kuma")
@reads("", *KUMA_KINDS, family="kuma")
@reads("policy.linkerd.io", *LINKERD_KINDS, family="linkerd")
def collect_access(views: list[View], assembly: Assembly) -> None:
    """Keep the objects for `write_access`, which reads every key of them."""
    for view in views:
        view.ignore_rest()
        assembly.access_views.append(view)


@reads("gateway.networking.k8s.io", "HTTPRoute", "GRPCRoute", family="linkerd")
def collect_routes_of_servers(views: list[View], assembly: Assembly) -> None:
    """Keep the routes of Linkerd's Servers for `write_access`; say that others are not read."""
    others = []
    for view in views:
        view.ignore_rest()
        parents = _mappings(_mapping(view.value.get("spec")).get("parentRefs"))
        if any(parent.get("kind") == "Server" for parent in parents):
            assembly.access_views.append(view)
        else:
            others.append(view.manifest)
    if others:
        assembly.findings.notices.append(not_read_yet(others))


def write_access(assembly: Assembly, stated: Access) -> None:
    """Write the policies of all collected objects, and the identities they need.

    Parameters
    ----------
    assembly : Assembly
        Its services are known.
    stated : Access
        Of the traffic file, whose own provenance names its places.
    """
    views = assembly.access_views
    if views:
        for record in assembly.services.values():
            _write_identity(record, assembly)
    _write_stated(stated, assembly)
    reading = read_documents(
        [_document(view) for view in views],
        root_namespace=stated.root_namespace,
        default_intention=stated.default_intention,
    )
    for remark in reading.remarks:
        _report(remark, views[remark.document], assembly)
    branch = assembly.root("access")
    for policy in reading.policies:
        place = _place_of(policy.name, views)
        unknown = [name for name in policy.selector.services if name not in assembly.services]
        if unknown:
            message = f"the manifests have no service {unknown[0]}; left out"
            assembly.findings.notices.append(f"{place.file}:{place.line}: {policy.name}: {message}")
        else:
            _append(branch, "policies", policy, place)
    for mode in reading.peer_authentication:
        _append(branch, "peer_authentication", mode, _place_of(mode.name, views))


def _place_of(name: str, views: list[View]) -> Provenance:
    """Return the place of the object that a policy is named after, or that it is a default.

    A policy may be a part of its object: its name then goes on behind the object's.  Objects of
    Kuma and of the whole cluster are named without a namespace.
    """
    found: dict[str, View] = {}
    for view in views:
        kind, own_name = view.manifest.kind, view.manifest.name
        found |= {title: view for title in (view.manifest.title, f"{kind} {own_name}")}
    for title in sorted(found, key=len, reverse=True):
        if title in name:
            return found[title].place()
    return Provenance(default=name)


def _write_stated(stated: Access, assembly: Assembly) -> None:
    """Write the fields that the traffic file states; lists are to be added to."""
    for name in stated.model_fields_set:
        value = getattr(stated, name)
        if isinstance(value, tuple):
            value = dict(enumerate(value))
        elif name == "services":
            value = {key: _over(assembly, key, item) for key, item in value.items()}
        if isinstance(value, dict):
            branch = assembly.root("access", name).touch()
            branch.assembly.tree["access"][name] |= value
        else:
            assembly.root("access").touch()
            assembly.tree["access"][name] = value


def _over(assembly: Assembly, key: str, stated: ServiceIdentity) -> dict[str, Any]:
    """Return what is known of a service's identities, with what is stated put over it."""
    known = assembly.tree.get("access", {}).get("services", {}).get(key, {})
    said = {name: getattr(stated, name) for name in stated.model_fields_set}
    workloads = {**known.get("workloads", {}), **said.get("workloads", {})}
    return {**known, **said, "workloads": workloads}


def _document(view: View) -> dict[str, Any]:
    """Return the object with the namespace that it is in."""
    metadata = view.value.get("metadata")
    stated = metadata if isinstance(metadata, dict) else {}
    return {**view.value, "metadata": {**stated, "namespace": view.manifest.namespace}}


def _report(remark: Remark, view: View, assembly: Assembly) -> None:
    if remark.notice:
        place = view.manifest.place(remark.path)
        assembly.findings.notices.append(f"{place}: {view.manifest.title}: {remark.message}")
        return
    line, column = view.manifest.position(remark.path)
    assembly.findings.problems.append(
        Problem(
            remark.message,
            view.manifest.document.file,
            line,
            column,
            field_path(remark.path),
            remark.found,
            remark.allowed,
        )
    )


def _append(branch: Branch, name: str, value: Any, place: Provenance) -> None:
    items = branch.at(name).touch()
    node = branch.assembly.tree
    for part in items.path:
        node = node[part]
    items.put(len(node), value, place)


# --- Identities -----------------------------------------------------------------------------


def _write_identity(record: ServiceRecord, assembly: Assembly) -> None:
    branch = assembly.root("access", "services", record.key)
    branch.put("namespace", record.namespace, record.view.place("metadata"))
    pods = {
        item.name: item.view
        for item in assembly.workload_records
        if item.namespace == record.namespace
    }
    target = _target_port(record)
    if isinstance(target, str):
        branch.put("port_name", target, record.port_place)
        numbers = (_container_port(pods[name], target) for name in record.workloads)
        target = next((number for number in numbers if number is not None), None)
    if target != record.port:
        branch.put("target_port", target, record.port_place)
    for name in record.workloads:
        if name in pods:
            spec = _pod_spec(pods[name])
            account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
            place = pods[name].place("spec")
            branch.at("workloads", name).put("service_account", str(account), place)


def _target_port(record: ServiceRecord) -> int | str | None:
    """Return where the simulated port leads to: a number, a name, or None if it is not said."""
    for port in _mappings(_mapping(record.view.value.get("spec")).get("ports")):
        target = port.get("targetPort")
        if port.get("port") == record.port and isinstance(target, (int, str)):
            return int(target) if str(target).isdecimal() else target
    return None


def _container_port(view: View, name: str) -> int | None:
    for container in _mappings(_pod_spec(view).get("containers")):
        for port in _mappings(container.get("ports")):
            number = port.get("containerPort")
            if port.get("name") == name and isinstance(number, int):
                return number
    return None


def _pod_spec(view: View) -> dict[str, Any]:
    """Return the spec of a pod, or of the template of what runs pods."""
    spec = _mapping(view.value.get("spec"))
    return _mapping(_mapping(spec["template"]).get("spec")) if "template" in spec else spec


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
