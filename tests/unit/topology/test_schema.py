"""The JSON Schema agrees with the loader on what single values may be."""

import jsonschema
import pytest
import yaml

from meshsim.topology import dump_topology, json_schema, loads_topology


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "name", ["bookinfo", "chain", "online-boutique", "retry-storm", "thousand", "tree"]
)
def test_every_scenario_fits(validator, root, name):
    text = (root / "topologies" / f"{name}.yaml").read_text()
    validator.validate(yaml.safe_load(text))
    if name != "thousand":
        validator.validate(yaml.safe_load(dump_topology(loads_topology(text))))


def small(**service):
    workload = {"steps": [{"compute": {"exponential": "14ms"}}, {"call": "web"}], **service}
    return {
        "name": "x",
        "services": {"web": {"workloads": {"v1": workload}}},
        "traffic": {"t": {"to": "web", "arrivals": {"poisson": 3}}},
    }


def test_short_forms_fit(validator):
    validator.validate(small())
    validator.validate(small(patience="1s"))
    validator.validate(small(patience={"constant": "1s"}))
    validator.validate(small(patience={"exponential": {"mean": "1s"}}))


@pytest.mark.parametrize(
    "service",
    [
        {"replcias": 3},
        {"replicas": "3"},
        {"replicas": -1},
        {"discipline": "FIFO"},
        {"patience": 3},
        {"patience": "3"},
        {"patience": {}},
        {"patience": {"constant": "1s", "exponential": "1s"}},
        {"steps": [{"call": 5}]},
    ],
)
def test_what_the_loader_refuses_does_not_fit(validator, service):
    assert not validator.is_valid(small(**service))


def test_what_the_loader_adds_is_no_field(validator):
    assert not validator.is_valid({**small(), "provenance": {}})
    assert not validator.is_valid({**small(), "notices": []})
