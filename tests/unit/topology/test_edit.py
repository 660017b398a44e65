"""Values set by path."""

import numpy as np
import pytest

from meshsim.errors import ConfigError
from meshsim.topology import load_topology, loads_topology, with_values
from meshsim.topology.rates import class_rate, mean_rate

TEXT = """\
name: x
services:
  reviews:
    workloads:
      v1: {labels: {app.kubernetes.io/name: reviews}}
      v2: {steps: [compute: 5ms, call: store.eu]}
  store.eu: {workloads: {v1: {}}}
traffic:
  browse: {to: reviews, arrivals: {poisson: 10}}
  shop: {to: reviews, closed_loop: {users: 5, think_time: 1s}}
policies:
  reviews: {routes: [{timeout: 1s}]}
"""


@pytest.fixture
def topology():
    return loads_topology(TEXT, "x.yaml")


def test_values_are_read_as_yaml(topology):
    edited = with_values(
        topology,
        {
            "services.reviews.workloads.v1.replicas": "3",
            "services.reviews.workloads.v1.hold_worker": "false",
            "services.reviews.workloads.v2.steps[0].compute": "{exponential: 2ms}",
            "policies.reviews.routes[0].timeout": "3s",
            "policies.reviews.load_balancing.policy": "RANDOM",
            "policies.store.eu.circuit_breakers.max_requests": 7,
            "traffic.browse.arrivals.poisson.rate": 100,
            "traffic.browse.headers.x-user": "5",
            "mesh": "none",
        },
    )
    v1, v2 = edited.services["reviews"].workloads.values()
    assert (v1.replicas, v1.hold_worker) == (3, False)
    assert v2.steps[0].compute.exponential.mean == 2_000_000
    assert v2.steps[0].compute.constant is None
    assert edited.policies["reviews"].routes[0].timeout == 3_000_000_000
    assert edited.policies["reviews"].load_balancing.policy == "RANDOM"
    assert edited.policies["store.eu"].circuit_breakers.max_requests == 7
    assert edited.traffic["browse"].arrivals.poisson.rate == 100
    assert edited.traffic["browse"].headers == {"x-user": "5"}
    assert edited.mesh == "none"
    assert topology == loads_topology(TEXT)


def test_an_edited_value_says_so_and_the_others_keep_their_place(topology):
    edited = with_values(topology, {"policies.reviews.routes[0].timeout": "3s"})
    said = edited.provenance["policies.reviews.routes[0].timeout"]
    assert str(said) == "set to 3s by the caller"
    assert edited.provenance["services.reviews.workloads.v2.steps[0].compute"].line == 6


def test_a_field_of_all_workloads(topology):
    edited = with_values(topology, {"services.reviews.replicas": 4})
    assert [w.replicas for w in edited.services["reviews"].workloads.values()] == [4, 4]
    assert "services.reviews.workloads.v2.replicas" in edited.provenance


def test_numpy_numbers_are_numbers(topology):
    values = {"services.reviews.replicas": np.int64(2), "traffic.browse.rate": np.float64(2.5)}
    edited = with_values(topology, values)
    assert edited.services["reviews"].workloads["v1"].replicas == 2
    assert edited.traffic["browse"].arrivals.poisson.rate == 2.5


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("services.revews.replicas", 3, r"unknown name 'revews'.*mean services\.reviews\.replicas"),
        ("services.reviews.replcias", 3, "unknown field 'replcias'"),
        ("services.reviews.workloads.v1.replcias", 3, r"mean services\.\S*v1\.replicas"),
        ("polices.reviews", {}, "did you mean policies"),
        ("policies.reviews.routes[1].timeout", "1s", r"no such entry.*allowed: \[0\] to \[0\]"),
        ("policies.reviews.routes.timeout", "1s", "no such entry"),
        ("mesh.name", "x", "single value"),
        ("", "x", "is empty"),
        ("services.reviews.replicas", "no", "write false"),
        ("services.reviews.replicas", "three", "whole number; found three"),
        ("services.reviews.replicas", -1, "too small"),
        ("policies.revews.load_balancing.policy", "RANDOM", r"mean policies\.reviews\.load"),
        ("policies.reviews.load_balancing.policy", "RANDM", "did you mean RANDOM"),
        ("services.reviews.workloads.v2.steps[1].call", "stoer.eu", r"mean store\.eu"),
        ("traffic.shop.rate", 3, r"closed loop.*closed_loop\.users"),
        ("traffic.browse.rate", "many", "not a rate; found many"),
        ("traffic.browse.rate", -1, "not a rate"),
        ("provenance.x", "y", "unknown field"),
    ],
)
def test_a_wrong_edit_is_a_config_error(topology, path, value, said):
    with pytest.raises(ConfigError, match=said):
        with_values(topology, {path: value})


def test_all_wrong_edits_are_reported(topology):
    with pytest.raises(ConfigError) as caught:
        with_values(topology, {"a": 1, "b": 2})
    assert len(caught.value.problems) == 2


ARRIVALS = [
    ("{poisson: 10}", 10),
    ("{batch: {rate: 10, size: 5}}", 10),
    ("{diurnal: {mean: 10, amplitude: 0.5}}", 10),
    ("{renewal: {interval: {gamma: {mean: 100ms, shape: 4}}}}", 10),
    ("{renewal: {interval: {empirical: {values: [50ms, 150ms]}}}}", 10),
    (
        "{renewal: {interval: {hyperexponential: {phases: [{probability: 0.5, mean: 50ms},"
        " {probability: 0.5, mean: 150ms}]}}}}",
        10,
    ),
    (
        "{modulated_poisson: {phases: [{rate: 4, mean_sojourn: 3s},"
        " {rate: 28, mean_sojourn: 1s}]}}",
        10,
    ),
    ("{piecewise: {points: [{at: 0s, rate: 0}, {at: 10s, rate: 20}]}}", 10),
    ("{piecewise: {points: [{at: 5s, rate: 10}]}}", 10),
    ("{recorded: {times: [1s, 1100ms, 1200ms]}}", 10),
]


@pytest.mark.parametrize(("arrivals", "rate"), ARRIVALS)
def test_any_open_loop_is_scaled_to_a_mean_rate(arrivals, rate):
    topology = loads_topology(TEXT.replace("{poisson: 10}", arrivals))
    before = topology.traffic["browse"].arrivals
    assert mean_rate(before) == pytest.approx(rate)
    edited = with_values(topology, {"traffic.browse.rate": "25"}).traffic["browse"].arrivals
    assert edited.family == before.family
    # Times are rounded to 1 ns of 4 ms at the shortest.
    assert mean_rate(edited) == pytest.approx(25, rel=1e-6)


def test_a_silent_process_has_no_shape_to_scale():
    arrivals = "{piecewise: {points: [{at: 0s, rate: 0}]}}"
    topology = loads_topology(TEXT.replace("{poisson: 10}", arrivals))
    with pytest.raises(ConfigError, match="cannot be scaled"):
        with_values(topology, {"traffic.browse.rate": 3})


def test_the_rate_of_a_closed_loop_is_its_bound(topology):
    assert class_rate(topology.traffic["shop"]) == pytest.approx(5)


def test_the_scenarios_can_be_swept(root):
    topology = load_topology(root / "topologies" / "bookinfo.yaml")
    edited = with_values(topology, {"traffic.browse.rate": 400, "services.reviews.replicas": 2})
    assert edited.traffic["browse"].arrivals.poisson.rate == 400
    assert len(edited.services["reviews"].workloads) == 3
