"""The mesh while it is being read: services and workloads, host names, and values with places.

Rule: readers of every family write the same model, value by value, each with the place it came
from; at the end the whole is checked at once by `meshsim.topology.model`, and a complaint is
reported at the place of the value it is about.  A service is known by its name, or by
``name.namespace`` where the folder has that name in several namespaces.  Its host name is
``name.namespace.svc.cluster.local``; a short name in a rule means the rule's own namespace.

An endpoint belongs to every Service whose selector matches its pod.  The model gives each
service its own workloads, so pods behind two Services are simulated as two sets, with a notice.

References
----------
Kubernetes, Service: selectors; istio/istio pkg/config/model (ResolveShortnameToFQDN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meshsim.importers.view import Findings, View
from meshsim.topology.model import Provenance
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["Assembly", "Branch", "ServiceRecord", "WorkloadRecord", "host_specificity"]

_DOMAIN = ".svc.cluster.local"


def host_specificity(pattern: str, host: str) -> int:
    """Say how closely `pattern` names `host`: 0 not at all, more is more specific.

    Exact names beat wildcards, longer wildcards beat shorter ones.

    Examples
    --------
    >>> [host_specificity(pattern, "a.b") for pattern in ("a.b", "*.b", "*", "c.b")]
    [1000, 3, 1, 0]
    """
    if pattern == host:
        return 1000
    if pattern.startswith("*") and host.endswith(pattern[1:]):
        return len(pattern)
    return 0


@dataclass
class WorkloadRecord:
    """Pods of one template, before they are known to belong to a service."""

    name: str
    namespace: str
    labels: dict[str, str]
    fields: dict[str, tuple[Any, Provenance]]
    view: View


@dataclass
class ServiceRecord:
    """A Kubernetes Service."""

    name: str
    namespace: str
    selector: dict[str, str]
    port: int
    port_place: Provenance
    view: View
    key: str = ""
    workloads: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        """Fully qualified host name."""
        return f"{self.name}.{self.namespace}{_DOMAIN}"


class Branch:
    """A place in the model's tree to write values under.

    Parameters
    ----------
    assembly : Assembly
        Owner of the tree.
    path : FieldPath
        Where in the tree; an int is an index of a list.
    """

    def __init__(self, assembly: Assembly, path: FieldPath) -> None:
        self.assembly = assembly
        self.path = path

    def at(self, *parts: str | int) -> Branch:
        """Return the branch below."""
        return Branch(self.assembly, (*self.path, *parts))

    def touch(self) -> Branch:
        """Make this branch exist even if nothing is written under it."""
        node = self.assembly.tree
        for part in self.path:
            node = node.setdefault(part, {})
        return self

    def append(self, name: str) -> Branch:
        """Return the branch of a new last item of the list `name`."""
        items = self.at(name).touch()
        node = self.assembly.tree
        for part in items.path:
            node = node[part]
        return items.at(len(node)).touch()

    def put(self, name: str | int, value: Any, place: Provenance) -> None:
        """Write `value` unless it is None, and where it came from."""
        if value is None:
            return
        self.touch()
        node = self.assembly.tree
        for part in self.path:
            node = node[part]
        node[name] = value
        self.assembly.provenance[field_path((*self.path, name))] = place


class Assembly:
    """Everything read so far.

    Attributes
    ----------
    findings : Findings
        Problems and notices.
    tree : dict
        The model as plain values; lists are mappings from index to item until `plain_tree`.
    provenance : dict of str to Provenance
        By field path.
    services : dict of str to ServiceRecord
        By key, once `join` ran.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self.tree: dict[Any, Any] = {}
        self.provenance: dict[str, Provenance] = {}
        self.services: dict[str, ServiceRecord] = {}
        self.workload_records: list[WorkloadRecord] = []
        self.unmeshed_namespaces: set[str] = set()
        #: Access objects, which are read together at the end.
        self.access_views: list[View] = []
        self._service_records: list[ServiceRecord] = []
        self._by_host: dict[str, ServiceRecord] = {}
        self._unknown_hosts: dict[str, str] = {}

    def root(self, *parts: str | int) -> Branch:
        """Return the branch at `parts` of the tree."""
        return Branch(self, parts)

    def add_service(self, record: ServiceRecord) -> None:
        """Take up a service; it gets its key and workloads when `join` runs."""
        self._service_records.append(record)

    # --- Services and their pods ------------------------------------------------------------

    def join(self) -> None:
        """Give every service its key and the workloads its selector matches."""
        names = [record.name for record in self._service_records]
        for record in self._service_records:
            unique = names.count(record.name) == 1
            record.key = record.name if unique else f"{record.name}.{record.namespace}"
            self.services[record.key] = record
            self._by_host[record.host] = record
        owners: dict[int, list[str]] = {}
        by_namespace: dict[str, list[WorkloadRecord]] = {}
        for workload in self.workload_records:
            by_namespace.setdefault(workload.namespace, []).append(workload)
        for record in self._service_records:
            for workload in by_namespace.get(record.namespace, ()):
                if record.selector and record.selector.items() <= workload.labels.items():
                    owners.setdefault(id(workload), []).append(record.key)
                    self._write_workload(record, workload)
            self._write_service(record)
        for workload in self.workload_records:
            self._tell_owners(workload, owners.get(id(workload), []))

    def _write_workload(self, record: ServiceRecord, workload: WorkloadRecord) -> None:
        branch = self.root("services", record.key, "workloads", workload.name).touch()
        for name, (value, place) in workload.fields.items():
            branch.put(name, value, place)
        if workload.namespace in self.unmeshed_namespaces:
            branch.put("meshed", False, workload.view.place())
        record.workloads.append(workload.name)

    def _write_service(self, record: ServiceRecord) -> None:
        branch = self.root("services", record.key)
        branch.put("port", record.port, record.port_place)
        if not record.workloads:
            record.view.notice("no pods match its selector: requests to it get 503 (UH)")
            self._write_no_endpoints(record.key, record.view.place())

    def _write_no_endpoints(self, key: str, place: Provenance) -> None:
        # The model wants a workload; one without replicas has no endpoints.
        self.root("services", key, "workloads", key).put("replicas", 0, place)

    def _tell_owners(self, workload: WorkloadRecord, owners: list[str]) -> None:
        if not owners:
            workload.view.notice("no Service selects its pods; left out")
        elif len(owners) > 1:
            workload.view.notice(
                f"its pods belong to services {', '.join(owners)}; each gets replicas of its own"
            )

    # --- Host names -------------------------------------------------------------------------

    def expand_host(self, host: str, namespace: str) -> str:
        """Return the full name of a host as written in a rule of `namespace`."""
        host = host.lower().rstrip(".")
        return host if "." in host or host == "*" else f"{host}.{namespace}{_DOMAIN}"

    def find_host(self, host: str, namespace: str) -> ServiceRecord | None:
        """Return the service a rule of `namespace` calls `host`."""
        return self._by_host.get(self.expand_host(host, namespace))

    def destination(self, view: View, key: str = "host") -> str | None:
        """Return the service key of the host at `key`; an unknown host gets no endpoints."""
        host = view.text(key)
        if not host:
            view.problem("a destination needs a host", key, allowed="the name of a service")
            return None
        record = self.find_host(host, view.manifest.namespace)
        if record is not None:
            return record.key
        if host not in self._unknown_hosts:
            name = host.removesuffix(_DOMAIN)
            self._unknown_hosts[host] = name if name not in self.services else host
            self._write_no_endpoints(self._unknown_hosts[host], view.place(key))
        hint = self._full_name_hint(host)
        view.notice(f"host {host!r} not found: requests to it get 503{hint}", key)
        return self._unknown_hosts[host]

    def need_subset(self, view: View, key: str, subset: str) -> None:
        """Take note that requests go to a subset of a service; an unknown one gets no endpoints."""
        subsets = self.root("policies", key, "subsets").touch()
        known = self.tree["policies"][key]["subsets"]
        if subset in known:
            return
        near = did_you_mean(subset, known)
        hint = f"; did you mean {near}?" if near else ""
        view.notice(
            f"subset {subset!r} of {key} is not defined: requests to it get 503{hint}", "subset"
        )
        # A subset that no pod's labels satisfy: its cluster has no endpoints.
        subsets.at(subset).put("labels", {"(undefined subset)": subset}, view.place("subset"))

    def _full_name_hint(self, host: str) -> str:
        """Return advice for ``name.namespace``, which Istio does not complete."""
        full = host + _DOMAIN
        return f" (Istio wants the full name {full})" if full in self._by_host else ""

    # --- The result -------------------------------------------------------------------------

    def plain_tree(self) -> dict[str, Any]:
        """Return the tree with lists where indices are."""
        result: dict[str, Any] = _plain(self.tree)
        return result


def _plain(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(isinstance(key, int) for key in node):
        return [_plain(node[index]) for index in sorted(node)]
    return {key: _plain(value) for key, value in node.items()}
