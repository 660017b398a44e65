"""What must hold between the fields of a topology."""

import pytest

from meshsim.errors import ConfigError
from meshsim.topology import Topology, loads_topology, validated


def build(**parts):
    """Return a plain topology of two services, with parts replaced."""
    services = {"web": {"workloads": {"v1": {}, "v2": {}}}, "store": {"workloads": {"v1": {}}}}
    return {"name": "x", "services": services, **parts}


def calling(*steps, **more):
    """Return services of which web has these steps."""
    web = {"workloads": {"v1": {"steps": list(steps)}}}
    return {"web": web, "store": {"workloads": {"v1": {}}}, **more}


def found(**parts):
    topology = Topology.model_validate(build(**parts))
    try:
        topology = validated(topology)
    except ConfigError as error:
        return {problem.path: problem for problem in error.problems}
    assert topology.notices == ()
    return {}


def compute(distribution):
    return calling({"compute": distribution})


def test_a_right_topology_has_no_findings():
    assert found() == {}
    assert found(services=calling({"call": "store"})) == {}


def test_an_unknown_service_is_named_with_a_near_one():
    problem = found(services=calling({"call": "stroe"}))[
        "services.web.workloads.v1.steps[0].call.service"
    ]
    assert (problem.found, problem.suggestion, problem.allowed) == ("stroe", "store", "web, store")


def test_names_are_looked_up_in_branches_and_operations():
    branch = {"parallel": [[{"call": "store"}], [{"call": "nobody"}]]}
    path = "services.web.workloads.v1.steps[0].parallel[1][0].call.service"
    assert path in found(services=calling(branch))
    services = calling()
    services["web"]["workloads"]["v1"]["operations"] = {"buy": [{"call": "nobody"}]}
    assert "services.web.workloads.v1.operations.buy[0].call.service" in found(services=services)


def test_an_operation_is_one_that_every_workload_has():
    services = calling({"call": {"service": "store", "operation": "buy"}})
    path = "services.web.workloads.v1.steps[0].call.operation"
    assert found(services=services)[path].allowed == "default"
    services["store"]["workloads"]["v1"]["operations"] = {"buy": [{"compute": "1ms"}]}
    assert found(services=services) == {}
    services["store"]["workloads"]["v2"] = {}
    assert path in found(services=services)


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ({"traffic": {"t": {"to": "wbe", "arrivals": {"poisson": 1}}}}, "traffic.t.to"),
        (
            {"traffic": {"t": {"to": "web", "operation": "x", "arrivals": {"poisson": 1}}}},
            "traffic.t.operation",
        ),
        ({"policies": {"wbe": {}}}, "policies.wbe"),
        (
            {"policies": {"web": {"routes": [{"split": [{"subset": "v9"}]}]}}},
            "policies.web.routes[0].split[0].subset",
        ),
        (
            {"policies": {"web": {"routes": [{"split": [{"service": "x"}]}]}}},
            "policies.web.routes[0].split[0].service",
        ),
        (
            {"policies": {"web": {"load_balancing": {"weights": {"v9": 3}}}}},
            "policies.web.load_balancing.weights.v9",
        ),
        (
            {"services": {"web": {"workloads": {"v1": {"nodes": ["n1"]}}}}},
            "services.web.workloads.v1.nodes[0]",
        ),
        (
            {"network": {"links": [{"zones": ["default", "b"], "latency": "1ms"}]}},
            "network.links[0].zones[1]",
        ),
        ({"faults": [{"kind": "kill", "at": "1s", "service": "x"}]}, "faults[0].service"),
        (
            {"faults": [{"kind": "kill", "at": "1s", "service": "web", "workload": "v9"}]},
            "faults[0].workload",
        ),
        (
            {
                "faults": [
                    {
                        "kind": "kill",
                        "at": "1s",
                        "service": "web",
                        "workload": "v1",
                        "replica": 1,
                    }
                ]
            },
            "faults[0].replica",
        ),
        ({"faults": [{"kind": "kill", "at": "1s", "zone": "b"}]}, "faults[0].zone"),
        ({"faults": [{"kind": "rate", "at": "1s", "traffic": "t"}]}, "faults[0].traffic"),
        ({"faults": [{"kind": "rate", "at": "1s"}]}, "faults[0]"),
        ({"faults": [{"kind": "kill", "at": "1s"}]}, "faults[0]"),
        (
            {"faults": [{"kind": "errors", "at": "1s", "service": "web", "factor": 2}]},
            "faults[0].factor",
        ),
    ],
)
def test_a_wrong_name_or_target(parts, path):
    assert list(found(**parts)) == [path]


