"""Access rules in the simulated mesh: what a refusal costs, and what a dropped packet."""

import pytest
from kernel_runs import Run, recorded, served, worker

from meshsim.topology.profile import ProxyCost

#: A pass takes 1 ms, whatever its size.
COST = ProxyCost(pass_ns=1_000_000)
SLEEP = {"sleep": "10ms"}
NO_RETRIES = {"routes": [{"retry": {"num_retries": 0}}]}


def deny(**fields):
    return {"name": "deny", "action": "DENY", "rules": [{}], **fields}


def of(*services, **fields):
    return {"services": list(services), **fields}


def closed(*services):
    """A network policy that lets nobody in."""
    return {"name": "closed", "network": True, "selector": of(*services)}


def sidecars(services, access, arrivals=("0ms",), **fields):
    policies = {name: NO_RETRIES for name in services}
    mesh = {"mesh": "istio-sidecar", "cost": COST, "policies": policies, **fields}
    return Run(services, recorded(*arrivals), access=access, **mesh)


def rbac(run):
    """Return (allowed, denied) of the proxies in front of the endpoints."""
    rows = run.state.proxies[: len(run.state.endpoints)]
    return list(zip(rows["rbac_allowed"].tolist(), rows["rbac_denied"].tolist(), strict=True))


def test_a_scenario_without_access_rules_has_no_table():
    run = Run({"web": worker(SLEEP)}, recorded("0ms"))
    assert len(run.state.access_rows) == run.state.access_outcomes.size == 0


def test_an_allowed_request_takes_its_usual_time():
    access = {"policies": [{"name": "all", "rules": [{}]}]}
    run = sidecars({"web": worker(SLEEP)}, access).to(100)
    # Two proxies, there and back, and 10 ms of service.
    assert run.outcomes() == [(0, 14, 200, "-")]
    assert rbac(run) == [(1, 0)]


def test_a_refusal_costs_the_passes_in_and_never_reaches_the_workload():
    run = sidecars({"web": worker(SLEEP)}, {"policies": [deny()]}).to(100)
    # The gateway's pass, the pass of the proxy that refuses, the gateway's pass back.
    assert run.outcomes() == [(0, 3, 403, "-")]
    assert rbac(run) == [(0, 1)]
    assert served(run) == {"web-v1-0": 0}
    (span,) = run.spans()
    assert (span.proxy, span.service, span.tries) == (3, 0, 1)
    assert run.idle()


def test_a_refusal_costs_the_same_on_shared_cores():
    body = {"web": worker(SLEEP, cpu=1.0, nodes=["n"])}
    run = sidecars(body, {"policies": [deny()]}, nodes={"n": {"cores": 1.0}}).to(100)
    assert run.outcomes() == [(0, 3, 403, "-")]


def test_a_refused_call_is_no_failure_of_the_caller():
    services = {"web": worker({"call": "store"}), "store": worker(SLEEP)}
    access = {"policies": [deny(selector=of("store"))]}
    run = sidecars(services, access).to(100)
    assert [span.status for span in run.spans("web>store")] == [403]
    assert [span.status for span in run.spans("load>web")] == [200]
    assert rbac(run) == [(0, 0), (0, 1)]


def test_each_workload_has_its_own_answer():
    services = {"web": {"workloads": {"v1": worker(SLEEP), "v2": worker(SLEEP)}}}
    access = {"policies": [deny(selector=of("web", labels={"version": "v2"}))]}
    times = [f"{100 * number}ms" for number in range(20)]
    run = sidecars(services, access, times).to(3000)
    answers = {(span.endpoint, span.status) for span in run.spans()}
    assert answers == {("web-v1-0", 200), ("web-v2-0", 403)}


def test_requests_are_told_apart_by_caller_path_and_class():
    paths = [{"call": {"service": "store", "path": path}} for path in ("/a", "/b")]
    services = {"web": worker(*paths), "store": worker(SLEEP)}
    rules = [
        {
            "sources": [{"services": ["web"]}],
            "operations": [{"paths": ["/a"]}],
            "when": [{"key": "request.headers[tier]", "values": ["gold"]}],
        }
    ]
    access = {"policies": [{"name": "p", "selector": of("store"), "rules": rules}]}
    traffic = {
        "gold": {"to": "web", "headers": {"Tier": "gold"}, "arrivals": recorded("0ms")},
        "free": {"to": "web", "arrivals": recorded("500ms")},
        "direct": {"to": "store", "path": "/a", "arrivals": recorded("900ms")},
    }
    run = sidecars(services, access, traffic=traffic).to(2000)
    assert [span.status for span in run.spans("web>store")] == [200, 403, 403, 403]
    assert [span.status for span in run.spans("direct>store")] == [403]


def test_missing_routes_are_answered_404():
    policy = {"name": "routes", "status": 404, "rules": [{"operations": [{"paths": ["/x"]}]}]}
    run = sidecars({"web": worker(SLEEP)}, {"policies": [policy]}).to(100)
    assert run.outcomes() == [(0, 3, 404, "-")]


def test_a_refusal_is_retried_only_if_its_status_is():
    retry = {
        "num_retries": 2,
        "retry_on": ["5xx", "retriable-status-codes"],
        "retriable_status_codes": [403],
    }
    for codes, tries in ((retry, 3), ({**retry, "retry_on": ["5xx"]}, 1)):
        policies = {"web": {"routes": [{"retry": codes}]}}
        run = sidecars({"web": worker(SLEEP)}, {"policies": [deny()]}, policies=policies)
        (span,) = run.to(5000).spans()
        assert (span.status, span.tries) == (403, tries)
        assert rbac(run) == [(0, tries)]


