"""Load on sockets: when it is sent, what it says, and what is counted."""

import asyncio

import numpy as np
import pytest
from kernel_runs import NS_PER_MS, Run, recorded, worker
from proxy_fakes import until

from emulator.clock import Clock, ManualClock
from emulator.proxy.downstream import Downstream
from emulator.results.recording import COUNTERS, Recorder, run_record
from emulator.workload.loadgen import LoadGenerator
from emulator.workload.server import WorkloadServer
from meshsim.errors import ConfigError
from meshsim.results import Result
from meshsim.rng import key_uniform, mix, mix_in
from meshsim.state.codes import FLAG_UC, FLAG_UF, FLAG_UO
from meshsim.state.record import WINDOW_COUNT

SEED = 1
DURATION_MS = 240
#: A machine that is busy with other things answers late: what was sent is waited for.
DRAIN_NS = 5_000 * NS_PER_MS
QUICK = {"a": worker({"compute": {"exponential": "2ms"}}, concurrency=64)}


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    """Compile what a load draws with, which on a new machine takes longer than these loads."""
    run = Run(QUICK, {"poisson": 1})
    recorder = Recorder(run.compiled.catalog, NS_PER_MS)
    options = {"seed": SEED, "duration_ns": NS_PER_MS}
    LoadGenerator(run.compiled, "load", ("", 0), Clock(), recorder, **options)


class Sink:
    """A gateway that notes what it is asked and answers at once, or as `answer` does."""

    def __init__(self, answer=None):
        self.heads = []
        self.answer = answer or (lambda connection: connection.respond(200, ()))
        self.downstream = Downstream(self.begin)

    def begin(self, head, connection):
        self.heads.append(
            {name.decode(): value.decode() for name, value in head.headers} | {"host": head.host}
        )
        return Asked(lambda: self.answer(connection))

    @property
    def arrivals_ns(self):
        return sorted(int(head["x-meshsim-arrival"]) for head in self.heads)


class Asked:
    def __init__(self, answer):
        self.on_request_end = answer

    def on_request_body(self, piece):
        pass

    def on_downstream_lost(self):
        pass

    def on_downstream_writable(self, writable):
        pass


class Outcome:
    """What a load left behind."""

    def __init__(self, recorder, load, ended_ns):
        self.ended_ns = ended_ns
        self.arrays = recorder.arrays()
        self.counters = dict(zip(COUNTERS, self.arrays["counters"].tolist(), strict=True))
        self.load = load.counters()
        self.record = run_record(self.arrays, recorder.catalog, recorder.duration_ns, seed=SEED)


def loaded(run, sink, *, meanwhile=None, traffic="load", duration_ms=DURATION_MS, **options):
    """Send the load of `run` to `sink` (None: nobody listens) and return the outcome."""

    async def main():
        loop = asyncio.get_running_loop()
        downstream = sink.downstream if sink else Downstream(lambda head, connection: None)
        listener = await loop.create_server(downstream.protocol, "127.0.0.1", 0)
        address = listener.sockets[0].getsockname()
        if sink is None:
            listener.close()
        recorder, clock = Recorder(run.compiled.catalog, duration_ms * NS_PER_MS), Clock()
        defaults = {
            "seed": SEED, "duration_ns": duration_ms * NS_PER_MS, "drain_min_ns": DRAIN_NS,
        }  # fmt: skip
        load = LoadGenerator(
            run.compiled, traffic, address, clock, recorder, **{**defaults, **options}
        )
        async with asyncio.timeout(20):
            if meanwhile is not None:
                await asyncio.gather(load.run(), meanwhile(load))
            else:
                await load.run()
            ended_ns = clock.now_ns()
            listener.close()
            downstream.abort()
            await downstream.emptied()
        return Outcome(recorder, load, ended_ns)

    return asyncio.run(main())


def simulated_arrivals(run, until_ms=DURATION_MS):
    run.to(until_ms + 100)  # only what has ended leaves a span
    return [round(span.start * NS_PER_MS) for span in run.spans() if span.start <= until_ms]


ARRIVALS = {
    "poisson": {"poisson": 300},
    "batch": {"batch": {"rate": 300, "size": 4, "size_distribution": "geometric"}},
    "renewal": {"renewal": {"interval": {"gamma": {"mean": "4ms", "shape": 2}}}},
    "recorded": recorded("1ms", "2ms", "2ms", "100ms"),
}