def test_zones_are_those_of_the_nodes():
    parts = {
        "nodes": {"n1": {"zone": "a"}, "n2": {"zone": "b"}},
        "network": {"links": [{"zones": ["a", "b"], "latency": "1ms"}]},
        "traffic": {"t": {"to": "web", "zone": "b", "arrivals": {"poisson": 0}}},
    }
    assert found(**parts) == {}


def test_traffic_may_come_from_a_zone_of_its_own():
    traffic = {"t": {"to": "web", "zone": "users", "arrivals": {"poisson": 0}}}
    links = [{"zones": ["users", "default"], "latency": "9ms"}]
    nodes = {"n1": {}}
    plain = build(traffic=traffic, nodes=nodes, network={"links": links})
    (notice,) = validated(Topology.model_validate(plain)).notices
    assert "comes from outside" in notice


def test_a_zone_is_in_one_region():
    nodes = {"n1": {"zone": "a", "region": "r1"}, "n2": {"zone": "a", "region": "r2"}}
    assert list(found(nodes=nodes)) == ["nodes.n2.region"]


def loop(*probabilities):
    """Return services a0 -> a1 -> ... -> a0 with these probabilities."""
    count = len(probabilities)
    return {
        f"a{i}": {
            "workloads": {
                "v1": {"steps": [{"call": f"a{(i + 1) % count}", "probability": probabilities[i]}]}
            }
        }
        for i in range(count)
    }


@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_a_cycle_without_a_base_case_never_ends(count):
    (problem,) = found(services=loop(*[1.0] * count)).values()
    names = [*(f"a{i}" for i in range(count)), "a0"]
    assert problem.message == f"the calls never end: {' -> '.join(names)}"
    assert problem.path == f"services.a{count - 1}.workloads.v1.steps[0].call"


def test_a_cycle_that_may_end_is_legal():
    assert found(services=loop(1.0, 0.9, 1.0)) == {}


def test_a_cycle_through_one_of_two_workloads_is_legal():
    services = loop(1.0, 1.0)
    services["a1"]["workloads"]["v2"] = {}
    assert found(services=services) == {}


def test_a_cycle_hidden_in_branches_is_found():
    services = loop(1.0, 1.0)
    (step,) = services["a1"]["workloads"]["v1"]["steps"]
    services["a1"]["workloads"]["v1"]["steps"] = [{"parallel": [[{"compute": "1ms"}, step]]}]
    assert list(found(services=services)) == [
        "services.a1.workloads.v1.steps[0].parallel[0][1].call"
    ]


def test_a_cycle_of_operations_that_differ_ends():
    steps = [{"call": {"service": "web", "operation": "leaf"}}]
    services = {"web": {"workloads": {"v1": {"steps": steps, "operations": {"leaf": []}}}}}
    assert found(services=services) == {}


