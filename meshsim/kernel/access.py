"""Access rules on the way in: a table that the evaluator filled, read once a request.

Rule: what `meshsim.policy.authorization` answers for (caller, request, workload) is known before
the run, because identities, headers and paths are.  ``access_rows`` says by (call site, traffic
class) which row of ``access_outcomes`` holds the answers by workload; a scenario without access
rules has neither, and pays one comparison a request.

The proxy in front of the workload refuses after its pass, which is what the refusal costs, and
before its limits; the workload never hears of it.  A packet that a network policy drops is lost
in silence: the connection is given up when its connect timeout ends, and what waits for it fails
(UF).  Where none is set, Linux gives up after 127 s (tcp_syn_retries 6: 1 + 2 + ... + 64 s).

References
----------
Envoy, source/extensions/filters/http/rbac/rbac_filter.cc (rbac.allowed, rbac.denied, 403);
Linux, Documentation/networking/ip-sysctl.rst (tcp_syn_retries).
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.state.codes import (
    ACCESS_ALLOWED,
    ACCESS_DROPPED,
    ACCESS_FORBIDDEN,
    ACCESS_NOT_FOUND,
    ACCESS_UNRESTRICTED,
    NEVER_NS,
    NO_INDEX,
    RESET_REMOTE,
)
from meshsim.state.exchange import ATTEMPT_ABANDONED

__all__ = ["connect_timeout_ns", "is_dropped", "refuses"]

_FORBIDDEN = 403
_NOT_FOUND = 404
#: How long Linux tries to connect [ns].
_SYN_TIMEOUT_NS = 127_000_000_000


@kernel_jit
def _outcome(state: Any, attempt: int) -> int:
    """Return ACCESS_* of `attempt` at its endpoint."""
    exchange = state.attempts["exchange"][attempt]
    call = state.exchanges["call"][exchange]
    site = state.calls["route_start"][call] + state.exchanges["traffic"][exchange]
    row = state.access_rows[site]
    if row == NO_INDEX:
        return ACCESS_UNRESTRICTED
    endpoint = state.attempts["endpoint"][attempt]
    return int(state.access_outcomes[row, state.endpoints["workload"][endpoint]])


@kernel_jit
def _refuse(state: Any, attempt: int) -> bool:
    if state.attempts["state"][attempt] == ATTEMPT_ABANDONED:
        return False
    outcome = _outcome(state, attempt)
    if outcome == ACCESS_UNRESTRICTED:
        return False
    proxy = state.endpoints["proxy"][state.attempts["endpoint"][attempt]]
    if outcome == ACCESS_ALLOWED:
        state.proxies["rbac_allowed"][proxy] += 1
        return False
    if outcome in (ACCESS_FORBIDDEN, ACCESS_NOT_FOUND):
        state.proxies["rbac_denied"][proxy] += 1
        status = _FORBIDDEN if outcome == ACCESS_FORBIDDEN else _NOT_FOUND
        state.attempts["status"][attempt] = status
    else:  # the listener closes the connection before any rule is asked
        state.attempts["reset"][attempt] = RESET_REMOTE
    return True


@kernel_jit_inline
def refuses(state: Any, attempt: int) -> bool:
    """Return whether access rules refuse `attempt`, which has its status or reset then."""
    return state.access_rows.shape[0] > 0 and _refuse(state, attempt)


@kernel_jit_inline
def is_dropped(state: Any, attempt: int) -> bool:
    """Return whether packets of `attempt` to its endpoint are dropped."""
    return state.access_rows.shape[0] > 0 and _outcome(state, attempt) == ACCESS_DROPPED


@kernel_jit
def connect_timeout_ns(state: Any, host: int) -> int:
    """Return how long a connection to `host` that nobody answers is tried [ns]."""
    config = state.clusters["config"][state.hosts["cluster"][host]]
    timeout_ns = state.configs["connect_timeout_ns"][config]
    return _SYN_TIMEOUT_NS if timeout_ns == NEVER_NS else timeout_ns