@pytest.mark.parametrize("name", ARRIVALS)
def test_arrivals_are_those_of_the_simulation(name):
    run = Run(QUICK, ARRIVALS[name], seed=SEED)
    sink = Sink()
    outcome = loaded(run, sink)
    expected = simulated_arrivals(run)
    assert len(expected) >= 4
    measured = [time_ns for time_ns in sink.arrivals_ns if time_ns <= DURATION_MS * NS_PER_MS]
    assert measured == expected
    assert outcome.arrays["windows"]["arrivals"].sum() == len(expected)
    assert outcome.counters["completed"] == outcome.counters["sent"] == len(sink.heads)


def test_fresh_draws_are_others():
    run = Run(QUICK, ARRIVALS["poisson"], seed=SEED)
    sink = Sink()
    loaded(run, sink, draws="fresh", duration_ms=100)
    assert sink.arrivals_ns
    assert set(sink.arrivals_ns).isdisjoint(simulated_arrivals(run))


def test_a_request_meets_the_service_time_of_the_simulation():
    run = Run(QUICK, ARRIVALS["poisson"], seed=SEED)

    served = {}

    class Noting(WorkloadServer):
        def _answer(self, task):
            number = int(task.owner.values[b"x-meshsim-number"])
            served[number] = task.service_ns
            super()._answer(task)

    async def main():
        clock = Clock()
        server = Noting(run.compiled, 0, clock, ("127.0.0.1", 1))
        address = ("127.0.0.1", await server.start())
        recorder = Recorder(run.compiled.catalog, 100 * NS_PER_MS)
        load = LoadGenerator(
            *(run.compiled, "load", address, clock, recorder),
            **{"seed": SEED, "duration_ns": 100 * NS_PER_MS, "drain_min_ns": DRAIN_NS},
        )
        await load.run()
        await server.drain(1)

    asyncio.run(main())
    run.to(150)
    spans = [span for span in run.spans() if span.start <= 100]
    assert len(spans) > 15
    for span in spans:
        assert served[span.trace] == round(span.service * NS_PER_MS)


def test_latency_counts_from_the_intended_time():
    # One connection, answered after 20 ms each: what waits for it waits in the latency.
    run = Run(QUICK, recorded("10ms", "10ms", "10ms"))
    loop_later = []

    def answer(connection):
        loop = asyncio.get_running_loop()
        loop_later.append(loop.call_later(0.02, connection.respond, 200, ()))

    outcome = loaded(run, Sink(answer), connections_max=1)
    latency_ns = outcome.arrays["windows"]["latency_sum_ns"].sum()
    # The last one ends before the load does, and the others 20 and 40 ms before that one.
    last_ns = outcome.ended_ns - 10 * NS_PER_MS
    assert 120 * NS_PER_MS <= latency_ns <= 3 * last_ns - 60 * NS_PER_MS
    assert outcome.load["connections_overflow"] == 2
    assert outcome.counters["completed"] == 3


def test_users_of_a_closed_loop_wait_and_think():
    traffic = {"load": {"to": "a", "closed_loop": {"users": 3, "think_time": "10ms"}}}
    run = Run(QUICK, traffic=traffic, seed=SEED)
    waiting = []
    peak = []

    def answer(connection):
        waiting.append(connection)
        peak.append(len(waiting))
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, lambda: waiting.pop().respond(200, ()))

    async def meanwhile(load):
        await until(lambda: load.counters()["requests"] >= 18)
        load.stop()

    sink = Sink(answer)
    loaded(run, sink, meanwhile=meanwhile, duration_ms=10_000)
    assert sink.arrivals_ns[:3] == [10 * NS_PER_MS] * 3
    assert max(peak) == 3
    # Each user asks every 20 ms at most; a machine in use may make it slower, not faster.
    again_ns = [b - a for a, b in zip(sink.arrivals_ns, sink.arrivals_ns[3:], strict=False)]
    assert min(again_ns) >= 20 * NS_PER_MS


def test_a_closed_loop_has_no_rate():
    traffic = {"load": {"to": "a", "closed_loop": {"users": 3, "think_time": "10ms"}}}
    run = Run(QUICK, traffic=traffic)

    async def meanwhile(load):
        with pytest.raises(ConfigError, match="users, not a rate"):
            load.set_rate(2.0)

    loaded(run, Sink(), meanwhile=meanwhile, duration_ms=30)


