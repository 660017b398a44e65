"""What happens between slices of the compiled loop, at the end of a window."""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit
from meshsim.kernel.queues import account
from meshsim.kernel.recording import account_in_flight

__all__ = ["close_window", "settle_endpoints"]


@kernel_jit
def close_window(state: Any) -> None:
    """Settle the integrals of requests in flight and begin the next window."""
    for traffic in range(state.traffic.shape[0]):
        account_in_flight(state, traffic, 0)
    state.counters["window"][0] += 1


@kernel_jit
def settle_endpoints(state: Any) -> None:
    """Bring the integrals of every endpoint up to now."""
    for endpoint in range(state.endpoints.shape[0]):
        account(state.endpoints, endpoint, state.counters["now_ns"][0])
