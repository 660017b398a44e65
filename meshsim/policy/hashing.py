"""xxHash64: how Envoy hashes request keys and host names.

Rule: a key is hashed as its UTF-8 bytes.  The 64-bit result decides the place on the ring or
in the Maglev table, so it must equal Envoy's bit for bit; hash keys of requests are the seed-0
hash of the value (one header; `combine` folds several).

References
----------
Collet, "xxHash fast digest algorithm", specification 0.1.1 (XXH64).
Envoy, source/common/common/hash.h (HashUtil::xxHash64);
source/common/http/hash_policy.cc (HashPolicyImpl::generateHash).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import PURPOSE_HEALTH, mix, mix_in

__all__ = ["NO_HASH_KEY", "combine", "health_key", "xxh64", "xxh64_bytes"]

#: A request without hash key.  (A value whose hash is 0 counts as none: 1 in 2**64.)
NO_HASH_KEY = np.uint64(0)

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_U8 = np.uint64(8)
_U64 = np.uint64(64)


@kernel_jit_inline
def _rotate(value: Any, bits: int) -> Any:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@kernel_jit_inline
def _read(data: Any, start: int, count: int) -> Any:
    """Return `count` bytes from `start` as a little-endian number."""
    value = np.uint64(0)
    for index in range(start + count - 1, start - 1, -1):
        value = (value << _U8) | np.uint64(data[index])
    return value


@kernel_jit_inline
def _round(lane: Any, value: Any) -> Any:
    return _rotate(lane + value * _PRIME_2, 31) * _PRIME_1


@kernel_jit_inline
def _merge(state: Any, lane: Any) -> Any:
    return (state ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4


@kernel_jit
def _stripes(data: Any, first: int, count: int, seed: np.uint64) -> Any:
    """Return the hash state after all whole stripes of 32 bytes (at least one)."""
    lane_1 = seed + _PRIME_1 + _PRIME_2
    lane_2 = seed + _PRIME_2
    lane_3 = seed + np.uint64(0)
    lane_4 = seed - _PRIME_1
    for start in range(first, first + count - 31, 32):
        lane_1 = _round(lane_1, _read(data, start, 8))
        lane_2 = _round(lane_2, _read(data, start + 8, 8))
        lane_3 = _round(lane_3, _read(data, start + 16, 8))
        lane_4 = _round(lane_4, _read(data, start + 24, 8))
    state = _rotate(lane_1, 1) + _rotate(lane_2, 7) + _rotate(lane_3, 12) + _rotate(lane_4, 18)
    state = _merge(state, lane_1)
    state = _merge(state, lane_2)
    state = _merge(state, lane_3)
    return _merge(state, lane_4)


@kernel_jit
def xxh64_bytes(data: Any, first: int, count: int, seed: np.uint64) -> Any:
    """Return the XXH64 hash of some bytes of `data`.

    Parameters
    ----------
    data : ndarray[uint8], shape (n_bytes,)
        Read only.
    first, count : int
        The bytes are ``data[first : first + count]``.
    seed : uint64
        0 for keys.

    Returns
    -------
    uint64
    """
    state = _stripes(data, first, count, seed) if count >= 32 else seed + _PRIME_5
    state += np.uint64(count)
    end = first + count
    position = end - count % 32
    while position + 8 <= end:
        state ^= _round(np.uint64(0), _read(data, position, 8))
        state = _rotate(state, 27) * _PRIME_1 + _PRIME_4
        position += 8
    if position + 4 <= end:
        state ^= _read(data, position, 4) * _PRIME_1
        state = _rotate(state, 23) * _PRIME_2 + _PRIME_3
        position += 4
    while position < end:
        state ^= np.uint64(data[position]) * _PRIME_5
        state = _rotate(state, 11) * _PRIME_1
        position += 1
    state = (state ^ (state >> np.uint64(33))) * _PRIME_2
    state = (state ^ (state >> np.uint64(29))) * _PRIME_3
    return state ^ (state >> np.uint64(32))


def xxh64(text: str, seed: int = 0) -> int:
    """Return the XXH64 hash of `text` as UTF-8.

    Parameters
    ----------
    text : str
    seed : int
        0 <= seed < 2**64.

    Returns
    -------
    int
        0 <= hash < 2**64.

    Examples
    --------
    >>> hex(xxh64(""))
    '0xef46db3751d8e999'
    """
    data = np.frombuffer(text.encode(), np.uint8).copy()
    return int(xxh64_bytes(data, 0, len(data), np.uint64(seed)))


def combine(hashes: Iterable[int]) -> int:
    """Return the hash key of a request from the hashes of its policies, in their order.

    Notes
    -----
    Envoy rotates what it has by one bit to the left before it mixes the next in, so that
    several policies, even equal ones, do not cancel out.

    Examples
    --------
    >>> combine([5])
    5
    >>> combine([1, 1])
    3
    """
    key = 0
    for value in hashes:
        key = ((key << 1 | key >> 63) & 0xFFFF_FFFF_FFFF_FFFF) ^ value if key else value
    return key


def health_key(run_seed: int, proxy: int, cluster: str) -> np.uint64:
    """Return the draw key of a cluster's health at one proxy.

    Parameters
    ----------
    run_seed : int
        Of the run, 0 <= run_seed < 2**62.
    proxy : int
        Index of the proxy.
    cluster : str
        Name of the cluster ("reviews", "reviews|v2").
    """
    key = np.uint64(mix(np.uint64(run_seed)))
    for part in (PURPOSE_HEALTH, proxy, xxh64(cluster) >> 2):
        key = np.uint64(mix_in(key, part))
    return key
