"""The controllers of adaptive concurrency of a run: when their lives begin, and what is due.

Rule: `meshsim.policy.adaptive_concurrency` decides, asked by `meshsim.kernel.filters`; a controller
is that of one endpoint, and begins when the run does, or when the endpoint is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.policy.adaptive_concurrency import settle_controller
from meshsim.state.codes import NO_INDEX
from meshsim.topology.compiled.concurrency import blank_controllers, start_controller

__all__ = ["add_controller", "begin_controllers", "settle_controllers"]


def _controlled(state: Any) -> list[int]:
    return np.flatnonzero(state.gradients["rule"] != NO_INDEX).tolist()


def begin_controllers(kernel: Any, first: int = 0) -> None:
    """Begin the lives of all controllers from endpoint `first` on."""
    state = kernel.state
    rules, bins = state.gradient_rules, state.gradient_bins
    for row in _controlled(state):
        if row >= first:
            proxy = int(state.endpoints["proxy"][row])
            start_controller(
                state.gradients, row, rules, bins, kernel.stream_seed, proxy, kernel.now_ns
            )


def add_controller(kernel: Any, like: int) -> None:
    """Give the endpoint that was added a controller like that of endpoint `like`, if it has one."""
    state = kernel.state
    first = len(state.gradients)
    if not first:
        return
    rows, bins = blank_controllers(1)
    rows["rule"] = state.gradients["rule"][like]
    state.replace(
        gradients=np.concatenate([state.gradients, rows]),
        gradient_bins=np.concatenate([state.gradient_bins, bins]),
    )
    begin_controllers(kernel, first)


def settle_controllers(kernel: Any) -> None:
    """Do what has become due by the clock: gauges are read afterwards."""
    state = kernel.state
    for row in _controlled(state):
        settle_controller(
            state.gradients, row, state.gradient_rules, state.gradient_bins, kernel.now_ns
        )
