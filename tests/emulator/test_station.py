"""The station against the simulator's servers: the same requests, in virtual time, to the ns."""

import heapq

import numpy as np
import pytest
from kernel_runs import NS_PER_MS, Run, recorded, worker

from emulator.workload.gray import GrayFailure
from emulator.workload.station import Station
from emulator.workload.tasks import ActionKind, Task
from meshsim.rng import PURPOSE_ARRIVAL, make_streams, mix, mix_in
from meshsim.state.codes import NEVER_NS
from meshsim.workload.arrivals import next_arrival_ns

SEED = 1
END_MS = 400


class Request:
    """One exchange: a root (no parent) or a call of a task."""

    def __init__(self, trace, edge, start_ns, parent=None):
        self.trace, self.edge, self.start_ns, self.parent = trace, edge, start_ns, parent


class VirtualMesh:
    """Stations joined without proxies, sockets or wire."""

    def __init__(self, run):
        self.compiled = run.compiled
        self.arrays = run.compiled.arrays
        self.now_ns = 0
        self.stations = [
            Station(run.compiled, index) for index in range(len(self.arrays["endpoints"]))
        ]
        self.ended = []
        self.calls = {}
        self.arrivals = self.arrays["arrivals"].copy()
        base = np.uint64(mix_in(np.uint64(mix(np.uint64(SEED))), 0))
        self.streams = make_streams(int(base >> np.uint64(2)), PURPOSE_ARRIVAL, len(self.arrivals))
        self.class_keys = [np.uint64(mix_in(base, index)) for index in range(len(self.arrivals))]
        self.numbers = [0] * len(self.arrivals)
        self.due = []
        for traffic in range(len(self.arrivals)):
            self.plan_arrival(traffic, 0)

    def plan_arrival(self, traffic, now_ns):
        shared = (self.arrays["distributions"], self.arrays["values"])
        rng = self.streams[traffic]
        time_ns = int(next_arrival_ns(self.arrivals, traffic, *shared, now_ns, rng))
        if time_ns != NEVER_NS:
            heapq.heappush(self.due, (time_ns, traffic))

    def run(self, end_ns):
        while True:
            steps = [(station.next_ns(), station) for station in self.stations]
            step_ns, station = min(steps, key=lambda pair: pair[0])
            arrival_ns = self.due[0][0] if self.due else NEVER_NS
            self.now_ns = min(step_ns, arrival_ns)
            if self.now_ns > end_ns:
                return self
            if arrival_ns <= step_ns:
                self.arrive(heapq.heappop(self.due)[1])
            else:
                self.do(station.advance(self.now_ns))

    def arrive(self, traffic):
        self.plan_arrival(traffic, self.now_ns)
        number = self.numbers[traffic]
        self.numbers[traffic] += 1
        call = self.arrays["calls"][self.arrays["traffic"]["call"][traffic]]
        request = Request(number * len(self.numbers) + traffic, call["edge"], self.now_ns)
        self.serve(request, call, int(mix_in(self.class_keys[traffic], number)), traffic)

    def serve(self, request, call, key, traffic):
        service = self.compiled.catalog.edges[call["edge"]][1]
        (endpoint,) = (
            index
            for index, names in enumerate(self.compiled.catalog.endpoints)
            if names[0] == service
        )
        request.station = self.stations[endpoint]
        request.traffic = traffic
        task_key = int(mix_in(np.uint64(key), 0))
        priority = int(self.arrays["traffic"]["priority"][traffic])
        task = Task(task_key, priority, int(call["operation"]), request)
        self.do(request.station.submit(task, self.now_ns))

    def do(self, actions):
        for action in actions:
            request = action.task.owner
            if action.kind is ActionKind.CALL:
                call = self.arrays["calls"][action.site]
                child = Request(request.trace, call["edge"], self.now_ns, action.task)
                self.serve(child, call, action.key, request.traffic)
            elif action.kind is ActionKind.ANSWER:
                task = action.task
                edge = ">".join(self.compiled.catalog.edges[request.edge])
                self.ended.append(
                    (
                        *(request.trace, edge, request.start_ns, self.now_ns, task.status),
                        *(task.queue_ns, task.service_ns),
                    )
                )
                if request.parent is not None:
                    caller = request.parent.owner.station
                    self.do(caller.returned(request.parent, task.status, self.now_ns))


def simulated(run):
    rows = run.state.spans[: int(run.state.counters["spans"][0])]
    catalog = run.compiled.catalog
    return [
        (
            *(int(row["trace"]), ">".join(catalog.edges[row["edge"]])),
            *(int(row["start_ns"]), int(row["end_ns"]), int(row["status"])),
            *(int(row["queue_ns"]), int(row["service_ns"])),
        )
        for row in rows
    ]


COMPUTE = {"compute": {"exponential": "3ms"}}
LOGNORMAL = {"compute": {"lognormal": {"mean": "2ms", "p99": "9ms"}}}
POISSON = {"poisson": 200}

