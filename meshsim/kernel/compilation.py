"""Compile the kernel part by part, or load it from the cache.

Rule: every handler is a compiled unit of its own, reached by its address; `advance` and the
few functions that Python calls directly are the rest.  A marker file beside the cache says
that every part was compiled, so that the first run can announce itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types

from meshsim.jit import CACHE_FOLDER, JIT_ENABLED
from meshsim.kernel.advance import advance
from meshsim.kernel.boundaries import close_window, settle_endpoints
from meshsim.kernel.handlers import HANDLERS
from meshsim.kernel.health import first_check_wait_ns, select_cluster, settle_cluster
from meshsim.kernel.idle import begin_idle_queues, report_idle
from meshsim.kernel.memory import HANDLER
from meshsim.kernel.sources import begin_traffic
from meshsim.kernel.verbs import count_tasks, kill_endpoint, set_rate, set_speed

__all__ = ["compiled", "handler_table", "prepare"]

_MARKER = CACHE_FOLDER / "complete"
_STATE = HANDLER.args[0]

#: What Python calls, with its signature.
_DIRECT: tuple[tuple[Any, tuple[Any, ...]], ...] = (
    (advance, (_STATE, types.int64, types.int64, types.int64, types.boolean)),
    (begin_idle_queues, (_STATE,)),
    (begin_traffic, (_STATE, types.Array(types.int64, 1, "C"))),
    (close_window, (_STATE,)),
    (settle_endpoints, (_STATE,)),
    (report_idle, (_STATE, types.int64)),
    (settle_cluster, (_STATE, types.int64)),
    (select_cluster, (_STATE, types.int64, types.boolean)),
    (first_check_wait_ns, (_STATE, types.int64)),
    (count_tasks, (_STATE, types.int64)),
    (kill_endpoint, (_STATE, types.int64)),
    (set_speed, (_STATE, types.int64, types.float64)),
    (set_rate, (_STATE, types.int64, types.float64)),
)

#: Called as (parts done, parts in all, name of the next part).
Report = Callable[[int, int, str], None]


def compiled() -> bool:
    """Return whether the whole kernel of this version is in the cache (or JIT is off)."""
    return not JIT_ENABLED or _MARKER.exists()


@cache
def _address(kind: int) -> int:
    """Compile handler `kind` (or load it) and return the address of its machine code."""
    dispatcher: Any = HANDLERS[kind]
    dispatcher.compile(HANDLER)
    compiled = dispatcher.overloads[HANDLER.args]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def prepare(report: Report | None = None) -> None:
    """Compile or load every part of the kernel.

    Parameters
    ----------
    report : callable, optional
        Progress: called before each part, and once at the end.
    """
    if not JIT_ENABLED:
        return
    total = len(HANDLERS) + len(_DIRECT)
    for kind, function in enumerate(HANDLERS):
        if report is not None:
            report(kind, total, function.__name__.removeprefix("_on_"))
        _address(kind)
    for number, (function, signature) in enumerate(_DIRECT, len(HANDLERS)):
        if report is not None:
            report(number, total, function.__name__)
        function.compile(signature)
    if report is not None:
        report(total, total, "")
    _MARKER.touch()


def handler_table() -> tuple[Any, ...]:
    """Return what `KernelState` takes as handlers: addresses, or functions with JIT off."""
    if not JIT_ENABLED:
        return HANDLERS
    return tuple(_address(kind) for kind in range(len(HANDLERS)))
