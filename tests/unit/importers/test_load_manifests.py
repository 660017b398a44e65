"""A folder and a traffic file as one scenario; the samples of Istio."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshsim.errors import ConfigError
from meshsim.importers import load_manifests
from meshsim.meshes import resolve
from meshsim.topology.load import load_topology
from meshsim.topology.model import Topology

Load = Callable[..., Topology]


def test_behaviour_comes_from_the_traffic_file(load: Load) -> None:
    topology = load(
        traffic=(
            "traffic: {t: {to: web, arrivals: {poisson: 1}}}\n"
            "services:\n"
            "  web:\n"
            "    '*': {concurrency: 3, steps: [{compute: 1ms}]}\n"
            "    web-v2: {steps: [{sleep: 2ms}, {compute: 3ms}], replicas: 9}\n"
        )
    )
    first, second = topology.services["web"].workloads.values()
    assert (first.concurrency, second.concurrency) == (3, 3)
    assert (len(first.steps), len(second.steps)) == (1, 2)
    # What the traffic file states replaces the manifest's value, what it does not say stays.
    assert (first.replicas, second.replicas) == (2, 9)
    assert second.labels == {"app": "web", "version": "v2"}
    places = topology.provenance
    assert places["services.web.workloads.web-v1.concurrency"].line == 4
    assert places["services.web.workloads.web-v2.replicas"].line == 5
    assert places["services.web.workloads.web-v2.steps[1].compute"].line == 5
    assert places["traffic.t.to"].line == 1
    assert topology.name == "manifests"


def test_a_workload_without_behaviour_is_told(load: Load) -> None:
    topology = load(traffic="traffic: {t: {to: web, arrivals: {poisson: 1}}}\n")
    assert any("nothing of what web-v1 does" in notice for notice in topology.notices)
    assert not any("nothing of what" in notice for notice in load().notices)


def test_names_the_manifests_do_not_have_are_refused_together(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(
            traffic=(
                "traffic: {t: {to: web, arrivals: {poisson: 1}}}\n"
                "services:\n"
                "  wbe: {'*': {steps: [{compute: 1ms}]}}\n"
                "  web: {web-vv2: {steps: [{compute: 1ms}]}}\n"
            )
        )
    first, second = raised.value.problems
    assert (first.line, first.suggestion) == (3, "web")
    assert (second.line, second.suggestion) == (4, "web-v2")


def test_an_unknown_service_in_a_call_or_in_traffic_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(
            traffic=(
                "traffic: {t: {to: wbe, arrivals: {poisson: 1}}}\n"
                "services: {web: {'*': {steps: [{call: ratings}]}}}\n"
            )
        )
    text = str(raised.value)
    assert "traffic.yaml:1" in text
    assert "traffic.yaml:2" in text
    assert "ratings" in text


def test_problems_of_the_traffic_file_and_of_the_folder_come_together(folder: Path) -> None:
    (folder / "b.yaml").write_text("kind: [\n")
    (folder.parent / "traffic.yaml").write_text("traffic: 5\n")
    with pytest.raises(ConfigError) as raised:
        load_manifests(folder, folder.parent / "traffic.yaml")
    assert "b.yaml" in str(raised.value)
    assert "traffic.yaml" in str(raised.value)


def test_a_folder_without_services_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n")
    (tmp_path / "t.yaml").write_text("traffic: {t: {to: web, arrivals: {poisson: 1}}}\n")
    with pytest.raises(ConfigError, match="no Service in the manifests"):
        load_manifests(tmp_path, tmp_path / "t.yaml")


def test_reading_is_deterministic(load: Load) -> None:
    first, second = load(), load()
    assert first == second
    assert first.provenance == second.provenance
    assert first.notices == second.notices


# --- Samples --------------------------------------------------------------------------------


def test_all_of_bookinfo_loads(samples: Path, root: Path) -> None:
    folder = samples / "istio" / "bookinfo"
    topology = load_manifests(folder, root / "topologies" / "bookinfo-traffic.yaml")
    assert {"productpage", "details", "reviews", "ratings"} <= set(topology.services)
    assert list(topology.services["reviews"].workloads) == [
        "reviews-v1",
        "reviews-v2",
        "reviews-v3",
    ]
    # Of six VirtualServices named reviews the last file wins.
    (route,) = topology.policies["reviews"].routes
    assert [item.subset for item in route.split] == ["v3"]
    jason, everyone = topology.policies["ratings"].routes
    assert jason.match[0].headers["end-user"].exact == "jason"
    assert everyone.match == ()
    unread = [notice for notice in topology.notices if notice.startswith("not read yet")]
    kinds = {notice.removeprefix("not read yet: ").partition(" in ")[0] for notice in unread}
    assert kinds == {
        "Gateway (gateway.networking.k8s.io)",
        "HTTPRoute (gateway.networking.k8s.io)",
        "Gateway (networking.istio.io)",
        "ServiceEntry (networking.istio.io)",
        "Ingress (networking.k8s.io)",
    }
    resolved = resolve(topology)
    retries = resolved.provenance["policies.reviews.routes[0].retry.num_retries"]
    assert str(retries) == "Istio default (pilot/pkg/networking/core/route/retry/retry.go)"


def test_bookinfo_with_each_routing_file_alone(samples: Path, root: Path, tmp_path: Path) -> None:
    folder = samples / "istio" / "bookinfo"
    traffic = root / "topologies" / "bookinfo-traffic.yaml"
    files = sorted((folder / "networking").glob("*.yaml"))
    assert len(files) >= 11
    platform = (folder / "platform" / "bookinfo.yaml").read_text()
    rules = (folder / "networking" / "destination-rule-all.yaml").read_text()
    for index, file in enumerate(files):
        target = tmp_path / str(index)
        target.mkdir()
        (target / "platform.yaml").write_text(platform)
        (target / "a-rules.yaml").write_text(rules)
        (target / file.name).write_text(file.read_text())
        assert load_manifests(target, traffic).services


def test_bookinfo_from_manifests_does_what_the_scenario_beside_it_does(
    samples: Path, root: Path
) -> None:
    folder = samples / "istio" / "bookinfo" / "platform" / "bookinfo.yaml"
    read = load_manifests(folder, root / "topologies" / "bookinfo-traffic.yaml")
    written = load_topology(root / "topologies" / "bookinfo.yaml")
    assert read.traffic == written.traffic
    for name, service in written.services.items():
        assert read.services[name].port == service.port
        for version, workload in service.workloads.items():
            # A Deployment is named after service and version.
            twin = read.services[name].workloads[f"{name}-{version}"]
            assert twin == workload


def test_every_istio_sample_loads_at_once(samples: Path, tmp_path: Path) -> None:
    traffic = tmp_path / "traffic.yaml"
    traffic.write_text("traffic: {t: {to: productpage, arrivals: {poisson: 1}}}\n")
    topology = load_manifests(samples / "istio", traffic)
    assert len(topology.services) >= 20
    assert resolve(topology).policies.keys() == topology.services.keys()
