"""No manifest, however odd, ends in anything but a topology or a ConfigError."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.errors import ConfigError
from meshsim.importers import load_manifests
from meshsim.meshes import resolve

TRAFFIC = "traffic: {t: {to: web, arrivals: {poisson: 1}}}\n"

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]},
}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web-v1"},
    "spec": {
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"resources": {"limits": {"cpu": "500m"}}}]},
        },
    },
}
DESTINATION_RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "web"},
    "spec": {
        "host": "web",
        "trafficPolicy": {
            "loadBalancer": {"consistentHash": {"httpHeaderName": "u", "maglev": {"tableSize": 7}}},
            "connectionPool": {"tcp": {"maxConnections": 1}, "http": {"idleTimeout": "1s"}},
            "retryBudget": {"percent": 20},
            "portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "RANDOM"}}],
        },
        "subsets": [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {}}],
    },
}
VIRTUAL_SERVICE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "web"},
    "spec": {
        "hosts": ["web"],
        "http": [
            {
                "match": [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}}, "port": 80}],
                "route": [
                    {"destination": {"host": "web", "subset": "v1"}, "weight": 1},
                    {"destination": {"host": "web", "port": {"number": 80}}, "weight": 3},
                ],
                "timeout": "1s",
                "retries": {"attempts": 1, "perTryTimeout": "1s", "retryOn": "5xx,503"},
            },
            {"redirect": {"uri": "/"}},
            {"directResponse": {"status": 503}},
        ],
    },
}
MANIFESTS = [SERVICE, DEPLOYMENT, DESTINATION_RULE, VIRTUAL_SERVICE]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "*", "web", "1s", "5xx", "(", "web.default.svc.cluster.local", "0", "é"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["host", "name", "port", "exact", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        found.append((*path, key))
        if isinstance(item, (dict, list)):
            found += places(item, (*path, key))
    return found


PLACES = places(MANIFESTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(folder: Path, manifests: list[Any]) -> bool:
    """Load and resolve; False if the manifests were refused, with at least one problem."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    (folder / "manifests.json").write_text(text)
    (folder / "traffic.yaml").write_text(TRAFFIC)
    try:
        resolve(load_manifests(folder / "manifests.json", folder / "traffic.yaml"))
    except ConfigError as error:
        if not error.problems:
            raise
        return False
    return True


def test_the_manifests_themselves_load(folder: Path) -> None:
    assert read(folder, MANIFESTS)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=3))
def test_changed_values_never_break_the_reader(
    folder: Path, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    manifests = copy.deepcopy(MANIFESTS)
    for path, value in changes:
        node: Any = manifests
        try:
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # An earlier change took the place away.
    read(folder, manifests)
