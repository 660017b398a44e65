"""Topology files: every problem at once, with its place; out and in again without loss."""

import pytest

from meshsim.errors import ConfigError
from meshsim.topology import (
    dump_topology,
    load_topology,
    load_traffic,
    loads_topology,
    provenance_at,
)

SMALL = """\
name: small
services:
  web:
    workloads:
      v1:
        replicas: 3
        steps:
          - compute: {exponential: 14ms}
          - call: store
          - compute: 2ms
  store:
    workloads:
      v1: {}
traffic:
  browse:
    to: web
    arrivals: {poisson: 200}
"""


def problems(text, file="x.yaml"):
    with pytest.raises(ConfigError) as caught:
        loads_topology(text, file)
    return caught.value.problems


def test_a_small_file_is_read():
    topology = loads_topology(SMALL)
    workload = topology.services["web"].workloads["v1"]
    assert workload.replicas == 3
    assert workload.steps[0].compute.exponential.mean == 14_000_000
    assert workload.steps[1].call.service == "store"
    assert workload.steps[2].compute.constant.value == 2_000_000
    assert topology.traffic["browse"].arrivals.poisson.rate == 200.0


def test_every_value_knows_its_place():
    topology = loads_topology(SMALL, "small.yaml")
    origin = topology.provenance["services.web.workloads.v1.replicas"]
    assert (origin.file, origin.line, origin.column) == ("small.yaml", 6, 19)
    assert topology.provenance["services.web.workloads.v1.steps[1].call"].line == 9
    # A value of a short form is where the short form is; a mapping where its first value is.
    deep = "services.web.workloads.v1.steps[0].compute.exponential.mean"
    assert provenance_at(topology, deep).line == 8
    assert provenance_at(topology, "traffic.browse").line == 16
    assert provenance_at(topology, "faults") is None


def test_all_problems_of_a_file_come_at_once():
    text = """\
name: wrong
servces: {}
services:
  web:
    workloads:
      v1:
        replcias: 3
        replicas: -1
        concurrency: true
        discipline: FIFO
        cpu: "2"
        steps:
          - compute: 14
          - call: stroe
            sleep: 1ms
          - compute: {lognormal: {mean: 5ms, p99: 4ms}}
  store:
    workloads: {}
traffic:
  browse:
    to: wbe
    arrivals: {poisson: -200}
  buy:
    arrivals: {poisson: 1}
"""
    found = {(p.line, p.path): p for p in problems(text)}
    workload = "services.web.workloads.v1"
    assert found[2, "servces"].suggestion == "services"
    assert found[7, f"{workload}.replcias"].suggestion == "replicas"
    assert found[7, f"{workload}.replcias"].column == 9
    assert found[8, f"{workload}.replicas"].allowed == ">= 0"
    assert "whole number" in found[9, f"{workload}.concurrency"].message
    assert found[10, f"{workload}.discipline"].allowed.startswith("FCFS, PROCESSOR_SHARING")
    assert "a number" in found[11, f"{workload}.cpu"].message
    assert "needs a unit" in found[13, f"{workload}.steps[0].compute"].message
    assert "found sleep and call" in found[14, f"{workload}.steps[1]"].message
    assert found[18, "services.store.workloads"].message == "too few entries"
    assert found[22, "traffic.browse.arrivals.poisson"].found == "-200"
    assert found[24, "traffic.buy.to"].message == "is required"
    # Mistakes between fields are found in the same run, with the places of the file.
    assert "99th percentile" in found[16, f"{workload}.steps[2].compute.lognormal.p99"].message
    assert found[21, "traffic.browse.to"].suggestion == "web"
    assert len(found) == 13


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "must be a mapping"),
        ("name: x", "services: is required"),
        ("name: x\nservices: {}", "too few entries"),
        ("name: x\nservices:\n", "must be a mapping; found null"),
        ("name: 5\nservices: {a: {workloads: {v1: {}}}}", "must be text \\(quote it\\); found 5"),
        ("name: x\nservices: {a: {workloads: {v1: {nodes: 3}}}}", "must be a list"),
    ],
)
def test_a_problem_in_plain_words(text, said):
    with pytest.raises(ConfigError, match=said):
        loads_topology(text)


def test_messages_name_nothing_of_the_library():
    text = "name: x\nservices: {a: {workloads: {v1: {replicas: x, cpu: [], steps: 1}}}}"
    for problem in problems(text):
        assert "Input should" not in str(problem)
        assert "pydantic" not in str(problem)


def test_a_cut_service_is_not_called_unknown():
    text = SMALL.replace("      v1: {}\n", "      v1: {replicas: x}\n", 1)
    (problem,) = problems(text)
    assert problem.path == "services.store.workloads.v1.replicas"


def test_a_notice_is_no_problem():
    text = SMALL + (
        "policies:\n  store:\n    routes:\n"
        "      - {timeout: 1s, retry: {num_retries: 1, per_try_timeout: 2s}}\n"
    )
    (notice,) = loads_topology(text, "x.yaml").notices
    assert notice.startswith("x.yaml:21:64: policies.store.routes[0].retry.per_try_timeout")
    assert "Envoy ignores it" in notice


