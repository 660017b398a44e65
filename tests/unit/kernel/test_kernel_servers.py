"""Stations: queues, disciplines, patience, programs.  All times are constants, so exact [ms]."""

import pytest
from kernel_runs import Run, recorded, worker

ONE_MS = {"compute": "1ms"}


def test_first_come_first_served():
    run = Run({"a": worker(ONE_MS)}, recorded("0s", "0s", "500us", "10ms")).to(100)
    assert run.ends() == [1, 2, 3, 11]
    assert [span.queue for span in run.spans()] == [0, 1, 1.5, 0]
    assert [span.service for span in run.spans()] == [1, 1, 1, 1]
    assert run.idle()


def test_workers_serve_side_by_side():
    run = Run({"a": worker(ONE_MS, concurrency=2)}, recorded("0s", "0s", "0s")).to(100)
    assert run.ends() == [1, 1, 2]


def test_a_full_queue_answers_503_at_once():
    run = Run({"a": worker(ONE_MS, queue_limit=1)}, recorded("0s", "0s", "200us")).to(100)
    assert run.outcomes() == [(0, 1, 200, "-"), (0, 2, 200, "-"), (0.2, 0.2, 503, "-")]
    assert run.endpoint("a-v1-0")["rejected"] == 1


def test_patience_ends_in_503():
    run = Run({"a": worker({"compute": "5ms"}, patience="2ms")}, recorded("0s", "1ms", "4ms"))
    run.to(100)
    # the third waits from 4 to 5 ms, less than its patience
    assert run.outcomes() == [(0, 5, 200, "-"), (1, 3, 503, "-"), (4, 10, 200, "-")]
    assert run.endpoint("a-v1-0")["reneged"] == 1
    assert run.idle()


def priorities(discipline, *classes, step=ONE_MS, **fields):
    """Run one worker; each class is (priority, arrival time), named by its position."""
    traffic = {
        f"c{i}": {"to": "a", "priority": priority, "arrivals": recorded(time)}
        for i, (priority, time) in enumerate(classes)
    }
    run = Run({"a": worker(step, discipline=discipline, **fields)}, traffic=traffic).to(100)
    assert run.idle()
    return run, [run.ends(f"c{i}>a")[0] for i in range(len(classes))]


def test_lower_classes_go_first():
    _, ends = priorities("PRIORITY", (3, "0s"), (2, "100us"), (1, "200us"), (2, "300us"))
    assert ends == [1, 3, 2, 4]


def test_fcfs_does_not_look_at_classes():
    _, ends = priorities("FCFS", (3, "0s"), (2, "100us"), (0, "200us"))
    assert ends == [1, 2, 3]


def test_a_preempted_task_resumes_where_it_was():
    run, ends = priorities("PREEMPTIVE_PRIORITY", (1, "0s"), (0, "400us"))
    assert ends == [2, 1.4]
    preempted = run.spans("c0>a")[0]
    assert (preempted.service, preempted.queue) == (1, 1)
    assert run.endpoint("a-v1-0")["cpu_ns"] == 2_000_000
    assert run.endpoint("a-v1-0")["busy_ns"] == 2_000_000


def test_preemption_takes_the_lowest_class_and_puts_it_in_front_of_its_class():
    _, ends = priorities("PREEMPTIVE_PRIORITY", (2, "0s"), (2, "100us"), (1, "200us"), (0, "300us"))
    # 0 runs 0.2, 2 runs 0.1, 3 runs 1.0 to 1.3, 2 to 2.2, then 0 (in front of 1) to 3.0
    assert ends == [3.0, 4.0, 2.2, 1.3]


def test_an_equal_class_does_not_preempt():
    _, ends = priorities("PREEMPTIVE_PRIORITY", (1, "0s"), (1, "400us"))
    assert ends == [1, 2]


def test_a_branch_on_its_parents_worker_is_not_preempted():
    branches = {"parallel": [[ONE_MS], [ONE_MS]]}
    _, ends = priorities("PREEMPTIVE_PRIORITY", (1, "0s"), (0, "400us"), step=branches)
    assert ends == [1, 2]


def test_a_worker_is_held_during_a_call():
    services = {"a": worker(ONE_MS, {"call": "b"}, ONE_MS), "b": worker({"compute": "10ms"})}
    run = Run(services, recorded("0s", "0s")).to(100)
    assert run.ends("load>a") == [12, 24]
    assert run.endpoint("a-v1-0")["busy_ns"] == 24_000_000
    assert run.endpoint("a-v1-0")["cpu_ns"] == 4_000_000


def test_a_worker_given_back_is_queued_for_again():
    services = {
        "a": worker(ONE_MS, {"call": "b"}, ONE_MS, hold_worker=False),
        "b": worker({"compute": "2ms"}, concurrency=9),
    }
    run = Run(services, recorded("0s", "0s", "0s")).to(100)
    # 1st: 0-1, b 1-3, then a's worker is free at 3; 2nd: 1-2, b 2-4, 4-5; 3rd: 2-3, b 3-5, 5-6
    assert run.ends("load>a") == [4, 5, 6]
    assert run.endpoint("a-v1-0")["cpu_ns"] == 6_000_000
    assert run.endpoint("a-v1-0")["busy_ns"] == 6_000_000


