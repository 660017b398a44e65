"""The measured time of a run: the load, what goes on beside it, and who watches.

Rule: load begins at model time 0, which all processes learn shortly before, and ends when every
measured request has ended.  It ends early by hand, when a process has ended that nobody killed,
and when a script, a timed fault or a change failed: arrivals end at once, what is under way
ends, and the outcome says when and why.  Only the loss of the load's own process loses the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emulator.running.budget import EDGE
from emulator.running.faults import LiveControl, timed_fault
from emulator.running.messages import PeerLost
from emulator.running.plan import Change, Script
from meshsim.errors import MeshsimError
from meshsim.results.measured import STOPPED_BY_FAILURE, STOPPED_BY_HAND
from meshsim.units import NS_PER_S, format_duration

if TYPE_CHECKING:
    from emulator.running.run import Run

__all__ = ["Measuring"]

#: Between telling the origin of model time and its coming [real s].
_LEAD_S = 0.25
_PROGRESS_S = 1.0
_WATCH_S = 0.1
#: Longest wait for the end of the load [real s]: a year.
_FOREVER_S = 3.2e7


class Measuring:
    """The measured time of one run.

    Parameters
    ----------
    run : Run
        Started; its `outcome` learns when and why measuring ended.
    stop : asyncio.Event
        Ends the arrivals.
    """

    def __init__(self, run: Run, stop: asyncio.Event) -> None:
        self._run = run
        self._stop = stop

    async def run(self) -> None:
        """Let load run, faults happen and people watch, until every request has ended.

        Raises
        ------
        MeshsimError
            If the process of the load has ended.
        """
        run, clock = self._run, self._run.clock
        await run.meet_clocks()
        origin_ns = clock.real_ns() + int(_LEAD_S * NS_PER_S)
        clock.rebase(origin_ns)
        await asyncio.gather(*(run.begin(member) for member in run.members.values()))
        run.has_begun, run.outcome.version = True, run.control.version
        load: asyncio.Future[Any] = asyncio.ensure_future(run.edge.peer.ask("load", _FOREVER_S))
        tasks: dict[asyncio.Future[Any], str] = {
            asyncio.ensure_future(work): name for name, work in self._beside()
        }
        try:
            waiting = {load, *tasks}
            while not load.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {load}:
                    await self._on_end(tasks[task], task)
            load.result()
        except PeerLost:
            raise MeshsimError(f"the process '{EDGE}', with the load, ended unexpectedly") from None
        finally:
            for task in (load, *tasks):
                task.cancel()
            await asyncio.gather(load, *tasks, return_exceptions=True)
        run.outcome.ended_ns = run.outcome.ended_ns or run.plan.duration_ns
        run.outcome.real_s = (clock.real_ns() - origin_ns) / NS_PER_S

    def _beside(self) -> Iterable[tuple[str, Coroutine[Any, Any, str | None]]]:
        """Yield what goes on beside the load, by name; what it returns ends the load."""
        control, plan = LiveControl(self._run), self._run.plan
        yield "waiting for a stop", self._wait_stop()
        yield "the watch", self._watch()
        yield "the progress report", self._tell_progress()
        for fault in plan.compiled.topology.faults:
            name = f"the fault {fault.kind} at {format_duration(fault.at)}"
            yield name, timed_fault(control, fault)
        for script in plan.scripts:
            yield f"the script {getattr(script, '__name__', script)}", _run_script(script, control)
        for change in plan.changes:
            name = f"the change at {format_duration(change.at_ns)}"
            yield name, self._change(control, change)

    async def _on_end(self, name: str, task: asyncio.Future[str | None]) -> None:
        """Stop the load if what has ended beside it is a reason to."""
        error, outcome = task.exception(), self._run.outcome
        reason = task.result() if error is None else f"{STOPPED_BY_FAILURE}: {name} failed"
        if error is not None and outcome.failure is None:
            outcome.failure = name, error
        if reason and not outcome.stopped:
            now_ns = max(self._run.clock.now_ns(), 1)
            outcome.ended_ns = min(now_ns, self._run.plan.duration_ns)
            outcome.stopped = reason
            with contextlib.suppress(PeerLost):  # the load says so itself
                await self._run.edge.peer.ask("stop_load")

    async def _wait_stop(self) -> str:
        await self._stop.wait()
        return STOPPED_BY_HAND

    async def _watch(self) -> str:
        """Return when a process has ended that nobody killed."""
        while not (lost := self._run.lost_members()):  # noqa: ASYNC110 - members come and go
            await asyncio.sleep(_WATCH_S)
        for name in lost:
            self._run.note_loss(name, "ended unexpectedly")
        return f"{STOPPED_BY_FAILURE}: the process '{lost[0]}' ended unexpectedly"

    async def _change(self, control: LiveControl, change: Change) -> None:
        await control.sleep(change.at_ns / NS_PER_S - control.now_s)
        self._run.push(topology=change.topology)

    async def _tell_progress(self) -> None:
        """Say once a second what the run has come to."""
        before, before_ns = 0, 0
        while True:
            await asyncio.sleep(_PROGRESS_S)
            with contextlib.suppress(PeerLost):
                answer = await self._run.edge.peer.ask("now")
                now = dict(answer.values)
                ended = now["completed"] + now["failed"]
                span_s = max(now["now_ns"] - before_ns, 1) / NS_PER_S
                latencies = answer.arrays.get("latencies_ns", np.zeros(0, np.int64))
                now |= {"rate": (ended - before) / span_s, **_quantiles_ms(latencies)}
                before, before_ns = ended, now["now_ns"]
                self._run.progress(now)


def _quantiles_ms(latencies_ns: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return median and 99th percentile as Python's numbers; 0 of nothing."""
    p50, p99 = np.quantile(latencies_ns, (0.5, 0.99)) if len(latencies_ns) else (0.0, 0.0)
    return {"p50_ms": float(p50) / 1e6, "p99_ms": float(p99) / 1e6}


async def _run_script(script: Script, control: LiveControl) -> None:
    await script(control)
