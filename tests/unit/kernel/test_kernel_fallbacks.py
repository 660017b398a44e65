"""Fallbacks of calls in the kernel, with exact times."""

import pytest
from kernel_runs import Run, recorded, worker

from meshsim.kernel.statistics import stats
from meshsim.topology.calls import endless_calls
from meshsim.topology.model import Step


def compute(time):
    return {"compute": time}


BROKEN = worker(compute("1ms"), error_rate=1.0)


def caller(*steps, times=("0s",), b=BROKEN, **fields):
    """A class calls "a", which runs `steps`; "b" is broken, "c" takes 4 ms."""
    services = {"a": worker(*steps, concurrency=9), "b": b, "c": worker(compute("4ms"))}
    return Run(services, recorded(*times), **fields).to(1_000)


def taken(run):
    found = stats(run.state, run.kernel._proxy_names).get("a-v1-0", {})
    return found.get("application.fallbacks", 0)


def test_a_failed_call_takes_its_fallback_and_goes_on():
    step = {"call": "b", "fallback": [{"call": "c"}, compute("2ms")]}
    run = caller(step, compute("3ms"))
    # b fails at once; then 4 ms of c, 2 ms of the fallback and 3 ms of the rest.
    assert run.outcomes("load>a") == [(0, 9, 200, "-")]
    assert taken(run) == 1
    assert run.idle()


def test_a_call_that_succeeds_passes_its_fallback_by():
    step = {"call": "b", "fallback": [{"call": "c"}, compute("2ms")]}
    run = caller(step, compute("3ms"), b=worker(compute("1ms")))
    assert run.outcomes("load>a") == [(0, 4, 200, "-")]
    assert run.spans("a>c") == []
    assert taken(run) == 0


def test_a_call_that_is_not_made_needs_none():
    step = {"call": "b", "probability": 0.0, "fallback": [compute("2ms")]}
    assert caller(step, compute("3ms")).outcomes("load>a") == [(0, 3, 200, "-")]


def test_a_static_answer_takes_no_time():
    run = caller({"call": "b", "fallback": []}, compute("3ms"))
    assert run.outcomes("load>a") == [(0, 3, 200, "-")]
    assert taken(run) == 1


def test_a_fallback_that_fails_is_a_failure_unless_it_has_one_of_its_own():
    run = caller({"call": "b", "fallback": [{"call": "b"}]}, compute("3ms"))
    assert run.outcomes("load>a") == [(0, 0, 500, "-")]
    assert taken(run) == 1
    inner = {"call": "b", "fallback": [compute("2ms")]}
    run = caller({"call": "b", "fallback": [inner, compute("1ms")]}, compute("3ms"))
    assert run.outcomes("load>a") == [(0, 6, 200, "-")]
    assert taken(run) == 2


def test_retries_come_first():
    policies = {
        "b": {
            "routes": [{"retry": {"num_retries": 2, "retry_on": ["5xx"], "base_interval": "1ms"}}]
        }
    }
    run = caller({"call": "b", "fallback": []}, policies=policies)
    assert run.spans("a>b")[0].tries == 3
    assert taken(run) == 1


def test_a_branch_falls_back_for_itself():
    slow = {"parallel": [[{"call": "b", "fallback": [compute("2ms")]}], [compute("5ms")]]}
    run = caller(slow)
    assert run.outcomes("load>a") == [(0, 5, 200, "-")]
    assert taken(run) == 1
    wide = {"call": "b", "fallback": [{"parallel": [[compute("2ms")]] * 40}]}
    assert caller(wide).outcomes("load>a") == [(0, 2, 200, "-")]


@pytest.mark.parametrize(
    "step", [{"compute": "1ms", "fallback": []}, {"call": "b", "optional": True, "fallback": []}]
)
def test_only_calls_that_must_succeed_have_one(step):
    with pytest.raises(ValueError, match="a fallback is that of a call"):
        Step.model_validate(step)


def test_who_calls_back_in_failure_only_is_no_endless_chain():
    back = worker({"call": "a", "probability": 0.5, "optional": True})
    step = {"call": "b", "fallback": [{"call": "c"}]}
    services = {"a": worker(step, concurrency=99), "b": BROKEN, "c": back}
    run = Run(services, recorded("0s")).to(1_000)
    assert run.spans("load>a")[0].status == 200
    assert [path[-1] for path, _ in endless_calls(run.topology)] == []
