"""Emulate: a scenario on real sockets, into the same Result as a simulation.

Rule: what is asked for is checked and decided before anything starts (`emulator.running.plan`);
the run has a thread and an event loop of its own, so that it works under a running loop (a
notebook) and an interrupt can be turned into an orderly end; what comes back is a `Result` whose
`emulation` says how it was made: dilation, lag, CPU, and that every request is accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emulator.running.members import end_if_imported
from emulator.running.plan import Plan, plan_run
from emulator.running.result import result_of
from emulator.running.run import Outcome, Run
from meshsim.errors import IncompleteRun, MeshsimError
from meshsim.progress import Report, reporter
from meshsim.results import Result
from meshsim.topology.model import Topology
from meshsim.units import NS_PER_S

__all__ = ["Emulation", "emulate", "progress_line"]


def emulate(
    topology: Topology,
    duration: str | float = "60s",
    seed: int = 1,
    *,
    background: bool = False,
    progress: bool | Report | None = None,
    **options: Any,
) -> Any:
    """Run a scenario on real sockets, with real TLS and a real control plane.

    Parameters
    ----------
    topology : Topology
        The scenario, e.g. from `meshsim.load`.
    duration : str or float
        Measured model time, e.g. ``"60s"`` or seconds, > 0.  It takes `dilation` times as long.
    seed : int
        0 <= seed < 2**62; with ``draws="same"`` the arrivals and service times are those that
        `meshsim.simulate` draws from this seed in its first replication.
    background : bool
        Return at once with an `Emulation`, e.g. in a notebook whose widgets should live.
    progress : bool, callable or None
        See `meshsim.progress.reporter`.
    **options
        See `emulator.running.plan.plan_run`: mesh, plane, broker, processes, dilation, mtls,
        draws, changes, scripts, key_type, certificate_ttl, remote, host; and `record` of
        `Emulation`.

    Returns
    -------
    Result or Emulation
        With ``background=True`` an `Emulation`.

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.
    IncompleteRun
        If a script, a timed fault or a change failed: with the result until then.
    MeshsimError
        If the mesh could not start, or was interrupted before load began.

    Notes
    -----
    An interrupt (Ctrl-C) ends the arrivals; what is under way ends, and the result is of the
    time until then.  A second one ends the run at once.  A node process that ends although
    nobody killed it ends the arrivals too, and the result says so.

    A script that calls this needs ``if __name__ == "__main__":``, as every program does whose
    processes are not forked (see `multiprocessing`).

    Examples
    --------
    >>> import meshsim as ms                                               # doctest: +SKIP
    >>> ms.emulate(ms.load("topologies/chain.yaml"), "10s").summary()      # doctest: +SKIP
    """
    emulation = Emulation(topology, duration, seed, progress=progress, **options)
    if background:
        return emulation
    try:
        return emulation.result()
    except KeyboardInterrupt:
        emulation.stop()
    try:
        return emulation.result()
    except KeyboardInterrupt:
        emulation.abort()
        raise


#: How often whoever waits for the end looks up [s].
_TURN_S = 0.2


class Emulation:
    """A run in the background: a thread with an event loop of its own.

    Parameters
    ----------
    topology, duration, seed, progress
        Of `emulate`.
    record : str or Path, optional
        File that gets every stimulus of every proxy, for `meshsim replay`.
    **options
        Of `plan_run`.

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong; nothing has started then.
    """

    def __init__(
        self,
        topology: Topology,
        duration: str | float = "60s",
        seed: int = 1,
        *,
        progress: bool | Report | None = None,
        record: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        end_if_imported()
        plan = plan_run(topology, duration, seed, **options)
        self._report = reporter(progress)
        self._record = None if record is None else Path(record)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._run: Run | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._is_stopping = self._is_aborting = False
        #: What the run has come to: sent, completed, failed, rate, p50_ms, p99_ms, version.
        self.now: Mapping[str, Any] = {}
        self._plan = plan
        self._thread = threading.Thread(target=self._main, name="meshsim emulate", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._ended.is_set()

    @property
    def join_urls(self) -> dict[str, str]:
        """What other machines join with, by process; empty while nobody is awaited."""
        run = self._run
        return run.remote.urls(run.broker.url) if run is not None and run.broker.url else {}

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the end and return the result.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait [s].

        Raises
        ------
        TimeoutError
            If the run has not ended by then.
        IncompleteRun
            If a script, a timed fault or a change failed: with the result until then.
        MeshsimError
            If the run failed.
        """
        # In turns, because Ctrl-C in the moment at which a process is started wakes nobody.
        while not self._ended.wait(_TURN_S if timeout_s is None else timeout_s):
            if timeout_s is not None:
                raise TimeoutError("the run has not ended")
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def stop(self) -> None:
        """End the arrivals; `result` then returns what there was."""
        self._is_stopping = True
        run = self._run
        if self._loop is not None and run is not None:
            with contextlib.suppress(RuntimeError):  # it ended in this moment
                self._loop.call_soon_threadsafe(run.stop)

    def abort(self) -> None:
        """End the run at once, without a result; return when nothing of it is left."""
        self._is_aborting = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    # --- In the thread -----------------------------------------------------------------------

    def _main(self) -> None:
        prefix = f"meshsim-run-{os.getpid()}-"
        folder = tempfile.mkdtemp(prefix=prefix) if self._record is not None else ""
        try:
            plan = self._plan if not folder else replace(self._plan, record=folder)
            try:
                # asyncio's own loop: the broker relies on how it treats closed transports.
                outcome = asyncio.run(self._main_task(plan))
            finally:
                begun = self._run is not None and self._run.has_begun
                if self._record is not None and begun and not self._is_aborting:
                    _join_logs(Path(folder), self._record)
            self._result = result_of(plan, outcome)
            self._error = _failure_of(outcome, self._result)
        except asyncio.CancelledError:
            self._error = MeshsimError("aborted")
        except BaseException as error:  # handed to the thread that asks for the result
            self._error = error
        finally:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            self._ended.set()

    async def _main_task(self, plan: Plan) -> Outcome:
        self._loop = asyncio.get_running_loop()
        self._run = Run(plan, self._on_progress)
        if self._is_stopping:
            self._run.stop()
        self._task = asyncio.ensure_future(self._run.run())
        if self._is_aborting:
            self._task.cancel()
        total_s = plan.duration_ns / NS_PER_S
        self._report(0.0, total_s, "starting the mesh")
        try:
            return await self._task
        finally:
            self._report(total_s, total_s, "emulated")

    def _on_progress(self, now: Mapping[str, Any]) -> None:
        self.now = now
        total_s = self._plan.duration_ns / NS_PER_S
        done_s = min(max(now["now_ns"] / NS_PER_S, 0.0), total_s)
        self._report(done_s, total_s, progress_line(now))

    def __repr__(self) -> str:
        state = "ended" if self.done else progress_line(self.now) if self.now else "starting"
        return f"<Emulation of {self._plan.compiled.topology.name}: {state}>"


def progress_line(now: Mapping[str, Any]) -> str:
    """Return one line for people: requests/s, latency, errors, configuration version.

    Examples
    --------
    >>> progress_line({"rate": 99.5, "p50_ms": 9.1, "p99_ms": 20.0, "failed": 0, "version": 2})
    '100/s p50 9.1 ms p99 20 ms, 0 failed, configuration 2'
    """
    return (
        f"{now['rate']:.0f}/s p50 {now['p50_ms']:.3g} ms p99 {now['p99_ms']:.3g} ms, "
        f"{now['failed']} failed, configuration {now['version']}"
    )


def _failure_of(outcome: Outcome, result: Result) -> IncompleteRun | None:
    """Return what to raise if something of the user's failed, else None."""
    if outcome.failure is None:
        return None
    name, cause = outcome.failure
    what = f"{name} failed at {outcome.ended_ns / NS_PER_S:.3g} s: {type(cause).__name__}: {cause}"
    error = IncompleteRun(what, result)
    error.__cause__ = cause
    return error


def _join_logs(folder: Path, target: Path) -> None:
    """Join the logs of the processes end to end; a killed one's may end within a line."""
    with target.open("wb") as joined:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as part:
                joined.writelines(line for line in part if line.endswith(b"\n"))
