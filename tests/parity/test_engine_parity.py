"""A live proxy decides as the simulator's proxy does: same functions, same streams, same rows.

A small mesh around a `ProxyEngine` (`engine_mesh`) and the kernel run the same scenario: one
client, three workloads that sleep for a constant time, errors by keyed coins.  Every request
must end at the same nanosecond, with the same status, flag, tries and host, and both sides
must have counted the same and drawn equally often.
"""

import importlib
import pkgutil
from collections import Counter

import numpy as np
import pytest
from engine_mesh import Mesh, Outcome
from engine_scenarios import SCENARIOS
from kernel_runs import NS_PER_MS, Run, recorded

import meshsim.kernel
from emulator.decisions.engine import DECISIONS, ProxyEngine, run_seed_of
from meshsim.controlplane.configuration import configurations_of, gateway_name
from meshsim.kernel.statistics import stats
from meshsim.policy import (
    adaptive_concurrency,
    circuit_breakers,
    custom,
    fault,
    global_rate_limit,
    health,
    health_check,
    load_balancing,
    locality,
    panic,
    rate_limit,
    request,
    reset_headers,
    routing,
    subsets,
    timeout,
    update_merge,
)
from meshsim.policy.load_balancing import hash_set, prequal
from meshsim.rng import key_uniform, mix, mix_in
from meshsim.state.codes import FLAG_NAMES, NO_INDEX
from meshsim.topology.compiled.priorities import OVERFLOWS, RETRY_STATS

SEED = 7
REQUESTS = 300
SLEEPS_MS = {"v1": 2, "v2": 7, "v3": 31}
USERS = 12
#: Counts and averages of a host that both sides keep.
HOST_FIELDS = (
    "requests_active",
    "connections_open",
    "weight",
    "requests_total",
    "latency_sum_ns",
    "rtt_ewma_ns",
    "edf_deadline",
    "edf_order",
    "errors_total",
    "healthy",
    "unhealthy",
    "slow_start_end_ns",
)
CLUSTER_FIELDS = (
    "connections_active",
    "pending_active",
    "requests_active",
    "retries_active",
    "cursor",
    "requests_total",
    "connections_total",
    "connection_overflow",
    "retries_total",
    "pending_overflow",
    "request_overflow",
    "retry_overflow",
)


def arrivals_us():
    """Times [us] some 2 ms apart, no two the same fraction of a millisecond.

    All durations are whole milliseconds (time-outs of a route half a one more), so that events
    of two requests never fall on the same instant, where the order is nobody's to promise.
    """
    times, time_ms, state = [], 0, 12345
    for number in range(REQUESTS):
        state = (1103515245 * state + 12345) % 2**31
        time_ms += 1 + state // 2**16 % 3
        times.append(time_ms * 1000 + 1 + number)
    return times


class Pair:
    """The kernel's run and the engine's of one scenario."""

    def __init__(self, policies, nodes=None, zone=None):
        """`nodes`: by workload, where it is; `zone`: of the client."""
        workloads = {
            name: {
                "nodes": [nodes[name]] if nodes else [],
                "replicas": 2,
                "concurrency": 1000,
                "error_rate": 0.2 if "routes" in policies else 0.0,
                "steps": [{"sleep": f"{sleep_ms}ms"}],
            }
            for name, sleep_ms in SLEEPS_MS.items()
        }
        self.times_us = arrivals_us()
        self.kernel_run = Run(
            {"b": {"workloads": workloads}},
            traffic={
                "load": {
                    "to": "b",
                    "users": USERS,
                    "zone": zone,
                    "headers": {"X-User": "user"},
                    "arrivals": recorded(*(f"{time}us" for time in self.times_us)),
                }
            },
            seed=SEED,
            policies={"b": policies},
            nodes={node: {"zone": node, "region": node[:4]} for node in (nodes or {}).values()},
        )
        self.topology = self.kernel_run.topology
        self.layout = self.kernel_run.compiled.layout
        self.index = len(self.layout.endpoint_names)
        self.error_rate = workloads["v1"]["error_rate"]
        self.engine = self.configured()

    def configured(self):
        addresses = {name: ("127.0.0.1", 1) for name in self.layout.endpoint_names}
        configuration = configurations_of(
            self.topology, self.layout, addresses, sidecars=False, mode="DISABLE"
        )[gateway_name("load")]
        engine = ProxyEngine(gateway_name("load"), self.index, run_seed_of(SEED))
        engine.apply(configuration, 0)
        return engine

    def engine_outcomes(self):
        def sleep_ns(endpoint):
            return SLEEPS_MS[endpoint.split("-")[1]] * NS_PER_MS

        class_key = np.uint64(self.kernel_run.state.traffic["key"][0])
        mesh = Mesh(self.engine, "b", sleep_ns, self.error_rate)
        for number, time_us in enumerate(self.times_us):
            key = int(mix_in(class_key, number))
            draw = key_uniform(np.uint64(mix_in(np.uint64(mix(class_key)), number)))
            headers = {"x-user": f"user-{int(draw * USERS)}", "x-request-id": str(number)}
            mesh.at(time_us * 1000, mesh.arrive, number, key, headers)
        return mesh.run()

    def kernel_outcomes(self):
        spans = self.kernel_run.to(5_000).spans()
        first = min(span.trace for span in spans)
        return sorted(
            Outcome(
                span.trace - first,
                round(span.end * NS_PER_MS),
                span.status,
                FLAG_NAMES.index(span.flag),
                span.tries,
                span.endpoint,
            )
            for span in spans
        )


