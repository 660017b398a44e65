"""Keyed draws: from the memory's distributions, the destination of a split, and who asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.routing import choose_split
from meshsim.rng import PURPOSE_SPLIT, key_uniform, mix, mix_in
from meshsim.workload.distributions import sample_ns

__all__ = ["draw_ns", "draw_split", "draw_user"]


@kernel_jit
def draw_ns(state: Any, distribution: int, key: np.uint64) -> int:
    """Return the draw of `distribution` that belongs to `key` [ns]."""
    return sample_ns(state.distributions, state.values, distribution, key)


@kernel_jit_inline
def draw_split(state: Any, exchange: int, chosen: int) -> int:
    """Return the SPLIT row that a request on route `chosen`, which has some, goes by."""
    split = state.routes["split_start"][chosen]
    count = state.routes["split_count"][chosen]
    if count > 1:
        uniform = key_uniform(mix_in(state.exchanges["key"][exchange], PURPOSE_SPLIT << 24))
        total = state.routes["weight_total"][chosen]
        split = choose_split(state.splits, split, count, total, uniform)
    return split


@kernel_jit_inline
def draw_user(state: Any, exchange: int, count: int) -> int:
    """Return which of the `count` users of its class asks, 0 for the first.

    All exchanges of one request are the same user's.
    """
    if count <= 1:
        return 0
    number = state.exchanges["number"][exchange]
    class_key = state.traffic["key"][state.exchanges["traffic"][exchange]]
    return int(key_uniform(mix_in(mix(class_key), number)) * count)
