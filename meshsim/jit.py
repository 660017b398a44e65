"""The one JIT decorator, and where compiled code is cached.

Rule: every compiled function of meshsim is decorated here.  The cache folder is named by a
hash of all sources that hold compiled code, because numba's own cache does not notice an
edit in a *called* module.  With ``NUMBA_DISABLE_JIT=1`` the same functions run as plain
Python on numpy scalars and return the same bits; for that, compiled code uses `math.*` only,
no ``**`` with a constant exponent and no array reductions, and uint64 meets only uint64.

Compiled code neither allocates nor returns arrays, so numba's reference counting is off
(`_nrt`): it would count every array that an inlined call passes on, at 10 to 20 times the cost
of a pick.

Rows hold integers of 8 to 32 bits and arithmetic yields 64; a compiled caller hands over 64
(`_widened`), or a function would be compiled once for each mixture of widths.

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
from numba.core import types as numba_types

__all__ = ["CACHE_FOLDER", "JIT_ENABLED", "kernel_jit", "kernel_jit_inline"]

#: Most of numba's types have none themselves.
types: Any = numba_types

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
    return _compiled(function)


def kernel_jit_inline(function: _Function) -> _Function:
    """Compile `function` so that compiled callers absorb it."""
    return _compiled(function, forceinline=True)


def _compiled(function: _Function, **options: bool) -> _Function:
    compiled: Any = numba.njit(cache=True, nogil=True, _nrt=False, **options)(function)
    if JIT_ENABLED:
        resolve = compiled.get_call_template
        compiled.get_call_template = lambda args, kws: resolve(tuple(map(_widened, args)), kws)
    result: _Function = compiled
    return result


def _widened(kind: Any) -> Any:
    """Return the type as which an argument of type `kind` is handed over."""
    kind = types.unliteral(kind)
    narrow = isinstance(kind, types.Integer) and kind.bitwidth < types.int64.bitwidth
    return types.int64 if narrow else kind
