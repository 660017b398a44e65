"""Istio DestinationRule: subsets, and how client proxies treat a service's clusters.

Rule: the rule with the most specific host holds for a service; rules of the service's own
namespace come before others.  If several rules name the same host, their subsets are put
together and the top-level policy of the oldest is used (by creation time, then name, then
namespace).  A subset's policy replaces the service's block by block (loadBalancer,
connectionPool, retryBudget, outlierDetection).  A ``portLevelSettings`` entry for the service's
port replaces everything: a block it omits is Istio's default again.  Outlier detection and warmup
are read by `meshsim.importers.istio_health`.

Limits are per client proxy and cluster, as Envoy keeps them.  A limit of 0 is unset in
Istio's API.

References
----------
istio/api networking/v1alpha3/destination_rule.proto;
istio/istio pilot/pkg/networking/core/cluster_traffic_policy.go,
pilot/pkg/model/destination_rule.go.
"""

from __future__ import annotations

from meshsim.importers.assembly import Assembly, Branch, ServiceRecord, host_specificity
from meshsim.importers.istio_health import (
    switch_off_outliers,
    write_outlier_detection,
    write_warmup,
)
from meshsim.importers.istio_locality import write_locality
from meshsim.importers.registry import Stage, reads
from meshsim.importers.view import View

__all__ = ["age", "read_destination_rules"]

_BLOCKS = ("loadBalancer", "connectionPool", "retryBudget", "outlierDetection")
#: Blocks that change a simulation but are not carried out yet.
_LATER_BLOCKS = ("tls", "tunnel", "proxyProtocol")
_SIMPLE = {
    "UNSPECIFIED": None,
    "LEAST_CONN": "LEAST_REQUEST",
    "LEAST_REQUEST": "LEAST_REQUEST",
    "RANDOM": "RANDOM",
    "ROUND_ROBIN": "ROUND_ROBIN",
    "PASSTHROUGH": None,
}
#: Largest int32 of the protobuf API.
_INT32_MAX = 2**31 - 1

#: The blocks in force, and whether omitted blocks are defaults rather than inherited.
_Policy = tuple[dict[str, View], bool]


@reads("networking.istio.io", "DestinationRule", family="istio", stage=Stage.CLUSTERS)
def read_destination_rules(views: list[View], assembly: Assembly) -> None:
    """Write subsets and cluster policies of every service that a rule names."""
    hosts = [_host(view, assembly) for view in views]
    used: set[int] = set()
    for record in assembly.services.values():
        rules = _rules_for(record, views, hosts)
        used.update(id(view) for view in rules)
        if rules:
            _write_rules(rules, record, assembly)
    for view, host in zip(views, hosts, strict=True):
        spec = view.view("spec")
        spec.not_simulated("exportTo", "workloadSelector")
        if id(view) not in used:
            spec.ignore_rest()
            spec.notice(f"no service uses this rule for host {host!r}", "host")


def _host(view: View, assembly: Assembly) -> str:
    spec = view.view("spec")
    host = spec.text("host")
    if not host:
        spec.problem("a DestinationRule needs a host", "host", allowed="the name of a service")
        return ""
    return assembly.expand_host(host, view.manifest.namespace)


def _rules_for(record: ServiceRecord, views: list[View], hosts: list[str]) -> list[View]:
    """Return the rules of the most specific host for a service, the governing one first."""
    graded = [
        (host_specificity(host, record.host), host, view)
        for view, host in zip(views, hosts, strict=True)
    ]
    best = max((grade for grade, _, _ in graded), default=0)
    if best == 0:
        return []
    rules = [view for grade, _, view in graded if grade == best]
    return sorted(rules, key=lambda view: (view.manifest.namespace != record.namespace, *age(view)))


def age(view: View) -> tuple[str, str, str]:
    """Return the key Istio sorts equal rules by: creation time, name, namespace.

    References
    ----------
    istio/istio pilot/pkg/model/config.go (sortConfigByCreationTime).
    """
    created = view.view("metadata").text("creationTimestamp") or ""
    return (created, view.manifest.name, view.manifest.namespace)


def _write_rules(rules: list[View], record: ServiceRecord, assembly: Assembly) -> None:
    branch = assembly.root("policies", record.key)
    top = _policy(rules[0].view("spec").view("trafficPolicy"), record.port)
    _write_cluster(branch, top)
    for view in rules[1:]:
        if view.view("spec").has("trafficPolicy"):
            view.view("spec").view("trafficPolicy").ignore_rest()
            view.notice(f"its trafficPolicy is not used: {rules[0].manifest.title} is older")
    for view in rules:
        for subset in view.view("spec").views("subsets"):
            _write_subset(subset, branch, top, record)


def _write_subset(subset: View, branch: Branch, top: _Policy, record: ServiceRecord) -> None:
    name = subset.text("name")
    if not name:
        subset.problem("a subset needs a name", "name", allowed="text")
        return
    target = branch.at("subsets", name)
    target.put("labels", subset.labels("labels"), subset.place("labels"))
    blocks, replaced = _policy(subset.view("trafficPolicy"), record.port)
    if replaced:
        _write_cluster(target, (blocks, True))
        if "outlierDetection" in top[0] and "outlierDetection" not in blocks:
            switch_off_outliers(target, subset)
    elif blocks:
        _write_cluster(target, ({**top[0], **blocks}, top[1]))


