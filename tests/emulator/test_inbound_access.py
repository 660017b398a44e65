"""Access rules on a live proxy: who is asking, what is answered, what a replay asks again."""

import contextlib
import json

import pytest
from proxy_fakes import Caller, Upstream, ok, run

from emulator.decisions.engine import ProxyEngine
from emulator.decisions.inbound_access import InboundAccess
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import InboundProxy
from meshsim.controlplane.access import AccessWriter, check_enforceable
from meshsim.controlplane.configuration import (
    ProxyConfiguration,
    configurations_of,
    principals_of,
    with_resource,
)
from meshsim.errors import ConfigError
from meshsim.meshes import profile, resolve
from meshsim.state.codes import (
    ACCESS_ALLOWED,
    ACCESS_DROPPED,
    ACCESS_FORBIDDEN,
    ACCESS_RESET,
    ACCESS_UNRESTRICTED,
)
from meshsim.topology import loads_topology
from meshsim.topology.compiled import compile_topology

SHOP = """\
name: shop
services:
  web:
    workloads:
      v1: {steps: [{call: {service: store, path: /books}}, {call: {service: store, path: /x}}]}
      v2: {labels: {tier: gold}, steps: [{call: {service: store, headers: {x-a: "1"}}}]}
  store: {port: 80, workloads: {v1: {}, v2: {labels: {app: store}}}}
traffic:
  visit: {to: web, arrivals: {poisson: 1}}
  direct: {to: store, path: /books, authority: shop.example, arrivals: {poisson: 1}}
access:
"""
POLICIES = """\
  services: {web: {namespace: front, workloads: {v1: {service_account: web}}}}
  traffic: {direct: {labels: {app: edge}}}
  policies:
    - name: readers
      selector: {labels: {app: store}}
      rules:
        - sources: [{principals: ["*/sa/web"]}]
          operations: [{paths: [/books]}, {headers: {X-A: "1"}}]
        - sources: [{workloads: [{labels: {app: edge}}]}]
          operations: [{hosts: [SHOP.example]}]
    - {name: no-gold, action: DENY, selector: {services: [store]},
       rules: [{sources: [{workloads: [{labels: {tier: gold}}]}]}]}
"""


def compiled(access, **changes):
    topology = loads_topology(SHOP + access).model_copy(update=changes)
    resolved = resolve(topology)
    return compile_topology(resolved, profile(resolved.mesh))


def addresses(layout):
    return {name: ("127.0.0.1", 1000 + row) for row, name in enumerate(layout.endpoint_names)}


def received(shop, **options):
    """Return the configuration of every proxy as it arrives over the bus."""
    found = configurations_of(shop.topology, shop.layout, addresses(shop.layout), **options)
    arrived = {}
    for name, configuration in found.items():
        resource = {**configuration.to_json("listener"), "version": 1}
        text = json.loads(json.dumps(resource))
        arrived[name] = with_resource(ProxyConfiguration(name), text)
        assert arrived[name].listener == configuration.listener
    return arrived


def test_a_live_proxy_answers_as_the_table_of_the_simulator():
    shop = compiled(POLICIES)
    principals = principals_of(shop.topology, shop.layout)
    configurations = received(shop)
    traffic = list(shop.topology.traffic.items())
    seen = set()
    for row, site in enumerate(shop.sites):
        for column, (name, item) in enumerate(traffic):
            if site.workload is None and site.call is not item:
                continue
            table_row = shop.arrays["access_rows"][row * len(traffic) + column]
            caller = f"gateway-{name}"
            target = site.call.to if site.workload is None else site.call.service
            if site.workload is not None:
                place = shop.layout.workloads[site.workload]
                caller = shop.layout.endpoint_names[place.first_endpoint]
            headers = {**item.headers, **site.call.headers}
            host = (site.call.authority if site.workload is None else "") or target
            for index in shop.layout.services[target]:
                place = shop.layout.workloads[index]
                endpoint = shop.layout.endpoint_names[place.first_endpoint]
                access = InboundAccess(0)
                access.apply(configurations[endpoint].listener)
                request = (site.call.method, site.call.path, host, headers)
                answer = access.authorize(principals[caller], *request)
                wanted = ACCESS_UNRESTRICTED
                if table_row >= 0:
                    wanted = shop.arrays["access_outcomes"][table_row, index]
                assert answer == wanted, (caller, endpoint, site)
                seen.add(answer)
    assert seen == {ACCESS_UNRESTRICTED, ACCESS_ALLOWED, ACCESS_FORBIDDEN}


