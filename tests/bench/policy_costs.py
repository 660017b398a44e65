"""The policies whose cost is measured: what is added to the chain, and to which chain.

Rule: a policy is compared with the same chain without it.  The chain is three services of four
replicas with sidecars, least request at a load of 0.8 (`benchmark.CASES`).  A rule that only
acts on failures meets 1 % of them on both sides; one that reads zones meets two zones on both, with
four replicas in each, because it may keep all requests in one of them.
"""

from dataclasses import dataclass, field
from typing import Any

import meshsim as ms
from meshsim.rng import next_index

__all__ = ["POLICIES", "RATE", "SERVICES", "Policy", "chain", "less_loaded_of_two"]

SERVICES = ("a", "b", "c")
#: Offered load [1/s]; each of four replicas serves a request a millisecond.
RATE = 3200.0
_FAILING = 0.01
#: A service that the chain could call and (almost) never does.
SPARE = "spare"
_NEVER = 1e-9


@ms.policy.load_balancer
def less_loaded_of_two(hosts, members, request, memory, now_ns, rng):
    """Do what LEAST_REQUEST does with two choices and equal weights."""
    first = next_index(rng, len(members))
    second = next_index(rng, len(members))
    active = hosts["requests_active"]
    return second if active[members[second]] < active[members[first]] else first


@ms.policy.retry_policy
def once_more(outcome, memory, now_ns, rng):
    """Retry what the server failed, 1 ms later."""
    return 1_000_000 if outcome.status >= 500 else -1


@ms.policy.admission_policy(memory=1)
def up_to_a_thousand(cluster, memory, now_ns, rng):
    """Refuse what is beyond a thousand requests at once."""
    memory[0] += 1.0
    return 503 if cluster["requests_active"] > 1000 else 0