# z99 = 2.326348, so the largest ratio is exp(2.326348**2 / 2) = exp(2.705947) = 14.9685.
@pytest.mark.parametrize(
    ("distribution", "field"),
    [
        ({"lognormal": {"mean": "5ms", "p99": "4ms"}}, "lognormal.p99"),
        ({"lognormal": {"mean": "5ms", "p99": "5ms"}}, "lognormal.p99"),
        ({"lognormal": {"mean": "1ms", "p99": "14969us"}}, "lognormal.p99"),
        ({"lognormal": {"mean": "0s", "p99": "1ms"}}, "lognormal.mean"),
        ({"exponential": "0s"}, "exponential.mean"),
        ({"gamma": {"mean": "0s", "shape": 2}}, "gamma.mean"),
        ({"pareto_bounded": {"low": "2ms", "high": "2ms", "shape": 1}}, "pareto_bounded.high"),
        ({"pareto_bounded": {"low": "0s", "high": "2ms", "shape": 1}}, "pareto_bounded.low"),
        (
            {"hyperexponential": {"phases": [{"probability": 0.5, "mean": "1ms"}]}},
            "hyperexponential.phases",
        ),
        (
            {"hyperexponential": {"phases": [{"probability": 1, "mean": "0s"}]}},
            "hyperexponential.phases[0].mean",
        ),
    ],
)
def test_a_distribution_that_does_not_exist(distribution, field):
    assert list(found(services=compute(distribution))) == [
        f"services.web.workloads.v1.steps[0].compute.{field}"
    ]


def test_the_limits_of_a_lognormal_are_told():
    (problem,) = found(services=compute({"lognormal": {"mean": "5ms", "p99": "80ms"}})).values()
    assert problem.allowed == "longer than the mean, 5ms, and at most 14.97 times as long"


@pytest.mark.parametrize(
    "distribution",
    [
        "0s",
        {"lognormal": {"mean": "1ms", "p99": "14968us"}},
        {"lognormal": {"mean": "1ms", "p99": "1001us"}},
        {"hyperexponential": {"phases": [{"probability": 0.1, "mean": "1ms"}] * 10}},
        {"empirical": {"values": ["0s", "3ms"]}},
    ],
)
def test_a_distribution_that_exists(distribution):
    assert found(services=compute(distribution)) == {}


@pytest.mark.parametrize(
    ("arrivals", "field"),
    [
        ({"renewal": {"interval": "0s"}}, "renewal.interval"),
        ({"renewal": {"interval": {"empirical": {"values": ["0s"]}}}}, "renewal.interval"),
        ({"batch": {"rate": 1, "size": 2.5}}, "batch.size"),
        (
            {
                "modulated_poisson": {
                    "phases": [
                        {"rate": 1, "mean_sojourn": "1s"},
                        {"rate": 1, "mean_sojourn": "0s"},
                    ]
                }
            },
            "modulated_poisson.phases[1].mean_sojourn",
        ),
        ({"diurnal": {"mean": 1, "amplitude": 0.5, "period": "0s"}}, "diurnal.period"),
        (
            {"piecewise": {"points": [{"at": "2s", "rate": 1}, {"at": "1s", "rate": 1}]}},
            "piecewise.points[1]",
        ),
        ({"recorded": {"times": ["2s", "1s"]}}, "recorded.times[1]"),
        ({"recorded": {}}, "recorded"),
    ],
)
def test_arrivals_that_cannot_be(arrivals, field):
    traffic = {"t": {"to": "web", "arrivals": arrivals}}
    assert list(found(traffic=traffic)) == [f"traffic.t.arrivals.{field}"]


@pytest.mark.parametrize(
    "arrivals",
    [
        {"poisson": 0},
        {"batch": {"rate": 1, "size": 2.5, "size_distribution": "geometric"}},
        {"piecewise": {"points": [{"at": "1s", "rate": 1}, {"at": "1s", "rate": 5}]}},
        {"recorded": {"times": ["1s", "1s"]}},
    ],
)
def test_arrivals_that_can_be(arrivals):
    assert found(traffic={"t": {"to": "web", "arrivals": arrivals}}) == {}


