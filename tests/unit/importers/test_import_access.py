"""Access objects in a folder of manifests, and the identities of its pods."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshsim.errors import ConfigError
from meshsim.importers import load_manifests
from meshsim.permission import can_i
from meshsim.topology.model import Topology

Load = Callable[..., Topology]

TRAFFIC = "traffic: {all: {to: web, arrivals: {poisson: 10}}}\n"
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
VIEWERS = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewers}
spec:
  selector: {matchLabels: {app: web}}
  rules:
    - from: [{source: {principals: ["cluster.local/ns/default/sa/gateway-all"]}}]
      to: [{operation: {methods: [GET], ports: ["8080"]}}]
"""
PODS = """\
apiVersion: v1
kind: Service
metadata: {name: store, namespace: back}
spec: {selector: {app: store}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: store, namespace: back}
spec:
  template:
    metadata: {labels: {app: store}}
    spec:
      serviceAccountName: keeper
      containers: [{name: c, ports: [{name: web, containerPort: 9080}]}]
"""


def test_policies_are_taken_from_the_folder_with_their_places(load: Load) -> None:
    topology = load(STRICT, VIEWERS, traffic=TRAFFIC)
    (policy,) = topology.access.policies
    assert policy.name == "AuthorizationPolicy default/viewers"
    place = topology.provenance["access.policies[0]"]
    assert place.file.endswith("b1.yaml")
    assert topology.access.peer_authentication[0].mode == "STRICT"
    assert not [notice for notice in topology.notices if "AuthorizationPolicy" in notice]
    assert can_i(topology, "all", "web", path="/x")
    refused = can_i(topology, "all", "web", method="PUT")
    assert "no ALLOW rule of AuthorizationPolicy default/viewers" in str(refused)


def test_identities_come_from_the_pods(load: Load) -> None:
    topology = load(STRICT, PODS, traffic=TRAFFIC)
    store = topology.access.services["store"]
    assert (store.namespace, store.target_port, store.port_name) == ("back", 9080, "web")
    assert store.workloads["store"].service_account == "keeper"
    web = topology.access.services["web"]
    assert web.workloads["web-v1"].service_account == "default"
    assert topology.provenance["access.services.store.namespace"].file.endswith("b1.yaml")


def test_without_access_objects_nothing_is_written(load: Load) -> None:
    assert load(PODS, traffic=TRAFFIC).access == Topology.model_fields["access"].default


def test_the_traffic_file_adds_to_the_folder(load: Load) -> None:
    topology = load(
        VIEWERS,
        traffic=TRAFFIC
        + "access:\n"
        + "  traffic: {all: {service_account: edge}}\n"
        + "  services: {web: {address: 10.0.0.1}}\n"
        + "  policies: [{name: mine, action: DENY, rules: [{}]}]\n",
    )
    assert [policy.name for policy in topology.access.policies] == [
        "mine",
        "AuthorizationPolicy default/viewers",
    ]
    assert topology.provenance["access.policies[0].name"].file.endswith("traffic.yaml")
    assert topology.provenance["access.policies[1]"].file.endswith("b0.yaml")
    web = topology.access.services["web"]
    assert (web.address, web.namespace) == ("10.0.0.1", "default")
    assert web.workloads["web-v1"].service_account == "default"
    assert str(can_i(topology, "all", "web")).endswith("denied by DENY rule 1 of mine\n"
        "all -> web/web-v2: denied by DENY rule 1 of mine")  # fmt: skip


def test_mistakes_and_typos_have_their_place(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(VIEWERS.replace("spec:", "spec:\n  action: ALOW"), traffic=TRAFFIC)
    (problem,) = raised.value.problems
    assert (problem.line, problem.path, problem.found) == (5, "spec.action", "'ALOW'")
    topology = load(VIEWERS.replace("rules:", "ruels:"), traffic=TRAFFIC)
    assert any("spec.ruels is not read; did you mean rules?" in n for n in topology.notices)


def test_network_policies_are_read_too(load: Load) -> None:
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed}\n"
        "spec: {podSelector: {matchLabels: {app: web}}}\n"
    )
    topology = load(text, traffic=TRAFFIC)
    assert topology.policy_origin == ""
    assert "dropped: no ALLOW rule of NetworkPolicy default/closed" in str(
        can_i(topology, "all", "web")
    )


def test_the_tutorial_of_istio_opens_one_door_after_the_other(
    samples: Path, root: Path, tmp_path: Path
) -> None:
    application = sorted((samples / "istio" / "bookinfo").rglob("*.yaml"))
    snippets = sorted((samples / "istio" / "docs-tasks").glob("authz-http__*.yaml"))
    assert len(snippets) >= 3

    def allowed(step: int, source: str, target: str, method: str = "GET") -> bool:
        folder = tmp_path / f"step{step}"
        if not folder.exists():
            folder.mkdir()
            for number, path in enumerate([*application, *snippets[:step]]):
                (folder / f"{number:03}.yaml").symlink_to(path)
        topology = load_manifests(folder, root / "topologies" / "bookinfo-traffic.yaml")
        return bool(can_i(topology, source, target, method=method))

    assert allowed(0, "browse", "productpage")
    # allow-nothing
    assert not allowed(1, "browse", "productpage")
    # productpage-viewer
    assert allowed(2, "browse", "productpage")
    assert not allowed(2, "browse", "productpage", method="POST")
    assert not allowed(2, "productpage", "details")
    # details-viewer: by the service account of productpage's pods
    assert allowed(3, "productpage", "details")
    assert not allowed(3, "browse", "details")
    assert not allowed(3, "productpage", "reviews")


