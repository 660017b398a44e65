"""The fault filter: delays, aborts and slow responses, each for a share of the requests.

Rule, in Envoy's order: first the delay's coin is thrown, and a request that meets it waits; then,
after the delay, the abort's coin, independently, so that a request can meet both; then the
request goes on to the limits and the router.  It all happens before the router: an aborted
request is never retried by this proxy, no route timeout covers the delay, and only the timeout
of a hop further out cuts it.  Which requests a fault is for is the match of its route.

A proxy has at most ``max_active_faults`` requests with a fault at once: from the delay until the
request has ended.  One more is let pass and counted as an overflow; a request that was delayed
may be aborted as well, for it holds its place already.

A response whose rate is limited leaves in slices, one every 50 ms, the first at once; it waits
for nothing if it fits the first.

Coins are keyed by the request, so that a fault moves no other draw, and the same requests meet
it under another policy.  A delayed request that ends well has flag DI, an aborted one FI.

References
----------
Envoy, source/extensions/filters/http/fault/fault_filter.cc (decodeHeaders, tryIncActiveFaults,
postDelayInjection, onDestroy); source/extensions/filters/http/common/stream_rate_limiter.cc.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import PURPOSE_INJECTION, key_uniform, mix_in

__all__ = ["NO_FAULT", "abort_status", "delay_ns", "on_fault_ended", "pace_ns", "takes_place"]

#: Nothing is injected.
NO_FAULT = 0

#: Coins of a request, below PURPOSE_INJECTION.
_DELAY = 0
_ABORT = 1
_PACE = 2

#: Slices of a response whose rate is limited.
_SLICE_NS = 50_000_000
_SLICES_A_SECOND = 20
_BYTES_PER_KIB = 1024


@kernel_jit_inline
def _coin(key: np.uint64, which: int, share: float) -> bool:
    if share <= 0.0:
        return False
    return share >= 1.0 or key_uniform(mix_in(key, (PURPOSE_INJECTION << 24) + which)) < share


@kernel_jit_inline
def takes_place(faults: Any, fault: int, counts: Any, row: int) -> bool:
    """Decide whether one more request may have a fault; a refusal is counted."""
    if counts["active"][row] < faults["active_max"][fault]:
        return True
    counts["overflow"][row] += 1
    return False


@kernel_jit
def delay_ns(faults: Any, fault: int, counts: Any, row: int, key: np.uint64) -> int:
    """Return how long a new request is delayed [ns], or NO_FAULT.

    Parameters
    ----------
    faults : ndarray[FAULT_DTYPE], shape (n_faults,)
        Read only.
    fault : int
        Row of `faults`.
    counts : ndarray[FAULT_COUNTS_DTYPE], shape (n,)
        Row `row` is modified in place: a delayed request holds a place until
        `on_fault_ended`.
    row : int
    key : uint64
        Of the request: decides its coins.
    """
    if faults["delay_ns"][fault] == 0 or not _coin(key, _DELAY, faults["delay"][fault]):
        return NO_FAULT
    if not takes_place(faults, fault, counts, row):
        return NO_FAULT
    counts["active"][row] += 1
    counts["delays_injected"][row] += 1
    return int(faults["delay_ns"][fault])


@kernel_jit
def abort_status(
    faults: Any, fault: int, counts: Any, row: int, key: np.uint64, holds_place: bool
) -> int:
    """Return the status a request is aborted with, or NO_FAULT.

    Parameters
    ----------
    faults, fault, counts, row, key
        See `delay_ns`.
    holds_place : bool
        Whether the request was delayed.

    Notes
    -----
    An abort that was not delayed ends at once: it needs a place, and holds none.
    """
    if not _coin(key, _ABORT, faults["abort"][fault]):
        return NO_FAULT
    if not holds_place and not takes_place(faults, fault, counts, row):
        return NO_FAULT
    counts["aborts_injected"][row] += 1
    return int(faults["abort_status"][fault])


@kernel_jit
def on_fault_ended(counts: Any, row: int) -> None:
    """Give back the place of an ended request; `counts` row modified in place."""
    counts["active"][row] -= 1


@kernel_jit
def pace_ns(faults: Any, fault: int, counts: Any, row: int, key: np.uint64, size_bytes: int) -> int:
    """Return how long after its first byte a response has left whole [ns]; 0: at once.

    Parameters
    ----------
    faults, fault, counts, row, key
        See `delay_ns`.
    size_bytes : int
        Of the response's body, >= 0.
    """
    rate_kibps = faults["pace_kibps"][fault]
    if rate_kibps == 0 or not _coin(key, _PACE, faults["pace"][fault]):
        return 0
    counts["response_rl_injected"][row] += 1
    slice_bytes = max(rate_kibps * _BYTES_PER_KIB // _SLICES_A_SECOND, 1)
    slices = (size_bytes + slice_bytes - 1) // slice_bytes
    return max(slices - 1, 0) * _SLICE_NS