def test_a_later_step_queues_behind_new_requests():
    services = {
        "a": worker(ONE_MS, {"call": "b"}, ONE_MS, hold_worker=False),
        "b": worker({"compute": "500us"}),
    }
    run = Run(services, recorded("0s", "500us")).to(100)
    # 1st computes 0-1, calls until 1.5; the 2nd holds the worker 1-2; 1st again 2-3;
    # 2nd calls until 2.5 and waits until 3
    assert run.ends("load>a") == [3, 4]
    assert [span.queue for span in run.spans("load>a")] == [0.5, 1.0]


def test_sleep_uses_no_cpu_but_a_worker():
    run = Run({"a": worker({"sleep": "3ms"}, ONE_MS)}, recorded("0s", "0s")).to(100)
    assert run.ends() == [4, 8]
    assert run.endpoint("a-v1-0")["cpu_ns"] == 2_000_000


def test_branches_join_at_the_last():
    step = {"parallel": [[ONE_MS, ONE_MS], [{"sleep": "5ms"}], []]}
    run = Run({"a": worker(step, ONE_MS)}, recorded("0s")).to(100)
    assert run.ends() == [6]
    assert run.idle()


def test_branches_that_gave_the_worker_back_compete_for_it():
    step = {"parallel": [[ONE_MS], [ONE_MS]]}
    run = Run({"a": worker(step, hold_worker=False)}, recorded("0s")).to(100)
    assert run.ends() == [2]


def test_nested_branches():
    inner = {"parallel": [[ONE_MS], [{"sleep": "2ms"}]]}
    run = Run({"a": worker({"parallel": [[inner, ONE_MS], [ONE_MS]]})}, recorded("0s")).to(100)
    assert run.ends() == [3]
    assert run.idle()


def test_an_empty_program_answers_at_once():
    run = Run({"a": worker()}, recorded("3ms")).to(100)
    assert run.outcomes() == [(3, 3, 200, "-")]


@pytest.mark.parametrize(("optional", "expected"), [(True, (3, 200)), (False, (1, 500))])
def test_a_failed_call_ends_the_operation_unless_it_is_optional(optional, expected):
    services = {
        "a": worker({"call": "b", "optional": optional}, {"compute": "2ms"}),
        "b": worker({"compute": "1ms"}, {"call": "c"}),
        "c": worker(error_rate=1.0),
    }
    run = Run(services, recorded("0s")).to(100)
    assert (run.ends("load>a")[0], run.spans("load>a")[0].status) == expected


@pytest.mark.parametrize(("optional", "expected"), [(True, (7, 200)), (False, (5, 500))])
def test_a_failed_branch_fails_the_join_after_the_last(optional, expected):
    step = {"parallel": [[{"call": "b"}, {"compute": "9ms"}], [{"sleep": "5ms"}]]}
    services = {
        "a": worker({**step, "optional": optional}, {"compute": "2ms"}),
        "b": worker(ONE_MS, error_rate=1.0),
    }
    run = Run(services, recorded("0s")).to(100)
    assert (run.ends("load>a")[0], run.spans("load>a")[0].status) == expected


def test_a_request_that_fails_by_error_rate_does_no_work():
    run = Run({"a": worker(ONE_MS, error_rate=1.0)}, recorded("0s", "1ms")).to(100)
    assert run.outcomes() == [(0, 0, 500, "-"), (1, 1, 500, "-")]
    assert run.endpoint("a-v1-0")["cpu_ns"] == 0


def test_the_share_of_errors_is_the_error_rate():
    run = Run({"a": worker(error_rate=0.3)}, {"renewal": {"interval": "1ms"}}).to(4000)
    failed = sum(span.status == 500 for span in run.spans())
    # binomial(4000, 0.3): standard deviation 29; four of them
    assert abs(failed - 1200) < 116


def test_a_step_happens_with_its_probability():
    step = {"compute": "1us", "probability": 0.25}
    run = Run({"a": worker(step)}, {"renewal": {"interval": "1ms"}}).to(4000)
    worked = sum(span.service > 0 for span in run.spans())
    assert abs(worked - 1000) < 110  # four standard deviations of 27.4


def test_operations_have_programs_of_their_own():
    body = worker(ONE_MS, operations={"slow": [{"compute": "7ms"}]})
    traffic = {
        "fast": {"to": "a", "arrivals": recorded("0s")},
        "slow": {"to": "a", "operation": "slow", "arrivals": recorded("50ms")},
    }
    run = Run({"a": body}, traffic=traffic).to(100)
    assert run.ends() == [1, 57]


def test_calls_as_deep_as_they_may_be_have_room_at_one_instant():
    depth = 60
    services = {f"s{i}": worker({"call": f"s{i + 1}"}, concurrency=200) for i in range(depth)}
    services[f"s{depth}"] = worker({"compute": "10ms"}, concurrency=200)
    run = Run(services, recorded(*["0s"] * 200)).to(100)
    assert run.ends("load>s0") == [10] * 200
    assert run.idle()
