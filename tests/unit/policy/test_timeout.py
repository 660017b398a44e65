import pytest
from policy_rows import make_route

from meshsim.policy.timeout import (
    deadline_after,
    per_try_deadline_ns,
    per_try_timeout_ns,
    route_deadline_ns,
)
from meshsim.state.codes import NEVER_NS


def test_zero_and_never_are_off_and_nothing_overflows():
    assert deadline_after(5, 0) == NEVER_NS
    assert deadline_after(5, NEVER_NS) == NEVER_NS
    assert deadline_after(NEVER_NS - 3, 10) == NEVER_NS
    assert deadline_after(5, 10) == 15


@pytest.mark.parametrize(
    ("route_ns", "per_try_ns", "effective_ns"),
    [
        (100, 30, 30),
        (100, 100, NEVER_NS),  # not shorter than the route timeout: ignored
        (100, 200, NEVER_NS),
        (100, 0, NEVER_NS),
        (0, 200, 200),  # no route timeout
        (NEVER_NS, 200, 200),
        (NEVER_NS, NEVER_NS, NEVER_NS),
    ],
)
def test_a_per_try_timeout_counts_if_it_is_shorter(route_ns, per_try_ns, effective_ns):
    routes = make_route(timeout_ns=route_ns, per_try_timeout_ns=per_try_ns)
    assert per_try_timeout_ns(routes, 0) == effective_ns
    expected = NEVER_NS if effective_ns == NEVER_NS else 1000 + effective_ns
    assert per_try_deadline_ns(routes, 0, 1000) == expected


def test_the_route_deadline():
    assert route_deadline_ns(make_route(timeout_ns=100), 0, 1000) == 1100
    assert route_deadline_ns(make_route(timeout_ns=0), 0, 1000) == NEVER_NS
