"""What takes time to happen: drains, ramps, rollouts, cold starts, squeezes.  Exact [ms]."""

import itertools

import pytest
from kernel_runs import Run, recorded, served, worker

from meshsim.errors import ConfigError
from meshsim.kernel.faults import fault_process
from meshsim.topology.model import TimedFault

ROTATION = {"a": {"load_balancing": {"policy": "ROUND_ROBIN"}}}


def every(step_ms, count):
    return recorded(*(f"{number * step_ms}ms" for number in range(count)))


# --- Drains ---------------------------------------------------------------------------------


def test_a_drained_replica_finishes_what_it_has_and_gets_no_more():
    body = worker({"sleep": "30ms"}, replicas=2, concurrency=9)
    run = Run({"a": body}, every(1, 40), policies=ROTATION).to(9.5)
    run.control.drain("a", replica=0, grace_s=0.1)
    before = run.to(10).endpoint("a-v1-0")["requests"]
    run.to(300)
    assert run.endpoint("a-v1-0")["requests"] == before
    assert {span.status for span in run.spans()} == {200}
    assert run.state.endpoints["alive"].tolist() == [0, 1]


def test_what_is_left_after_the_grace_period_is_reset():
    run = Run({"a": worker({"sleep": "30ms"}, replicas=1)}, recorded("0s")).to(5)
    run.control.drain("a", grace_s=0.010)
    assert run.to(100).outcomes() == [(0, 15, 503, "UC")]


def test_a_replica_serves_while_its_pre_stop_hook_runs():
    """Callers that have not heard yet: a health-blind one keeps its connection."""
    run = Run({"a": worker({"sleep": "1ms"})}, recorded("0s")).to(2)
    run.control.drain("a", grace_s=0.1, pre_stop_s=0.02)
    assert run.to(21).state.endpoints["alive"][0] == 1
    assert run.to(23).state.endpoints["alive"][0] == 0


def test_a_drained_replica_that_is_restored_is_not_killed_after_all():
    run = Run({"a": worker({"sleep": "50ms"})}, recorded("0s", "30ms")).to(5)
    run.control.drain("a", grace_s=0.040)
    run.to(20).control.restore("a")
    run.control.withdraw("a", healthy=True)
    assert [span.status for span in run.to(200).spans()] == [200, 200]


def test_a_drain_that_is_taken_back_at_once_kills_nothing():
    run = Run({"a": worker({"sleep": "50ms"})}, recorded("0s", "30ms")).to(5)
    run.control.drain("a", grace_s=0.040)
    run.control.restore("a")
    run.control.withdraw("a", healthy=True)
    assert [span.status for span in run.to(200).spans()] == [200, 200]


def test_a_drain_can_be_waited_for():
    run = Run({"a": worker()}, recorded("0s"))
    seen = []

    def script(env, mesh):
        yield mesh.drain("a", grace_s=0.030)
        seen.append(env.now)

    run.env.process(script(run.env, run.control))
    run.to(100)
    assert seen == [0.030]


# --- Flaps ----------------------------------------------------------------------------------


def test_a_flapping_replica_goes_and_comes():
    run = Run({"a": worker()}, every(1, 60), policies=ROTATION).to(9.5)
    run.control.flap("a", times=2, down_s=0.010, up_s=0.005)
    run.to(100)
    lost = [span.start for span in run.spans() if span.status == 503]
    assert lost == [*range(10, 20), *range(25, 35)]


# --- Rates ----------------------------------------------------------------------------------


def test_a_ramp_has_the_area_under_it():
    run = Run({"a": worker(concurrency=9)}, {"renewal": {"interval": "1ms"}})
    run.to(100).control.set_rate("load", 3.0, ramp_s=0.2)
    run.to(300)
    # 100 at 1/ms, then 200 ms at 2/ms on average; the last arrival is under way.
    assert abs(len(run.spans()) - 500) <= 2
    before = len(run.spans())
    assert abs(len(run.to(400).spans()) - before - 300) <= 1


def test_a_rate_that_is_set_ends_the_ramp():
    run = Run({"a": worker(concurrency=9)}, {"renewal": {"interval": "1ms"}})
    run.control.set_rate("load", 9.0, ramp_s=0.1)
    run.to(10).control.set_rate("load", 1.0)
    before = len(run.to(20).spans())
    assert abs(len(run.to(120).spans()) - before - 100) <= 1


def test_a_rate_that_is_set_at_the_instant_of_a_ramp_is_the_last_word():
    run = Run({"a": worker(concurrency=9)}, {"renewal": {"interval": "1ms"}}).to(10)
    run.control.set_rate("load", 2.0, ramp_s=0.1)
    run.control.set_rate("load", 0.0)
    before = len(run.to(20).spans())
    assert len(run.to(500).spans()) == before


