"""Which step follows a call, by what it ended with and what its caller does about it."""

import pytest

from meshsim.policy.fallback import END_STEP, step_after_call, takes_fallback
from meshsim.state.server import ON_FAILURE_END, ON_FAILURE_FALL_BACK, ON_FAILURE_GO_ON

AT, ROWS = 7, 3


@pytest.mark.parametrize(
    ("on_failure", "status", "following", "taken"),
    [
        (ON_FAILURE_END, 200, AT + 1 + ROWS, False),
        (ON_FAILURE_END, 499, AT + 1 + ROWS, False),
        (ON_FAILURE_END, 500, END_STEP, False),
        (ON_FAILURE_GO_ON, 503, AT + 1 + ROWS, False),
        (ON_FAILURE_FALL_BACK, 200, AT + 1 + ROWS, False),
        (ON_FAILURE_FALL_BACK, 504, AT + 1, True),
    ],
)
def test_the_step_that_follows(on_failure, status, following, taken):
    assert step_after_call(AT, on_failure, ROWS, status) == following
    assert takes_fallback(on_failure, status) == taken
