"""Keyed draws: from the memory's distributions, and which destination of a split is meant."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.routing import choose_split
from meshsim.rng import PURPOSE_SPLIT, key_uniform, mix_in
from meshsim.workload.distributions import sample_ns

__all__ = ["draw_ns", "draw_split"]


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
