"""Health of hosts on live sockets: ejection, probation, health checks, and their replay."""

import asyncio
import contextlib

from engine_rows import cluster, configuration, endpoints
from proxy_fakes import Caller, RealClock, Upstream, ok, run, until

from emulator.decisions.engine import ProxyEngine, run_seed_of
from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from emulator.proxy import OutboundProxy
from meshsim.meshes.defaults import (
    ENVOY_HEALTH_CHECK,
    ENVOY_OUTLIER_DETECTION,
    LINKERD_FAILURE_ACCRUAL,
)
from meshsim.state.health import DEGRADED_BY_CHECK
from meshsim.topology.locality import LocalityLoadBalancing
from meshsim.topology.model import FailureAccrual, HealthCheck, OutlierDetection

MS = 1_000_000


def outliers(**fields):
    values = {name: default.value for name, default in ENVOY_OUTLIER_DETECTION.items()}
    values |= {"max_ejection_time": 300_000 * MS, "max_ejection_percent": 50, **fields}
    return OutlierDetection.model_construct(**values)


def accrual(**fields):
    values = {name: default.value for name, default in LINKERD_FAILURE_ACCRUAL.items()}
    return FailureAccrual.model_construct(**{**values, **fields})


def checks(interval_ms, **fields):
    values = {name: default.value for name, default in ENVOY_HEALTH_CHECK.items()}
    intervals = (
        "interval",
        "unhealthy_interval",
        "unhealthy_edge_interval",
        "healthy_edge_interval",
        "no_traffic_interval",
        "no_traffic_healthy_interval",
    )
    values |= dict.fromkeys(intervals, interval_ms * MS)
    return HealthCheck.model_construct(**{**values, **fields})


@contextlib.asynccontextmanager
async def proxied(answers, log=None, **policies):
    """A proxy before one upstream an answer; yields it, its engine, the upstreams, its port."""
    upstreams = [await Upstream(answer).start() for answer in answers]
    rows = endpoints(*(f"b-v1-{row}" for row in range(len(answers))))
    members = [row.__class__(row.name, row.workload, row.host, upstream.port)
               for row, upstream in zip(rows, upstreams, strict=True)]  # fmt: skip
    policy = cluster("ROUND_ROBIN").model_copy(update=policies)
    engine = ProxyEngine("a-v1-0", 0, run_seed_of(1), log)
    proxy = OutboundProxy(engine, RealClock())
    _, port = await proxy.start()
    engine.apply(configuration({"b": policy}, {"b": tuple(members)}), RealClock().now_ns())
    proxy.reconfigured()
    try:
        yield proxy, engine, upstreams, port
    finally:
        await proxy.drain(2)
        engine.close()
        for upstream in upstreams:
            await upstream.stop()


def good(number, head, body):
    return ok()


def bad(number, head, body):
    return ok(status=500)


def test_a_failing_host_is_ejected_and_comes_back():
    async def scenario():
        policy = outliers(
            consecutive_5xx=3, interval=100 * MS, base_ejection_time=150 * MS
        )  # fmt: skip
        async with proxied([good, bad], outlier_detection=policy) as (proxy, engine, _, port):
            async with Caller(port) as caller:
                statuses = [(await caller.get("b"))[0] for _ in range(20)]
                assert statuses.count(500) == 3
                await asyncio.sleep(0.35)
                assert 500 in [(await caller.get("b"))[0] for _ in range(2)]
            counters = proxy.counters()
            name = "cluster.b.outlier_detection.ejections_enforced_consecutive_5xx"
            assert counters[name] == 1
            assert engine.counters()["b"]["outlier_detection.ejections_active"] == 0

    run(scenario)


def test_refused_connections_eject():
    async def scenario():
        async with proxied([good, good], outlier_detection=outliers(consecutive_5xx=2)) as (
            _,
            engine,
            upstreams,
            port,
        ):
            await upstreams[1].stop()
            async with Caller(port) as caller:
                statuses = [(await caller.get("b"))[0] for _ in range(20)]
            assert statuses.count(503) == 2
            assert engine.counters()["b"]["outlier_detection.ejections_active"] == 1

    run(scenario)