def test_the_rate_can_be_changed_under_way():
    run = Run(QUICK, {"poisson": 500}, seed=SEED)
    changed_ns = []

    async def meanwhile(load):
        load.set_rate(0.0)
        changed_ns.append(load._clock.now_ns())
        await asyncio.sleep(0.1)
        changed_ns.append(load._clock.now_ns())
        sent = load.counters()["requests"]
        load.set_rate(4.0)
        await until(lambda: load.counters()["requests"] >= sent + 100)
        load.stop()

    sink = Sink()
    loaded(run, sink, meanwhile=meanwhile, duration_ms=10_000)
    stopped_ns, again_ns = changed_ns
    after = [time_ns for time_ns in sink.arrivals_ns if time_ns >= again_ns]
    assert not [time_ns for time_ns in sink.arrivals_ns if stopped_ns < time_ns < again_ns]
    # A hundred at 2,000 a second: 50 ms, with a standard deviation of 5 ms.
    assert 25 * NS_PER_MS < after[99] - again_ns < 75 * NS_PER_MS


def test_a_request_says_who_it_is():
    traffic = {
        "first": {"to": "a", "arrivals": recorded("1ms")},
        "load": {
            "to": "a",
            "path": "/p",
            "headers": {"X-Tenant": "red"},
            "request_bytes": 9,
            "response_bytes": 77,
            "arrivals": recorded("1ms", "3ms"),
        },
    }
    run = Run(QUICK, traffic=traffic)
    sink = Sink()
    loaded(run, sink, sample_share=1.0)
    head = sink.heads[1]
    assert head["host"] == "a"
    key = run.state.traffic["key"][1]
    expected = {
        "x-tenant": "red",
        "x-meshsim-traffic": "load",
        "x-meshsim-number": "1",
        "x-meshsim-arrival": "3000000",
        "x-meshsim-operation": "default",
        "x-meshsim-response-bytes": "77",
        "x-meshsim-parent": "0",
        "x-meshsim-key": f"{int(mix_in(key, 1)):016x}",
    }
    assert head | expected == head
    assert head["traceparent"].endswith(f"-{head['x-meshsim-key']}-01")
    assert len({head["x-request-id"] for head in sink.heads}) == 2


def test_users_of_a_hash_are_those_of_the_simulation():
    traffic = {
        "load": {
            "to": "a",
            "users": 5,
            "headers": {"X-User": "u"},
            "arrivals": {"poisson": 400},
        }
    }
    policies = {"a": {"load_balancing": {"policy": "RING_HASH", "hash_header": "x-user"}}}
    run = Run(QUICK, traffic=traffic, policies=policies, seed=SEED)
    sink = Sink()
    loaded(run, sink, duration_ms=100)
    class_key = mix(run.state.traffic["key"][0])
    assert len({head["x-user"] for head in sink.heads}) == 5
    for head in sink.heads:
        key = mix_in(np.uint64(class_key), int(head["x-meshsim-number"]))
        assert head["x-user"] == f"u-{int(key_uniform(np.uint64(key)) * 5)}"


def test_nobody_at_the_gateway_is_a_failure_of_each_request():
    outcome = loaded(Run(QUICK, ARRIVALS["recorded"]), None)
    assert outcome.counters["failed"] == outcome.counters["sent"] == 4
    assert outcome.record.traffic_flags[:, 0, FLAG_UF].sum() == 4


def test_flags_are_taken_from_the_gateways_answer():
    def answer(connection):
        connection.respond(503, ((b"x-meshsim-flag", b"UO"),))

    outcome = loaded(Run(QUICK, ARRIVALS["recorded"]), Sink(answer))
    assert outcome.record.traffic_flags[:, 0, FLAG_UO].sum() == 4
    assert outcome.record.windows["failures"].sum() == 4


def test_a_lost_connection_is_a_failure():
    outcome = loaded(Run(QUICK, ARRIVALS["recorded"]), Sink(lambda connection: connection.reset()))
    assert outcome.record.traffic_flags[:, 0, FLAG_UC].sum() == 4


def test_what_has_not_ended_after_the_drain_is_unfinished():
    outcome = loaded(
        Run(QUICK, ARRIVALS["recorded"]),
        Sink(lambda connection: None),
        duration_ms=120,
        drain_min_ns=0,
    )
    assert (outcome.counters["unfinished"], outcome.counters["cut"]) == (4, 0)
    assert outcome.counters["completed"] == outcome.counters["failed"] == 0
    assert outcome.load["outstanding"] == 0
    assert outcome.record.windows["in_flight_ns"].sum() == (3 * 120 - 5 + 20) * NS_PER_MS