@pytest.mark.parametrize(
    ("route", "field"),
    [
        ({"split": [{"weight": 0}, {"weight": 0}]}, "split"),
        ({"split": [{}], "direct_response": 503}, "direct_response"),
        ({"redirect": {}, "direct_response": 503}, "redirect"),
        ({"split": [{}], "redirect": {}}, "redirect"),
        ({"mirrors": [{}], "direct_response": 503}, "mirrors"),
        ({"mirrors": [{"service": "nobody"}]}, "mirrors[0].service"),
        ({"mirrors": [{"subset": "v9"}]}, "mirrors[0].subset"),
        ({"fault": {}}, "fault"),
        ({"fault": {"delay": {"fixed_delay": 0, "percentage": 1.0}}}, "fault.delay.fixed_delay"),
        (
            {"rate_limit": {"token_bucket": {"max_tokens": 1, "fill_interval": "0s"}}},
            "rate_limit.token_bucket.fill_interval",
        ),
        (
            {"rate_limit": {"token_bucket": {"max_tokens": 2**32 - 1, "fill_interval": "1h"}}},
            "rate_limit.token_bucket",
        ),
        (
            {
                "rate_limit": {
                    "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
                    "descriptors": [
                        {
                            "entries": {":scheme": "http"},
                            "token_bucket": {"max_tokens": 1, "fill_interval": "1s"},
                        }
                    ],
                }
            },
            "rate_limit.descriptors[0].entries.:scheme",
        ),
        ({"match": [{"query": {"a": {"regex": "(a"}}}]}, "match[0].query.a.regex"),
        ({"retry": {"base_interval": "0s"}}, "retry.base_interval"),
        ({"retry": {"base_interval": "25ms", "max_interval": "24ms"}}, "retry.max_interval"),
        ({"match": [{"path": {"regex": "(a"}}]}, "match[0].path.regex"),
    ],
)
def test_a_route_that_envoy_would_refuse(route, field):
    policies = {"web": {"routes": [route]}}
    assert list(found(policies=policies)) == [f"policies.web.routes[0].{field}"]


def test_a_daily_quota_of_millions_can_be_said():
    bucket = {"max_tokens": 10**7, "tokens_per_fill": 10**7, "fill_interval": "24h"}
    assert found(policies={"web": {"rate_limit": {"token_bucket": bucket}}}) == {}


@pytest.mark.parametrize(
    ("balancing", "field"),
    [
        ({"table_size": 65_536}, "table_size"),
        ({"minimum_ring_size": 2048, "maximum_ring_size": 1024}, "minimum_ring_size"),
        # Envoy's default minimum is 1024.
        ({"maximum_ring_size": 512}, "maximum_ring_size"),
        ({"hash_balance_factor": 50}, "hash_balance_factor"),
    ],
)
def test_a_balancer_that_envoy_would_refuse(balancing, field):
    policies = {"web": {"load_balancing": balancing}}
    assert list(found(policies=policies)) == [f"policies.web.load_balancing.{field}"]


@pytest.mark.parametrize(
    ("hedging", "field"),
    [
        ({"hedge_on_per_try_timeout": True, "max_attempts": 2}, "max_attempts"),
        ({"hedging_delay": "5ms"}, "hedging_delay"),
        ({"non_fatal_status_codes": [503]}, "non_fatal_status_codes"),
    ],
)
def test_hedging_is_of_one_kind(hedging, field):
    retry = {"per_try_timeout": "9ms"}
    policies = {"web": {"routes": [{"retry": retry, "hedge_policy": hedging}]}}
    assert list(found(policies=policies)) == [f"policies.web.routes[0].hedge_policy.{field}"]


def test_a_prime_is_suggested_for_a_maglev_table():
    policies = {"web": {"load_balancing": {"table_size": 65_536}}}
    assert found(policies=policies)["policies.web.load_balancing.table_size"].suggestion == "65537"
    assert found(policies={"web": {"load_balancing": {"table_size": 65_537}}}) == {}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"routes": [{"timeout": "1s", "retry": {"per_try_timeout": "1s"}}]},
            "policies.web.routes[0].retry.per_try_timeout: per_try_timeout is not shorter",
        ),
        ({"load_balancing": {"policy": "MAGLEV"}}, "random host"),
        (
            {"rate_limit": {"token_bucket": {"max_tokens": 1, "fill_interval": "49ms"}}},
            "Envoy refuses an interval this short",
        ),
        ({"subsets": {"v9": {"labels": {"version": "v9"}}}}, "selects no workload"),
        ({"routes": [{"retry": {"retry_on": ["retriable-status-codes"]}}]}, "never matches"),
        (
            {"routes": [{"hedge_policy": {"hedge_on_per_try_timeout": True}}]},
            "hedge_on_per_try_timeout without a per_try_timeout does nothing",
        ),
    ],
)
def test_what_is_legal_but_surprising_is_a_notice(policy, said):
    topology = validated(Topology.model_validate(build(policies={"web": policy})))
    (notice,) = topology.notices
    assert said in notice
    assert validated(topology).notices == topology.notices


