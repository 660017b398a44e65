"""Kubernetes: services, and the workloads whose pods are behind them.

What is read: Service (selector, ports), Deployment, StatefulSet, ReplicaSet, DaemonSet and Pod
(replicas, pod labels, CPU limits, whether a sidecar is injected), Namespace (injection).  The
simulated port of a service is its first HTTP port.  The CPU limit of a workload is the sum over
its containers, and none if one of them has none.  Manifests hold no behaviour: what a workload
does and calls comes from the traffic file.

Every workload is taken to be in the mesh unless its pods carry ``sidecar.istio.io/inject:
"false"`` or its namespace is labelled ``istio-injection: disabled``.

References
----------
Kubernetes API reference: Service v1 core, Deployment v1 apps, Container v1 core;
istio/istio pkg/config/protocol/instance.go (port names); istio.io docs, sidecar injection.
"""

from __future__ import annotations

from typing import Any

from meshsim.importers.assembly import Assembly, ServiceRecord, WorkloadRecord
from meshsim.importers.registry import ignores, reads
from meshsim.importers.view import View
from meshsim.topology.model import Provenance

__all__ = ["read_controllers", "read_namespaces", "read_pods", "read_services"]

_INJECT = "sidecar.istio.io/inject"
_HTTP = frozenset({"http", "http2", "grpc", "grpc-web"})
#: appProtocol values of Kubernetes that are HTTP.
_HTTP_ALIASES = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http"}
_TCP = frozenset({"tcp", "tls", "https", "mongo", "mysql", "redis", "udp"})

ignores("", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim", "Secret", "ServiceAccount")
ignores("rbac.authorization.k8s.io", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
ignores("apiextensions.k8s.io", "CustomResourceDefinition")


@reads("", "Namespace", family="kubernetes")
def read_namespaces(views: list[View], assembly: Assembly) -> None:
    """Note the namespaces without injection."""
    for view in views:
        view.ignore_rest()
        labels = view.view("metadata").view("labels")
        labels.ignore_rest()
        if labels.text("istio-injection") == "disabled":
            assembly.unmeshed_namespaces.add(view.manifest.name)


@reads("", "Service", family="kubernetes")
def read_services(views: list[View], assembly: Assembly) -> None:
    """Take up each Service with its simulated port."""
    for view in views:
        spec = view.view("spec")
        spec.ignore_rest()
        if spec.text("externalName"):
            spec.notice("an ExternalName service has no endpoints here", "externalName")
        port, place = _port(spec)
        record = ServiceRecord(
            name=view.manifest.name,
            namespace=view.manifest.namespace,
            selector=spec.labels("selector"),
            port=port,
            port_place=place,
            view=view,
        )
        assembly.add_service(record)


def _port(spec: View) -> tuple[int, Provenance]:
    """Return the simulated port and its place: the first HTTP one, else the first not TCP."""
    ports = spec.views("ports")
    numbered = []
    for view in ports:
        view.ignore_rest()
        number = view.integer("port", 1, 65_535)
        if number is not None:
            numbered.append((number, _protocol(view), view))
    if not numbered:
        return 80, Provenance(default="default port (the Service names none)")
    chosen = min(numbered, key=lambda item: (item[1] not in _HTTP, item[1] in _TCP))
    number, protocol, view = chosen
    if protocol in _TCP:
        view.notice(f"protocol {protocol} is simulated as HTTP", "port")
    if len(numbered) > 1:
        others = ", ".join(str(item[0]) for item in numbered if item is not chosen)
        view.notice(f"only port {number} is simulated, not {others}", "port")
    return number, view.place("port")


def _protocol(port: View) -> str:
    """Return the protocol of a port by appProtocol, else by its name, else "auto"."""
    declared = port.text("appProtocol")
    if declared is not None:
        return _HTTP_ALIASES.get(declared, declared).lower()
    name = (port.text("name") or "").lower()
    prefix = "grpc-web" if name.startswith("grpc-web") else name.partition("-")[0]
    if prefix in _HTTP | _TCP:
        return prefix
    return "udp" if port.text("protocol") == "UDP" else "auto"


@reads("apps", "Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", family="kubernetes")
@reads("extensions", "Deployment", "ReplicaSet", "DaemonSet", family="kubernetes")
def read_controllers(views: list[View], assembly: Assembly) -> None:
    """Take up what runs replicas of a pod template."""
    for view in views:
        spec = view.view("spec")
        spec.ignore("selector", "serviceName", "revisionHistoryLimit", "progressDeadlineSeconds")
        spec.not_simulated("strategy", "updateStrategy", "minReadySeconds", "paused")
        spec.ignore("volumeClaimTemplates", "podManagementPolicy")
        template = spec.view("template")
        fields = _pod_fields(template)
        if view.manifest.kind == "DaemonSet":
            view.notice("one replica a node; simulated as one replica")
        else:
            replicas = spec.integer("replicas", 0, 1_000_000)
            default = Provenance(default=f"Kubernetes default ({view.manifest.kind} spec.replicas)")
            stated = replicas is not None
            fields["replicas"] = (replicas, spec.place("replicas")) if stated else (1, default)
        _add(view, fields, assembly)


@reads("", "Pod", family="kubernetes")
def read_pods(views: list[View], assembly: Assembly) -> None:
    """Take up bare pods, each a workload of one replica."""
    for view in views:
        _add(view, _pod_fields(view), assembly)


def _add(view: View, fields: dict[str, tuple[Any, Provenance]], assembly: Assembly) -> None:
    assembly.workload_records.append(
        WorkloadRecord(
            name=view.manifest.name,
            namespace=view.manifest.namespace,
            labels=fields["labels"][0],
            fields=fields,
            view=view,
        )
    )


def _pod_fields(pod: View) -> dict[str, tuple[Any, Provenance]]:
    """Return the workload fields a pod (template) states."""
    metadata = pod.view("metadata")
    metadata.ignore_rest()
    fields: dict[str, tuple[Any, Provenance]] = {
        "labels": (metadata.labels("labels"), metadata.place("labels"))
    }
    for source in ("annotations", "labels"):
        values = metadata.labels(source)
        if values.get(_INJECT) == "false":
            fields["meshed"] = (False, metadata.place(source))
    spec = pod.view("spec")
    spec.ignore_rest()
    containers = spec.views("containers")
    limits = [_cpu_limit(container) for container in containers]
    if limits and None not in limits:
        total = sum(limit for limit in limits if limit is not None)
        fields["cpu"] = (total, containers[0].place("resources"))
    return fields


def _cpu_limit(container: View) -> float | None:
    container.ignore_rest()
    resources = container.view("resources")
    resources.ignore_rest()
    limits = resources.view("limits")
    limits.ignore_rest()
    cpu = limits.quantity("cpu")
    if cpu is not None and cpu <= 0:
        limits.problem("a CPU limit must be above 0", "cpu", found=str(cpu))
        return None
    return cpu
