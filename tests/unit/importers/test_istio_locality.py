"""localityLbSetting: shares, failover, and what needs outlierDetection."""

from collections.abc import Callable

import pytest

from meshsim.errors import ConfigError
from meshsim.topology.model import LocalityLoadBalancing, Topology

Load = Callable[..., Topology]
OUTLIERS = "outlierDetection: {}"


def rule(setting: str, more: str = "", subsets: str = "[]") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web}\n"
        "spec:\n  host: web\n  trafficPolicy: {loadBalancer: {localityLbSetting: "
        f"{setting}}}, {more}}}\n  subsets: {subsets}\n"
    )


def locality(topology: Topology) -> LocalityLoadBalancing | None:
    return topology.policies["web"].locality


def told(topology: Topology, text: str) -> bool:
    return any(text in notice for notice in topology.notices)


def test_distribution_needs_nothing_else(load: Load) -> None:
    topology = load(
        rule(
            "{distribute: [{from: east/a/*, to: {east/a/*: 80, 'east/b/*': 20}},"
            " {from: east/*, to: {'*': 100}}]}"
        )
    )
    found = locality(topology)
    assert found
    assert found.distribute == {
        "east/a/*": {"east/a/*": 80, "east/b/*": 20},
        "east/*": {"*": 100},
    }
    assert found.locality_weighted is True
    assert found.failover is None
    place = topology.provenance["policies.web.locality.distribute.east/a/*.east/b/*"]
    assert place.line == 6


def test_failover_needs_outlier_detection(load: Load) -> None:
    setting = "{failover: [{from: east, to: west}]}"
    topology = load(rule(setting))
    assert locality(topology) is None
    assert told(topology, "failover has no effect without outlierDetection")
    found = locality(load(rule(setting, OUTLIERS)))
    assert found
    assert found.failover == {"east": "west"}
    assert found.locality_weighted is True


def test_outlier_detection_alone_means_failover_by_zone(load: Load) -> None:
    found = locality(load(rule("{}", OUTLIERS)))
    assert found
    assert found.failover == {}
    assert found.locality_weighted is None


def test_labels(load: Load) -> None:
    setting = "{failoverPriority: [topology.kubernetes.io/region, 'version=v1']}"
    found = locality(load(rule(setting, OUTLIERS)))
    assert found
    assert found.failover_priority == ("topology.kubernetes.io/region", "version=v1")
    assert found.failover is None
    both = "{failoverPriority: [app], failover: [{from: a, to: b}]}"
    found = locality(load(rule(both, OUTLIERS)))
    assert found
    assert (found.failover_priority, found.failover) == (("app",), {"a": "b"})


def test_a_setting_that_is_off(load: Load) -> None:
    topology = load(rule("{enabled: false, distribute: [{from: '*', to: {'*': 100}}]}", OUTLIERS))
    assert locality(topology) == LocalityLoadBalancing()
    assert not told(topology, "is not read")


def test_a_subset_can_have_its_own(load: Load) -> None:
    own = (
        "[{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {localityLbSetting:"
        " {enabled: false}}}}, {name: v2, labels: {version: v2}}]"
    )
    topology = load(rule("{failover: [{from: a, to: b}]}", OUTLIERS, own))
    subsets = topology.policies["web"].subsets
    assert subsets["v1"].locality == LocalityLoadBalancing()
    assert subsets["v2"].locality is None  # the service's


def test_mistakes_are_told(load: Load) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        load(rule("{distribute: [{from: '*', to: {'*': 100}}], failoverPriority: [app]}"))
    with pytest.raises(ConfigError, match="add up to 100"):
        load(rule("{distribute: [{from: '*', to: {'*': 99}}]}"))
    with pytest.raises(ConfigError, match="fails over to another"):
        load(rule("{failover: [{from: east, to: east}]}", OUTLIERS))
    topology = load(rule("{distribute: [{from: a/b/rack, to: {'*': 100}}]}"))
    assert told(topology, "subzones are not modelled")
    twice = "{distribute: [{from: a, to: {'*': 100}}, {from: a, to: {'*': 100}}]}"
    assert told(load(rule(twice)), "an earlier entry holds for 'a'")
