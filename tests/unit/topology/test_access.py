"""Access in a topology file: what may be said, who is who, and what comes out."""

import pytest

from meshsim.errors import ConfigError
from meshsim.policy.authorization import DROPPED, FORBIDDEN, RESET, Request
from meshsim.topology import dump_topology, json_schema, loads_topology
from meshsim.topology.compiled.access import AccessMap

SERVICES = """\
name: shop
services:
  web: {workloads: {v1: {steps: [{call: store}]}, old: {meshed: false, steps: [{call: store}]}}}
  store: {port: 80, workloads: {v1: {labels: {app: store}}, v2: {labels: {app: store}}}}
traffic: {visit: {to: web, arrivals: {poisson: 1}}}
access:
"""


def load(access):
    indented = "".join(f"  {line}\n" for line in access.strip("\n").splitlines())
    return loads_topology(SERVICES + indented)


def problems(access):
    with pytest.raises(ConfigError) as raised:
        load(access)
    return {problem.path: problem for problem in raised.value.problems}


def ask(topology, caller="web/v1", target="store/v1", sidecars=True, **request):
    access = AccessMap(topology, sidecars)
    service, workload = target.split("/")
    party = access.gateway(caller) if "/" not in caller else access.workload(*caller.split("/"))
    number, name = access.port(service)
    return access.decide(
        party, service, workload, Request(**{"port": number, "port_name": name, **request})
    )


VIEWERS = """
policies:
  - name: viewers
    selector: {services: [store]}
    rules:
      - sources: [{principals: ["cluster.local/ns/default/sa/web-v1"]}]
        operations: [{methods: [GET], ports: [80]}]
"""


def test_a_policy_is_read_with_its_places_and_written_again():
    topology = load(VIEWERS)
    assert topology.access.policies[0].rules[0].operations[0].ports == ("80",)
    place = topology.provenance["access.policies[0].rules[0].operations[0].methods[0]"]
    assert place.line == 12
    assert loads_topology(dump_topology(topology)) == topology
    assert "Access" in json_schema()["$defs"]


def test_workloads_have_the_accounts_of_their_names():
    topology = load(VIEWERS)
    assert ask(topology).allowed
    assert ask(topology, method="PUT").outcome == FORBIDDEN
    assert ask(topology, caller="visit").outcome == FORBIDDEN
    assert ask(topology, target="web/v1", method="PUT").allowed
    access = AccessMap(topology, sidecars=True)
    assert access.gateway("visit").principal == "spiffe://cluster.local/ns/default/sa/gateway-visit"
    assert dict(access.workload("store", "v2").labels) == {"version": "v2", "app": "store"}


def test_a_workload_outside_the_mesh_speaks_plaintext_and_enforces_nothing():
    topology = load(VIEWERS)
    assert "speaks plaintext" in ask(topology, caller="web/old").reason
    topology = load(VIEWERS.replace("store]", "web]"))
    assert ask(topology, caller="visit", target="web/v1").outcome == FORBIDDEN
    assert ask(topology, caller="visit", target="web/old").allowed


def test_without_proxies_network_policies_alone_count():
    topology = load(VIEWERS)
    assert ask(topology, method="PUT", sidecars=False).allowed
    topology = load("policies: [{name: closed, network: true, selector: {services: [store]}}]")
    assert ask(topology, sidecars=False).outcome == DROPPED
    assert ask(topology).outcome == DROPPED


def test_declared_identities():
    topology = load(
        VIEWERS
        + """
trust_domain: shop.example
services:
  web:
    namespace: front
    address: 10.1.0.1
    workloads: {v1: {service_account: viewer, address: 10.1.0.9}}
  store: {target_port: 8080, port_name: http}
traffic: {visit: {namespace: edge, service_account: ingress, labels: {app: gateway}}}
"""
    )
    access = AccessMap(topology, sidecars=True)
    web = access.workload("web", "v1")
    assert (web.principal, web.address) == ("spiffe://shop.example/ns/front/sa/viewer", "10.1.0.9")
    assert access.workload("web", "old").address == "10.1.0.1"
    assert dict(web.namespace_labels) == {"kubernetes.io/metadata.name": "front"}
    assert access.gateway("visit").service == "ingress"
    assert access.port("store") == (8080, "http")


