"""Emulate: a scenario on real sockets, into the same Result as a simulation.

Rule: what is asked for is checked and decided before anything starts (`plan`); the run has a
thread and an event loop of its own, so that it works under a running loop (a notebook) and an
interrupt can be turned into an orderly end; what comes back is a `Result` whose `emulation`
says how it was made: dilation, lag, CPU, and that every request is accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emulator.control.broker_url import check_broker
from emulator.running.budget import Dilation, assign, choose_dilation
from emulator.running.join import remote_names
from emulator.running.node import compiled_of
from emulator.running.result import result_of
from emulator.running.run import Change, Outcome, Plan, Run, Script
from meshsim.errors import ConfigError, MeshsimError
from meshsim.meshes import profile, resolve
from meshsim.progress import Report, reporter
from meshsim.results import Result
from meshsim.state.record import WINDOW_COUNT
from meshsim.topology import with_values
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated
from meshsim.units import NS_PER_S, to_ns

__all__ = ["Emulation", "emulate", "plan_run", "progress_line"]

_SEED_MAX = 2**62
_MODES = ("STRICT", "PERMISSIVE", "DISABLE")
_PLANES = ("asyncio",)


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
        See `plan_run`: mesh, plane, broker, processes, dilation, mtls, draws, record, changes,
        scripts, key_type.

    Returns
    -------
    Result or Emulation
        With ``background=True`` an `Emulation`.

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.
    MeshsimError
        If a process ends unexpectedly.

    Notes
    -----
    An interrupt (Ctrl-C) ends the arrivals; what is under way ends, and the result is of the
    time until then.  A second one ends the run at once.

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


def plan_run(
    topology: Topology,
    duration: str | float,
    seed: int,
    *,
    mesh: str | None = None,
    plane: str = "asyncio",
    broker: str | None = None,
    processes: int | str | None = None,
    dilation: float | None = None,
    mtls: str | None = None,
    draws: str = "same",
    changes: Sequence[tuple[str, str, Any]] = (),
    scripts: Sequence[Script] = (),
    key_type: str = "ecdsa-p256",
    remote: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Plan:
    """Check and decide everything about a run.

    Parameters
    ----------
    topology, duration, seed
        Of `emulate`.
    mesh : str, optional
        Mesh profile to use instead of the scenario's.
    plane : "asyncio"
        What carries requests.
    broker : str, optional
        ``mqtt://host:port`` or ``mqtts://...`` of a broker to use instead of the embedded one
        (`emulator.control.broker_url`).
    processes : int or "each", optional
        Node processes: one for each modelled node by default, "each" for one a replica.  The
        load and the gateways have one of their own.
    dilation : float, optional
        Real seconds of one model second, > 0; by default as `emulator.running.budget` decides.
    mtls : "STRICT", "PERMISSIVE" or "DISABLE", optional
        Mutual TLS between proxies; STRICT by default, DISABLE in a mesh without proxies.
    draws : "same" or "fresh"
        The simulator's own draws, or others.
    changes : sequence of (time, path, value)
        Fields of the scenario that change while it runs, pushed by the control plane.
    scripts : sequence of coroutine function
        ``async def script(mesh: LiveControl)``, run beside the load.
    key_type : "ecdsa-p256" or "rsa-2048"
        Of certificates.
    remote : sequence of str
        Nodes of the scenario that other machines host: the run waits for them to join
        (`emulator.running.join`), and says how.
    host : str
        Address to listen on; beyond loopback only if you say so.

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.
    """
    duration_ns = _checked_duration(duration)
    _check("seed", seed, 0 <= seed < _SEED_MAX, "0 to 2**62 - 1")
    _check("plane", plane, plane in _PLANES, ", ".join(_PLANES))
    _check("draws", draws, draws in ("same", "fresh"), "same, fresh")
    _check("key_type", key_type, key_type in ("ecdsa-p256", "rsa-2048"), "ecdsa-p256, rsa-2048")
    good = dilation is None or 0 < dilation < math.inf
    _check("dilation", dilation, good, "a number > 0")
    declared = topology if mesh is None else topology.model_copy(update={"mesh": mesh})
    resolved = resolve(validated(declared))
    if not resolved.traffic:
        raise ConfigError("the scenario has no traffic: nothing would happen")
    sidecars = profile(resolved.mesh).sidecars
    mode = mtls or ("STRICT" if sidecars else "DISABLE")
    if broker is not None:
        check_broker(broker)
    _check("mtls", mode, mode in _MODES, ", ".join(_MODES))
    if mode != "DISABLE" and not sidecars:
        raise ConfigError(f"mtls: the mesh {resolved.mesh} has no proxies that could speak it")
    compiled = compiled_of(resolved)
    shares = assign(resolved, compiled.layout, processes)
    cores = os.cpu_count() or 1
    chosen = choose_dilation(resolved, compiled.layout, shares, cores, sidecars=sidecars)
    if dilation is not None:
        chosen = Dilation(float(dilation), "as asked for")
    return Plan(
        compiled=compiled,
        duration_ns=duration_ns,
        seed=seed,
        dilation=chosen,
        shares=shares,
        mode=mode,  # type: ignore[arg-type]  # checked above
        broker_url=broker or "",
        draws=draws,
        key_type=key_type,
        changes=_changes(declared, changes),
        scripts=tuple(scripts),
        remote=remote_names(remote, resolved.nodes),
        host=host,
    )


def _checked_duration(duration: str | float) -> int:
    try:
        duration_ns = to_ns(duration)
    except ValueError as error:
        raise ConfigError(f"duration: {error}") from None
    _check("duration", duration, duration_ns >= WINDOW_COUNT, f"at least {WINDOW_COUNT} ns")
    return duration_ns


def _check(name: str, found: object, good: bool, allowed: str) -> None:
    if not good:
        raise ConfigError(f"{name}: found {found!r}, allowed: {allowed}")


def _changes(topology: Topology, changes: Sequence[tuple[str, str, Any]]) -> tuple[Change, ...]:
    """Return the resolved topology after each change, in the order of time."""
    made = []
    for at, path, value in sorted(changes, key=lambda change: to_ns(change[0])):
        topology = with_values(topology, {path: value})
        made.append(Change(to_ns(at), resolve(validated(topology))))
    return tuple(made)


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
        plan = plan_run(topology, duration, seed, **options)
        self._report = reporter(progress)
        self._record = None if record is None else Path(record)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._run: Run | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._is_stopping = False
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
        MeshsimError
            If the run failed.
        """
        if not self._ended.wait(timeout_s):
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
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    # --- In the thread -----------------------------------------------------------------------

    def _main(self) -> None:
        folder = tempfile.mkdtemp(prefix="meshsim-run-") if self._record is not None else ""
        try:
            plan = self._plan if not folder else replace(self._plan, record=folder)
            # asyncio's own loop: the broker relies on how it treats closed transports.
            outcome = asyncio.run(self._main_task(plan))
            if self._record is not None:
                _join_logs(Path(folder), self._record)
            self._result = result_of(plan, outcome)
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


def _join_logs(folder: Path, target: Path) -> None:
    """Join the logs of the processes end to end."""
    with target.open("wb") as joined:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as part:
                shutil.copyfileobj(part, joined)
