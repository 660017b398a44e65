"""The one JIT decorator, and where compiled code is cached.

Rule: every compiled function of meshsim is decorated here.  The cache folder is named by a
hash of all sources that hold compiled code, because numba's own cache does not notice an
edit in a *called* module.  With ``NUMBA_DISABLE_JIT=1`` the same functions run as plain
Python on numpy scalars and return the same bits; for that, compiled code uses `math.*` only,
no ``**`` with a constant exponent and no array reductions, and uint64 meets only uint64.

Compiled code neither allocates nor returns arrays, so numba's reference counting is off
(`_nrt`): it would count every array that an inlined call passes on, at 10 to 20 times the cost
of a pick.

`forceinline` is LLVM's: the caller absorbs the function after type inference, so that a hot
handler does not pay for passing arrays (seven words each).
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

__all__ = ["CACHE_FOLDER", "JIT_ENABLED", "kernel_jit", "kernel_jit_inline"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Packages and modules whose text decides the compiled code.
_COMPILED = ("jit.py", "rng.py", "state", "stats", "policy", "workload", "kernel")

JIT_ENABLED = not numba.config.DISABLE_JIT


def _source_hash() -> str:
    digest = hashlib.sha256(f"{sys.version}{numba.__version__}".encode())
    root = Path(__file__).parent
    for name in _COMPILED:
        entry = root / name
        for path in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_root() -> Path:
    """Return the user's cache folder, or a temporary one where that is not writable."""
    base = os.environ.get("MESHSIM_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    try:
        (root / "meshsim").mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "meshsim"
    return root / "meshsim"


CACHE_FOLDER = _cache_root() / _source_hash()
numba.config.CACHE_DIR = str(CACHE_FOLDER)

if not JIT_ENABLED:
    # uint64 arithmetic is modular on purpose; numpy scalars warn about it, machine code does not.
    warnings.filterwarnings("ignore", message="overflow encountered", category=RuntimeWarning)


def kernel_jit(function: _Function) -> _Function:
    """Compile `function` (cached, GIL released), or return it unchanged with JIT off."""
    compiled: _Function = numba.njit(cache=True, nogil=True, _nrt=False)(function)
    return compiled


def kernel_jit_inline(function: _Function) -> _Function:
    """Compile `function` so that compiled callers absorb it."""
    options = {"cache": True, "nogil": True, "_nrt": False, "forceinline": True}
    compiled: _Function = numba.njit(**options)(function)
    return compiled
