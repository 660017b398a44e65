"""Small meshes that tests run on real sockets."""

from meshsim.topology.load import loads_topology

PAIR = """
name: pair
mesh: istio-sidecar
nodes: {one: {zone: a}, two: {zone: b}}
services:
  front:
    workloads:
      v1:
        nodes: [one]
        concurrency: 16
        steps: [{compute: {constant: 2ms}}, {call: back}]
  back:
    workloads:
      v1: {replicas: 2, nodes: [one, two], concurrency: 16, steps: [{compute: {constant: 3ms}}]}
traffic:
  users: {to: front, arrivals: {poisson: 60}}
"""


def pair(**changes):
    """Two services behind sidecars on two nodes in two zones, 60 requests/s."""
    return loads_topology(PAIR).model_copy(update=changes)


def assert_accounted(result):
    """Every request that was sent has ended, one way or the other."""
    accounting = result.emulation["accounting"]
    assert accounting["sent"] == accounting["completed"] + accounting["failed"]
    assert accounting["left_over"] == 0
    for proxy, counters in result.emulation["counters"].items():
        sums = {
            side: sum(
                value
                for name, value in counters.items()
                if name.startswith(f"{side}downstream_rq_")
                and ("completed" in name or "failed" in name or "active" in name)
            )
            for side in ("", "outbound.", "inbound.")
        }
        for side, total in sums.items():
            assert counters.get(f"{side}downstream_rq_total", 0) == total, (proxy, counters)
