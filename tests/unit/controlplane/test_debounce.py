"""Debounce, event for event as istiod's; times in ns."""

from meshsim.controlplane.debounce import DEBOUNCE_AFTER_NS, DEBOUNCE_MAX_NS, Debounce
from meshsim.state.codes import NEVER_NS


def fire(debounce):
    """Let the timer fire on time; return (when, whether it pushes)."""
    now_ns = debounce.deadline_ns
    return now_ns, debounce.on_timer(now_ns)


def test_defaults_are_istios():
    assert (DEBOUNCE_AFTER_NS, DEBOUNCE_MAX_NS) == (100_000_000, 10_000_000_000)


def test_one_change_is_pushed_after_the_quiet_time():
    debounce = Debounce(quiet_ns=100, max_ns=1000)
    assert debounce.deadline_ns == NEVER_NS
    debounce.on_change(50)
    assert not debounce.on_timer(149)
    assert fire(debounce) == (150, True)
    assert (debounce.changes, debounce.deadline_ns) == (0, NEVER_NS)


def test_a_steady_stream_is_pushed_once_the_first_change_is_too_old():
    debounce = Debounce(quiet_ns=100, max_ns=1000)
    timers = []
    for now_ns in range(0, 2000, 60):
        while debounce.deadline_ns <= now_ns:
            timers.append(fire(debounce))
        if timers and timers[-1][1]:
            break
        debounce.on_change(now_ns)
    # Changes at 0, 60, ..., 960.  The timer runs from the last change each time: at 100 the last
    # was at 60, so it comes back at 160, and so on; the first look at or after 1000 pushes.
    assert timers[:2] == [(100, False), (160, False)]
    assert timers[-1] == (1000, True)


def test_the_limit_may_be_overshot_by_the_quiet_time():
    debounce = Debounce(quiet_ns=100, max_ns=150)
    debounce.on_change(0)
    debounce.on_change(99)
    assert fire(debounce) == (100, False)
    assert fire(debounce) == (199, True)  # 150 passed unnoticed, as with istiod


def test_a_batch_grows_while_a_push_is_prepared():
    debounce = Debounce(quiet_ns=100, max_ns=1000)
    debounce.on_change(0)
    assert fire(debounce) == (100, True)
    debounce.on_change(120)
    assert fire(debounce) == (220, False)  # the push is still being prepared
    assert debounce.deadline_ns == NEVER_NS
    assert debounce.on_pushed(230)  # quiet for 110: goes at once
    assert not debounce.on_pushed(240)


def test_a_batch_that_is_not_quiet_when_the_push_ends_waits_on():
    debounce = Debounce(quiet_ns=100, max_ns=1000)
    debounce.on_change(0)
    assert fire(debounce) == (100, True)
    debounce.on_change(120)
    assert not debounce.on_pushed(150)
    assert fire(debounce) == (220, True)