def test_one_request_that_never_ends_leaves_no_other_without_an_outcome():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)
    held = []

    def answer(connection):
        if not held:
            held.append(connection)
        else:
            asyncio.get_running_loop().call_later(0.05, connection.respond, 200, ())

    outcome = loaded(run, Sink(answer), drain_min_ns=1_000 * NS_PER_MS)
    assert (outcome.counters["unfinished"], outcome.counters["cut"]) == (1, 0)
    assert outcome.counters["completed"] == outcome.counters["sent"] - 1 > 60


def test_what_goes_on_to_end_is_waited_for():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)
    free_s = [0.0]

    def answer(connection):  # one by one, three times slower than they come
        loop = asyncio.get_running_loop()
        free_s[0] = max(free_s[0], loop.time()) + 0.01
        loop.call_at(free_s[0], connection.respond, 200, ())

    outcome = loaded(run, Sink(answer), drain_min_ns=1_000 * NS_PER_MS)
    # 10 ms each: longer than the second that a load without any answer is waited for.
    assert outcome.counters["completed"] == outcome.counters["sent"] > 150


def test_a_load_that_is_stopped_does_not_wait_for_ever():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)

    async def meanwhile(load):
        await until(lambda: load.counters()["requests"] >= 5)
        load.stop()

    options = {"duration_ms": 600_000, "drain_min_ns": 0}
    outcome = loaded(run, Sink(lambda connection: None), meanwhile=meanwhile, **options)
    assert outcome.counters["unfinished"] == outcome.counters["sent"] > 0


def test_a_load_that_is_stopped_waits_for_what_it_sent():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)
    held = []

    async def meanwhile(load):
        await asyncio.sleep(0.05)
        load.stop()
        await until(lambda: len(held) == load.counters()["requests"])
        for connection in held:
            connection.respond(200, ())

    outcome = loaded(run, Sink(held.append), meanwhile=meanwhile, duration_ms=5_000)
    assert outcome.counters["sent"] == outcome.counters["completed"] == len(held) > 0


def test_an_arrival_that_is_late_is_sent_before_the_load_ends():
    run = Run(QUICK, recorded("10ms", "110ms"))
    held = []

    async def main():
        clock = ManualClock()
        sink = Sink(held.append)
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(sink.downstream.protocol, "127.0.0.1", 0)
        recorder = Recorder(run.compiled.catalog, 120 * NS_PER_MS)
        options = {"seed": SEED, "duration_ns": 120 * NS_PER_MS, "drain_min_ns": 10**9}
        address = listener.sockets[0].getsockname()
        load = LoadGenerator(run.compiled, "load", address, clock, recorder, **options)
        running = asyncio.create_task(load.run())
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            clock.advance(10 * NS_PER_MS)
            await until(lambda: held)
            # The loop was busy for a while: then it reads the answer before it hears the alarm.
            clock._now_ns = 125 * NS_PER_MS
            held.pop().respond(200, ())
            await until(lambda: load.counters()["outstanding"] == 0)
            clock.advance(0)
            await until(lambda: held)
            held.pop().respond(200, ())
            await running
        listener.close()
        sink.downstream.abort()
        await sink.downstream.emptied()
        return recorder.arrays()["windows"]["arrivals"].sum()

    assert asyncio.run(main()) == 2


def test_a_load_is_sent_when_it_is_meant_to_be():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)
    late_s = []

    async def meanwhile(load):
        loop = asyncio.get_running_loop()
        while not load._stopped:
            due_s = loop.time() + 0.002
            await asyncio.sleep(0.002)
            late_s.append(loop.time() - due_s)

    outcome = loaded(run, Sink(), meanwhile=meanwhile, duration_ms=500)
    # As late as any timer of this loop, on a machine that has other things to do.
    allowed_ns = 2 * NS_PER_MS + 3e9 * float(np.median(late_s))
    assert 0 <= outcome.load["lag_p50_ns"] < allowed_ns
    assert outcome.load["connections_peak"] >= 1


def test_a_result_comes_of_it():
    run = Run(QUICK, {"poisson": 300}, seed=SEED)
    outcome = loaded(run, Sink(), sample_share=0.1)
    result = Result.from_records(run.compiled.catalog, [outcome.record])
    assert outcome.record.windows.shape[0] == WINDOW_COUNT
    assert result.traffic().loc["load", "samples"] > 20
    assert result.to_dict()["traffic"]
    assert result.report()