# --- Objects of other families --------------------------------------------------------------

TWO = """\
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: front}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  template:
    metadata: {labels: {app: front, tier: edge}}
    spec: {serviceAccountName: front}
"""
CONSUL = """\
apiVersion: consul.hashicorp.com/v1alpha1
kind: ServiceIntentions
metadata: {name: to-web}
spec:
  destination: {name: web}
  sources:
    - {name: front, permissions: [{action: allow, http: {pathPrefix: /shop, methods: [GET]}}]}
    - {name: "*", action: deny}
"""
CONSUL_OWN = """\
Kind: service-intentions
Name: web
Sources:
  - {Name: front, Permissions: [{Action: allow, HTTP: {PathPrefix: /shop, Methods: [GET]}}]}
  - {Name: "*", Action: deny}
"""
LINKERD = """\
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web-http}
spec: {podSelector: {matchLabels: {app: web}}, port: 8080}
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: web-http, kind: Server, group: policy.linkerd.io}]
  rules: [{matches: [{path: {type: PathPrefix, value: /shop}, method: GET}]}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: of-front}
spec: {identityRefs: [{kind: ServiceAccount, name: front}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: front-may-shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: HTTPRoute, name: shop}
  requiredAuthenticationRefs:
    - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: of-front}
"""
KUMA = """\
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}}
---
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata: {name: from-front, namespace: kuma-system}
spec:
  targetRef: {kind: MeshSubset, tags: {app: web}}
  from: [{targetRef: {kind: MeshSubset, tags: {app: front}}, default: {action: Allow}}]
"""
KUMA_OWN = """\
type: Mesh
name: default
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
---
type: MeshTrafficPermission
name: from-front
mesh: default
spec:
  targetRef: {kind: MeshSubset, tags: {app: web}}
  from: [{targetRef: {kind: MeshSubset, tags: {app: front}}, default: {action: Allow}}]
"""
CILIUM = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - fromEndpoints: [{matchLabels: {tier: edge}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /shop}]}
"""
NETWORK = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: edge-only}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {tier: edge}}}]}]
"""


@pytest.mark.parametrize(
    ("objects", "looks_at_http", "rule"),
    [
        (CONSUL, True, "ServiceIntentions default/to-web"),
        (CONSUL_OWN, True, "service-intentions default/web"),
        (LINKERD, True, "AuthorizationPolicy default/front-may-shop"),
        (KUMA, False, "MeshTrafficPermission from-front"),
        (KUMA_OWN, False, "MeshTrafficPermission from-front"),
        (CILIUM, True, "CiliumNetworkPolicy default/shop"),
        (NETWORK, False, "NetworkPolicy default/edge-only"),
    ],
    ids=["consul", "consul own", "linkerd", "kuma", "kuma own", "cilium", "kubernetes"],
)
def test_every_family_decides_from_a_folder(
    load: Load, objects: str, looks_at_http: bool, rule: str
) -> None:
    closed = "access: {default_intention: DENY}\n"  # of Consul
    topology = load(TWO, objects, traffic=TRAFFIC + closed)
    allowed = can_i(topology, "front", "web", path="/shop")
    assert allowed.allowed, str(allowed)
    assert rule in str(allowed)
    other = can_i(topology, "front", "web", path="/admin", method="PUT")
    assert other.allowed == (not looks_at_http), str(other)
    stranger = can_i(topology, "all", "web", path="/shop")
    assert not stranger.allowed, str(stranger)
    for number, policy in enumerate(topology.access.policies):
        place = topology.provenance[f"access.policies[{number}]"]
        assert place.file.endswith("b1.yaml") or place.default == policy.name != rule
    assert not [notice for notice in topology.notices if "not read yet" in notice]


def test_routes_that_are_of_no_server_are_told(load: Load) -> None:
    route = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: outside}
spec: {parentRefs: [{name: gateway}]}
"""
    topology = load(LINKERD, route, traffic=TRAFFIC)
    (notice,) = [notice for notice in topology.notices if "not read yet" in notice]
    assert notice.endswith("b1.yaml:1")
    assert not [p for p in topology.access.policies if "outside" in p.name]


def test_an_intention_for_a_service_that_is_not_there_is_told(load: Load) -> None:
    topology = load(TWO, CONSUL.replace("{name: web}", "{name: elsewhere}"), traffic=TRAFFIC)
    assert [p.name for p in topology.access.policies] == ["Consul's default policy (allow)"]
    told = [notice for notice in topology.notices if "no service elsewhere" in notice]
    assert len(told) == 2
    assert "b1.yaml:1: intention front -> elsewhere" in told[0]


def test_what_consul_does_without_an_intention_is_stated(load: Load) -> None:
    other = CONSUL.replace("{name: web}", "{name: front}")
    assert can_i(load(TWO, other, traffic=TRAFFIC), "all", "web").allowed
    closed = load(TWO, other, traffic=TRAFFIC + "access: {default_intention: DENY}\n")
    refused = can_i(closed, "all", "web")
    assert "Consul's default policy (deny)" in str(refused)
    assert not refused.allowed