def access_of(text, endpoint="store-v2-0"):
    access = InboundAccess(0)
    access.apply(received(compiled(text))[endpoint].listener)
    return access


WEB = "spiffe://cluster.local/ns/front/sa/web"


def test_strangers_are_known_by_what_their_certificate_says():
    access = access_of(POLICIES)
    stranger = "spiffe://cluster.local/ns/other/sa/web"
    assert access.authorize(stranger, "GET", "/books", "store", {}) == ACCESS_ALLOWED
    other = "spiffe://cluster.local/ns/other/sa/cart"
    assert access.authorize(other, "GET", "/books", "store", {}) == ACCESS_FORBIDDEN
    assert access.authorize(None, "GET", "/books", "store", {}) == ACCESS_FORBIDDEN


def test_only_the_headers_that_rules_look_at_are_remembered():
    access = access_of(POLICIES)
    noise = [{"x-a": "1", "x-request-id": str(number)} for number in range(100)]
    answers = {access.authorize(WEB, "GET", "/y", "store", headers) for headers in noise}
    assert answers == {ACCESS_ALLOWED}
    assert len(access._of_known._memory) == 1


def test_without_access_rules_nothing_is_asked_or_sent():
    shop = compiled("  {}\n")
    assert all(item.listener.access is None for item in received(shop).values())
    access = InboundAccess(0)
    assert not access.active
    assert access.authorize(None, "GET", "/", "", {}) == ACCESS_UNRESTRICTED


def test_packets_are_lost_at_the_side_of_the_caller():
    shop = compiled(
        "  policies: [{name: closed, network: true, selector: {services: [store]},\n"
        "    rules: [{sources: [{workloads: [{labels: {tier: gold}}]}]}]}]\n"
    )
    unreachable = {n: c.listener.access.unreachable for n, c in received(shop).items()}
    stores = ("store-v1-0", "store-v2-0")
    assert unreachable == {
        "web-v1-0": stores,
        "web-v2-0": (),
        "store-v1-0": stores,
        "store-v2-0": stores,
        "gateway-visit": stores,
        "gateway-direct": stores,
    }
    rows, outcomes = shop.arrays["access_rows"], shop.arrays["access_outcomes"]
    assert ACCESS_DROPPED in outcomes[rows[rows >= 0]]


def test_modes_and_identities_are_those_that_are_declared():
    shop = compiled(
        "  trust_domain: shop.example\n"
        "  traffic: {visit: {namespace: edge, service_account: in}}\n"
        "  peer_authentication: [{selector: {services: [store]}, mode: DISABLE}, {mode: STRICT}]\n"
    )
    found = configurations_of(shop.topology, shop.layout, addresses(shop.layout))
    assert found["web-v1-0"].listener.mode == "STRICT"
    assert found["store-v1-0"].listener.mode == "DISABLE"
    assert found["web-v1-0"].listener.trust_domains == ("shop.example",)
    # Nobody speaks TLS to who would refuse it.
    assert {item.principal for item in found["web-v1-0"].endpoints["store"]} == {""}
    assert found["gateway-visit"].endpoints["web"][0].principal == (
        "spiffe://shop.example/ns/default/sa/web-v1"
    )
    principals = principals_of(shop.topology, shop.layout)
    assert principals["gateway-visit"] == "spiffe://shop.example/ns/edge/sa/in"
    off = configurations_of(shop.topology, shop.layout, addresses(shop.layout), mode="DISABLE")
    assert off["web-v1-0"].listener.mode == "DISABLE"


def test_what_a_live_mesh_cannot_tell_apart_is_refused():
    gold = "[{sources: [{workloads: [{labels: {tier: gold}}]}]}]"
    looks = f"  policies: [{{name: p, selector: {{services: [store]}}, rules: {gold}}}]\n"
    http = "  policies: [{name: p, network: true, rules: [{operations: [{paths: [/x]}]}]}]\n"
    bare = SHOP.replace("v1: {}", "v1: {meshed: false}")
    for text in (looks, http):
        check_enforceable(loads_topology(SHOP + text), True)
        with pytest.raises(ConfigError, match="no proxy at store/v1"):
            check_enforceable(loads_topology(bare + text), True)
    with pytest.raises(ConfigError, match="conditions on HTTP"):
        check_enforceable(loads_topology(SHOP + http), False)
    check_enforceable(loads_topology(SHOP + looks), False)
    account = "  services: {web: {service_account: one}}\n"
    check_enforceable(loads_topology(SHOP + account + http), True)
    with pytest.raises(ConfigError, match="callers that share spiffe"):
        check_enforceable(loads_topology(SHOP + account + looks), True)