@pytest.mark.parametrize("name", SCENARIOS)
def test_engine_and_kernel_take_the_same_decisions(name):
    pair = Pair(SCENARIOS[name])
    outcomes = pair.engine_outcomes()
    assert len(outcomes) == REQUESTS
    assert outcomes == pair.kernel_outcomes()
    state = pair.kernel_run.state
    assert pair.engine._rng.tolist() == state.pick_streams[pair.index].tolist()
    assert engine_counters(pair.engine) == kernel_counters(pair)
    if name == "high_priority":
        assert_same_limits(pair.engine._holdings, state, pair.index)
    elif name != "no_route":  # the compiler leaves out what nobody reaches
        assert_same_rows(pair.engine._holdings, state, state.clusters["proxy"] == pair.index)


def engine_counters(engine):
    """Return what filters, circuit breakers and health counted of all clusters, without zeros."""
    counters = Counter(engine.filter_counters() | engine.probe_counters())
    for values in engine.counters().values():
        named = {name: values[name] for name in values if name.startswith("circuit_breakers.")}
        counters.update({**named, **{name: values[name] for name in (*OVERFLOWS, *RETRY_STATS)}})
    for values in engine.health_counters().values():
        counters.update(values)
    return dict(+counters)


def kernel_counters(pair):
    counted = stats(pair.kernel_run.state, pair.kernel_run.kernel._proxy_names).get("load", {})
    return {name.removeprefix("outbound."): count for name, count in counted.items()}


def assert_same_rows(holdings, state, of_proxy):
    """The engine's CLUSTER and HOST rows are those of the kernel's proxy, in the same order."""
    for field in CLUSTER_FIELDS:
        wanted = state.clusters[field][of_proxy].tolist()
        assert holdings.clusters[field][: len(wanted)].tolist() == wanted, field
    hosts = state.hosts[of_proxy[state.hosts["cluster"]]]
    for field in HOST_FIELDS:
        assert holdings.hosts[field][: len(hosts)].tolist() == hosts[field].tolist(), field
    watched = hosts["health"] != NO_INDEX
    healths = state.host_health[hosts["health"][watched]]
    for field in set(healths.dtype.names) - {"host", "padding"}:
        found = holdings.host_health[field][: len(hosts)][watched]
        assert found.tolist() == healths[field].tolist(), field
    groups = state.clusters["health"][of_proxy]
    watched = groups != NO_INDEX
    wanted = state.cluster_health[groups[watched]]
    # A configuration that is applied counts as a change.
    for field in set(wanted.dtype.names) - {"cluster", "padding", "version"}:
        found = holdings.cluster_health[field][: len(groups)][watched]
        assert found.tolist() == wanted[field].tolist(), field
    found = holdings.ejections[: len(groups)][watched]
    assert found.tolist() == state.ejections[groups[watched]].tolist()


def assert_same_limits(holdings, state, proxy):
    """Both priorities of the one cluster count the same on both sides, and so do its hosts."""
    of_proxy = np.flatnonzero(state.clusters["proxy"] == proxy)
    rows = [holdings.cluster_rows["b"], holdings.high.cluster_rows["b"]]
    for field in CLUSTER_FIELDS:
        assert holdings.clusters[field][rows].tolist() == state.clusters[field][of_proxy].tolist()
    for row, cluster in zip(rows, of_proxy, strict=True):
        theirs = state.hosts[state.hosts["cluster"] == cluster]
        used = np.array([name is not None for name in holdings.addresses])
        ours = holdings.hosts[(holdings.hosts["cluster"] == row) & used]
        for field in HOST_FIELDS:
            assert ours[field].tolist() == theirs[field].tolist(), field