def _policy(policy: View, port: int) -> _Policy:
    """Return the blocks of a trafficPolicy that hold for `port`."""
    policy.not_simulated(*_LATER_BLOCKS)
    policy.view("tls").ignore_rest()
    blocks = {name: policy.view(name) for name in _BLOCKS if policy.has(name)}
    for entry in policy.views("portLevelSettings"):
        number = entry.view("port").integer("number", 1, 65_535)
        if number != port:
            entry.ignore_rest()
            entry.notice(f"port {number} is not the simulated port {port}; not read", "port")
            continue
        entry.not_simulated(*_LATER_BLOCKS)
        for view in blocks.values():
            view.ignore_rest()
        return {name: entry.view(name) for name in _BLOCKS if entry.has(name)}, True
    return blocks, False


def _write_cluster(branch: Branch, policy: _Policy) -> None:
    """Write the blocks under the policy of a service or subset."""
    blocks, replaced = policy
    if "loadBalancer" in blocks or replaced:
        target = branch.at("load_balancing").touch()
        if "loadBalancer" in blocks:
            _write_load_balancer(target, blocks["loadBalancer"])
    write_locality(branch, blocks.get("loadBalancer"), blocks.get("outlierDetection"))
    if "connectionPool" in blocks or "retryBudget" in blocks or replaced:
        branch.at("circuit_breakers").touch()
    if "connectionPool" in blocks or replaced:
        branch.at("connection_pool").touch()
    if "connectionPool" in blocks:
        _write_pool(branch, blocks["connectionPool"])
    if "retryBudget" in blocks:
        _write_budget(branch.at("circuit_breakers", "retry_budget").touch(), blocks["retryBudget"])
    if "outlierDetection" in blocks:
        write_outlier_detection(branch, blocks["outlierDetection"])


def _write_load_balancer(target: Branch, view: View) -> None:
    view.not_simulated("zoneAwareLbSetting")
    write_warmup(target, view)
    simple = view.choice("simple", _SIMPLE)
    if simple == "PASSTHROUGH":
        view.notice("PASSTHROUGH is not simulated yet; Istio's default is used", "simple")
    if simple is not None:
        target.put("policy", _SIMPLE[simple], view.place("simple"))
    if not view.has("consistentHash"):
        return
    if simple is not None:
        view.problem("simple and consistentHash exclude each other", "consistentHash")
    _write_hash(target, view.view("consistentHash"))


def _write_hash(target: Branch, view: View) -> None:
    view.not_simulated("httpCookie", "httpQueryParameterName")
    policy = "MAGLEV" if view.has("maglev") else "RING_HASH"
    target.put("policy", policy, view.place())
    ring, maglev = view.view("ringHash"), view.view("maglev")
    # The older spelling stands beside the key, the newer one inside ringHash.
    for source in (view, ring):
        size = source.integer("minimumRingSize", 0, 8_388_608)
        target.put("minimum_ring_size", size or None, source.place("minimumRingSize"))
    table_size = maglev.integer("tableSize", 0, 5_000_011)
    target.put("table_size", table_size or None, maglev.place("tableSize"))
    target.put("hash_header", view.text("httpHeaderName"), view.place("httpHeaderName"))
    target.put("hash_source_ip", view.boolean("useSourceIp"), view.place("useSourceIp"))


def _write_pool(branch: Branch, view: View) -> None:
    tcp, http = view.view("tcp"), view.view("http")
    tcp.not_simulated("maxConnectionDuration")
    tcp.ignore("tcpKeepalive")
    http.not_simulated("maxConcurrentStreams", "h2UpgradePolicy", "useClientProtocol")
    breakers, pool = branch.at("circuit_breakers"), branch.at("connection_pool")
    _put_limit(breakers, "max_connections", tcp, "maxConnections")
    _put_limit(breakers, "max_pending_requests", http, "http1MaxPendingRequests")
    _put_limit(breakers, "max_requests", http, "http2MaxRequests")
    _put_limit(breakers, "max_retries", http, "maxRetries")
    pool.put("connect_timeout", tcp.duration("connectTimeout"), tcp.place("connectTimeout"))
    for source in (tcp, http):  # The HTTP setting, written last, wins.
        pool.put("idle_timeout", source.duration("idleTimeout"), source.place("idleTimeout"))
    _put_limit(pool, "max_requests_per_connection", http, "maxRequestsPerConnection")


def _put_limit(target: Branch, name: str, view: View, key: str) -> None:
    target.put(name, view.integer(key, 0, _INT32_MAX) or None, view.place(key))


def _write_budget(target: Branch, view: View) -> None:
    view.not_simulated("budgetInterval")
    target.put("budget_percent", view.number("percent", 0, 100), view.place("percent"))
    minimum = view.integer("minRetryConcurrency", 0, _INT32_MAX)
    target.put("min_retry_concurrency", minimum, view.place("minRetryConcurrency"))
