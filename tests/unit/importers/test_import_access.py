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