@dataclass(frozen=True)
class Policy:
    """One row of the table: fields of a service's policy, and what its chain needs."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    #: Of both sides.
    failing: bool = False
    zones: int = 0
    #: Rules of access, instead of fields.
    access: bool = False


def _route(**fields: Any) -> dict[str, Any]:
    return {"routes": [fields]}


def _balancing(policy: str, **fields: Any) -> dict[str, Any]:
    return {"load_balancing": {"policy": policy, **fields}}


_RETRY = {"num_retries": 2, "retry_on": ["5xx"]}
_BUCKET = {"max_tokens": 100_000, "tokens_per_fill": 100_000, "fill_interval": "1s"}
_LIMIT = {"token_bucket": _BUCKET, "filter_enabled": 100, "filter_enforced": 100}
_OF_CONNECTION = "local_rate_limit_per_downstream_connection"
_QUOTA = {
    "descriptors": [{"requests_per_unit": 100_000, "unit": "SECOND"}],
    "latency": "100us",
}
_GRADIENT = {
    "concurrency_limit_params": {"concurrency_update_interval": "100ms"},
    "min_rtt_calc_params": {"fixed_value": "100ms"},
}
_SUBSETS = {name: {"labels": {"version": "v1"}} for name in ("one", "two")}
_HALVES = [{"subset": "one", "weight": 1}, {"subset": "two", "weight": 1}]
_SUBSET_CONFIG = {"subset_selectors": [{"keys": ["version"]}], "fallback_policy": "ANY_ENDPOINT"}
_ACCRUAL = {"consecutive_max_failures": 7}
_OUTLIERS = {"consecutive_5xx": 5, "success_rate_minimum_hosts": 2}
_CHECK = {"interval": "1s", "timeout": "1s"}
_LARGE = 100_000
_BREAKERS = dict.fromkeys(
    ("max_connections", "max_pending_requests", "max_requests", "max_retries"), _LARGE
)

TIMEOUTS = Policy(
    "timeouts that never fire", _route(timeout="60s", retry={**_RETRY, "per_try_timeout": "20s"})
)

POLICIES = (
    Policy("RANDOM", _balancing("RANDOM")),
    Policy("ROUND_ROBIN", _balancing("ROUND_ROBIN")),
    Policy("LEAST_REQUEST, full scan", _balancing("LEAST_REQUEST", selection_method="FULL_SCAN")),
    Policy("RING_HASH", _balancing("RING_HASH", hash_header="x-user")),
    Policy("MAGLEV", _balancing("MAGLEV", hash_header="x-user")),
    Policy("PEAK_EWMA", _balancing("PEAK_EWMA")),
    Policy("PREQUAL", _balancing("PREQUAL")),
    Policy("load reports (ORCA)", _balancing("CLIENT_SIDE_WEIGHTED_ROUND_ROBIN")),
    Policy("slow start", _balancing("LEAST_REQUEST", slow_start={"slow_start_window": "10s"})),
    Policy(
        "retries, budget",
        {
            **_route(retry=_RETRY),
            "circuit_breakers": {"retry_budget": {"budget_percent": 20.0}},
        },
        failing=True,
    ),
    Policy(
        "retries, token budget",
        {
            **_route(retry=_RETRY),
            "circuit_breakers": {"retry_throttling": {"token_budget": {}}},
        },
        failing=True,
    ),
    Policy(
        "retries, gRPC throttling",
        {**_route(retry=_RETRY), "circuit_breakers": {"retry_throttling": {"grpc": {}}}},
        failing=True,
    ),
    Policy(
        "hedging",
        _route(hedge_policy={"max_attempts": 2, "hedging_delay": "100ms"}),
    ),
    TIMEOUTS,
    Policy("circuit breakers", {"circuit_breakers": _BREAKERS}),
    Policy("outlier detection", {"outlier_detection": _OUTLIERS}, failing=True),
    Policy("failure accrual", {"failure_accrual": _ACCRUAL}, failing=True),
    Policy("active health check", {"health_check": _CHECK}),
    Policy("locality failover", {"locality": {"failover": {}}}, zones=2),
    Policy("locality weighted", {"locality": {"locality_weighted": True}}, zones=2),
    Policy("zone aware", {"locality": {"zone_aware": {"min_cluster_size": 1}}}, zones=2),
    Policy(
        "priorities",
        {"locality": {"endpoints": [{"locality": "*/z1", "priority": 1}]}},
        zones=2,
    ),
    Policy(
        "subset",
        {
            "subset_config": _SUBSET_CONFIG,
            **_route(split=[{"metadata_match": {"version": "v1"}}]),
        },
    ),
    Policy("weighted split", {"subsets": _SUBSETS, **_route(split=_HALVES)}),
    Policy("rate limit, inbound", {"rate_limit": _LIMIT}),
    Policy("rate limit, route", _route(rate_limit=_LIMIT)),
    Policy("rate limit, connection", {"rate_limit": {**_LIMIT, _OF_CONNECTION: True}}),
    Policy("rate limit, global", _route(global_rate_limit=_QUOTA)),
    Policy("adaptive concurrency", {"adaptive_concurrency": _GRADIENT}),
    Policy("fault", _route(fault={"delay": {"fixed_delay": "1ms", "percentage": 1}})),
    Policy("mirror 1 %", _route(mirrors=[{"service": SPARE, "percentage": 1}])),
    Policy("access rules", access=True),
    Policy("own load balancer", {"load_balancing": less_loaded_of_two}),
    Policy("own retry", _route(retry={**_RETRY, "custom": once_more}), failing=True),
    Policy("own admission", {"admission": up_to_a_thousand}),
)


def chain(
    policy: Policy | None, *, like: Policy | None = None, unused: bool = False
) -> ms.Topology:
    """Return the chain with `policy`, or without one but otherwise as `like` has it.

    With `unused` the policy is that of a service which the first could call and never does.
    """
    shape = policy or like or Policy("")
    services = {name: _service(index, shape) for index, name in enumerate(SERVICES)}
    services[SPARE] = {"workloads": {"v1": {"steps": []}}}
    balancing = {"load_balancing": {"policy": "LEAST_REQUEST"}}
    policies = {name: dict(balancing) for name in (*SERVICES, SPARE)}
    access: dict[str, Any] = {}
    if policy is not None:
        targets = [SPARE] if unused else list(SERVICES)
        for name in targets:
            policies[name] |= policy.fields
        if policy.access:
            access = {"policies": [_rules(name, unused) for name in targets]}
    wire = dict.fromkeys(("same_node", "same_zone", "same_region", "cross_region"), "50us")
    return ms.Topology.model_validate(
        {
            "name": "chain",
            "mesh": "istio-sidecar",
            "network": {"latency": wire},
            "nodes": {f"n{zone}": {"zone": f"z{zone}"} for zone in range(shape.zones)},
            "services": services,
            "traffic": {"all": {"to": "a", "users": 10_000, "arrivals": {"poisson": RATE}}},
            "policies": policies,
            "access": access,
        }
    )


def _service(index: int, shape: Policy) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"compute": {"exponential": "1ms"}}]
    if index == 0:
        steps.append({"call": SPARE, "probability": _NEVER})
    if index + 1 < len(SERVICES):
        steps.append({"call": SERVICES[index + 1]})
    workload = {
        "labels": {"version": "v1"},
        "replicas": 4 * max(1, shape.zones),
        "concurrency": 1,
        "hold_worker": False,
        "error_rate": _FAILING if shape.failing else 0.0,
        "steps": steps,
    }
    return {"workloads": {"v1": workload}}


def _rules(service: str, unused: bool) -> dict[str, Any]:
    """Return rules that allow every request of the chain, the last of them."""
    nobody = {"sources": [{"services": [SPARE]}]}
    everybody: dict[str, Any] = {}
    rules = [nobody, everybody]
    return {"name": f"rules-{service}", "selector": {"services": [service]}, "rules": rules}