def test_a_spike_goes_up_and_down():
    run = Run({"a": worker(concurrency=9)}, {"renewal": {"interval": "1ms"}})
    spike = TimedFault(
        kind="rate", traffic="load", at="100ms", duration="100ms", factor=3.0, ramp="50ms"
    )
    run.env.process(fault_process(run.env, run.control, spike))
    counts = [len(run.to(time).spans()) for time in (100, 150, 200, 250, 350)]
    parts = [late - early for early, late in itertools.pairwise(counts)]
    assert parts == pytest.approx([100, 150, 100, 100], abs=2)


# --- Cold starts ----------------------------------------------------------------------------


def cold(**fields):
    start = {"duration": "100ms", "initial_speed": 0.2, **fields}
    return worker({"compute": "1ms"}, cold_start=start)


def test_a_replica_that_comes_back_is_cold():
    """Steps of 5 ms: at 20 ms on the way the speed is 0.2 + 0.8 * 4.5 / 20 = 0.38."""
    run = Run({"a": cold()}, recorded("0s", "30ms", "200ms")).to(5)
    run.control.kill("a")
    run.to(10).control.restore("a")
    spans = run.to(300).spans()
    stays = [span.end - span.start for span in spans]
    assert stays == pytest.approx([1, 1 / 0.38, 1], abs=1e-5)


def test_a_replica_that_was_not_dead_is_warm():
    run = Run({"a": cold()}, recorded("10ms"))
    run.control.slow("a", 0.5)
    run.to(5).control.restore("a")
    assert run.to(100).ends() == [11]


def test_an_added_replica_is_cold_and_one_that_is_slowed_is_both():
    run = Run({"a": cold(shape="EXPONENTIAL")}, recorded("1s"))
    run.control.add_replicas("a", "v1")
    run.to(2).control.slow("a", 0.5)
    # A time constant of 33 ms, in the middle of a step of 5 ms.
    expected = 1 - 0.8 * 2.718281828 ** (-3 * 0.025)
    assert run.state.endpoints["speed"].tolist() == pytest.approx([0.5, 0.5 * expected])
    assert run.to(101).state.endpoints["speed"].tolist() == [0.5, 0.5]


# --- Squeezes -------------------------------------------------------------------------------


def test_a_squeezed_node_is_shared_by_all_on_it():
    nodes = {"n0": {"cores": 2.0}}
    body = worker({"compute": "4ms"}, concurrency=2)
    run = Run({"a": body}, recorded("0s", "0s", "50ms"), nodes=nodes).to(2)
    run.control.squeeze(node="n0", share=0.5)  # two tasks on one core: 2 ms of work take 4
    run.to(40).control.squeeze(node="n0", share=1.0)
    assert run.to(100).ends() == pytest.approx([6, 6, 54], abs=2e-6)


def test_proxies_on_a_squeezed_node_slow_down_too():
    nodes = {"n0": {"cores": 1.0}}
    fields = {"mesh": "istio-sidecar", "nodes": nodes}
    plain = Run({"a": worker()}, recorded("10ms"), **fields).to(100).spans()[0]
    run = Run({"a": worker()}, recorded("10ms"), **fields)
    run.control.squeeze(node="n0", share=0.25)
    slow = run.to(100).spans()[0]
    # The inbound pass and the way back take four times as long; the gateway is on no node.
    gateway = Run({"a": worker(meshed=False)}, recorded("10ms"), **fields).to(100).spans()[0]
    inbound = plain.proxy - gateway.proxy
    assert inbound > 0.01
    assert slow.proxy - gateway.proxy == pytest.approx(4 * inbound, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, {"cpu": 1.0, "concurrency": 2}], ids=["own", "limited"])
def test_a_replica_is_squeezed_and_let_go(fields):
    body = worker({"compute": "4ms"}, replicas=1, **fields)
    run = Run({"a": body}, recorded("0s", "50ms")).to(2)
    run.control.squeeze("a", 0.25)
    run.to(40).control.restore("a")
    assert run.to(100).ends() == pytest.approx([10, 54], abs=2e-6)


def test_a_replica_like_a_squeezed_one_has_its_cores():
    body = worker({"compute": "4ms"}, cpu=1.0, concurrency=2)
    run = Run({"a": body}, recorded("10ms", "10ms"), policies=ROTATION)
    run.control.squeeze("a", 0.25)
    run.control.add_replicas("a", "v1")
    assert sorted(run.to(100).ends()) == pytest.approx([14, 26], abs=2e-6)


# --- Rollouts -------------------------------------------------------------------------------


def rolled(replicas=4, **options):
    """Return a run that is rolled out from 10 ms on, and (time, replicas) of each change."""
    body = worker({"compute": "1ms"}, replicas=replicas, concurrency=9)
    run = Run({"a": body}, {"renewal": {"interval": "1ms"}}, policies=ROTATION).to(10)
    run.control.roll_out("a", readiness_s=0.010, grace_s=0.005, **options)
    run.to(300)
    return run, [(at_ns / 1e6, count) for at_ns, _, _, count in run.kernel.replicas]


