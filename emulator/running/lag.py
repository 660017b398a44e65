"""How late an event loop is: the probe that says whether a process kept up.

Rule: every 10 ms of real time the probe asks to be called and notes how late it was.  A loop
that is late delays every timer and socket of its process by as much, and that delay is the
machine's, not the mesh's.  An event loop rounds timers up to 1 ms, so up to 1 ms is no lag.
"""

from __future__ import annotations

import asyncio
import gc

import numpy as np

from emulator.clock import Clock
from meshsim.units import NS_PER_S

__all__ = ["LagProbe"]

_PERIOD_NS = 10_000_000
#: Samples kept: the last ten minutes.
_SAMPLES_MAX = 60_000


class LagProbe:
    """Measures the running loop between `start` and `stop`.

    While it measures, the garbage collector rests: a full collection stops the loop for
    milliseconds.  Objects that live at `start` are never looked at again.
    """

    def __init__(self) -> None:
        self._samples = np.zeros(_SAMPLES_MAX, np.int64)
        self._count = 0
        self._due_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._count = 0
        self._wait()

    def _wait(self) -> None:
        self._due_ns = Clock.real_ns() + _PERIOD_NS
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_PERIOD_NS / NS_PER_S, self._due)

    def _due(self) -> None:
        late_ns = Clock.real_ns() - self._due_ns
        self._samples[self._count % _SAMPLES_MAX] = max(0, late_ns)
        self._count += 1
        self._wait()

    def stop(self) -> None:
        """End the measurement; stopping twice does no harm."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        gc.enable()
        gc.unfreeze()

    def quantiles_ms(self) -> dict[str, float]:
        """Return p50, p99 and the maximum of the lag [ms]; empty before the first sample."""
        samples = 1e-6 * self._samples[: min(self._count, _SAMPLES_MAX)]
        if not len(samples):
            return {}
        p50, p99 = np.quantile(samples, (0.5, 0.99))
        values = {"p50": p50, "p99": p99, "max": samples.max()}
        return {name: round(float(value), 3) for name, value in values.items()}
