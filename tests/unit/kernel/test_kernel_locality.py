"""Priorities, localities and zones in running meshes: who serves whom."""

import pytest
from kernel_runs import Run, recorded, served

NODES = {
    "na": {"zone": "a", "region": "east"},
    "nb": {"zone": "b", "region": "east"},
    "nc": {"zone": "c", "region": "west"},
}


def workload(replicas, node, **fields):
    return {
        "replicas": replicas,
        "nodes": [node],
        "concurrency": 100,
        "steps": [{"sleep": "1ms"}],
        **fields,
    }


def run_of(locality, replicas=(2, 2, 2), zone="a", balancing=None, requests=1000, panic=0):
    """Return a run of one request a ms from `zone` to "s", with workloads a, b and c."""
    return Run(
        {
            "s": {
                "workloads": {
                    name: workload(count, f"n{name}")
                    for name, count in zip("abc", replicas, strict=True)
                }
            }
        },
        traffic={
            "load": {
                "to": "s",
                "zone": zone,
                "headers": {"user": "u"},
                "users": 1000,
                "arrivals": recorded(*(f"{number}ms" for number in range(1, requests + 1))),
            }
        },
        nodes=NODES,
        policies={
            "s": {
                "locality": locality,
                "load_balancing": {
                    "healthy_panic_threshold": panic,
                    **(balancing or {"policy": "ROUND_ROBIN"}),
                },
            }
        },
    )


def by_zone(run):
    """Return the requests served so far by workload."""
    found = dict.fromkeys("abc", 0)
    for name, count in served(run).items():
        found[name.split("-")[1]] += count
    return found


def test_requests_stay_in_the_first_priority_and_spill_over():
    run = run_of({"failover": {}})
    run.to(100.5)
    assert served(run) == {f"s-a-{n}": 50 for n in range(2)} | {
        f"s-{zone}-{n}": 0 for zone in "bc" for n in range(2)
    }
    run.control.set_health("s", "UNHEALTHY", workload="a", replica=0)  # 140 / 2 = 70 %
    run.to(900.5)
    found = by_zone(run)
    assert found["c"] == 0
    # 4 standard deviations of 800 draws of 30 %: 52.
    assert found["b"] == pytest.approx(240, abs=52)
    run.control.set_health("s", "UNHEALTHY", workload="a", replica=1)
    before = by_zone(run)
    run.to(950.5)
    assert by_zone(run)["b"] - before["b"] == 50
    run.control.set_health("s", "HEALTHY", workload="a")
    run.to(1001)
    assert by_zone(run)["b"] - before["b"] == 50


def test_all_gone_means_no_healthy_upstream_unless_it_panics():
    for threshold, status in ((0, 503), (50, 200)):
        run = run_of({"failover": {}}, requests=30, panic=threshold)
        run.control.set_health("s", "UNHEALTHY")
        run.to(40)
        assert {span.status for span in run.spans()} == {status}
        assert {span.flag for span in run.spans()} == {"UH" if status == 503 else "-"}


def test_who_is_withdrawn_is_none_of_the_hosts():
    run = run_of({"failover": {}}, requests=400)
    run.control.withdraw("s", workload="a", replica=0)
    run.to(200.5)
    assert served(run)["s-a-1"] == 200
    run.control.withdraw("s", workload="a", replica=1)
    run.to(401)
    assert by_zone(run) == {"a": 200, "b": 200, "c": 0}


def test_ejected_hosts_let_requests_spill_over():
    run = Run(
        {"s": {"workloads": {name: workload(2, f"n{name}") for name in "ab"}}},
        traffic={
            "load": {
                "to": "s",
                "zone": "a",
                "arrivals": recorded(*(f"{number}ms" for number in range(1, 401))),
            }
        },
        nodes=NODES,
        policies={
            "s": {
                "locality": {"failover": {}},
                "load_balancing": {"policy": "ROUND_ROBIN", "healthy_panic_threshold": 0},
                "outlier_detection": {
                    "consecutive_5xx": 3,
                    "max_ejection_percent": 100,
                    "base_ejection_time": "60s",
                    "interval": "60s",
                },
            }
        },
    )
    run.to(100.5).control.fail("s", workload="a")
    run.to(200.5)
    assert by_zone(run) == {"a": 106, "b": 94, "c": 0}
    run.to(500)
    assert by_zone(run) == {"a": 106, "b": 294, "c": 0}


def test_each_client_has_its_own_priorities():
    """Front ends in two zones call the back end in their own zone."""
    front = {
        "workloads": {name: workload(1, f"n{name}", steps=[{"call": "s"}]) for name in ("a", "c")}
    }
    back = {"workloads": {name: workload(2, f"n{name}") for name in "abc"}}
    run = Run(
        {"f": front, "s": back},
        recorded(*(f"{number}ms" for number in range(1, 101))),
        nodes=NODES,
        policies={
            "f": {"load_balancing": {"policy": "ROUND_ROBIN"}},
            "s": {"locality": {"failover": {}}, "load_balancing": {"policy": "ROUND_ROBIN"}},
        },
    )
    run.to(200)
    assert {name: count for name, count in served(run).items() if name[0] == "s"} == {
        "s-a-0": 25,
        "s-a-1": 25,
        "s-b-0": 0,
        "s-b-1": 0,
        "s-c-0": 25,
        "s-c-1": 25,
    }


def test_shares_by_distribution():
    run = run_of({"distribute": {"east/*": {"east/a": 70, "west/*": 30}}})
    run.to(1001)
    assert by_zone(run) == {"a": 700, "b": 0, "c": 300}