# --- The proxy ------------------------------------------------------------------------------


class Rules:
    """Answers by path."""

    active = True

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def authorize(self, principal, method, path, host, headers):
        self.asked.append((principal, method, path, host))
        return self.answers.get(path.strip("/"), ACCESS_UNRESTRICTED)


@contextlib.asynccontextmanager
async def guarded(rules):
    workload = await Upstream(lambda number, head, body: ok(body)).start()
    proxy = InboundProxy("store-v1-0", workload.port, access=rules)
    _, port = await proxy.start()
    try:
        yield proxy, workload, port
    finally:
        await proxy.drain(2)
        await workload.stop()
    assert proxy.counters()["downstream_rq_active"] == 0


def test_the_inbound_proxy_answers_403_and_goes_on():
    async def scenario():
        rules = Rules(no=ACCESS_FORBIDDEN, yes=ACCESS_ALLOWED)
        async with guarded(rules) as (proxy, workload, port), Caller(port) as caller:
            for path, wanted in (("/no", 403), ("/yes", 200), ("/no", 403), ("/other", 200)):
                await caller.send(f"GET {path} HTTP/1.1\r\nHost: store\r\n\r\n".encode())
                assert (await caller.response())[0] == wanted
            assert len(workload.heads) == 2
            assert rules.asked[0] == (None, "GET", "/no", "store")
            counters = proxy.counters()
            assert (counters["rbac_allowed"], counters["rbac_denied"]) == (1, 2)
            assert counters["downstream_rq_completed"] == 4

    run(scenario)


def test_a_refused_request_is_answered_after_a_short_body():
    async def scenario():
        async with guarded(Rules(no=ACCESS_FORBIDDEN)) as (_, workload, port):
            async with Caller(port) as caller:
                for _ in range(2):
                    await caller.send(
                        b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12"
                    )
                    await caller.send(b"345")
                    status, headers, _ = await caller.response()
                    assert (status, headers.get("connection")) == (403, None)
                await caller.send(
                    b"PUT /no HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"2\r\nab\r\n0\r\n\r\n"
                )
                assert (await caller.response())[0] == 403
            assert workload.heads == []

    run(scenario)


def test_a_long_body_of_a_refused_request_is_not_waited_for():
    async def scenario():
        async with guarded(Rules(no=ACCESS_FORBIDDEN)) as (_, workload, port):
            async with Caller(port) as caller:
                head = b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"
                await caller.send(head + bytes(1 << 16))
                status, headers, _ = await caller.response()
                assert (status, headers["connection"]) == (403, "close")
            assert workload.heads == []

    run(scenario)


def test_a_reset_closes_without_an_answer():
    async def scenario():
        async with guarded(Rules(no=ACCESS_RESET)) as (proxy, _, port):
            async with Caller(port) as caller:
                await caller.send(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
                with pytest.raises((ConnectionError, EOFError, AssertionError, ValueError)):
                    await caller.response()
            assert proxy.counters()["downstream_rq_failed_LR"] == 1

    run(scenario)


# --- The log --------------------------------------------------------------------------------


def test_questions_are_logged_and_asked_again(tmp_path):
    listener = received(compiled(POLICIES))["store-v2-0"].listener
    path = tmp_path / "log"
    with StimulusLog(path) as log:
        engine = ProxyEngine("store-v2-0", 3, 1, log)
        versions = {"listener": 1}
        engine.apply(ProxyConfiguration("store-v2-0", listener=listener, versions=versions), 0)
        assert engine.inbound.authorize(WEB, "GET", "/books", "store", {}) == ACCESS_ALLOWED
        assert engine.inbound.authorize(None, "GET", "/books", "store", {"x": "y"}) == (
            ACCESS_FORBIDDEN
        )
        engine.close()
    found = replay(path)
    assert found.divergences == ()
    assert found.decisions == 5
    text = path.read_text().replace('"/books","store",{},1]', '"/books","store",{},2]')
    path.write_text(text)
    (divergence,) = replay(path).divergences
    assert divergence.stimulus.name == "authorize"
    assert "principal spiffe://cluster.local/ns/front/sa/web" in str(divergence)


def test_the_writer_is_silent_about_gateways_without_rules():
    shop = compiled("  {}\n")
    writer = AccessWriter(shop.topology, shop.layout, sidecars=True)
    assert writer.of_gateway("visit") is None
    assert writer.mode("web", "v1", "STRICT") == "STRICT"
