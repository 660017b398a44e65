"""From names to rows: who is where, who holds what, which route serves which call."""

import numpy as np
import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.policy.hashing import xxh64
from meshsim.state.codes import (
    HEDGE_AFTER_DELAY,
    LEAST_REQUEST,
    NO_INDEX,
    RANDOM,
    RETRY_RESET,
    RETRY_RETRIABLE_STATUS_CODES,
)

NODES = {
    "n0": {"zone": "west-a", "region": "west"},
    "n1": {"zone": "west-b", "region": "west"},
    "n2": {"zone": "east-a", "region": "east", "cores": 4.0},
}


def compiled(services, **fields):
    fields.setdefault("traffic", {"load": {"to": next(iter(services)), "arrivals": recorded("0s")}})
    return Run(services, **fields).compiled


def test_replicas_go_round_their_nodes():
    layout = compiled(
        {"a": worker(replicas=4), "b": worker(replicas=2, nodes=["n2", "n0"])}, nodes=NODES
    ).layout
    assert layout.zones == ("west-a", "west-b", "east-a")
    assert layout.regions == ("west", "west", "east")
    assert layout.endpoint_node.tolist() == [0, 1, 2, 0, 2, 0]
    assert layout.endpoint_zone.tolist() == [0, 1, 2, 0, 2, 0]


def test_without_nodes_there_is_one_zone_and_no_node():
    layout = compiled({"a": worker(replicas=2)}).layout
    assert layout.zones == ("default",)
    assert layout.endpoint_node.tolist() == [NO_INDEX, NO_INDEX]


def test_traffic_may_come_from_a_zone_without_nodes():
    traffic = {"far": {"to": "a", "zone": "moon", "arrivals": recorded("0s")}}
    made = compiled({"a": worker()}, nodes=NODES, traffic=traffic)
    assert made.layout.zones == ("west-a", "west-b", "east-a", "moon")
    assert made.arrays["proxies"]["zone"].tolist() == [0, 3]
    assert made.arrays["wire"].shape == (5, 4)  # a row for two ends on one node


def test_only_what_shares_cores_is_a_container():
    made = compiled(
        {
            "dedicated": worker(concurrency=2, cpu=2.0),
            "limited": worker(concurrency=2, cpu=1.5),
            "sharing": worker(concurrency=8, discipline="PROCESSOR_SHARING"),
            "crowded": worker(concurrency=3, concurrency_penalty=0.1),
        }
    )
    containers = made.arrays["endpoints"]["container"].tolist()
    assert containers == [NO_INDEX, 0, 1, 2]
    assert made.arrays["containers"]["limit_cores"].tolist() == [1.5, 1.0, 3.0]
    assert made.arrays["nodes"]["cores"].tolist() == [1.5, 1.0, 3.0]  # each alone on its own


def test_a_node_with_stated_cores_is_shared_with_its_proxies():
    made = compiled({"a": worker(replicas=3)}, nodes=NODES, mesh="istio-sidecar")
    assert made.arrays["endpoints"]["container"].tolist() == [NO_INDEX, NO_INDEX, 0]
    # the sidecar of the third replica; the gateway is on no node
    assert made.arrays["proxies"]["container"].tolist() == [NO_INDEX, NO_INDEX, 1, NO_INDEX]
    assert made.arrays["containers"]["node"].tolist() == [0, 0]
    assert made.arrays["nodes"]["cores"].tolist() == [4.0]


def test_preemption_is_refused_on_shared_cores():
    with pytest.raises(ConfigError, match="dedicated cores"):
        compiled({"a": worker(discipline="PREEMPTIVE_PRIORITY", concurrency=2, cpu=1.0)})


@pytest.mark.parametrize(
    ("arrivals", "workers"),
    [
        ({"poisson": 100.0}, 2),  # 0.54 % of one worker: the two that a proxy has
        ({"poisson": 30_000.0}, 6),  # 1.62 busy workers at 30 %: 5.4
        ({"diurnal": {"mean": 15_000.0, "amplitude": 1.0}}, 6),
    ],
    ids=["few", "many", "peak"],
)
def test_a_gateway_has_the_workers_of_its_peak(arrivals, workers):
    made = compiled(
        {"a": worker()}, mesh="istio-sidecar", traffic={"load": {"to": "a", "arrivals": arrivals}}
    )
    assert made.arrays["proxies"]["workers"].tolist() == [2, workers]


