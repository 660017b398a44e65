"""An inbound proxy lets in what the simulator's does: one gate against the kernel's controller."""

from engine_mesh import Mesh
from kernel_runs import NS_PER_MS, Run, recorded

from emulator.decisions.concurrency import ConcurrencyGate
from emulator.decisions.engine import run_seed_of
from meshsim.topology.profile import ProxyCost

SEED = 7
NO_RETRY = {"retry": {"num_retries": 0}}
ADAPTIVE = {
    "concurrency_limit_params": {"concurrency_update_interval": "20ms"},
    "min_rtt_calc_params": {
        "interval": "300ms", "request_count": 7, "jitter": 50.0, "buffer": 10.0,
    },
}  # fmt: skip


def test_a_live_gate_is_the_kernels_controller():
    # A server that sleeps longer and longer, then is fast again: the limit falls, and rises.
    sleeps_ms = [2 + number % 3 + (number // 9 if number < 90 else 0) for number in range(160)]
    times_us = [1000 * number + 1 + number for number in range(len(sleeps_ms))]
    steps = {f"op{number}": [{"sleep": f"{sleep}ms"}] for number, sleep in enumerate(sleeps_ms)}
    traffic = {
        f"t{number}": {"to": "b", "operation": f"op{number}", "arrivals": recorded(f"{time}us")}
        for number, time in enumerate(times_us)
    }
    run = Run(
        {"b": {"concurrency": 1000, "operations": steps}},
        traffic=traffic,
        seed=SEED,
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"b": {"adaptive_concurrency": ADAPTIVE, "routes": [NO_RETRY]}},
    ).to(2_000)
    stated = run.topology.policies["b"].adaptive_concurrency
    gate = ConcurrencyGate(run_seed_of(SEED), 0)
    gate.apply(stated)
    refused, mesh = [], Mesh(None, "b", None)

    def arrive(number, sleep_ns):
        status, life = gate.enter(mesh.now_ns)
        if status:
            refused.append(number)
        else:
            mesh.at(mesh.now_ns + sleep_ns, leave, life, mesh.now_ns)

    def leave(life, entered_ns):
        gate.leave(life, entered_ns, True, mesh.now_ns)

    for number, (time_us, sleep_ms) in enumerate(zip(times_us, sleeps_ms, strict=True)):
        mesh.at(1000 * time_us, arrive, number, sleep_ms * NS_PER_MS)
    mesh.run()
    assert refused == [number for number, span in enumerate(run.spans()) if span.status == 503]
    assert 20 < len(refused) < 140
    for field in set(gate._rows.dtype.names) - {"epoch_ns"}:  # it begins with the first request
        assert gate._rows[field].tolist() == run.state.gradients[field].tolist(), field
    assert gate._bins.tolist() == run.state.gradient_bins.tolist()
