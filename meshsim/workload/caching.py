"""What a request asks a cache for, and whether the cache has it.

Rule: a share `cacheable` of the requests ask for one of `keys` keys, the others for something
that is never cached.  All keys are equally popular, or the k-th most popular one (from 1) has
weight ``k ** -zipf``.  One uniform draw u decides: the request is cacheable if u < cacheable,
and then u / cacheable is inverted through the popularities.  An answer that was found without a
failure is kept until its time to live is over; one that is asked for again meanwhile is found
by each who asks (nobody waits for another's miss), and the last of them is kept.

References
----------
L. Breslau et al., "Web caching and Zipf-like distributions", INFOCOM 1999.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit
from meshsim.rng import PURPOSE_CACHE, key_uniform, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX

__all__ = ["NOT_CACHEABLE", "asked_key", "kept_until_ns", "popularities"]

#: `asked_key`: what is asked for is never cached.
NOT_CACHEABLE = -1


def popularities(keys: int, zipf: float) -> npt.NDArray[np.float64]:
    """Return the share of the requests that ask for one of the first 1, 2, ... keys.

    Parameters
    ----------
    keys : int
        Number of keys, >= 1.
    zipf : float
        Exponent, >= 0; 0 makes all equally popular.

    Returns
    -------
    ndarray[float64], shape (keys,)
        Ascending; the last is 1.
    """
    weights = np.arange(1, keys + 1, dtype=np.float64) ** -zipf
    sums = np.cumsum(weights)
    return np.asarray(sums / sums[-1])


@kernel_jit
def asked_key(caches: Any, popularity: Any, cache: int, task_key: np.uint64, ordinal: int) -> int:
    """Return the number of the key that a task asks `cache` for, or `NOT_CACHEABLE`.

    Parameters
    ----------
    caches : ndarray[CACHE_DTYPE], shape (n_caches,)
        Read only.
    popularity : ndarray[float64], shape (n_popularities,)
        Read only.
    cache : int
        Row of `caches`.
    task_key : uint64
        Draw key of the request at its server.
    ordinal : int
        Of the step in its program.

    Returns
    -------
    int
        0 to keys - 1, the most popular first; or `NOT_CACHEABLE`.
    """
    uniform = key_uniform(mix_in(task_key, (PURPOSE_CACHE << 24) + ordinal))
    cacheable = caches["cacheable"][cache]
    if uniform >= cacheable:
        return NOT_CACHEABLE
    uniform /= cacheable
    keys = caches["keys"][cache]
    start = caches["popularity_start"][cache]
    if start == NO_INDEX:
        return int(min(int(uniform * keys), keys - 1))
    low = 0
    high = keys - 1
    while low < high:
        middle = (low + high) >> 1
        if popularity[start + middle] <= uniform:
            low = middle + 1
        else:
            high = middle
    return int(low)


@kernel_jit
def kept_until_ns(caches: Any, cache: int, now_ns: int) -> int:
    """Return until when an answer found now is kept [ns], or `NEVER_NS`."""
    ttl_ns = caches["ttl_ns"][cache]
    if ttl_ns == NEVER_NS:
        return int(NEVER_NS)
    return int(now_ns + ttl_ns)
