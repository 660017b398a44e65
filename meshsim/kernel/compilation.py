"""Compile the kernel part by part, or load it from the cache.

Rule: every handler is a compiled unit of its own, reached by its address; `advance` and the
few functions that Python calls directly are the rest.  A marker file beside the cache says
that every part was compiled, so that the first run can announce itself.

Parts that are in no cache are compiled by several interpreters at once, which only fill the
cache; whoever asked loads them from there.  Interpreters of their own, rather than threads,
because most of the work holds the interpreter's lock, and rather than `multiprocessing`,
which would run the user's script again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numba
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

__all__ = ["compile_parts", "compiled", "handler_table", "prepare"]

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

#: Parts by name: the handlers by kind, then what Python calls.
_PARTS = [function.__name__.removeprefix("_on_") for function in HANDLERS]
_PARTS += [function.__name__ for function, _ in _DIRECT]
#: Two thirds of the work are in these; begun first, so that no interpreter waits for another.
_LONGEST = frozenset({"route", "pick_specially", "done", "arrival", "checked", "run", "arrive"})
#: Interpreters at once, each of half a GB.
_WORKERS_MAX = 4

#: Called as (parts done, parts in all, name of a part under way).
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
        Progress: called as parts are done, and once at the end.
    """
    if not JIT_ENABLED:
        return
    report = report or (lambda done, total, name: None)
    workers = min(int(numba.config.NUMBA_DEFAULT_NUM_THREADS), _WORKERS_MAX)
    fills = workers > 1 and not compiled()
    if fills:
        _fill_cache(workers, report)
    for part, name in enumerate(_PARTS):
        if not fills:
            report(part, len(_PARTS), name)
        _compile(part)
    report(len(_PARTS), len(_PARTS), "")
    _MARKER.touch()


def _compile(part: int) -> None:
    if part < len(HANDLERS):
        _address(part)
        return
    function, signature = _DIRECT[part - len(HANDLERS)]
    function.compile(signature)


def _fill_cache(workers: int, report: Report) -> None:
    """Compile every part in other interpreters; what they fail at is left to the caller."""
    parts = sorted(range(len(_PARTS)), key=lambda part: _PARTS[part] not in _LONGEST)
    pending = deque(parts)
    finished: SimpleQueue[int | None] = SimpleQueue()
    processes = [_begin_worker() for _ in range(workers)]

    def feed(process: subprocess.Popen[str]) -> None:
        try:
            while pending:
                part = pending.popleft()
                print(part, file=process.stdin, flush=True)
                if not process.stdout.readline():  # type: ignore[union-attr]
                    break  # it has failed
                finished.put(part)
        except (IndexError, OSError):
            pass  # another took the last part; or it has failed
        finished.put(None)

    with ThreadPoolExecutor(workers) as threads:
        try:
            for process in processes:
                threads.submit(feed, process)
            done, ended = 0, 0
            report(done, len(parts), _PARTS[parts[0]])
            while ended < workers:
                part = finished.get()
                ended += part is None
                done += part is not None
                report(done, len(parts), "" if part is None else _PARTS[part])
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _begin_worker() -> subprocess.Popen[str]:
    """Start an interpreter that compiles the parts whose numbers it reads."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import compile_parts; compile_parts()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def compile_parts() -> None:
    """Compile the parts whose numbers are read from standard input; answer a line for each."""
    for line in sys.stdin:
        _compile(int(line))
        print(line, end="", flush=True)


def handler_table() -> tuple[Any, ...]:
    """Return what `KernelState` takes as handlers: addresses, or functions with JIT off."""
    if not JIT_ENABLED:
        return HANDLERS
    if not compiled():
        prepare()
    return tuple(_address(kind) for kind in range(len(HANDLERS)))
