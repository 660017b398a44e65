"""Model time: dilation, timers that are never early on either loop, the manual clock."""

import asyncio

import pytest
import uvloop

from emulator.clock import Clock, ManualClock, thread_cpu_ns, unix_s

MS = 1_000_000


def test_model_time_starts_at_the_origin_and_runs_slower_by_the_dilation():
    before = Clock.real_ns()
    clock = Clock(4.0, origin_ns=before - 4_000 * MS)
    now_ns = clock.now_ns()
    after = Clock.real_ns()
    assert 1_000 * MS <= now_ns <= (after - before) // 4 + 1_000 * MS


def test_time_before_the_origin_is_negative_and_rounded_down():
    clock = Clock(2.0, origin_ns=Clock.real_ns() + 10_000 * MS)
    assert -5_000 * MS <= clock.now_ns() < 0
    clock.rebase(Clock.real_ns())
    assert clock.now_ns() >= 0


def test_processes_with_one_origin_share_model_time():
    first = Clock()
    second = Clock(origin_ns=first.origin_ns)
    times = [first.now_ns(), second.now_ns(), first.now_ns()]
    assert times == sorted(times)


@pytest.mark.parametrize(("dilation", "real_s"), [(1.0, 0.25), (3.0, 0.75), (0.5, 0.125)])
def test_lengths_in_real_time(dilation, real_s):
    assert Clock(dilation).real_s(250 * MS) == real_s


@pytest.mark.parametrize("dilation", [0.0, -1.0, float("nan"), float("inf")])
def test_a_dilation_is_positive(dilation):
    with pytest.raises(ValueError, match="dilation"):
        Clock(dilation)


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("dilation", [1.0, 2.5])
def test_a_timer_is_never_early(new_loop, dilation):
    clock = Clock(dilation)
    lateness = []

    async def wait_often():
        loop = asyncio.get_running_loop()
        # Offsets within a millisecond, where loops round.
        for offset_ns in range(0, 2_000_000, 97_001):
            due_ns = clock.now_ns() + offset_ns
            fired = loop.create_future()
            clock.call_at(loop, due_ns, fired.set_result, None)
            await fired
            lateness.append(clock.now_ns() - due_ns)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(wait_often())
    assert min(lateness) >= 0


def test_a_timer_that_has_passed_fires_at_once_and_a_cancelled_one_never():
    clock = Clock()
    fired = []

    async def wait():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        clock.call_at(loop, clock.now_ns() + MS, fired.append, "cancelled").cancel()
        clock.call_at(loop, clock.now_ns() - MS, fired.append, "passed")
        clock.call_at(loop, clock.now_ns() + 2 * MS, done.set_result, None)
        await done

    asyncio.run(wait())
    assert fired == ["passed"]


def test_the_manual_clock_fires_in_order_each_at_its_time():
    async def check():
        loop = asyncio.get_running_loop()
        clock = ManualClock(5)
        seen = []

        def note(name):
            seen.append((name, clock.now_ns()))
            if name == "first":
                clock.call_at(loop, 30, note, "within")

        clock.call_at(loop, 40, note, "second")
        clock.call_at(loop, 20, note, "first")
        clock.call_at(loop, 20, note, "tie")
        clock.call_at(loop, 35, note, "cancelled").cancel()
        clock.advance(14)
        assert (seen, clock.now_ns()) == ([], 19)
        clock.advance(21)
        assert seen == [("first", 20), ("tie", 20), ("within", 30), ("second", 40)]
        assert clock.now_ns() == 40
        assert clock.real_s(250 * MS) == 0.25

    asyncio.run(check())


def test_the_calendar_and_the_threads_cpu_time():
    assert unix_s() > 1_700_000_000
    before = thread_cpu_ns()
    sum(range(200_000))
    assert thread_cpu_ns() > before
