"""What differs between releases of Envoy."""

import pytest

import meshsim as ms
from meshsim.errors import ConfigError
from meshsim.meshes import resolve
from meshsim.topology.load import loads_topology
from meshsim.topology.releases import always_ejects_one, as_counted, release_of

MESH = """
name: releases
mesh: {mesh}
{release}
services:
  a: {{workloads: {{v1: {{concurrency: 9, steps: [{{sleep: 50ms}}]}}}}}}
traffic:
  users: {{to: a, arrivals: {{recorded: {{times: [0ms, 1ms, 2ms, 3ms]}}}}}}
policies:
  a:
    circuit_breakers: {{max_requests: 1}}
    outlier_detection: {{}}
"""


def mesh(release=None, name="istio-sidecar"):
    said = "" if release is None else f"envoy_release: '{release}'"
    return loads_topology(MESH.format(mesh=name, release=said))


def test_a_release_is_read_by_its_first_two_numbers():
    assert [release_of(text) for text in ("1.36", "1.39.3", None)] == [(1, 36), (1, 39), (1, 40)]
    assert [always_ejects_one(release) for release in ((1, 27), (1, 28))] == [True, False]


def test_counters_of_before_1_39_are_one():
    counts = {"outbound.upstream_rq_active_overflow": 2, "outbound.upstream_cx_overflow": 1}
    assert as_counted(counts, (1, 39)) == counts
    renamed = {"outbound.upstream_rq_pending_overflow": 2, "outbound.upstream_cx_overflow": 1}
    assert as_counted(counts, (1, 38)) == renamed


@pytest.mark.parametrize("release", ["2.0", "1", "latest", "1.4000"])
def test_what_is_no_release_is_refused(release):
    with pytest.raises(ConfigError, match="envoy_release"):
        mesh(release)


def test_the_profile_has_a_release_and_the_scenario_may_have_another():
    resolved = resolve(mesh())
    assert resolved.envoy_release == "1.40"
    assert "istio-sidecar" in str(resolved.provenance["envoy_release"])
    assert resolve(mesh("1.36")).envoy_release == "1.36"
    assert resolve(mesh(name="none")).envoy_release is None
    assert "profile istio-sidecar" in str(ms.explain(mesh(), "envoy_release"))


@pytest.mark.parametrize(("release", "always"), [("1.27", True), ("1.28", False), (None, False)])
def test_the_first_ejection_of_a_small_cluster_goes_by_the_release(release, always):
    resolved = resolve(mesh(release))
    assert resolved.policies["a"].outlier_detection.always_eject_one_host is always
    place = str(resolved.provenance["policies.a.outlier_detection.always_eject_one_host"])
    assert ("before 1.28" in place) is always


@pytest.mark.parametrize(("release", "name"), [("1.36", "pending"), ("1.40", "active")])
def test_a_simulation_names_its_counters_by_the_release(release, name):
    result = ms.simulate(mesh(release), "1s", replications=1)
    counts = result.stats().set_index("stat")["count"]
    assert counts[f"outbound.upstream_rq_{name}_overflow"] == 3
    assert sum("rq_pending_overflow" in stat or "rq_active_overflow" in stat
               for stat in counts.index) == 1  # fmt: skip
