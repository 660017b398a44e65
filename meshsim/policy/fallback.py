"""Fallbacks: what a caller does when its call has failed for good.

Rule: a call has failed when its proxy, after all retries, answers it with 500 or above.  The
caller's program then ends, with status 500; or goes on, if it can do without the answer; or
takes its *fallback*: steps that run in place of the answer, perhaps a call of another service,
perhaps none (a static answer), after which it goes on as if the call had succeeded.  A fallback
that fails is a failure like any other, and may have a fallback of its own.  Each that is taken is
counted.

This is the application's own doing, whatever mesh it is in: Hystrix's `getFallback`, resilience4j's
`Decorators.withFallback`.  The proxies' own means are others: an aggregate cluster sends to the
next cluster while one has no healthy host, a local reply rewrites a failure.

References
----------
Netflix/Hystrix, wiki "How it Works" (fallback).  resilience4j, resilience4j-core
(io.github.resilience4j.decorators.Decorators).  Envoy,
api/envoy/extensions/clusters/aggregate/v3/cluster.proto.
"""

from __future__ import annotations

from meshsim.jit import kernel_jit_inline
from meshsim.state.server import ON_FAILURE_END, ON_FAILURE_FALL_BACK

__all__ = ["CALL_FAILED", "END_STEP", "step_after_call", "takes_fallback"]

#: The least status of a call that has failed.
CALL_FAILED = 500
#: Row of the STEP at which a program ends that cannot go on.
END_STEP = 0


@kernel_jit_inline
def takes_fallback(on_failure: int, status: int) -> bool:
    """Return whether a call that ended with `status` is followed by its fallback."""
    return status >= CALL_FAILED and on_failure == ON_FAILURE_FALL_BACK


@kernel_jit_inline
def step_after_call(step: int, on_failure: int, fallback_count: int, status: int) -> int:
    """Return the STEP row that follows a call, or END_STEP.

    Parameters
    ----------
    step : int
        STEP row of the call.
    on_failure : int
        `ON_FAILURE_*` code.
    fallback_count : int
        Rows of its fallback, which are the next ones.
    status : int
        That the call ended with.
    """
    if status >= CALL_FAILED:
        if on_failure == ON_FAILURE_END:
            return END_STEP
        if on_failure == ON_FAILURE_FALL_BACK:
            return step + 1
    return step + 1 + fallback_count
