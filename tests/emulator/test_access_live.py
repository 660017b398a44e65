"""Access rules on a whole live mesh: the counts of the simulator, request by request."""

from mesh_scenarios import assert_accounted

import meshsim as ms
from emulator.running.harness import emulate
from meshsim.topology import loads_topology

MESH = """\
name: guarded
services:
  web:
    workloads:
      v1:
        steps:
          - call: {service: store, path: /books}
          - call: {service: store, path: /secret}
          - {call: bare, optional: true}
  store: {workloads: {v1: {steps: [{sleep: 1ms}]}}}
  bare: {workloads: {v1: {meshed: false, steps: [{call: store}]}}}
traffic:
  visit: {to: web, arrivals: {poisson: 40}}
policies: {store: {routes: [{retry: {num_retries: 0}}]}}
access:
  services: {web: {namespace: front, service_account: web}}
  peer_authentication: [{name: strict, mode: STRICT}]
  policies:
    - name: readers
      selector: {services: [store]}
      rules:
        - sources: [{namespaces: [front]}]
          operations: [{paths: [/books]}]
"""


def test_a_live_mesh_refuses_what_the_simulator_refuses():
    mesh = loads_topology(MESH)
    simulated = ms.simulate(mesh, "2s", replications=1, seed=3, progress=False)
    emulated = emulate(mesh, "2s", 3, dilation=2.0, progress=False)
    assert_accounted(emulated)
    arrivals = []
    for result in (simulated, emulated):
        arrivals.append(result.records[0].windows["arrivals"].tolist())
        # Each visit reads a book and is refused the secret; the bare caller is reset by TLS.
        edges = result.edges().set_index(["caller", "service"])
        assert edges.loc[("web", "store"), "success"] == 1.0
        assert edges.loc[("bare", "store"), "success"] == 0.0
        store = result.proxies().set_index("name").loc["store-v1-0"]
        assert min(store["rbac_allowed"], store["rbac_denied"]) > 30
    assert arrivals[0] == arrivals[1]
    counters = emulated.emulation["counters"]["store-v1-0"]
    sent = emulated.emulation["accounting"]["sent"]
    assert counters["inbound.rbac_allowed"] == counters["inbound.rbac_denied"] == sent
    # Who is refused keeps its connection: 403 is an answer.
    assert counters["inbound.listener.handshakes"] < sent / 2
    assert counters["inbound.listener.refused.plaintext_refused"] >= sent
