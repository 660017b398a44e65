"""Random numbers of a live proxy: those of the simulator's proxy with the same index.

Rule: picks come from the proxy's stream, in order; what belongs to a request comes from its
key, which travels with it.  A request without key gets one of the proxy's own.  Where a round
robin begins comes from the name of its cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshsim.policy.load_balancing.round_robin import draw_cursors, subset_name
from meshsim.rng import PURPOSE_PICK, PURPOSE_SPLIT, key_uniform, make_streams, mix, mix_in
from meshsim.topology.compiled.layout import Rows

__all__ = ["first_cursor", "own_key", "pick_stream", "run_seed_of", "split_uniform"]


def run_seed_of(seed: int, replication: int = 0) -> int:
    """Return the seed of every stream of a run, as the simulator derives it.

    Parameters
    ----------
    seed : int
        0 <= seed < 2**62.
    replication : int
    """
    return int(mix_in(np.uint64(mix(np.uint64(seed))), replication)) >> 2


def pick_stream(run_seed: int, index: int) -> Rows:
    """Return the stream of picks and back-offs of proxy `index`: ndarray[uint64], shape (2,)."""
    stream: Rows = make_streams(run_seed, PURPOSE_PICK, index + 1)[index].copy()
    return stream


def first_cursor(run_seed: int, index: int, cluster: str, endpoints: Sequence[str] = ()) -> int:
    """Return where the round robin of a cluster of proxy `index`, or of a subset of it, begins."""
    name = subset_name(cluster, endpoints)
    return int(draw_cursors(run_seed, [index], [name])[0])


def own_key(run_seed: int, index: int, number: int) -> int:
    """Return the draw key of the request `number` of proxy `index`, for one that has none."""
    key = np.uint64(mix(np.uint64(run_seed)))
    for value in (PURPOSE_SPLIT, index, number):
        key = np.uint64(mix_in(key, value))
    return int(key)


def split_uniform(key: int) -> float:
    """Return the draw in [0, 1) that decides a weighted split for the request with `key`."""
    return float(key_uniform(np.uint64(mix_in(np.uint64(key), PURPOSE_SPLIT << 24))))
