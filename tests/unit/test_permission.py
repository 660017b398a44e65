"""``meshsim can-i``: the answer, its reason, its exit status."""

import json

import pytest

import meshsim
from meshsim.cli import main
from meshsim.errors import ConfigError

SCENARIO = """\
name: shop
services:
  web: {workloads: {v1: {steps: [{call: store}]}}}
  store: {workloads: {v1: {}, v2: {}}}
traffic: {visit: {to: web, arrivals: {poisson: 1}}}
access:
  policies:
    - name: readers of store
      selector: {services: [store]}
      rules:
        - sources: [{services: [web]}]
          operations: [{methods: [GET], paths: ["/books/*"]}]
    - name: nothing secret
      action: DENY
      selector: {labels: {version: v2}}
      rules: [{when: [{key: "request.headers[x-secret]", values: ["*"]}]}]
"""


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(SCENARIO)
    return str(path)


@pytest.fixture
def call(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(("can-i", *arguments))
        streams = capsys.readouterr()
        return exit_.value.code or 0, streams.out, streams.err

    return call


def test_allowed_is_status_0_with_a_reason_for_each_workload(call, scenario):
    status, out, _ = call(scenario, "--from", "web", "--to", "store", "--path", "/books/1")
    assert status == 0
    assert out.splitlines() == [
        "web/v1 -> store/v1: allowed by ALLOW rule 1 of readers of store",
        "web/v1 -> store/v2: allowed by ALLOW rule 1 of readers of store",
    ]


def test_denied_is_status_1(call, scenario):
    status, out, err = call(scenario, "--from", "web", "--to", "store", "--method", "PUT")
    assert (status, err) == (1, "")
    assert "denied: no ALLOW rule of readers of store matches" in out


def test_one_refusal_among_the_workloads_counts(call, scenario):
    question = ("--from", "web", "--to", "store", "--path", "/books/1", "--header", "X-Secret=1")
    status, out, _ = call(scenario, *question)
    assert status == 1
    assert out.splitlines()[0].endswith("allowed by ALLOW rule 1 of readers of store")
    assert out.splitlines()[1].endswith("denied by DENY rule 1 of nothing secret")
    assert call(scenario, *question[:3], "store/v1", *question[4:])[0] == 0


def test_json_has_the_decision_and_its_parts(call, scenario):
    arguments = ("--from", "visit", "--to", "store/v1", "--json")
    status, out, _ = call(scenario, *arguments)
    assert status == 1
    assert json.loads(out) == {
        "allowed": False,
        "answers": [
            {
                "from": "visit",
                "to": "store/v1",
                "allowed": False,
                "outcome": "denied (403)",
                "status": 403,
                "reason": "denied: no ALLOW rule of readers of store matches",
                "policy": "readers of store",
                "rule": None,
            }
        ],
    }


def test_a_changed_scenario_is_asked(call, scenario):
    question = (scenario, "--from", "web", "--to", "store/v1", "--method", "PUT")
    assert call(*question)[0] == 1
    # Without proxies nobody enforces it.
    assert call(*question, "--mesh", "none")[0] == 0
    path = "access.policies[0].rules[0].operations[0].methods"
    assert call(*question[:-1], "PUT", "--path", "/books/1", "--set", f"{path}=[PUT]")[0] == 0


def test_another_protocol(call, scenario):
    status, out, _ = call(scenario, "--from", "web", "--to", "store/v1", "--tcp", "--json")
    assert status == 1
    assert json.loads(out)["answers"][0]["outcome"] == "denied (reset)"


def test_who_is_unknown_is_named_with_a_near_one(call, scenario):
    status, _, err = call(scenario, "--from", "web", "--to", "stroe")
    assert status == 1
    assert "unknown service or workload" in err
    assert "did you mean store?" in err
    mesh = meshsim.load(scenario)
    with pytest.raises(ConfigError, match="store/v3"):
        meshsim.can_i(mesh, "web", "store/v3")


def test_the_library_answers_by_truth(scenario):
    mesh = meshsim.load(scenario)
    assert meshsim.can_i(mesh, "web", "store", path="/books/1")
    assert not meshsim.can_i(mesh, "web", "store", path="/")
    assert meshsim.can_i(mesh, "visit", "web", method="PUT")