# --- Mutual TLS -----------------------------------------------------------------------------

STRICT = {"peer_authentication": [{"mode": "STRICT"}]}


@pytest.mark.parametrize(("meshed", "answer"), [(True, (200, "-")), (False, (503, "UC"))])
def test_plaintext_is_reset_in_strict(meshed, answer):
    services = {"web": worker({"call": "store"}, meshed=meshed), "store": worker(SLEEP)}
    run = sidecars(services, STRICT).to(200)
    (span,) = run.spans("web>store")
    assert (span.status, span.flag) == answer
    assert served(run)["store-v1-0"] == int(meshed)
    # A reset connection is not kept; it is no decision of a rule.
    assert run.idle()
    assert rbac(run) == [(0, 0), (0, 0)]


def test_modes_alone_count_no_decisions():
    run = sidecars({"web": worker(SLEEP)}, STRICT).to(100)
    assert run.outcomes() == [(0, 14, 200, "-")]
    assert rbac(run) == [(0, 0)]


# --- Packets --------------------------------------------------------------------------------


def dropped(arrivals, **pool):
    policy = {"connection_pool": {"connect_timeout": "250ms", **pool}, **NO_RETRIES}
    return Run(
        {"web": worker(SLEEP)},
        recorded(*arrivals),
        access={"policies": [closed("web")]},
        policies={"web": policy},
    )


def test_a_dropped_request_waits_for_its_connect_timeout():
    run = dropped(["0ms"]).to(1000)
    assert run.outcomes() == [(0, 250, 503, "UF")]
    assert served(run) == {"web-v1-0": 0}
    assert run.idle()


def test_a_connection_that_times_out_fails_whoever_waits_for_the_host():
    run = dropped(["0ms", "100ms", "300ms"]).to(1000)
    # The third request fails with the connection that was opened for the second.
    assert run.outcomes() == [(0, 250, 503, "UF"), (100, 250, 503, "UF"), (300, 350, 503, "UF")]
    assert run.state.hosts["connections_open"].tolist() == [0]
    assert run.idle()


def test_without_a_connect_timeout_linux_gives_up_after_127_s():
    run = dropped(["0ms"], connect_timeout="0s").to(130_000)
    assert run.outcomes() == [(0, 127_000, 503, "UF")]


def test_each_retry_waits_again():
    retry = {"num_retries": 1, "retry_on": ["connect-failure"], "base_interval": "1ns"}
    policy = {"connection_pool": {"connect_timeout": "250ms"}, "routes": [{"retry": retry}]}
    access = {"policies": [closed("web")]}
    body = {"web": worker(SLEEP)}
    run = Run(body, recorded("0ms"), access=access, policies={"web": policy}).to(2000)
    (span,) = run.spans()
    assert (span.end, span.tries, span.flag) == (500, 2, "UF")


def test_a_route_timeout_comes_first():
    route = {"timeout": "100ms", "retry": {"num_retries": 0}}
    policy = {"connection_pool": {"connect_timeout": "250ms"}, "routes": [route]}
    access = {"policies": [closed("web")]}
    body = {"web": worker(SLEEP)}
    run = Run(body, recorded("0ms"), access=access, policies={"web": policy}).to(2000)
    assert run.outcomes() == [(0, 100, 504, "UT")]
    assert run.state.hosts["connections_open"].tolist() == [0]
    assert run.idle()


def test_only_the_endpoints_that_are_closed_are_silent():
    services = {"web": {"workloads": {"v1": worker(SLEEP), "v2": worker(SLEEP)}}}
    selector = of("web", labels={"version": "v2"})
    access = {"policies": [{"name": "closed", "network": True, "selector": selector}]}
    policy = {"connection_pool": {"connect_timeout": "250ms"}, **NO_RETRIES}
    times = [f"{1000 * number}ms" for number in range(20)]
    run = Run(services, recorded(*times), access=access, policies={"web": policy}).to(30_000)
    found = {(span.endpoint, span.status, round(span.end - span.start)) for span in run.spans()}
    assert found == {("web-v1-0", 200, 10), ("web-v2-0", 503, 250)}


def test_a_network_rule_on_http_answers_403():
    rules = [{"operations": [{"methods": ["PUT"]}]}]
    policy = {"name": "l7", "network": True, "selector": of("web"), "rules": rules}
    run = Run({"web": worker(SLEEP)}, recorded("0ms"), access={"policies": [policy]}).to(100)
    assert run.outcomes() == [(0, 0, 403, "-")]


def test_the_proxy_tables_of_a_result_count_decisions():
    import meshsim as ms

    times = [f"{20 * number}ms" for number in range(50)]
    run = sidecars({"web": worker(SLEEP)}, {"policies": [deny()]}, times)
    result = ms.simulate(run.topology, duration="1s", replications=1, progress=False)
    proxies = result.proxies().set_index("name")
    # The first tenth of the run is deleted: 45 arrivals are left.
    assert proxies.loc["web-v1-0", "rbac_denied"] == 45
    assert proxies["rbac_allowed"].sum() == 0
    assert "access rules refused 45 of the 45 requests" in result.report()