def test_failure_accrual_probes_with_one_request():
    async def scenario():
        policy = accrual(
            consecutive_max_failures=2,
            consecutive_min_penalty=100 * MS,
            consecutive_jitter_ratio=0.0,
        )
        async with proxied([good, bad], failure_accrual=policy) as (_, engine, _, port):
            async with Caller(port) as caller:
                assert [(await caller.get("b"))[0] for _ in range(10)].count(500) == 2
                await asyncio.sleep(0.12)
                assert [(await caller.get("b"))[0] for _ in range(10)].count(500) == 1
            assert engine.counters()["b"]["failure_accrual.unavailable_total"] == 2

    run(scenario)


def test_health_checks_take_a_host_out_and_back():
    async def scenario():
        sick = {"now": False}

        def changing(number, head, body):
            return ok(status=500 if sick["now"] and "/healthz" in head else 200)

        async with proxied([good, changing], health_check=checks(20)) as (
            proxy,
            engine,
            (_, upstream),
            port,
        ):
            async with Caller(port) as caller:
                for _ in range(4):
                    assert (await caller.get("b"))[0] == 200
                await until(lambda: any("user-agent: Envoy/HC" in head for head in upstream.heads))
                sick["now"] = True
                await until(lambda: not engine._hosts["healthy"][:2].all())
                served = len([head for head in upstream.heads if "Envoy/HC" not in head])
                for _ in range(6):
                    await caller.get("b")
                assert served == len([x for x in upstream.heads if "Envoy/HC" not in x])
                sick["now"] = False
                await until(lambda: engine._hosts["unhealthy"].sum() == 0)
                for _ in range(4):
                    await caller.get("b")
                assert served < len([x for x in upstream.heads if "Envoy/HC" not in x])
            counters = proxy.counters()
            assert counters["cluster.b.health_check.attempt"] >= 4
            assert counters["cluster.b.health_check.failure"] >= 1

    run(scenario)


def test_a_degraded_host_gets_what_the_healthy_cannot_take():
    """One of two is healthy: its availability is 140 * 1/2 = 70 %, the rest is the other's."""

    async def scenario():
        def degraded(number, head, body):
            marked = b"x-envoy-degraded: \r\n" if "Envoy/HC" in head else b""
            return ok(extra=marked)

        policies = {
            "health_check": checks(20),
            "locality": LocalityLoadBalancing(overprovisioning_factor=140, locality_weighted=False),
        }
        async with proxied([good, degraded], **policies) as (_, engine, upstreams, port):
            async with Caller(port) as caller:
                assert (await caller.get("b"))[0] == 200
                await until(
                    lambda: engine._hosts["degraded"][:2].tolist() == [0, DEGRADED_BY_CHECK]
                )
                before = [served(upstream) for upstream in upstreams]
                for _ in range(400):
                    await caller.get("b")
            got = [
                served(upstream) - then for upstream, then in zip(upstreams, before, strict=True)
            ]
            assert sum(got) == 400
            # 30 % of 400; the standard deviation is 9.
            assert abs(got[1] - 120) < 45

    def served(upstream):
        return len([head for head in upstream.heads if "Envoy/HC" not in head])

    run(scenario)


def test_a_silent_host_fails_its_checks_by_timeout():
    async def scenario():
        def silent(number, head, body):
            return None if "Envoy/HC" in head else ok()

        policy = checks(20, timeout=50 * MS, unhealthy_threshold=2)
        async with proxied([good, silent], health_check=policy) as (_, engine, _, _):
            await until(lambda: engine.counters()["b"]["health_check.network_failure"] >= 2)
            assert engine._hosts["healthy"][:2].tolist() == [1, 0]

    run(scenario)


def test_what_was_decided_replays(tmp_path):
    async def scenario():
        with StimulusLog(tmp_path / "log") as log:
            async with (
                proxied(
                    [good, bad, bad],
                    log,
                    outlier_detection=outliers(consecutive_5xx=2, enforcing_consecutive_5xx=50),
                    failure_accrual=accrual(consecutive_min_penalty=10 * MS),
                    health_check=checks(15, interval_jitter=5 * MS),
                ) as (_, engine, _, port),
                Caller(port) as caller,
            ):
                for _ in range(60):
                    await caller.get("b")
                    await asyncio.sleep(0.002)
                assert engine.counters()["b"]["health_check.attempt"] > 3

    run(scenario)
    (life,) = replay(tmp_path / "log").lives
    assert life.divergence is None
    assert life.closed