def test_a_breach_of_an_edited_topology_keeps_its_place():
    topology = loads_topology(
        "name: x\nservices:\n  web:\n    workloads:\n      v1:\n        steps: [call: web2]\n"
        "  web2: {workloads: {v1: {}}}\n",
        "f.yaml",
    )
    services = {"web": topology.services["web"]}
    with pytest.raises(ConfigError, match=r"^f\.yaml:6:23: services\.web.*unknown service"):
        validated(topology.model_copy(update={"services": services}))


def test_health_policies_that_envoy_refuses():
    policy = {
        "outlier_detection": {
            "base_ejection_time": "10s",
            "max_ejection_time": "5s",
            "interval": "0s",
        },
        "failure_accrual": {"consecutive_min_penalty": "2s", "consecutive_max_penalty": "1s"},
        "health_check": {"timeout": "0s"},
        "load_balancing": {"slow_start": {"slow_start_window": "0s"}},
    }
    assert found(policies={"web": policy}).keys() == {
        "policies.web.outlier_detection.max_ejection_time",
        "policies.web.outlier_detection.interval",
        "policies.web.failure_accrual.consecutive_max_penalty",
        "policies.web.health_check.timeout",
        "policies.web.load_balancing.slow_start.slow_start_window",
    }


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({"outlier_detection": {"max_ejection_percent": 0}}, "no host is ever ejected"),
        (
            {"load_balancing": {"policy": "RANDOM", "slow_start": {"slow_start_window": "9s"}}},
            "RANDOM has no slow start",
        ),
    ],
)
def test_health_policies_without_effect_are_told(policy, text):
    topology = validated(Topology.model_validate(build(policies={"web": policy})))
    assert any(text in notice for notice in topology.notices)


FAULTS = """
name: faulty
nodes: {n0: {}}
services:
  web:
    workloads: {v1: {}, v2: {}}
traffic: {users: {to: web, arrivals: {poisson: 1}}}
faults:
  - {kind: drain, at: 1s, service: wbe}
  - {kind: kill, at: 1s, service: web, ramp: 1s}
  - {kind: rate, at: 1s, duration: 1s, traffic: users, ramp: 2s}
  - {kind: drain, at: 1s, duration: 1s, service: web}
  - {kind: rollout, at: 1s, service: web, max_surge: lots}
  - {kind: rollout, at: 1s, duration: 1s, service: web, workload: v1}
  - {kind: squeeze, at: 1s, node: n1, factor: 0.5}
  - {kind: squeeze, at: 1s, node: n0, factor: 1.5}
  - {kind: flap, at: 1s}
"""


def test_all_bad_faults_are_told_at_once_each_with_its_place():
    with pytest.raises(ConfigError) as caught:
        loads_topology(FAULTS)
    told = {(problem.line, problem.path) for problem in caught.value.problems}
    assert told == {
        (9, "faults[0].service"),
        (10, "faults[1].ramp"),
        (11, "faults[2].ramp"),
        (12, "faults[3].grace"),
        (13, "faults[4].max_surge"),
        (13, "faults[4].service"),
        (14, "faults[5].duration"),
        (15, "faults[6].node"),
        (16, "faults[7].node"),
        (16, "faults[7].factor"),
        (17, "faults[8]"),
    }
    assert caught.value.problems[0].suggestion == "web"
