"""Timeouts of a request: when the whole, and when one try, must have ended.

Rule (Envoy's router): the *route timeout* runs from the moment the request is complete at the
proxy and covers every try and every back-off.  The *per-try timeout* runs for one try, from
the moment the try has a connection.  A per-try timeout that is not shorter than the route
timeout is ignored; 0 switches either off, and `NEVER_NS` says the same.

A request may bring a *deadline* of its own: when whoever waits for what it is part of will have
given up.  Its timeout is then what is left until then, if that is less than the route's; with
nothing left it is not sent at all, and ends as a route timeout does: 504, UT.  (Envoy takes the
timeout of ``x-envoy-expected-rq-timeout-ms``, which the caller's proxy has set, in place of the
route's, if `respect_expected_rq_timeout` says so, and sends with 1 ms what is too late; gRPC's
clients take the earlier one and send nothing.)  The deadline that a try takes along is the
earlier of its per-try timeout and of the whole; where a per-try timeout only hedges it is that of
the whole.

Nothing here knows a clock: `now_ns` comes in, a deadline goes out.

References
----------
Envoy, source/common/router/router.cc (FilterUtility::finalTimeout, setTimeoutHeaders,
onRequestComplete, onResponseTimeout);
source/common/router/upstream_request.cc (onPoolReady starts the per-try timer).
gRPC, "Deadlines" (grpc.io/docs/guides/deadlines: deadline propagation).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit_inline
from meshsim.state.codes import NEVER_NS

__all__ = ["deadline_after", "per_try_deadline_ns", "per_try_timeout_ns", "route_deadline_ns"]


@kernel_jit_inline
def deadline_after(now_ns: int, timeout_ns: int) -> int:
    """Return `now_ns` + `timeout_ns`, or `NEVER_NS` if the timeout is off (0 or NEVER_NS) [ns]."""
    if timeout_ns <= 0 or timeout_ns >= NEVER_NS - now_ns:
        return NEVER_NS
    return now_ns + timeout_ns


@kernel_jit_inline
def per_try_timeout_ns(routes: Any, route: int) -> int:
    """Return the effective timeout of one try of `route` [ns], or `NEVER_NS`.

    Parameters
    ----------
    routes : ndarray[ROUTE_DTYPE], shape (n_routes,)
        Read only.
    route : int
        Row of `routes`.

    Returns
    -------
    int
        `per_try_timeout_ns` of the route; `NEVER_NS` if it is 0 or not shorter than a route
        timeout that is on.
    """
    per_try_ns = routes["per_try_timeout_ns"][route]
    timeout_ns = routes["timeout_ns"][route]
    if per_try_ns <= 0 or (timeout_ns > 0 and per_try_ns >= timeout_ns):
        return NEVER_NS
    return int(per_try_ns)


@kernel_jit_inline
def per_try_deadline_ns(routes: Any, route: int, now_ns: int) -> int:
    """Return when a try of `route` that gets its connection at `now_ns` times out [ns]."""
    return deadline_after(now_ns, per_try_timeout_ns(routes, route))


@kernel_jit_inline
def route_deadline_ns(routes: Any, route: int, now_ns: int) -> int:
    """Return when a request of `route` that is complete at `now_ns` times out [ns]."""
    return deadline_after(now_ns, routes["timeout_ns"][route])