def test_the_scenarios_meet_what_they_are_for():
    def flags(name):
        return {FLAG_NAMES[outcome.flag] for outcome in Pair(SCENARIOS[name]).engine_outcomes()}

    assert flags("retries") >= {"-", "URX"}
    assert flags("retries_timeout") >= {"-", "UT"}
    assert "UO" in flags("request_overflow")
    assert "UO" in flags("pending_overflow")
    assert "UO" in flags("retry_overflow")
    assert "UO" in flags("custom")
    assert flags("high_priority") >= {"-", "UO", "UT"}
    assert flags("custom_retry") >= {"-", "URX"}
    assert flags("no_route") == {"NR"}
    ejections = {name: ejections_of(Pair(SCENARIOS[name])) for name in ("outliers", "panic")}
    assert ejections["outliers"]["ejections_enforced_consecutive_5xx"] > 3
    assert ejections["outliers"]["ejections_enforced_success_rate"] > 3
    assert ejections["outliers"]["ejections_overflow"] > 3
    assert ejections["panic"]["ejections_enforced_consecutive_local_origin_failure"] > 3
    assert flags("pending") == {"-"}
    for name in ("limit_ticks", "limit_shares", "limit_descriptors"):
        assert flags(name) >= {"-", "RL"}
    assert flags("global_limit") >= {"-", "RL", "DI"}
    assert flags("global_limit_closed") >= {"-", "RL", "RLSE"}
    assert flags("fault") >= {"-", "DI", "FI"}


def ejections_of(pair):
    pair.engine_outcomes()
    counters = pair.engine.counters()["b"]
    prefix = "outlier_detection."
    return {name.removeprefix(prefix): value for name, value in counters.items()}


def test_run_seed_is_the_kernels():
    run = Run({"b": {"steps": []}}, recorded("1ms"), seed=11, replication=3)
    assert run_seed_of(11, 3) == run.kernel.stream_seed


POLICIES = (
    prequal,  # first: what its servers do has names that others have, too
    adaptive_concurrency,
    circuit_breakers,
    custom.decisions,
    fault,
    global_rate_limit,
    health,
    health_check,
    load_balancing,
    hash_set,
    locality,
    panic,
    rate_limit,
    request,
    reset_headers,
    routing,
    subsets,
    timeout,
    update_merge,
)


def test_decisions_are_the_functions_of_the_policy_engine():
    public = {}
    for module in POLICIES:
        public |= {name: getattr(module, name) for name in module.__all__}
    for name, function in DECISIONS.items():
        assert function is public[name]


def test_decisions_are_the_functions_that_the_kernel_compiled():
    """Each is the very object in the globals of the kernel's modules, or of what these call."""
    used = {}
    for info in pkgutil.iter_modules(meshsim.kernel.__path__, "meshsim.kernel."):
        used |= {id(value): value for value in vars(importlib.import_module(info.name)).values()}
    for name, function in DECISIONS.items():
        found = function is used.get(id(function))
        called = [getattr(module, name, None) for module in (request, reset_headers)]
        assert found or function in called, name


def test_the_engine_calls_no_other_policy_function():
    """Whatever of `meshsim.policy` that decides is in the engine's modules is in DECISIONS."""
    from emulator.decisions import (
        concurrency,
        connections,
        engine,
        exchanges,
        filtering,
        filters,
        holdings,
        picking,
        probing,
        quotas,
        rate_limit_service,
    )
    from emulator.decisions import health as healths

    deciding = {
        id(getattr(module, name)): name
        for module in POLICIES
        if module is not routing
        for name in module.__all__
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type)
        if name != "reset_seconds"  # it reads a text
    }
    held = {
        deciding[id(value)]
        for module in (
            concurrency,
            connections,
            engine,
            exchanges,
            filtering,
            filters,
            healths,
            holdings,
            picking,
            probing,
            quotas,
            rate_limit_service,
        )
        for value in vars(module).values()
        if id(value) in deciding
    }
    assert held <= DECISIONS.keys()
