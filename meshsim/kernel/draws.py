"""Keyed draws from the memory's distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.workload.distributions import sample_ns

__all__ = ["draw_ns"]


@kernel_jit
def draw_ns(state: Any, distribution: int, key: np.uint64) -> int:
    """Return the draw of `distribution` that belongs to `key` [ns]."""
    return sample_ns(state.distributions, state.values, distribution, key)
