"""Services and the workloads behind them."""

from collections.abc import Callable

import pytest

from meshsim.topology.model import Topology

Load = Callable[..., Topology]


def test_workloads_are_those_whose_pods_the_selector_matches(load: Load) -> None:
    topology = load(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: other}\n"
        "spec: {replicas: 4, template: {metadata: {labels: {app: other}}}}\n"
    )
    web = topology.services["web"]
    assert web.port == 8080
    assert {name: item.replicas for name, item in web.workloads.items()} == {
        "web-v1": 2,
        "web-v2": 1,
    }
    assert web.workloads["web-v1"].labels == {"app": "web", "version": "v1"}
    assert any(
        "StatefulSet default/other: no Service selects its pods" in n for n in topology.notices
    )


def test_replicas_have_a_place_or_a_default(load: Load) -> None:
    places = load().provenance
    stated = places["services.web.workloads.web-v1.replicas"]
    assert (stated.line, stated.field) == (12, "spec.replicas")
    assert "Kubernetes default" in str(places["services.web.workloads.web-v2.replicas"])


def test_a_service_without_pods_has_no_endpoints(load: Load) -> None:
    topology = load(
        "apiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec: {selector: {a: b}}\n"
    )
    (workload,) = topology.services["empty"].workloads.values()
    assert workload.replicas == 0
    assert any("no pods match its selector" in notice for notice in topology.notices)


def test_a_service_without_selector_matches_nothing(load: Load) -> None:
    topology = load("apiVersion: v1\nkind: Service\nmetadata: {name: bare}\nspec: {}\n")
    assert [item.replicas for item in topology.services["bare"].workloads.values()] == [0]


def test_pods_of_two_services_are_told(load: Load) -> None:
    topology = load(
        "apiVersion: v1\nkind: Service\nmetadata: {name: v1}\nspec: {selector: {version: v1}}\n"
    )
    assert list(topology.services["v1"].workloads) == ["web-v1"]
    assert any("belong to services web, v1" in notice for notice in topology.notices)


def test_one_name_in_two_namespaces_is_told_apart(load: Load) -> None:
    topology = load(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\n"
        "spec: {selector: {app: web}}\n",
        traffic="traffic: {t: {to: web.default, arrivals: {poisson: 1}}}\n",
    )
    assert set(topology.services) == {"web.default", "web.prod"}
    # Selectors do not reach into other namespaces.
    assert list(topology.services["web.prod"].workloads) == ["web.prod"]


def test_the_cpu_limit_is_the_sum_over_containers(load: Load) -> None:
    topology = load(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web-v3}\nspec:\n  template:\n"
        "    metadata: {labels: {app: web}}\n    spec:\n      containers:\n"
        "      - {name: a, resources: {limits: {cpu: 500m}}}\n"
        "      - {name: b, resources: {limits: {cpu: 1}}}\n"
    )
    workloads = topology.services["web"].workloads
    assert workloads["web-v3"].cpu == 1.5
    assert workloads["web-v1"].cpu is None


@pytest.mark.parametrize(
    ("manifest", "meshed"),
    [
        ("metadata: {labels: {app: web}, annotations: {sidecar.istio.io/inject: 'false'}}", False),
        ("metadata: {labels: {app: web, sidecar.istio.io/inject: 'false'}}", False),
        ("metadata: {labels: {app: web}, annotations: {sidecar.istio.io/inject: 'true'}}", True),
    ],
)
def test_pods_without_sidecar_are_not_in_the_mesh(load: Load, manifest: str, meshed: bool) -> None:
    topology = load(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: plain}\n"
        f"spec:\n  template:\n    {manifest}\n"
    )
    assert topology.services["web"].workloads["plain"].meshed is meshed


def test_a_namespace_without_injection(load: Load) -> None:
    topology = load(
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: default, labels: {istio-injection: disabled}}\n"
    )
    assert not any(item.meshed for item in topology.services["web"].workloads.values())


@pytest.mark.parametrize(
    ("ports", "port", "notice"),
    [
        (
            "[{name: tcp-db, port: 1}, {name: grpc-api, port: 2}]",
            2,
            "only port 2 is simulated, not 1",
        ),
        ("[{name: admin, port: 1}, {name: tcp, port: 2}]", 1, "only port 1 is simulated"),
        ("[{name: mongo, port: 27017}]", 27017, "protocol mongo is simulated as HTTP"),
        ("[{name: x, port: 3, appProtocol: kubernetes.io/h2c}, {name: http, port: 4}]", 3, "not 4"),
    ],
)
def test_the_simulated_port_is_the_first_http_one(
    load: Load, ports: str, port: int, notice: str
) -> None:
    topology = load(
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: {ports}}}\n"
    )
    assert topology.services["s"].port == port
    assert any(notice in item for item in topology.notices)


def test_kinds_nobody_reads_are_listed_and_harmless_ones_are_not(load: Load) -> None:
    topology = load(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n",
    )
    unread = [notice for notice in topology.notices if notice.startswith("not read yet")]
    (notice,) = unread
    assert notice.startswith("not read yet: HTTPRoute (gateway.networking.k8s.io) in ")
    assert notice.endswith("b0.yaml:1")
