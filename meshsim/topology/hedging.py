"""Hedging of a route: what a person may say of several tries of one request at once.

Rule: in Envoy's words on a per-try timeout, in gRPC's after a delay (`meshsim.policy.hedging`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshsim.topology.base import Boolean, Duration, Integer, Model

__all__ = ["HedgePolicy"]


class HedgePolicy(Model):
    """When a request gets another try beside those that are under way.

    With `max_attempts` the copies take the place of retries: of the route's retry policy only
    `per_try_timeout` and where a try may go hold on.
    """

    hedge_on_per_try_timeout: Boolean = Field(
        default=False, description="a try that times out goes on beside its retry"
    )
    max_attempts: Integer | None = Field(
        default=None, ge=2, le=100, description="copies of a request, the first among them"
    )
    hedging_delay: Duration | None = Field(
        default=None, description="between two copies; 0, the default: all at once"
    )
    non_fatal_status_codes: tuple[Annotated[Integer, Field(ge=100, le=599)], ...] = Field(
        default=(), description="answers that bring the next copy forward; 503: resets as well"
    )
