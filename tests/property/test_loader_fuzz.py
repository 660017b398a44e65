"""Whatever a file holds, the loader answers with a topology or a ConfigError."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshsim.errors import ConfigError
from meshsim.topology import Topology, load_topology, load_traffic, loads_topology, with_values
from meshsim.topology.model import Route, TrafficClass, Workload
from meshsim.yamlfile import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = [
    (ROOT / "topologies" / f"{name}.yaml").read_text()
    for name in ("bookinfo", "chain", "online-boutique", "retry-storm")
]
#: What YAML and the model give a meaning to, to be put where it does not belong.
TOKENS = [
    *("{", "}", "[", "]", ":", ": ", "- ", "\n", "\n  ", "\t", "#", "&a ", "*a", "<<: ", "!!int "),
    *(
        "---\n",
        "...\n",
        "|\n",
        ">-\n",
        "'",
        '"',
        "%",
        "@",
        "`",
        "?",
        "{{ .Values.x }}",
        "\0",
        "\ufeff",
    ),
    *(
        "no",
        "010",
        "12:30",
        "1e999",
        "-1",
        "null",
        "true",
        "0",
        "14ms",
        "x" * 50,
        "\ud800",
        "é",
        "²",
    ),
    *("services", "workloads", "steps", "parallel", "recorded: {file: /}", "generate: {}", "name"),
]

#: Nothing here waits, but the machine may be busy.
quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def load(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(loads_topology(text), Topology)


@quick
@given(st.text(max_size=200))
def test_any_text(text):
    load(text)


@quick
@given(st.lists(st.sampled_from(TOKENS), max_size=30).map("".join))
def test_any_tokens(text):
    load(text)
    with contextlib.suppress(ConfigError):
        parse_yaml(text, strict_scalars=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file.yaml"


@quick
@given(data=st.binary(max_size=200))
def test_any_bytes(path, data):
    path.write_bytes(data)
    for read in (load_topology, load_traffic):
        with contextlib.suppress(ConfigError):
            read(path)


@quick
@given(
    text=st.sampled_from(SCENARIOS),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS)),
        min_size=1,
        max_size=4,
    ),
)
def test_a_scenario_with_accidents(text, edits):
    for place, length, token in edits:
        start = int(place * len(text))
        text = text[:start] + token + text[start + length :]
    load(text)


#: Values of any shape under the names of the model.
NAMES = sorted(
    {name for model in (Topology, Workload, TrafficClass, Route) for name in model.model_fields}
    | {"web", "v1", "workloads", "call", "compute", "poisson", "routes", "recorded", "file"}
    | {"times", "path", "regex", "lognormal", "mean", "p99", "zones", "links", "latency"}
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.sampled_from(["web", "v1", "1ms", "0", "x", "RANDOM", "\0", "/", "a" * 300]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=25,
)


@quick
@given(VALUES)
def test_any_structure(value):
    load(json.dumps({"name": "x", "services": value, "traffic": value, "policies": {"web": value}}))
    load(json.dumps({"name": "x", "services": {"web": {"workloads": {"v1": value}}}}))


BOOKINFO = loads_topology(SCENARIOS[0])
PARTS = [
    *("services", "reviews", "workloads", "v1", "replicas", "steps", "[0]", "[9]", "traffic"),
    *("browse", "rate", "arrivals", "poisson", "policies", "routes", "subsets", "network", "links"),
    *("", "[", "]", "name", "compute", "lognormal", "call", "headers", "x", "0", "latency"),
]


@quick
@given(
    st.lists(st.sampled_from(PARTS), max_size=7).map(".".join),
    st.sampled_from(TOKENS) | st.none() | st.integers() | st.floats() | st.lists(st.integers()),
)
def test_any_edit(path, value):
    with contextlib.suppress(ConfigError):
        with_values(BOOKINFO, {path.replace(".[", "["): value})