def test_a_subset_is_chosen_by_labels():
    body = {
        "workloads": {
            "v1": worker(replicas=2),
            "v2": worker(labels={"track": "canary"}),
            "v3": worker(labels={"track": "canary", "version": "v1"}),
        }
    }
    subsets = {
        "canary": {"labels": {"track": "canary"}},
        "one": {"labels": {"version": "v1"}},  # its name, unless a label says otherwise
        "none": {"labels": {"track": "stable"}},
    }
    route = {"split": [{"subset": name} for name in subsets]}
    made = compiled({"a": body}, policies={"a": {"subsets": subsets, "routes": [route]}})
    hosts, clusters = made.arrays["hosts"], made.arrays["clusters"]
    found = {}
    for row, config in enumerate(clusters["config"]):
        start, count = clusters["member_start"][row], clusters["member_count"][row]
        found[made.config_names[config][1]] = hosts["endpoint"][start : start + count].tolist()
    assert found == {"canary": [2, 3], "one": [0, 1, 3], "none": []}


def test_every_proxy_holds_rows_of_its_own_for_what_it_calls():
    made = compiled({"a": worker({"call": "b"}, replicas=3), "b": worker(replicas=2)})
    clusters, hosts = made.arrays["clusters"], made.arrays["hosts"]
    # three proxies of a call b; the two of b call nobody; the gateway (5) calls a
    assert clusters["proxy"].tolist() == [0, 1, 2, 5]
    assert made.arrays["proxies"]["cluster_start"].tolist()[:3] == [0, 1, 2]
    assert made.arrays["proxies"]["cluster_count"].tolist() == [1, 1, 1, 0, 0, 1]
    assert hosts["endpoint"].tolist() == [3, 4, 3, 4, 3, 4, 0, 1, 2]
    assert hosts["cluster"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_hash_keys_are_those_of_the_header_or_of_the_users():
    balancing = {"policy": "RING_HASH", "hash_header": "User"}
    traffic = {
        "ann": {"to": "a", "headers": {"user": "ann"}, "arrivals": recorded("0s")},
        "crowd": {"to": "a", "headers": {"user": "u"}, "users": 3, "arrivals": recorded("0s")},
        "nobody": {"to": "a", "arrivals": recorded("0s")},
    }
    made = compiled({"a": worker()}, traffic=traffic, policies={"a": {"load_balancing": balancing}})
    assert made.arrays["hash_keys"].tolist() == [
        int(xxh64(name)) for name in ("ann", "u-0", "u-1", "u-2")
    ]
    by_class = np.diag(made.arrays["routes_by_traffic"].reshape(3, 3))
    routes = made.arrays["routes"][by_class]
    assert routes["hash_start"].tolist() == [0, 1, 0]
    assert routes["hash_count"].tolist() == [1, 3, 0]


def test_the_hash_key_of_a_header_of_the_call_is_every_users():
    balancing = {"policy": "RING_HASH", "hash_header": "user"}
    traffic = {
        "crowd": {"to": "a", "headers": {"user": "u"}, "users": 3, "arrivals": recorded("0s")},
        "one": {"to": "a", "headers": {"user": "u"}, "users": 1, "arrivals": recorded("0s")},
        "ann": {"to": "a", "headers": {"user": "u"}, "arrivals": recorded("0s")},
    }
    call = {"call": {"service": "b", "headers": {"User": "batch"}}}
    made = compiled(
        {"a": worker(call), "b": worker()},
        traffic=traffic,
        policies={"a": {"load_balancing": balancing}, "b": {"load_balancing": balancing}},
    )
    names = ("batch", "u-0", "u-1", "u-2", "u-0", "u")
    assert sorted(made.arrays["hash_keys"].tolist()) == sorted(int(xxh64(name)) for name in names)


def test_a_gateway_holds_no_rows_for_what_other_classes_call():
    traffic = {name: {"to": name, "arrivals": recorded("0s")} for name in "ab"}
    made = compiled({"a": worker(replicas=2), "b": worker(replicas=3)}, traffic=traffic)
    assert made.arrays["hosts"]["endpoint"].tolist() == [0, 1, 2, 3, 4]
    assert made.arrays["clusters"]["proxy"].tolist() == [5, 6]


def test_timers_of_one_duration_are_one_list():
    policies = {name: {"routes": [{"timeout": "3s"}]} for name in "ab"}
    made = compiled({"a": worker({"call": "b"}), "b": worker()}, policies=policies)
    assert made.arrays["timers"]["duration_ns"].tolist() == [3_000_000_000]


def test_a_per_try_timeout_that_is_not_shorter_is_ignored():
    route = {
        "timeout": "3s",
        "retry": {"num_retries": 1, "retry_on": ["5xx"], "per_try_timeout": "3s"},
    }
    made = compiled({"a": worker()}, policies={"a": {"routes": [route]}})
    assert made.arrays["routes"]["per_try_timer"].tolist() == [NO_INDEX]


def test_copies_take_the_place_of_retries():
    hedging = {"max_attempts": 3, "hedging_delay": "5ms", "non_fatal_status_codes": [500, 503]}
    retry = {"num_retries": 9, "retry_on": ["5xx", "retriable-status-codes"]}
    retry["retriable_status_codes"] = [404]
    routes = [{"retry": retry, "hedge_policy": hedging}]
    made = compiled({"a": worker()}, policies={"a": {"routes": routes}})
    row, codes = made.arrays["routes"][0], made.arrays["codes"]
    assert (row["hedging"], row["hedging_delay_ns"]) == (HEDGE_AFTER_DELAY, 5_000_000)
    assert row["num_retries"] == 2
    assert row["retry_on"] == RETRY_RETRIABLE_STATUS_CODES | RETRY_RESET
    assert codes[row["code_start"] :][: row["code_count"]].tolist() == [500, 503]
    assert made.fan_out == 16 + 3 * 3


def test_a_traffic_class_may_have_the_name_of_a_service():
    services = {"front": worker({"call": "back"}), "back": worker({"compute": "1ms"})}
    traffic = {
        "users": {"to": "front", "arrivals": recorded("0s")},
        "front": {"to": "back", "arrivals": recorded("5ms")},
    }
    run = Run(services, traffic=traffic).to(100)
    catalog = run.compiled.catalog
    assert catalog.edges == (("users", "front"), ("front", "back"), ("front", "back"))
    assert catalog.edge_is_entry == (True, True, False)
    assert run.state.series["requests"][0].tolist() == [1, 1, 1]


def test_an_unmeshed_caller_has_no_client_side_policies():
    services = {
        "bare": worker({"call": "b"}, meshed=False),
        "meshed": worker({"call": "b"}),
        "b": worker(error_rate=1.0, replicas=2),
    }
    traffic = {name: {"to": name, "arrivals": recorded("0s")} for name in ("bare", "meshed")}
    retry = {"num_retries": 2, "retry_on": ["5xx"], "base_interval": "1ms"}
    subsets = {"v1": {"labels": {"version": "v1"}}}
    route = {"timeout": "9s", "retry": retry, "split": [{"subset": "v1"}]}
    run = Run(
        services,
        traffic=traffic,
        mesh="istio-sidecar",
        policies={"b": {"subsets": subsets, "routes": [route]}},
    ).to(1000)
    assert run.spans("bare>b")[0].tries == 1
    assert run.spans("meshed>b")[0].tries == 3
    configs = run.state.configs["balancing"][run.state.clusters["config"]]
    callers = run.state.clusters["proxy"]
    assert configs[callers == 0].tolist() == [RANDOM]
    assert configs[callers == 1].tolist() == [LEAST_REQUEST]
    # without a mesh the caller's library carries out what the scenario states
    none = Run(
        services,
        traffic=traffic,
        mesh="none",
        policies={"b": {"subsets": subsets, "routes": [route]}},
    ).to(1000)
    assert none.spans("bare>b")[0].tries == 3
    run.control.set_weights("b", {"v1": 5})
    assert run.to(1001).state.splits["weight"].min() == 1


def test_the_room_of_an_event_covers_nested_branches():
    inner = {"parallel": [[{"sleep": "1ms"}]] * 5}
    made = compiled({"a": worker({"parallel": [[inner], [inner, inner]]})})
    # two branches, each with at most five of its own at once
    assert made.fan_out == 16 + 4 * (2 + 5 + 5)


def test_routes_are_matched_once_for_a_call_and_a_class():
    traffic = {
        "jason": {"to": "a", "headers": {"end-user": "jason"}, "arrivals": recorded("0s")},
        "other": {"to": "a", "arrivals": recorded("0s")},
    }
    routes = [{"match": [{"headers": {"end-user": "jason"}}], "timeout": "1s"}, {"timeout": "2s"}]
    made = compiled(
        {"a": worker({"call": "b"}), "b": worker()},
        traffic=traffic,
        policies={"b": {"routes": routes}},
    )
    by_traffic = made.arrays["routes_by_traffic"].reshape(-1, 2)
    timeouts = made.arrays["routes"]["timeout_ns"][by_traffic[made.arrays["calls"]["edge"] == 2]]
    assert timeouts.tolist() == [[1_000_000_000, 2_000_000_000]]
    assert np.array_equal(made.arrays["calls"]["route_start"], [0, 2, 4])
