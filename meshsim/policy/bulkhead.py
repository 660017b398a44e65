"""Bulkheads: how many calls of one service a process may have under way at once.

Rule (resilience4j's SemaphoreBulkhead): a call takes one of `max_concurrent_calls` permits (25
unless stated) and gives it back when it has ended, well or badly.  One that finds none waits for
one, first come first served, for up to `max_wait_duration` (0 unless stated: not at all) and if no
more than `max_waiting_calls` wait; else it is refused.  A refused call has failed as if its proxy
had answered 503: it is not sent, no proxy sees it, and a fallback may take its place.  A call that
waits holds what its request holds, a worker too if the server has a thread a request.

The bulkhead is the application's and of one process: every replica has its own for each service
that it calls.  Envoy's `max_requests` is its like in the proxy, without waiting.

References
----------
resilience4j, resilience4j-bulkhead (internal/SemaphoreBulkhead.java, BulkheadConfig.java).
M. Nygard, "Release It!" (2nd edition, 2018), Bulkheads.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit

__all__ = [
    "CALL_PERMITTED",
    "CALL_REFUSED",
    "CALL_WAITS",
    "REFUSED_STATUS",
    "may_call",
    "on_call_ended",
    "on_wait_ended",
]

#: Answers of `may_call`.
CALL_REFUSED = 0
CALL_PERMITTED = 1
CALL_WAITS = 2
#: What a call that is refused has ended with.
REFUSED_STATUS = 503


@kernel_jit
def may_call(bulkheads: Any, row: int) -> int:
    """Ask for the permit of a call; CALL_PERMITTED, CALL_WAITS or CALL_REFUSED.

    Parameters
    ----------
    bulkheads : ndarray[BULKHEAD_DTYPE], shape (n_bulkheads,)
        Row `row` is modified in place: its counts.
    row : int
    """
    if bulkheads["active"][row] < bulkheads["max_concurrent_calls"][row]:
        bulkheads["active"][row] += 1
        bulkheads["permitted"][row] += 1
        return CALL_PERMITTED
    room = bulkheads["waiting"][row] < bulkheads["max_waiting_calls"][row]
    if bulkheads["max_wait_ns"][row] > 0 and room:
        bulkheads["waiting"][row] += 1
        bulkheads["waited"][row] += 1
        return CALL_WAITS
    bulkheads["rejected"][row] += 1
    return CALL_REFUSED


@kernel_jit
def on_wait_ended(bulkheads: Any, row: int, expired: bool) -> None:
    """Discount a call that waited; it is refused if its wait has `expired`."""
    bulkheads["waiting"][row] -= 1
    if expired:
        bulkheads["rejected"][row] += 1


@kernel_jit
def on_call_ended(bulkheads: Any, row: int) -> bool:
    """Take a permit back; return whether it goes to the call that waits longest.

    That call has it then, and waits no more.
    """
    if bulkheads["waiting"][row] == 0:
        bulkheads["active"][row] -= 1
        return False
    bulkheads["waiting"][row] -= 1
    bulkheads["permitted"][row] += 1
    return True
