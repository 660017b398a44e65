"""Clusters that pick by subset, in running meshes."""

import pytest
from kernel_runs import Run, recorded, served

from meshsim.errors import ConfigError

pytestmark = pytest.mark.usefixtures("first_turns")

SELECTORS = [{"keys": ["stage"]}, {"keys": ["stage", "version"]}]


def run_of(routes, config=None, requests=100, balancing=None, **fields):
    """Return a run of one request a ms to "s": v1 and v2 in stage prod, v3 in dev, two each."""
    stages = {"v1": "prod", "v2": "prod", "v3": "dev"}
    return Run(
        {
            "s": {
                "workloads": {
                    name: {
                        "replicas": 2,
                        "concurrency": 100,
                        "labels": {"stage": stage},
                        "steps": [{"sleep": "1ms"}],
                    }
                    for name, stage in stages.items()
                }
            }
        },
        traffic={
            "load": {
                "to": "s",
                "headers": {"user": "u"},
                "users": 500,
                "arrivals": recorded(*(f"{number}ms" for number in range(1, requests + 1))),
            }
        },
        policies={
            "s": {
                "load_balancing": balancing or {"policy": "ROUND_ROBIN"},
                "subset_config": {"subset_selectors": SELECTORS, **(config or {})},
                "routes": routes,
                **fields,
            }
        },
    )


def to(**labels):
    return [{"split": [{"metadata_match": labels}]}]


def by_workload(run):
    found = {"v1": 0, "v2": 0, "v3": 0}
    for name, count in served(run).items():
        found[name.split("-")[1]] += count
    return found


def test_requests_go_to_the_subset_they_ask_for():
    run = run_of(to(stage="prod")).to(200)
    assert by_workload(run) == {"v1": 50, "v2": 50, "v3": 0}
    run = run_of(to(stage="prod", version="v2")).to(200)
    assert served(run)["s-v2-0"] == served(run)["s-v2-1"] == 50


def test_subsets_of_one_cluster_share_its_limits_and_counters():
    split = [
        {"metadata_match": {"stage": "prod"}, "weight": 1},
        {"metadata_match": {"stage": "dev"}, "weight": 1},
    ]
    run = run_of([{"split": split}]).to(200)
    found = by_workload(run)
    assert found["v3"] == pytest.approx(50, abs=20)  # 4 standard deviations of 100 coins
    assert found["v1"] == pytest.approx(found["v2"], abs=1)
    clusters = run.state.clusters
    assert clusters["requests_total"].tolist()[0] == 100
    assert clusters["requests_total"].sum() == 100


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [
        ({"fallback_policy": "ANY_ENDPOINT"}, {"v1": 34, "v2": 34, "v3": 32}),
        (
            {"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"stage": "dev"}},
            {"v1": 0, "v2": 0, "v3": 100},
        ),
    ],
)
def test_what_is_not_there_falls_back(fallback, expected):
    assert by_workload(run_of(to(stage="test"), fallback).to(200)) == expected


def test_without_fallback_there_is_no_healthy_upstream():
    run = run_of(to(stage="test"), requests=3).to(10)
    assert [(span.status, span.flag) for span in run.spans()] == [(503, "UH")] * 3
    run = run_of([{}], requests=3).to(10)  # a route that asks for nothing
    assert [span.flag for span in run.spans()] == ["UH"] * 3


def test_a_subset_that_is_unhealthy_does_not_fall_back():
    run = run_of(to(stage="dev"), {"fallback_policy": "ANY_ENDPOINT"}, requests=6)
    run.control.withdraw("s", workload="v3")
    assert {span.flag for span in run.to(10).spans()} == {"UH"}


def test_a_list_goes_on_where_a_subset_has_no_healthy_host():
    versions = [{"version": "v1"}, {"version": "v2"}]
    routes = [{"split": [{"metadata_match": {"stage": "prod"}, "fallback_list": versions}]}]
    run = run_of(routes, {"metadata_fallback_policy": "FALLBACK_LIST"})
    run.to(50.5)
    assert by_workload(run) == {"v1": 50, "v2": 0, "v3": 0}
    run.control.withdraw("s", workload="v1")
    run.to(200)
    assert by_workload(run) == {"v1": 50, "v2": 50, "v3": 0}


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "RING_HASH", "MAGLEV"])
def test_added_replicas_join_their_subsets(policy):
    balancing = {"policy": policy, "hash_header": "user", "table_size": 1009}
    run = run_of(to(stage="prod"), requests=900, balancing=balancing)
    run.to(100.5)
    assert by_workload(run)["v3"] == 0
    run.control.add_replicas("s", "v1", 2)
    run.to(1000)
    found = served(run)
    assert by_workload(run)["v3"] == 0
    assert all(count > 50 for name, count in found.items() if "v3" not in name)


def test_callers_that_are_added_have_subsets_of_their_own():
    front = {"concurrency": 10, "steps": [{"call": "s"}]}
    back = {
        "workloads": {
            name: {"replicas": 2, "concurrency": 10, "steps": [{"sleep": "1ms"}]}
            for name in ("v1", "v2")
        }
    }
    routes = [{"split": [{"metadata_match": {"version": "v2"}}]}]
    config = {"subset_selectors": [{"keys": ["version"]}]}
    run = Run(
        {"f": front, "s": back},
        recorded(*(f"{number}ms" for number in range(1, 101))),
        policies={"s": {"subset_config": config, "routes": routes}},
    )
    run.to(50.5).control.add_replicas("f", "v1", 3)
    run.to(200)
    assert by_workload(run)["v2"] == 100
    assert run.idle()


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ({"fallback_policy": "DEFAULT_SUBSET"}, {}, "needs the labels"),
        (
            {"subset_selectors": [{"keys": ["a"], "fallback_policy": "KEYS_SUBSET"}]},
            {},
            "said together",
        ),
        (
            {
                "subset_selectors": [
                    {
                        "keys": ["a"],
                        "fallback_policy": "KEYS_SUBSET",
                        "fallback_keys_subset": ["a"],
                    }
                ]
            },
            {},
            "not fewer",
        ),
        ({}, {"locality": {}}, "together with a locality"),
        ({}, {"load_balancing": {"weights": {"v1": 2, "v2": 1}}}, "unequal weights"),
    ],
)
def test_what_cannot_be_is_refused(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        run_of(to(stage="prod"), config, **fields)


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "MAGLEV"])
def test_removed_replicas_leave_their_subsets(policy):
    balancing = {"policy": policy, "hash_header": "user", "table_size": 1009}
    run = run_of(to(stage="prod"), requests=400, balancing=balancing)
    run.to(100.5).control.remove_replicas("s", "v1", 1)
    before = served(run)
    run.to(500)
    added = {name: count - before[name] for name, count in served(run).items()}
    assert added["s-v1-1"] == added["s-v3-0"] == 0
    assert added["s-v1-0"] + added["s-v2-0"] + added["s-v2-1"] == 300