SCENARIOS = {
    "queue": {"a": worker(COMPUTE)},
    "several workers, gamma": {
        "a": worker({"compute": {"gamma": {"mean": "9ms", "shape": 2}}}, concurrency=2)
    },
    "queue limit": {"a": worker(COMPUTE, queue_limit=1)},
    "fallback": {
        "a": worker({"call": "b", "fallback": [{"sleep": "2ms"}, {"call": "b", "fallback": []}]}),
        "b": worker({"compute": "1ms"}, error_rate=0.6),
    },
    "bulkhead": {
        "a": worker(
            {"parallel": [[{"call": "b"}], [LOGNORMAL, {"call": "b", "fallback": [COMPUTE]}]]},
            {"call": "b", "optional": True},
            concurrency=9,
            bulkheads={"b": {"max_concurrent_calls": 2, "max_wait_duration": "3ms"}},
        ),
        "b": worker(COMPUTE, concurrency=9, error_rate=0.1),
    },
    "patience": {"a": worker({"compute": "6ms"}, patience={"exponential": "8ms"})},
    "failures": {"a": worker(COMPUTE, error_rate=0.3)},
    "probability": {"a": worker(COMPUTE, {**LOGNORMAL, "probability": 0.4}, {"sleep": "1ms"})},
    "chain": {"a": worker(COMPUTE, {"call": "b"}, concurrency=8), "b": worker(LOGNORMAL)},
    "event loop": {
        "a": worker(COMPUTE, {"call": "b"}, LOGNORMAL, hold_worker=False, concurrency=1),
        "b": worker(COMPUTE, concurrency=4),
    },
    "failed calls": {
        "a": worker(
            {"call": "b", "optional": True}, LOGNORMAL, {"call": "b"}, COMPUTE, concurrency=9
        ),
        "b": worker({"compute": "1ms"}, error_rate=0.3, concurrency=4),
    },
    "parallel": {
        "a": worker(
            {"parallel": [[LOGNORMAL, {"call": "b"}], [{"call": "c"}], [COMPUTE]]},
            {"compute": "100us"},
            concurrency=9,
        ),
        "b": worker(COMPUTE, concurrency=2, error_rate=0.1),
        "c": worker(COMPUTE, concurrency=2),
    },
    "parallel on an event loop": {
        "a": worker(
            {"parallel": [[LOGNORMAL, {"call": "b"}], [{"call": "b"}, COMPUTE]]},
            hold_worker=False,
            concurrency=2,
        ),
        "b": worker(COMPUTE, concurrency=3),
    },
    "cache": {
        "a": worker(
            {
                "cache": {
                    "keys": 9,
                    "cacheable": 0.8,
                    "zipf": 1.0,
                    "ttl": "80ms",
                    "filled": 0.3,
                    "miss": [{"call": "b"}, LOGNORMAL],
                },
                "optional": True,
            },
            {"cache": {"keys": 4, "miss": [COMPUTE]}, "probability": 0.5},
            {"compute": "100us"},
            concurrency=9,
        ),
        "b": worker(COMPUTE, concurrency=2, error_rate=0.3),
    },
    "gray": {"a": worker({"parallel": [[LOGNORMAL], [{"sleep": "1ms"}]]}, COMPUTE, concurrency=4)},
    "slow": {"a": worker(LOGNORMAL, {"sleep": "1ms"}, speed=0.5, concurrency=2)},
    "processor sharing": {"a": worker(COMPUTE, discipline="PROCESSOR_SHARING", concurrency=8)},
    "cpu limit and penalty": {
        "a": worker(LOGNORMAL, {"sleep": "2ms"}, cpu=1.5, concurrency_penalty=0.05, concurrency=6)
    },
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_requests_are_served_as_in_the_simulation(name):
    run = Run(SCENARIOS[name], POISSON, seed=SEED)
    mesh = VirtualMesh(run)
    if name.endswith("gray"):
        run.control.gray("a", 0.6, factor=0.4, error_rate=0.3)
        mesh.stations[0].gray = GrayFailure(0.6, 0.3, 0.4)
    run.to(END_MS)
    mesh.run(END_MS * NS_PER_MS)
    expected = simulated(run)
    assert len(expected) > 60
    assert sorted(mesh.ended) == sorted(expected)
    for endpoint, station in enumerate(mesh.stations):
        row = run.state.endpoints[endpoint]
        counters = station.record(END_MS * NS_PER_MS)
        names = ("requests", "rejected", "reneged", "completed")
        assert list(counters[:4]) == [row[name] for name in names]
        assert station.fallbacks == row["fallbacks"]
        counted = station.bulkheads._rows
        start = int(row["bulkhead_start"])
        for name in ("active", "waiting", "permitted", "rejected", "waited"):
            theirs = run.state.bulkheads[name][start : start + len(counted)]
            assert counted[name].tolist() == theirs.tolist()
        # Virtual time of shared cores is a float: a task may be cut by a nanosecond.
        assert counters[5] == pytest.approx(int(row["cpu_ns"]), abs=len(expected))


@pytest.mark.parametrize("discipline", ["PRIORITY", "PREEMPTIVE_PRIORITY"])
def test_priorities_are_those_of_the_simulation(discipline):
    traffic = {
        "low": {"to": "a", "arrivals": {"poisson": 120}, "priority": 2},
        "high": {"to": "a", "arrivals": {"poisson": 100}},
    }
    run = Run({"a": worker(COMPUTE, discipline=discipline)}, traffic=traffic, seed=SEED)
    run.to(END_MS)
    mesh = VirtualMesh(run).run(END_MS * NS_PER_MS)
    assert sorted(mesh.ended) == sorted(simulated(run))


def station_of(*steps, **fields):
    run = Run({"a": worker(*steps, **fields)}, recorded("1ms"))
    return Station(run.compiled, 0)


def submitted(station, *keys, at_ms=0):
    tasks = [Task(key, 0, 0, None) for key in keys]
    for task in tasks:
        station.submit(task, at_ms * NS_PER_MS)
    return tasks


def ends(station, until_ms):
    """Return (key, time of the answer [ms]) when every timer is told in time."""
    found = []
    while station.next_ns() <= until_ms * NS_PER_MS:
        now_ns = station.next_ns()
        found += [(int(action.task.key), now_ns / NS_PER_MS) for action in station.advance(now_ns)]
    return found


def test_a_service_starts_at_the_planned_end_of_the_last_however_late_the_timer():
    station = station_of({"compute": "3ms"})
    submitted(station, 1, 2, 3)
    assert [int(action.task.key) for action in station.advance(7_900_000)] == [1, 2]
    assert station.next_ns() == 9 * NS_PER_MS


def test_who_comes_between_the_planned_end_and_the_timer_starts_at_once():
    station = station_of({"compute": "3ms"})
    submitted(station, 1)
    submitted(station, 2, at_ms=3.5)
    assert ends(station, 10) == [(2, 6.5)]


def test_a_full_queue_is_judged_after_what_has_ended_by_then():
    station = station_of({"compute": "3ms"}, queue_limit=0)
    submitted(station, 1)
    (task,) = submitted(station, 2, at_ms=3)
    assert task.status == 200
    assert station.rejected == 0


def test_a_paused_server_computes_nothing_and_goes_on_where_it_was():
    station = station_of({"compute": "3ms"})
    submitted(station, 1)
    station.set_speed(0.0, NS_PER_MS)
    assert station.advance(50 * NS_PER_MS) == []
    station.set_speed(0.5, 60 * NS_PER_MS)
    assert ends(station, 100) == [(1, 64.0)]


def test_a_pause_does_not_stop_a_sleep():
    station = station_of({"sleep": "3ms"})
    submitted(station, 1)
    station.set_speed(0.0, NS_PER_MS)
    assert ends(station, 10) == [(1, 3.0)]


@pytest.mark.parametrize(
    ("on_timeout", "left"),
    [("continue", [4, 5]), ("cancel_queued", [4]), ("cancel_work", [])],
)
def test_on_timeout_says_what_ends_with_the_caller(on_timeout, left):
    # One is served and one waits; both callers give up at 1 ms; the work is seen by its end.
    station = station_of({"compute": "2ms"}, {"compute": "2ms"}, on_timeout=on_timeout)
    tasks = submitted(station, 4, 5)
    for task in tasks:
        assert station.cancel(task, NS_PER_MS) == []
    assert ends(station, 20) == []  # nobody is answered
    assert station.completed == len(left)
    assert station.record(20 * NS_PER_MS)[-1] == 0
    assert station.cpu_ns == {0: 1, 1: 4, 2: 8}[len(left)] * NS_PER_MS


def test_cancelled_work_gives_up_its_calls_and_frees_its_worker():
    services = {
        "a": worker(
            {"parallel": [[{"call": "b"}], [{"compute": "5ms"}]]}, on_timeout="cancel_work"
        ),
        "b": worker({"compute": "1ms"}),
    }
    station = Station(Run(services, recorded("1ms")).compiled, 0)
    tasks = [Task(1, 0, 0, None), Task(2, 0, 0, None)]
    actions = station.submit(tasks[0], 0)
    assert [action.kind for action in actions] == [ActionKind.CALL]
    station.submit(tasks[1], 0)
    actions = station.cancel(tasks[0], NS_PER_MS)
    assert [action.kind for action in actions] == [ActionKind.CANCEL_CALL, ActionKind.CALL]
    assert actions[1].task.parent is tasks[1]
    assert station.busy == 1
    assert station.queued == 0


def test_a_reset_forgets_every_request_and_keeps_the_counters():
    station = station_of({"compute": "3ms"})
    submitted(station, 1, 2, 3)
    station.reset(4 * NS_PER_MS)
    assert station.next_ns() == NEVER_NS
    assert station.record(9 * NS_PER_MS) == (3, 0, 0, 1, 4_000_000, 3_000_000, 7_000_000, 0)