def test_localities_weigh_what_their_endpoints_weigh():
    run = run_of({"locality_weighted": True}, replicas=(1, 3, 1))
    run.to(1001)
    assert by_zone(run) == {"a": 200, "b": 600, "c": 200}


def test_zone_aware_routing_splits_by_shares():
    """Clients: 2 in a, 1 in b.  Hosts: 2, 4, 0.  Own share of a: (1/3) / (2/3) = 1/2."""
    front = {
        "workloads": {
            "a": workload(2, "na", steps=[{"call": "s"}]),
            "b": workload(1, "nb", steps=[{"call": "s"}]),
        }
    }
    back = {"workloads": {name: workload(n, f"n{name}") for name, n in (("a", 2), ("b", 4))}}
    run = Run(
        {"f": front, "s": back},
        recorded(*(f"{number}ms" for number in range(1, 3001))),
        nodes=NODES,
        policies={
            "f": {"load_balancing": {"policy": "ROUND_ROBIN"}},
            "s": {"locality": {"zone_aware": {}}, "load_balancing": {"policy": "ROUND_ROBIN"}},
        },
    )
    run.to(3100)
    found = {
        zone: sum(n for name, n in served(run).items() if f"s-{zone}" in name) for zone in "ab"
    }
    # 2,000 requests from a, half of them stay; 1,000 from b all stay: 1000 +- 4 * sqrt(500).
    assert found["a"] == pytest.approx(1000, abs=90)
    assert sum(found.values()) == 3000


@pytest.mark.parametrize("policy", ["RING_HASH", "MAGLEV"])
def test_hashed_requests_find_their_priority_by_their_hash(policy):
    balancing = {"policy": policy, "hash_header": "user", "table_size": 1009}
    run = run_of({"failover": {}}, balancing=balancing)
    run.control.set_health("s", "UNHEALTHY", workload="a", replica=0)
    run.to(1001)
    found = served(run)
    assert found["s-a-0"] == 0
    assert found["s-a-1"] == pytest.approx(700, abs=80)
    assert found["s-b-0"] > 0
    assert found["s-b-1"] > 0


def test_degraded_replicas_take_what_healthy_ones_cannot():
    run = run_of({"endpoints": [{"priority": 0}]}, (2, 0, 0))
    run.control.set_health("s", "DEGRADED", workload="a", replica=0)
    run.to(1001)
    # One of two healthy: 70 %, and 30 % of 70 % availability of degraded ones.
    assert served(run)["s-a-0"] == pytest.approx(300, abs=58)
    run.control.set_health("s", "HEALTHY", workload="a", replica=0)
    run.control.set_health("s", "HEALTHY", workload="a", replica=1)
    assert run.to(1002).idle()


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "MAGLEV"])
def test_added_replicas_join_their_zone(policy):
    balancing = {"policy": policy, "hash_header": "user", "table_size": 1009}
    run = run_of({"locality_weighted": True}, (1, 1, 1), balancing=balancing)
    run.to(100.5)
    run.control.add_replicas("s", "b", 2)
    before = by_zone(run)
    run.to(1001)
    found = by_zone(run)
    share = {zone: (found[zone] - before[zone]) / 900 for zone in "abc"}
    assert share["b"] == pytest.approx(0.6, abs=0.001 if policy == "ROUND_ROBIN" else 0.1)
    assert all(count > 0 for count in served(run).values())


def test_replicas_of_a_caller_bring_their_own_groups():
    front = {"workloads": {"a": workload(1, "na", steps=[{"call": "s"}])}}
    back = {"workloads": {name: workload(2, f"n{name}") for name in "ab"}}
    run = Run(
        {"f": front, "s": back},
        recorded(*(f"{number}ms" for number in range(1, 101))),
        nodes=NODES,
        policies={"s": {"locality": {"failover": {}, "zone_aware": {}}}},
    )
    run.to(50.5).control.add_replicas("f", "a", 2)
    run.control.set_health("s", "UNHEALTHY", workload="a", replica=0)
    run.to(200)
    assert run.idle()
    assert served(run)["s-a-0"] + served(run)["s-a-1"] > 60


def test_a_cluster_without_endpoints_answers_503():
    run = run_of({"failover": {}}, (0, 0, 0), requests=3)
    run.to(10)
    assert [span.flag for span in run.spans()] == ["UH"] * 3


def test_a_block_in_one_zone_changes_nothing():
    def spans(**policy):
        run = Run(
            {"s": {"replicas": 3, "concurrency": 10, "steps": [{"sleep": "2ms"}]}},
            recorded(*(f"{number}ms" for number in range(1, 101))),
            policies={"s": {"load_balancing": {"policy": "LEAST_REQUEST"}, **policy}},
        )
        return run.to(200).spans(), len(run.state.groupings)

    assert spans() == spans(locality={"failover": {}})
    assert spans()[1] == 0


@pytest.mark.parametrize("policy", ["ROUND_ROBIN", "MAGLEV"])
def test_removed_replicas_leave_their_zone(policy):
    balancing = {"policy": policy, "hash_header": "user", "table_size": 1009}
    run = run_of({"locality_weighted": True}, (1, 2, 1), balancing=balancing)
    run.to(100.5)
    run.control.remove_replicas("s", "b", 1)
    before = served(run)
    run.to(1001)
    added = {name: count - before[name] for name, count in served(run).items()}
    assert added["s-b-1"] == 0
    for name in ("s-a-0", "s-b-0", "s-c-0"):
        assert added[name] == pytest.approx(300, abs=1 if policy == "ROUND_ROBIN" else 75)
