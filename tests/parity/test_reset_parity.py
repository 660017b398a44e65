"""A live proxy waits as long as the simulator's does when a server says when to come again."""

from kernel_runs import Run, recorded, worker

from emulator.decisions.engine import ProxyEngine, run_seed_of
from meshsim.controlplane.configuration import configurations_of, gateway_name
from meshsim.policy.transitions import (
    ACTION_BACK_OFF,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_RESPONSE,
)
from meshsim.state.codes import RESET_NONE

SEED = 7
MS = 1_000_000
RETRY = {
    "num_retries": 2,
    "retry_on": ["5xx"],
    "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after"}]},
}


def test_the_waits_are_the_kernels():
    """A server whose queue is full at all three tries of the second request."""
    run = Run(
        {"b": worker({"sleep": "60s"}, queue_limit=0, retry_after="2s")},
        recorded("0ms", "1ms"),
        seed=SEED,
        policies={"b": {"routes": [{"retry": RETRY}]}},
    )
    addresses = {"b-v1-0": ("127.0.0.1", 1)}
    configuration = configurations_of(
        run.topology, run.compiled.layout, addresses, sidecars=False, mode="DISABLE"
    )[gateway_name("load")]
    engine = ProxyEngine(gateway_name("load"), 1, run_seed_of(SEED))
    engine.apply(configuration, 0)
    now_ns = MS
    engine.start("b", "GET", "/", {}, 1, 0)
    assert engine.pick(1, engine.route(1, 0).deadline_ns and 0) >= 0
    exchange = engine.start("b", "GET", "/", {}, 2, now_ns)
    engine.route(exchange, now_ns)
    for _ in range(2):
        host = engine.pick(exchange, now_ns)
        engine.sent(exchange, host, now_ns)
        assert engine.hear_reset(exchange, {"retry-after": "2"}, 0) == 2000 * MS
        decision = engine.tell(exchange, STIMULUS_RESPONSE, 503, RESET_NONE, now_ns)
        engine.ended(exchange, host, "response", True, 0, now_ns)
        assert decision.action == ACTION_BACK_OFF
        now_ns = decision.deadline_ns
        engine.tell(exchange, STIMULUS_BACK_OFF_EXPIRED, 0, RESET_NONE, now_ns)
    span = run.to(30_000).spans()[0]
    assert (span.status, span.flag, span.tries) == (503, "URX", 3)
    assert round(span.end * MS) == now_ns
    assert 4000 <= span.end - span.start < 6000
