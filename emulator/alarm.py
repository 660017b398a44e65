"""One timer that fires on time: when model time reaches a set point, to a tenth of a millisecond.

Rule: an event loop waits in whole milliseconds, rounded up, so that what it times is late by
half of one on average.  Linux has timers that are files (timerfd), which wake the loop
when they are due; each owner of an alarm has one.  Where there is none, or time is moved by
hand in a test, the clock's own timer is used.  Never early: model time has reached the point
when the callback runs.

References
----------
timerfd_create(2), Linux.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

from emulator.clock import Clock, ModelClock
from meshsim.state.codes import NEVER_NS

__all__ = ["Alarm"]

_NS_PER_S = 1_000_000_000
_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
#: A timer of 0 would be off; this is as good as now.
_REAL_NS_MIN = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Alarm:
    """A timer that is set again and again.

    Parameters
    ----------
    clock : ModelClock
    callback : callable
        Called without arguments when the time has come.  Used in a running event loop only.
    """

    def __init__(self, clock: ModelClock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback = callback
        self._due_ns = NEVER_NS
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file = -1
        self._handle: asyncio.TimerHandle | None = None
        self._spec = _TimerSpec()

    def set(self, model_ns: int) -> None:
        """Fire at `model_ns`, unless the alarm is set to an earlier time already.

        An alarm that fires before anything is due is set anew by its owner.
        """
        if model_ns >= self._due_ns:
            return
        self._due_ns = model_ns
        if self._loop is None:
            self._open()
        if self._file >= 0:
            self._set_file(self._clock.real_s(model_ns - self._clock.now_ns()))
            return
        if self._handle is not None:
            self._handle.cancel()
        assert self._loop is not None
        self._handle = self._clock.call_at(self._loop, model_ns, self._fire)

    def close(self) -> None:
        """Fire no more, and give the file back."""
        self._due_ns = NEVER_NS
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._file >= 0 and self._loop is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1
        self._loop = None

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        if _LIBC is not None and isinstance(self._clock, Clock):
            self._file = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._read)

    def _set_file(self, real_s: float) -> None:
        assert _LIBC is not None
        value = self._spec.value
        seconds, nanoseconds = divmod(max(int(real_s * _NS_PER_S) + 1, _REAL_NS_MIN), _NS_PER_S)
        value.seconds, value.nanoseconds = seconds, nanoseconds
        if _LIBC.timerfd_settime(self._file, 0, ctypes.byref(self._spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _read(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:  # it was set anew after it had fired
            return
        self._fire()

    def _fire(self) -> None:
        self._due_ns = NEVER_NS
        self._callback()
