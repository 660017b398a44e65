"""A live proxy keeps the deadline that a request brings as the simulator's proxy does."""

import pytest
from kernel_runs import Run, recorded, worker

from emulator.decisions.engine import ProxyEngine, run_seed_of
from meshsim.controlplane.configuration import configurations_of
from meshsim.policy.transitions import ACTION_RESPOND, ACTION_SEND, STIMULUS_ROUTE_TIMEOUT
from meshsim.state.codes import FLAG_NAMES, RESET_NONE

SEED = 7
MS = 1_000_000


@pytest.mark.parametrize("called_ms", [30, 60, 99, 100, 130])
def test_a_call_ends_at_the_same_time_in_the_same_way(called_ms):
    """The caller has 100 ms; its call has a timeout of 50 ms of its own, and never an answer."""
    steps = ({"sleep": f"{called_ms}ms"}, {"call": "b"})
    run = Run(
        {
            "a": worker(*steps, on_timeout="continue", deadline={"propagate": True}),
            "b": worker({"sleep": "60s"}),
        },
        recorded("0ms"),
        seed=SEED,
        policies={
            "a": {"routes": [{"timeout": "100ms"}]},
            "b": {"routes": [{"timeout": "50ms"}]},
        },
    ).to(5_000)
    names = run.compiled.layout.endpoint_names
    configuration = configurations_of(
        run.topology,
        run.compiled.layout,
        {name: ("127.0.0.1", 1) for name in names},
        sidecars=False,
        mode="DISABLE",
    )["a-v1-0"]
    engine = ProxyEngine("a-v1-0", 0, run_seed_of(SEED))
    engine.apply(configuration, 0)
    now_ns = called_ms * MS
    exchange = engine.start("b", "GET", "/", {}, 1, now_ns)
    engine.bound(exchange, 100 * MS)
    decision = engine.route(exchange, now_ns)
    if decision.action == ACTION_SEND:
        engine.pick(exchange, now_ns)
        now_ns = engine.exchange_deadline_ns(exchange)
        decision = engine.tell(exchange, STIMULUS_ROUTE_TIMEOUT, 0, RESET_NONE, now_ns)
    assert decision.action == ACTION_RESPOND
    (span,) = run.spans("a>b")
    flag = FLAG_NAMES[decision.response_flag]
    assert (round(span.end * MS), span.status, span.flag) == (now_ns, decision.status, flag)
    cluster = int(run.state.proxies["cluster_start"][0])
    late = called_ms >= 100
    for field, count in (("timeouts", not late), ("deadline_exceeded", late)):
        assert engine._clusters[field].sum() == count
        assert run.state.clusters[field][cluster] == count
