"""Time of an emulated mesh: the only place that reads a clock.

Rule: model time is (monotonic - origin) / dilation, so a dilation of 4 gives the machine four
real seconds for one second of the mesh.  Policies, deadlines and recordings see model time
only; what waits for it asks for a timer here.  CLOCK_MONOTONIC is one for all processes of a
machine, so processes that share an origin share model time.

Certificates live by the calendar instead, because OpenSSL judges them by it: `unix_s`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Clock", "ManualClock", "ModelClock", "thread_cpu_ns", "unix_s"]

_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000
#: More than asyncio's clock resolution and the spacing of floats at a century's uptime [ns].
_EARLY_NS = 1_000


def unix_s() -> float:
    """Return the time of the calendar: seconds since 1970 (UTC)."""
    return time.time()  # noqa: TID251


def thread_cpu_ns() -> int:
    """Return the CPU time that the calling thread has used [ns]."""
    return time.thread_time_ns()


class ModelClock(Protocol):
    """What reads model time and waits for it: `Clock`, or `ManualClock` in tests."""

    @property
    def dilation(self) -> float:
        """Real seconds of one model second."""

    def now_ns(self) -> int:
        """Return the model time [ns]."""

    def real_s(self, model_ns: int) -> float:
        """Return how long a span of model time lasts [real s]."""

    def call_at(
        self,
        loop: asyncio.AbstractEventLoop,
        model_ns: int,
        callback: Callable[..., object],
        *args: Any,
    ) -> asyncio.TimerHandle:
        """Call `callback` when model time has reached `model_ns`."""


class Clock:
    """Model time over the machine's monotonic clock.

    Parameters
    ----------
    dilation : float
        Real seconds of one model second, > 0.
    origin_ns : int, optional
        Monotonic time of model time 0 [ns]; now, by default.

    Raises
    ------
    ValueError
        If the dilation is no positive finite number.
    """

    def __init__(self, dilation: float = 1.0, origin_ns: int | None = None) -> None:
        if not 0.0 < dilation < math.inf:
            raise ValueError(f"dilation is a positive number, found {dilation!r}")
        self.dilation = dilation
        self.origin_ns = time.monotonic_ns() if origin_ns is None else origin_ns
        # Whole dilations keep every nanosecond; a quotient of floats has 53 bits, some 100 days.
        self._divisor: float | int = int(dilation) if dilation == int(dilation) else dilation

    def rebase(self, origin_ns: int) -> None:
        """Let model time 0 be at monotonic time `origin_ns`; before it, model time is negative.

        Timers that are set keep the real time they were set for: rebase before load begins.
        """
        self.origin_ns = origin_ns

    @staticmethod
    def real_ns() -> int:
        """Return the machine's monotonic clock [ns]."""
        return time.monotonic_ns()

    def now_ns(self) -> int:
        """Return the model time, rounded down [ns]."""
        return int((time.monotonic_ns() - self.origin_ns) // self._divisor)

    def real_s(self, model_ns: int) -> float:
        """Return how long a span of model time lasts [real s]."""
        return model_ns * self.dilation / _NS_PER_S

    def call_at(
        self,
        loop: asyncio.AbstractEventLoop,
        model_ns: int,
        callback: Callable[..., object],
        *args: Any,
    ) -> asyncio.TimerHandle:
        """Call `callback` with `args` when model time has reached `model_ns`, never before.

        Parameters
        ----------
        loop : asyncio.AbstractEventLoop
        model_ns : int
            Absolute model time [ns]; one that has passed fires at once.
        callback : callable
        args : tuple

        Notes
        -----
        Both loops wait in whole milliseconds.  asyncio's own fires up to its clock's resolution
        early, which is added here; uvloop rounds to the nearest millisecond of a clock
        that shows whole ones, so the time is rounded up to one.
        """
        real_ns = self.origin_ns + math.ceil(model_ns * self._divisor)
        if type(loop).__module__.startswith("uvloop"):
            return loop.call_at(-(-real_ns // _NS_PER_MS) / 1000, callback, *args)
        return loop.call_at((real_ns + _EARLY_NS) / _NS_PER_S, callback, *args)


class ManualClock:
    """Model time that moves when told: for tests of what decides by time.

    Parameters
    ----------
    now_ns : int
        Where it stands [ns].
    """

    def __init__(self, now_ns: int = 0) -> None:
        self.dilation = 1.0
        self._now_ns = now_ns
        self._order = itertools.count()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []

    def now_ns(self) -> int:
        """Return the model time [ns]."""
        return self._now_ns

    def real_s(self, model_ns: int) -> float:
        """Return how long a span of model time lasts [s]; nobody waits for it."""
        return model_ns / _NS_PER_S

    def call_at(
        self,
        loop: asyncio.AbstractEventLoop,
        model_ns: int,
        callback: Callable[..., object],
        *args: Any,
    ) -> asyncio.TimerHandle:
        """Call `callback` when `advance` has brought the clock to `model_ns`."""
        handle = asyncio.TimerHandle(model_ns / _NS_PER_S, callback, args, loop)
        heapq.heappush(self._timers, (model_ns, next(self._order), handle))
        return handle

    def advance(self, span_ns: int) -> None:
        """Move the clock on by `span_ns`, firing timers in order, each at its own time.

        A callback may set timers; those that fall within the span fire too.
        """
        end_ns = self._now_ns + span_ns
        while self._timers and self._timers[0][0] <= end_ns:
            model_ns, _, handle = heapq.heappop(self._timers)
            self._now_ns = max(self._now_ns, model_ns)
            if not handle.cancelled():
                handle._run()
        self._now_ns = end_ns