def test_peer_authentication_by_services_and_ports():
    topology = load(
        """
peer_authentication:
  - {name: mesh, mode: STRICT}
  - {name: store, selector: {labels: {app: store}}, mode: UNSET, ports: {"80": PERMISSIVE}}
"""
    )
    access = AccessMap(topology, sidecars=True)
    assert access.mode("store", "v1") == ("PERMISSIVE", "store, port 80")
    assert access.mode("web", "v1") == ("STRICT", "mesh")
    assert access.mode("web", "old") is None
    assert ask(topology, caller="web/old").allowed
    assert ask(topology, caller="web/old", target="web/v1").outcome == RESET


def test_both_ends_of_a_packet_count():
    topology = load(
        """
policies:
  - name: web-out
    network: true
    direction: egress
    selector: {services: [web], labels: {version: v1}}
    rules: [{sources: [{workloads: [{services: [store], labels: {version: v1}}]}]}]
"""
    )
    assert ask(topology).allowed
    assert ask(topology, target="store/v2").outcome == DROPPED
    assert ask(topology, caller="web/old", target="store/v2").allowed


def test_an_inside_selector_leaves_the_outside_world_out():
    topology = load(
        """
policies:
  - name: inside
    network: true
    selector: {services: [web]}
    rules: [{sources: [{workloads: [{outside: false}]}]}]
"""
    )
    # Without proxies a traffic class is a client outside the cluster; with them, its gateway.
    assert ask(topology, caller="visit", target="web/v1", sidecars=False).outcome == DROPPED
    assert ask(topology, caller="visit", target="web/v1").allowed


def test_documents_of_the_meshes_are_read_as_they_are():
    topology = load(
        """
documents:
  - apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: no-writes, namespace: default}
    spec:
      action: DENY
      rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: [PUT]}}]}]
"""
    )
    reason = "denied by DENY rule 2 of AuthorizationPolicy default/no-writes"
    assert ask(topology, method="PUT").reason == reason
    assert loads_topology(dump_topology(topology)) == topology


def test_every_mistake_is_named_with_its_place():
    found = problems(
        """
trust_domain: Not A Domain
policies:
  - name: p
    selector: {services: [stroe]}
    ports: [0]
    rules:
      - sources: [{ip_blocks: [10.0.0.300], principals: ["~["]}]
        operations: [{paths: ["~("], ports: [70000]}]
        when: [{key: source.principle, values: [x]}, {key: "request.headers[a]"}]
  - {name: q, direction: egress}
  - {name: r, network: true, action: CUSTOM, rules: [{}]}
peer_authentication: [{mode: STRICT, ports: {http: DISABLE}}]
services: {nobody: {}, web: {workloads: {v9: {}}, address: somewhere}}
traffic: {visits: {}}
documents: [{kind: Service, apiVersion: v1}]
"""
    )
    assert set(found) == {
        "access.trust_domain",
        "access.policies[0].selector.services[0]",
        "access.policies[0].ports[0]",
        "access.policies[0].rules[0].sources[0].ip_blocks[0]",
        "access.policies[0].rules[0].sources[0].principals[0]",
        "access.policies[0].rules[0].operations[0].paths[0]",
        "access.policies[0].rules[0].operations[0].ports[0]",
        "access.policies[0].rules[0].when[0].key",
        "access.policies[0].rules[0].when[1]",
        "access.policies[1].direction",
        "access.policies[2].action",
        "access.peer_authentication[0].ports.http",
        "access.services.nobody",
        "access.services.web.workloads.v9",
        "access.services.web.address",
        "access.traffic.visits",
        "access.documents[0]",
    }
    assert found["access.policies[0].selector.services[0]"].suggestion == "store"
    assert found["access.policies[0].rules[0].when[0].key"].suggestion == "source.principal"
    assert found["access.policies[0].rules[0].operations[0].paths[0]"].line > 6


def test_what_has_no_effect_is_told():
    topology = load(
        """
policies: [{name: idle, action: DENY}]
peer_authentication: [{name: m, mode: STRICT, ports: {"80": DISABLE}}]
documents:
  - apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: typo}
    spec: {rulez: [{}]}
"""
    )
    assert any("DENY without rules refuses nobody" in notice for notice in topology.notices)
    assert any("selected workloads only" in notice for notice in topology.notices)
    assert any("spec.rulez is not read; did you mean rules?" in n for n in topology.notices)
