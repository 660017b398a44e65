"""What the longer studies stand on, in the tier of every test run."""

from theory_scenarios import ms, station
from truth_runs import clocked_runs, ended_runs

_EVERY_100_MS = {"renewal": {"interval": ms(100)}}


def paused(at_s, duration_s):
    fault = {"kind": "pause", "at": f"{at_s}s", "duration": f"{duration_s}s", "service": "station"}
    scenario = station(_EVERY_100_MS, ms(10))
    return type(scenario).model_validate({**scenario.model_dump(), "faults": [fault]})


def test_every_second_of_the_clock_is_looked_at_under_a_fault():
    runs = clocked_runs(paused(2, 2), 6, seed=1, replications=2)
    # The request of second 2 itself waits, as all do until 4; then they are served at once.
    assert runs.good.tolist() == [[9, 10, 0, 0, 30, 10]] * 2
    assert runs.attempts.sum(axis=1).tolist() == [60, 60]


def test_the_end_of_a_replication_is_read():
    runs = ended_runs(paused(2, 10), 4, 1, 2, lambda kernel: kernel.state.endpoints["queued"][0])
    assert runs.values.tolist() == [20, 20]