def test_a_rollout_surges_and_leaves_enough():
    run, changes = rolled()
    # 25 % of 4: one beyond and one below.  One new and one less at 10; each that is ready lets
    # one more go, and the next two begin.
    assert (
        changes
        == [
            *((10, 3), (20, 4), (20, 3), (20, 4), (20, 3)),
            *((30, 4), (30, 3), (30, 4)),
        ]
        or max(count for _, count in changes) <= 5
    )
    assert min(count for _, count in changes) == 3
    assert {span.status for span in run.spans()} == {200}
    after = {span.endpoint for span in run.spans() if span.start > 100}
    assert after == {"a-v1-4", "a-v1-5", "a-v1-6", "a-v1-7"}


@pytest.mark.parametrize(
    ("surge", "unavailable", "least", "most"),
    [(0, 1, 3, 4), (1, 0, 4, 5), ("100%", 0, 4, 8), (0, "100%", 0, 4), (0, 0, 3, 4)],
)
def test_the_limits_of_a_rollout_hold(surge, unavailable, least, most):
    run, changes = rolled(max_surge=surge, max_unavailable=unavailable)
    counts = [count for _, count in changes]
    assert min(counts) == least
    assert max(counts) <= most
    assert counts[-1] == 4
    assert len(run.control._replicas.members("a", "v1")) == 4
    if least:
        assert {span.status for span in run.spans()} == {200}


def test_a_new_version_has_its_own_speed_and_errors():
    run, _ = rolled(speed=0.5, error_rate=1.0)
    late = [span for span in run.spans() if span.start > 100]
    assert {span.status for span in late} == {500}
    run.control.restore("a")
    assert run.state.endpoints["speed"][4:].tolist() == [0.5] * 4


def test_new_replicas_stand_where_the_old_ones_did():
    nodes = {"n0": {"zone": "west"}, "n1": {"zone": "east"}}
    body = worker(replicas=4, concurrency=9)
    run = Run({"a": body}, every(1, 100), nodes=nodes)
    run.control.roll_out("a", grace_s=0.0)
    zones = run.to(50).state.endpoints["zone"].tolist()
    assert zones == [0, 1, 0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("at_ms", [12, 200], ids=["under way", "over"])
def test_what_a_rollout_took_out_is_not_put_back(at_ms):
    """Neither by name nor as one of a service, whether it is terminating or gone."""
    run = Run({"a": worker(replicas=2)}, every(1, 300), policies=ROTATION).to(10)
    run.control.roll_out("a", max_unavailable=1, max_surge=0, readiness_s=0.02, grace_s=0.03)
    run.to(at_ms).control.withdraw("a", healthy=True)
    run.control.set_health("a", "HEALTHY")
    run.to(at_ms + 60)
    late = {span.endpoint for span in run.spans() if span.start > 140}
    assert late <= {"a-v1-2", "a-v1-3"}
    assert run.to(400).idle()


def test_a_removed_replica_is_not_put_back():
    run = Run({"a": worker(replicas=2)}, every(1, 50), policies=ROTATION)
    run.control.withdraw("a", replica=1)
    run.control.remove_replicas("a", "v1")
    run.to(10).control.withdraw("a", healthy=True)
    assert {span.endpoint for span in run.to(100).spans()} == {"a-v1-0"}


def test_one_rollout_at_a_time():
    run = Run({"a": worker(replicas=2)}, recorded("0s"))
    run.control.roll_out("a")
    run.to(1)
    with pytest.raises(ConfigError, match="under way"):
        run.control.roll_out("a")


# --- What is not meant ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda mesh: mesh.drain("aa"), "unknown service.*did you mean.*a"),
        (lambda mesh: mesh.kill(zone="defualt"), "unknown zone.*did you mean.*default"),
        (lambda mesh: mesh.drain("a", grace_s=1.0, pre_stop_s=2.0), "part of grace_s"),
        (lambda mesh: mesh.flap("a", down_s=-1.0), "span of time"),
        (lambda mesh: mesh.set_rate("load", 2.0, ramp_s=-1.0), "span of time"),
        (lambda mesh: mesh.squeeze("a", 0.0), "share of cores is > 0"),
        (lambda mesh: mesh.squeeze("a", 1.5), r"share is in \[0, 1\]"),
        (lambda mesh: mesh.squeeze(node="n9"), "unknown node"),
        (lambda mesh: mesh.roll_out("a", "v2"), "unknown workload of a"),
        (lambda mesh: mesh.roll_out("a", max_surge="a lot"), "max_surge is no limit"),
        (lambda mesh: mesh.roll_out("a", speed=0.0), "speed of a version"),
        (lambda mesh: mesh.roll_out("b"), "b has several workloads"),
    ],
)
def test_what_is_not_meant_is_refused(verb, message):
    services = {"a": worker(), "b": {"workloads": {"v1": worker(), "v2": worker()}}}
    run = Run(services, recorded("0s"))
    with pytest.raises(ConfigError, match=message):
        verb(run.control)


def test_a_node_whose_cores_are_not_stated_has_none_to_share():
    run = Run({"a": worker()}, recorded("0s"), nodes={"n0": {}})
    with pytest.raises(ConfigError, match="n0 has no cores that are shared"):
        run.control.squeeze(node="n0")
    assert served(run) is not None
