"""Random numbers: streams for what is drawn in order, keys for what belongs to a request.

Rule: nobody owns a generator; a draw is a function of its arguments.

- A *stream* is a row of two uint64 (xoroshiro128+), advanced in place: one per
  (seed, purpose, entity), so that another policy does not shift the arrivals.
- A *key* is a hash of (seed, purpose, request, call path, attempt): service times, sleeps,
  branches and fault coins, so that one request meets the same draws under another policy,
  another mesh, or on live sockets.

References
----------
Blackman, Vigna, "Scrambled linear pseudorandom number generators", ACM TOMS 47 (2021).
Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (splitmix64).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.jit import kernel_jit, kernel_jit_inline

__all__ = [
    "PURPOSE_ARRIVAL",
    "PURPOSE_BACK_OFF",
    "PURPOSE_BRANCH",
    "PURPOSE_CACHE",
    "PURPOSE_CONCURRENCY",
    "PURPOSE_FAULT",
    "PURPOSE_HEALTH",
    "PURPOSE_IDLE",
    "PURPOSE_INJECTION",
    "PURPOSE_LIMIT",
    "PURPOSE_MIRROR",
    "PURPOSE_PATIENCE",
    "PURPOSE_PICK",
    "PURPOSE_QUOTA",
    "PURPOSE_ROUND_ROBIN",
    "PURPOSE_SERVICE",
    "PURPOSE_SPLIT",
    "PURPOSE_THINK",
    "PURPOSE_TRACE",
    "PURPOSE_WIRE",
    "key_uniform",
    "make_streams",
    "mix",
    "mix_in",
    "next_index",
    "next_uint64",
    "next_uniform",
    "peek_uint64",
    "uniform_of",
]

PURPOSE_ARRIVAL = 1
PURPOSE_PICK = 2
PURPOSE_SERVICE = 3
PURPOSE_BRANCH = 4
PURPOSE_FAULT = 5
PURPOSE_SPLIT = 6
PURPOSE_BACK_OFF = 7
PURPOSE_WIRE = 8
PURPOSE_THINK = 9
PURPOSE_PATIENCE = 10
PURPOSE_TRACE = 11
PURPOSE_LIMIT = 12
PURPOSE_INJECTION = 13
PURPOSE_MIRROR = 14
PURPOSE_HEALTH = 15
PURPOSE_CONCURRENCY = 16
PURPOSE_QUOTA = 17
PURPOSE_IDLE = 40  # whom an idle server tells
PURPOSE_CACHE = 41  # which key a request asks for
PURPOSE_ROUND_ROBIN = 42  # where the round robin of a proxy begins

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S11 = np.uint64(11)
_S27 = np.uint64(27)
_S30 = np.uint64(30)
_S31 = np.uint64(31)
_S24 = np.uint64(24)
_S40 = np.uint64(40)
_S16 = np.uint64(16)
_S48 = np.uint64(48)
_S37 = np.uint64(37)
#: 2**-53: the spacing of the uniform grid.
_ULP = 1.0 / 9007199254740992.0


@kernel_jit_inline
def mix(value: np.uint64) -> np.uint64:
    """Return the splitmix64 finaliser of `value` + golden ratio (a bijection on uint64)."""
    z = value + _GOLDEN
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@kernel_jit_inline
def mix_in(key: np.uint64, value: int) -> np.uint64:
    """Return `key` combined with the integer `value`; the order of values matters."""
    return mix(key ^ (np.uint64(value) * _GOLDEN))


@kernel_jit_inline
def uniform_of(bits: np.uint64) -> float:
    """Return the uniform draw in [0, 1) that 64 random bits make."""
    return float(bits >> _S11) * _ULP


@kernel_jit_inline
def key_uniform(key: np.uint64) -> float:
    """Return the uniform draw in [0, 1) that belongs to `key` (2**53 values)."""
    return uniform_of(mix(key))


@kernel_jit_inline
def peek_uint64(s0: np.uint64, s1: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Return the 64 random bits of a stream at (s0, s1), and where it is after them."""
    result = s0 + s1
    s1 ^= s0
    after_0 = ((s0 << _S24) | (s0 >> _S40)) ^ s1 ^ (s1 << _S16)
    return result, after_0, (s1 << _S37) | (s1 >> _S27)


@kernel_jit_inline
def next_uint64(rng: Any) -> np.uint64:
    """Advance `rng` (ndarray[uint64], shape (2,)) in place and return 64 random bits."""
    result, s0, s1 = peek_uint64(rng[0], rng[1])
    rng[0] = s0
    rng[1] = s1
    return result


@kernel_jit_inline
def next_uniform(rng: Any) -> float:
    """Advance `rng` in place and return a uniform draw in [0, 1)."""
    return uniform_of(next_uint64(rng))


@kernel_jit_inline
def next_index(rng: Any, count: int) -> int:
    """Advance `rng` in place and return an index in [0, `count`); `count` <= 2**31.

    Notes
    -----
    The bias of multiplying a 53-bit uniform is below count / 2**53.
    """
    return int(next_uniform(rng) * count)


@kernel_jit
def _fill_streams(streams: Any, seed: int, purpose: int) -> None:
    base = mix_in(mix(np.uint64(seed)), purpose)
    for entity in range(streams.shape[0]):
        key = mix_in(base, entity)
        streams[entity, 0] = mix(key)
        streams[entity, 1] = mix(mix(key)) | np.uint64(1)


def make_streams(seed: int, purpose: int, count: int) -> npt.NDArray[np.uint64]:
    """Return `count` independent streams of (seed, purpose), one row an entity.

    Parameters
    ----------
    seed : int
        0 <= seed < 2**63.
    purpose : int
        One of the `PURPOSE_*` codes.
    count : int
        Number of entities, >= 0.

    Returns
    -------
    ndarray[uint64], shape (count, 2)
    """
    streams = np.zeros((count, 2), np.uint64)
    _fill_streams(streams, seed, purpose)
    return streams
