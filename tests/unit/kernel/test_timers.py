"""Timers of one duration: a FIFO that costs the event queue one entry."""

import pytest
from kernel_runs import Run, worker

from meshsim.jit import kernel_jit
from meshsim.kernel.events import ROUTE_TIMER, pop_event
from meshsim.kernel.timers import start_timer, stop_timer, take_expired
from meshsim.state.codes import NO_INDEX


@kernel_jit
def pop(events, counters):
    pop_event(events, counters)


class Timers:
    """One list of 100 ns timers over the exchanges of a kernel that does nothing."""

    def __init__(self):
        routes = {"a": {"routes": [{"timeout": "100ns"}]}}
        self.state = Run({"a": worker()}, {"poisson": 0.0}, policies=routes).state
        self.timers = self.state.timers
        self.rows = self.state.exchanges
        self.rows["timer"] = NO_INDEX
        self.events = self.state.events
        self.counters = self.state.counters

    def start(self, row, now_ns):
        self.counters["now_ns"] = now_ns
        start_timer(self.state, 0, self.rows, row, ROUTE_TIMER)

    def stop(self, row):
        stop_timer(self.timers, self.rows, row)

    def scheduled(self):
        return sorted(self.events["time_ns"][: self.counters["event_count"][0]].tolist())

    def fire(self):
        """Take the next event; return its time and the row that has expired."""
        self.counters["now_ns"] = self.events["time_ns"][0]
        pop(self.events, self.counters)
        row = take_expired(self.state, 0, self.rows, ROUTE_TIMER)
        return int(self.counters["now_ns"][0]), int(row)

    def listed(self):
        rows, row = [], int(self.timers["head"][0])
        while row != NO_INDEX:
            rows.append(row)
            row = int(self.rows["timer_next"][row])
        return rows


@pytest.fixture
def timers():
    return Timers()


def test_rows_expire_in_the_order_in_which_they_began(timers):
    for row, now_ns in ((4, 0), (2, 10), (7, 10)):
        timers.start(row, now_ns)
    assert timers.scheduled() == [100]  # one event for three timers
    assert [timers.fire(), timers.fire(), timers.fire()] == [(100, 4), (110, 2), (110, 7)]
    assert timers.scheduled() == []


@pytest.mark.parametrize(
    ("stopped", "left"), [(4, [2, 7]), (2, [4, 7]), (7, [4, 2])], ids=["head", "middle", "tail"]
)
def test_a_stopped_row_leaves_the_list(timers, stopped, left):
    for row in (4, 2, 7):
        timers.start(row, 0)
    timers.stop(stopped)
    assert timers.listed() == left
    assert timers.timers["tail"][0] == left[-1]
    assert timers.rows["timer"][stopped] == NO_INDEX


def test_the_event_of_a_stopped_head_is_scheduled_anew(timers):
    timers.start(1, 0)
    timers.start(2, 30)
    timers.stop(1)
    assert timers.fire() == (100, NO_INDEX)
    assert timers.scheduled() == [130]
    assert timers.fire() == (130, 2)


def test_an_empty_list_keeps_no_event(timers):
    timers.start(1, 0)
    timers.stop(1)
    timers.stop(1)  # again: it is in no list
    assert timers.fire() == (100, NO_INDEX)
    assert timers.scheduled() == []
    timers.start(3, 500)
    assert timers.scheduled() == [600]


def test_timers_that_never_fire_leave_no_events(timers):
    for number in range(1000):
        timers.start(number % 10, number)
        timers.stop(number % 10)
        assert len(timers.scheduled()) == 1
