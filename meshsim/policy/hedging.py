"""Hedging: several tries of one request at once, of which the first good answer counts.

Rule, one of two for a route; whoever loses is given up, and what that cancels is its server's
`on_timeout`:

- *on a per-try timeout* (Envoy's ``hedge_on_per_try_timeout``): a try that times out is not
  reset.  If the request has retries left, and the breaker and the throttling of retries let one
  through, another follows after the back-off, whatever `retry_on` says (which must say
  something).  Any good answer is the request's.  A bad one, which `retry_on` would retry, and a
  reset wait for the others; of the newest try they may be followed by a retry as ever.  A try
  is followed by one other at most.  A hedge without a host ends the request: 503 UH.
- *after a delay* (gRPC's hedging policy): copies leave every `hedging_delay` until there are
  `max_attempts`; with a delay of 0 all at once.  A failure that is not fatal brings the next
  copy forward, and the pace begins anew with it; after the last, such failures wait for the
  other copies.  Any other answer is the request's, good or bad.  A reset counts as a 503.  Each
  copy after the first is a retry to the breaker and the throttling of retries; one that they
  refuse, that finds no host or that overflows, is used up, and the others go on.

A request occupies one place of the breaker of retries at most, that of its newest try.

Envoy's `initial_requests` and `additional_request_chance` are in its API, and it ignores them.

References
----------
Envoy, source/common/router/router.cc (onSoftPerTryTimeout, onUpstreamHeaders, onUpstreamReset,
resetOtherUpstreams); api/envoy/config/route/v3/route_components.proto (HedgePolicy).
grpc/proposal, A6-client-retries.md (hedging policy).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit_inline
from meshsim.state.codes import (
    HEDGE_AFTER_DELAY,
    HEDGE_NEVER,
    NEVER_NS,
    RESET_NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
)

__all__ = ["plan_copy", "waits_for_others"]


@kernel_jit_inline
def plan_copy(exchanges: Any, exchange: int, routes: Any, route: int, now_ns: int) -> None:
    """Say when the next copy of a request is due: ``exchanges["hedge_due_ns"]`` [ns].

    Parameters
    ----------
    exchanges : ndarray[EXCHANGE_DTYPE], shape (n_exchanges,)
        `hedge_due_ns` of row `exchange` is written: `NEVER_NS` after the last copy.
    exchange : int
        Row of `exchanges`.
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    route : int
        Row of `routes`, which hedges after a delay.
    now_ns : int
        When the copy before it leaves, or is refused [ns].
    """
    due_ns = NEVER_NS
    if exchanges["retries_remaining"][exchange] > 0:
        due_ns = now_ns + routes["hedging_delay_ns"][route]
    exchanges["hedge_due_ns"][exchange] = due_ns


@kernel_jit_inline
def waits_for_others(hedging: int, others: int, retriable: bool, reset: int) -> bool:
    """Decide whether the end of a try that no retry follows waits for `others`.

    Parameters
    ----------
    hedging : int
        `HEDGE_*` code of the route.
    others : int
        Tries of the request that are still under way.
    retriable : bool
        Whether the outcome meets the route's conditions for a retry.
    reset : int
        `RESET_*` code of the outcome; `RESET_NONE`, or less, for a response.

    Returns
    -------
    bool
    """
    if others == 0 or hedging == HEDGE_NEVER:
        return False
    if hedging == HEDGE_AFTER_DELAY:
        return retriable or reset in (RESET_OVERFLOW, RESET_NO_HOST)
    return retriable or (reset > RESET_NONE and reset != RESET_NO_HOST)
