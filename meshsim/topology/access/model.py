"""Access: who may ask what, as a person writes it, in one form for every mesh family.

Rule: ``access.policies`` says it in the normal form; ``access.documents`` holds objects of the
meshes as they are (AuthorizationPolicy, ServiceIntentions, NetworkPolicy ...), which
`meshsim.topology.access.reading` turns into the same form.  Identities are declared where they
differ from the rule that every workload has a service account ``<service>-<workload>`` in the
namespace ``default``, and every traffic class one called ``gateway-<class>``.

Values are patterns as `meshsim.policy.authorization.matching` says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from meshsim.topology.base import Boolean, Integer, Model
from meshsim.topology.policies import StringMatch

__all__ = [
    "Access",
    "AccessCondition",
    "AccessIdentity",
    "AccessOperation",
    "AccessPolicy",
    "AccessRule",
    "AccessSource",
    "LabelExpression",
    "PeerAuthenticationPolicy",
    "PortPattern",
    "ServiceIdentity",
    "WorkloadSelector",
]


def _read_port(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


#: A port: its number, a range such as ``8000-8080``, or its name.
PortPattern = Annotated[
    str,
    BeforeValidator(_read_port),
    WithJsonSchema({"type": ["string", "integer"], "examples": [8080, "8000-8080", "http"]}),
]
#: Texts any of which suffices.
Texts = tuple[str, ...]
Mode = Literal["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]
Verdict = Literal["ALLOW", "DENY"]


class LabelExpression(Model):
    """A condition on labels, as Kubernetes' matchExpressions."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Texts = ()


class WorkloadSelector(Model):
    """Which workloads are meant; all conditions must hold, an empty selector means all.

    A workload carries its labels, and ``version: <its name>`` unless it says otherwise.
    `outside` means what is no workload of the cluster.
    """

    services: Texts = ()
    namespaces: Texts = ()
    labels: dict[str, str] = Field(default_factory=dict)
    expressions: tuple[LabelExpression, ...] = ()
    namespace_labels: dict[str, str] = Field(default_factory=dict)
    namespace_expressions: tuple[LabelExpression, ...] = ()
    outside: Boolean | None = None


class AccessSource(Model):
    """Who asks: all fields must hold, any entry of a field suffices.

    `principals` (``cluster.local/ns/foo/sa/bar``, with or without ``spiffe://``), `namespaces`,
    `service_accounts` (``foo/bar``) and `services` are what mutual TLS proves: a caller in
    plaintext has none of them.  `workloads` looks at labels, whatever the caller presents.
    """

    principals: Texts = ()
    not_principals: Texts = ()
    namespaces: Texts = ()
    not_namespaces: Texts = ()
    service_accounts: Texts = ()
    not_service_accounts: Texts = ()
    services: Texts = ()
    not_services: Texts = ()
    ip_blocks: Texts = ()
    not_ip_blocks: Texts = ()
    remote_ip_blocks: Texts = ()
    not_remote_ip_blocks: Texts = ()
    request_principals: Texts = ()
    not_request_principals: Texts = ()
    workloads: tuple[WorkloadSelector, ...] = ()


class AccessOperation(Model):
    """What is asked: all fields must hold, any entry of a field suffices.

    `ports` are those of the pod.
    """

    hosts: Texts = ()
    not_hosts: Texts = ()
    ports: tuple[PortPattern, ...] = ()
    not_ports: tuple[PortPattern, ...] = ()
    methods: Texts = ()
    not_methods: Texts = ()
    paths: Texts = ()
    not_paths: Texts = ()
    headers: dict[str, StringMatch] = Field(default_factory=dict)


class AccessCondition(Model):
    """A condition on an attribute by its name, e.g. ``request.headers[x-tier]``."""

    key: str
    values: Texts = ()
    not_values: Texts = ()


class AccessRule(Model):
    """Any of `sources` (none: every caller), any of `operations`, and all of `when`.

    `action` counts in a FIRST_MATCH policy only; `note` is added to the reason of a decision.
    """

    sources: tuple[AccessSource, ...] = ()
    operations: tuple[AccessOperation, ...] = ()
    when: tuple[AccessCondition, ...] = ()
    action: Verdict = "ALLOW"
    note: str = ""


class AccessPolicy(Model):
    """Rules for the workloads that `selector` selects.

    ALLOW policies admit what one of their rules matches, and nothing else; DENY refuses what a
    rule matches, before that; CUSTOM asks a provider first, who answers `default`; FIRST_MATCH
    does what the first rule that matches says, else `default`.  `network` policies act on
    packets: who is refused waits for its connect timeout.  With `direction` egress the
    selected workloads are the callers, and `sources` describes whom they call.  Policies of one
    `filter` are taken together; a request must pass every filter.  `ports` restricts the policy
    to ports of the pod.
    """

    name: str
    action: Literal["ALLOW", "DENY", "CUSTOM", "FIRST_MATCH"] = "ALLOW"
    selector: WorkloadSelector = WorkloadSelector()
    ports: tuple[PortPattern, ...] = ()
    rules: tuple[AccessRule, ...] = ()
    default: Verdict = "DENY"
    status: Literal[403, 404] = 403
    network: Boolean = False
    direction: Literal["ingress", "egress"] = "ingress"
    filter: str = ""


class PeerAuthenticationPolicy(Model):
    """A mutual TLS mode of workloads, of namespaces, or of the mesh; the oldest comes first.

    A selector with labels or services is about workloads, one with namespaces only about
    these, an empty one about the mesh; the closest wins.  `ports` are those of the pod.
    """

    name: str = ""
    selector: WorkloadSelector = WorkloadSelector()
    mode: Mode = "UNSET"
    ports: dict[str, Mode] = Field(default_factory=dict)


class AccessIdentity(Model):
    """Who a workload or a traffic class is.

    `address` is its IP address; without one no address block contains it.  `labels` are those
    of a traffic class's gateway; a workload has its own.
    """

    namespace: str | None = None
    service_account: str | None = None
    address: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)


class ServiceIdentity(AccessIdentity):
    """Who the workloads of a service are, and the port of their pods.

    `target_port` is the pod's port that the service's port leads to (default: the same);
    `port_name` what the pod calls it.
    """

    target_port: Integer | None = Field(default=None, ge=1, le=65535)
    port_name: str = ""
    workloads: dict[str, AccessIdentity] = Field(default_factory=dict)


class Access(Model):
    """Who may ask what.  Without policies everybody may ask everything.

    `default_intention` is what Consul does where no intention matches (its ACL default policy).
    `namespaces` are labels of namespaces; each has its name as ``kubernetes.io/metadata.name``.
    """

    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    default_intention: Verdict = "ALLOW"
    policies: tuple[AccessPolicy, ...] = ()
    peer_authentication: tuple[PeerAuthenticationPolicy, ...] = ()
    documents: tuple[dict[str, Any], ...] = Field(
        default=(), description="objects of the meshes as they are"
    )
    services: dict[str, ServiceIdentity] = Field(default_factory=dict)
    traffic: dict[str, AccessIdentity] = Field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = Field(default_factory=dict)
