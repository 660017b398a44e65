"""Laws of health that hold whatever happens: how many may be out, and that all come back."""

import numpy as np
from health_rows import ACCRUAL, NS_PER_S, OUTLIERS, Watched
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.state.codes import (
    NEVER_NS,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
    RESET_OVERFLOW,
    RESET_PER_TRY_TIMEOUT,
)
from meshsim.state.health import BY_OUTLIER

#: (host, status, reset, seconds since the last step, how often).
STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([200, 404, 500, 503]),
        st.sampled_from(
            [RESET_NONE, RESET_NONE, RESET_OVERFLOW, RESET_CONNECT_FAILURE, RESET_PER_TRY_TIMEOUT]
        ),
        st.floats(0, 60),
        st.integers(1, 8),
    ),
    max_size=30,
)
RULES = st.fixed_dictionaries(
    {
        "max_ejection_percent": st.integers(0, 100),
        "always_eject_one_host": st.integers(0, 1),
        "split_external_local_origin_errors": st.integers(0, 1),
        "enforcing_consecutive_5xx": st.integers(0, 100),
        "success_rate_request_volume": st.integers(0, 10),
        "success_rate_minimum_hosts": st.integers(0, 6),
        "failure_percentage_request_volume": st.integers(0, 10),
        "enforcing_failure_percentage": st.integers(0, 100),
        "max_ejection_time_jitter_ns": st.sampled_from([0, 5 * NS_PER_S]),
    }
)


def walk(cluster, steps):
    """Carry the steps out; yield the time [s] after each."""
    now_s = 0.0
    for host, status, reset, pause_s, times in steps:
        now_s += pause_s
        cluster.at(now_s)
        known = status if reset == RESET_NONE else 0
        if reset == RESET_NONE:
            cluster.connected(host, now_s)
        cluster.result(host, known, reset, now_s, times)
        yield now_s


@settings(max_examples=60, deadline=None)
@given(RULES, STEPS, st.integers(0, 100))
def test_no_more_are_out_than_may_be_and_all_come_back(rule, steps, panic_threshold):
    cluster = Watched(6, panic_threshold, **{**OUTLIERS, **rule})
    now_s = 0.0
    for now_s in walk(cluster, steps):
        ejected = np.count_nonzero(cluster.hosts["unhealthy"] & BY_OUTLIER)
        alone = rule["always_eject_one_host"] == 1 and ejected == 1
        assert alone or 100 * ejected <= rule["max_ejection_percent"] * 6
        sound = cluster.hosts["unhealthy"] == 0
        selectable = cluster.hosts["healthy"] != 0
        panics = cluster.groups["panic"][0] == 1
        assert selectable.tolist() == (sound | panics).tolist()
        assert not panics or 100 * np.count_nonzero(sound) < panic_threshold * 6
        enforced, detected = cluster.enforced(), cluster.detected()
        assert all(enforced[kind] <= detected[kind] for kind in enforced)
        assert sum(enforced.values()) == cluster.groups["ejections_enforced"][0]
        assert cluster.groups["due_ns"][0] > now_s * NS_PER_S - 1
    # The longest ejection is 300 s and 5 s of jitter; then 11 sweeps forgive the back-off.
    assert cluster.at(now_s + 500) == [*range(6)]
    assert not cluster.healths["back_off"].any()
    assert cluster.groups["due_ns"][0] == NEVER_NS


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_settling_late_is_settling_in_time(steps):
    """What is due by the clock is done at its own time, however late it is asked for."""
    late, prompt = (
        Watched(6, **{**OUTLIERS, "max_ejection_percent": 50, **ACCRUAL}) for _ in range(2)
    )
    before_s = 0.0
    for now_s in walk(late, steps):
        host, status, reset, _, times = steps[0]
        steps = steps[1:]
        for time_s in np.linspace(before_s, now_s, 10):
            prompt.at(time_s)
        known = status if reset == RESET_NONE else 0
        if reset == RESET_NONE:
            prompt.connected(host, now_s)
        prompt.result(host, known, reset, now_s, times)
        before_s = now_s
    for time_s in np.linspace(before_s, before_s + 600, 100):
        prompt.at(time_s)
    assert late.at(before_s + 600) == prompt.at(before_s + 600)
    assert late.hosts["unhealthy"].tolist() == prompt.hosts["unhealthy"].tolist()
    assert late.healths.tobytes() == prompt.healths.tobytes()
    assert late.groups.tobytes() == prompt.groups.tobytes()
    assert late.ejections.tobytes() == prompt.ejections.tobytes()