def test_dump_uses_short_forms_and_leaves_defaults_out():
    assert (
        dump_topology(loads_topology(SMALL))
        == """\
name: small
services:
  web:
    workloads:
      v1:
        replicas: 3
        steps:
        - compute:
            exponential: 14ms
        - call: store
        - compute: 2ms
  store:
    workloads:
      v1: {}
traffic:
  browse:
    to: web
    arrivals:
      poisson: 200
"""
    )


@pytest.mark.parametrize(
    "name", ["no", "010", "1e3", "12:30", "y", "a: b", " x ", "", "é\n", "null", "0x1F", "#", "<<"]
)
def test_text_that_looks_like_something_else_comes_back_as_text(name):
    topology = loads_topology(SMALL)
    service = topology.services["web"]
    edited = topology.model_copy(
        update={"name": name, "services": {**topology.services, name: service}}
    )
    assert loads_topology(dump_topology(edited)) == edited


def test_recorded_times_are_read_beside_the_scenario(tmp_path):
    (tmp_path / "times.txt").write_text("# seconds\n0.5\n1\n1\n2.25\n")
    text = SMALL.replace("{poisson: 200}", "{recorded: {file: times.txt}}")
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(text)
    topology = load_topology(scenario)
    times = topology.traffic["browse"].arrivals.recorded.times
    assert times == (500_000_000, 1_000_000_000, 1_000_000_000, 2_250_000_000)
    origin = provenance_at(topology, "traffic.browse.arrivals.recorded.times")
    assert origin.file == str(tmp_path / "times.txt")
    assert loads_topology(dump_topology(topology)) == topology


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("0.5\nx\n", r"times\.txt:2:1: not a time"),
        ("2\n1\n", r"times\.txt:2:1: times descend"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_recording_names_both_files(tmp_path, content, said):
    if content is not None:
        (tmp_path / "times.txt").write_text(content)
    text = SMALL.replace("{poisson: 200}", "{recorded: {file: times.txt}}")
    with pytest.raises(ConfigError, match=said) as caught:
        loads_topology(text, str(tmp_path / "scenario.yaml"))
    assert any("the file cannot be used" in str(problem) for problem in caught.value.problems)


def test_times_and_a_file_contradict_each_other():
    text = SMALL.replace("{poisson: 200}", "{recorded: {file: a, times: [1s]}}")
    assert any("not both" in problem.message for problem in problems(text))


def test_a_missing_and_an_empty_file(tmp_path):
    with pytest.raises(ConfigError, match="file not found"):
        load_topology(tmp_path / "none.yaml")
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    with pytest.raises(ConfigError, match="the file is empty"):
        load_topology(empty)


def test_a_traffic_file_tells_what_is_said_of_a_workload(tmp_path):
    path = tmp_path / "traffic.yaml"
    path.write_text(
        "traffic:\n  browse: {to: web, arrivals: {poisson: 5}}\n"
        "services:\n  web:\n    '*': {concurrency: 8}\n    web-v2: {steps: [compute: 3ms]}\n"
    )
    file = load_traffic(path)
    assert file.services["web"]["*"].model_fields_set == {"concurrency"}
    assert file.services["web"]["web-v2"].model_fields_set == {"steps"}
    assert file.provenance["traffic.browse.to"].line == 2


def test_a_wrong_traffic_file_lists_its_problems(tmp_path):
    path = tmp_path / "traffic.yaml"
    path.write_text("trafic: {}\nservices: {web: {'*': {concurency: 8}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_traffic(path)
    suggestions = {problem.suggestion for problem in caught.value.problems}
    assert {"traffic", "concurrency"} <= suggestions
    assert "traffic: is required" in str(caught.value)


def test_a_generated_scenario_is_expanded():
    text = "name: big\nmesh: none\ngenerate: {services: 30, replicas: 2, depth: 3, rate: 60}\n"
    topology = loads_topology(text, "big.yaml")
    assert (topology.name, topology.mesh, len(topology.services)) == ("big", "none", 30)
    assert "generated" in str(provenance_at(topology, "services.s00000.workloads.v1.replicas"))
    assert topology.provenance["generate.rate"].line == 3
    with pytest.raises(ConfigError, match=r"x:3:11.*need at least 5 services"):
        loads_topology("name: a\nmesh: none\ngenerate: {services: 3}\n", "x")


def test_traps_of_yaml_and_mistakes_of_the_model_are_reported_together():
    text = (
        "name: x\n"
        "services:\n"
        "  a: {workloads: {v1: {steps: [{call: bb}], replicas: no}}}\n"
        "  b: {workloads: {v1: {replicas: 010}}}\n"
        "traffic:\n"
        "  t: {to: aa, arrivals: {poisson: -5}}\n"
    )
    with pytest.raises(ConfigError) as error:
        loads_topology(text, "bad.yaml")
    places = [(problem.line, problem.path) for problem in error.value.problems]
    assert places == [
        (3, "services.a.workloads.v1.steps[0].call.service"),
        (3, "services.a.workloads.v1.replicas"),
        (4, "services.b.workloads.v1.replicas"),
        (6, "traffic.t.to"),
        (6, "traffic.t.arrivals.poisson"),
    ]
