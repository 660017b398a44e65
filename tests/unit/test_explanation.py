"""Where each value comes from."""

import pytest

from meshsim.errors import ConfigError
from meshsim.explanation import explain
from meshsim.topology import with_values
from meshsim.topology.load import loads_topology

TEXT = """\
name: t
services:
  web.prod:
    workloads:
      v1: {replicas: 3, labels: {version: v1}}
  web: {workloads: {v1: {}, v2: {replicas: 2}}}
traffic:
  all: {to: web, arrivals: {poisson: 5}}
  steps: {to: web, arrivals: {piecewise: {points: [{at: 0s, rate: 1}, {at: 1s, rate: 2}]}}}
  users: {to: web, closed_loop: {users: 3, think_time: 1s}}
policies:
  web:
    circuit_breakers: {max_requests: 9}
    routes:
    - timeout: 2s
      match: [{path: /x}]
    - retry: {num_retries: 4}
"""
TOPOLOGY = loads_topology(TEXT, "t.yaml")


def test_a_default_of_the_mesh() -> None:
    answer = explain(TOPOLOGY, "policies.web.routes[0].retry.num_retries")
    assert answer.value == 2
    assert answer.text == (
        "policies.web.routes[0].retry.num_retries = 2: "
        "Istio default (pilot/pkg/networking/core/route/retry/retry.go)"
    )


def test_a_value_of_the_file() -> None:
    answer = explain(TOPOLOGY, "policies.web.routes[1].retry.num_retries")
    assert answer.text.startswith("policies.web.routes[1].retry.num_retries = 4: t.yaml:17:28")


def test_values_are_written_as_people_write_them() -> None:
    assert "= 2s: t.yaml:15" in explain(TOPOLOGY, "policies.web.routes[0].timeout").text
    assert "= 25ms: Envoy" in explain(TOPOLOGY, "policies.web.routes[0].retry.base_interval").text
    limit = explain(TOPOLOGY, "policies.web.circuit_breakers.max_retries")
    assert "4294967295 (no limit): Istio default" in limit.text


def test_defaults_of_the_model_and_short_forms() -> None:
    workload = "services.web.workloads.v1"
    assert "meshsim default" in explain(TOPOLOGY, f"{workload}.concurrency").text
    assert "meshsim default" in explain(TOPOLOGY, "network.latency.same_zone").text
    assert "t.yaml:8" in explain(TOPOLOGY, "traffic.all.arrivals").text


def test_a_change_leaves_the_origin_of_the_others() -> None:
    edited = with_values(TOPOLOGY, {"traffic.all.rate": 9, "services.web.replicas": "4"})
    told = {
        path: explain(edited, path).text.partition(": ")[2]
        for path in (
            "traffic.all.rate",
            "services.web.workloads.v1.replicas",
            "services.web.workloads.v1.concurrency",
            "services.web.prod.replicas",
        )
    }
    assert list(told.values()) == [
        "set to {poisson: {rate: 9.0}} by the caller",
        "set to 4 by the caller",
        "meshsim default (meshsim.topology.model)",
        "t.yaml:5:22 services.web.prod.workloads.v1.replicas",
    ]


def test_a_path_to_something_larger_answers_with_all_below() -> None:
    answer = explain(TOPOLOGY, "policies.web.circuit_breakers")
    assert answer.value == {
        "policies.web.circuit_breakers.max_connections": 2**32 - 1,
        "policies.web.circuit_breakers.max_pending_requests": 2**32 - 1,
        "policies.web.circuit_breakers.max_requests": 9,
        "policies.web.circuit_breakers.max_retries": 2**32 - 1,
    }
    assert "max_requests = 9: t.yaml:13" in str(answer)


@pytest.mark.parametrize(
    ("short", "paths"),
    [
        (
            "web.retries.num_retries",
            [f"policies.web.routes[{i}].retry.num_retries" for i in (0, 1)],
        ),
        ("web.timeout", ["policies.web.routes[0].timeout", "policies.web.routes[1].timeout"]),
        ("web.replicas", [f"services.web.workloads.{name}.replicas" for name in ("v1", "v2")]),
        ("web.prod.replicas", ["services.web.prod.workloads.v1.replicas"]),
        ("web.prod.load_balancing.policy", ["policies.web.prod.load_balancing.policy"]),
        ("web.port", ["services.web.port"]),
        ("services.*.port", ["services.web.prod.port", "services.web.port"]),
        ("services.web.prod.replicas", ["services.web.prod.workloads.v1.replicas"]),
        (
            "services.web.concurrency",
            [f"services.web.workloads.{name}.concurrency" for name in ("v1", "v2")],
        ),
        ("traffic.all.rate", ["traffic.all.arrivals.poisson.rate"]),
        (
            "traffic.steps.rate",
            [
                f"traffic.steps.arrivals.piecewise.points[{i}].{field}"
                for i in (0, 1)
                for field in ("at", "rate")
            ],
        ),
        (
            "traffic.users.rate",
            [
                f"traffic.users.closed_loop.{rest}"
                for rest in ("users", "think_time.constant.value")
            ],
        ),
    ],
)
def test_short_forms(short: str, paths: list[str]) -> None:
    answer = explain(TOPOLOGY, short)
    assert [part.path for part in answer.parts or (answer,)] == paths


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("polices.web", "policies"),
        ("policies.wbe.routes", "web"),
        ("policies.web.routes[0].rety", "retry"),
        ("web.retris", "retries"),
        ("policies.web.routes[0].retry.num_retires", "num_retries"),
    ],
)
def test_an_unknown_path_names_the_nearest(path: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as raised:
        explain(TOPOLOGY, path)
    (problem,) = raised.value.problems
    assert problem.suggestion == suggestion


@pytest.mark.parametrize("path", [".", "policies.web.routes[9]", "name.x", "web.port.x", "[0]"])
def test_odd_paths_are_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        explain(TOPOLOGY, path)


def test_the_empty_path_is_everything() -> None:
    assert len(explain(TOPOLOGY, "").parts) > 100


def test_public_name_stays_the_function():
    import meshsim

    assert meshsim.explain is explain
    assert meshsim.explain is explain, "a module of this name would take its place"
