"""Simulate: replications of a scenario, side by side, into one Result.

Rule: replication r of a seed draws the same numbers however many replications run, in
whatever order and beside whatever others.  Replications run in threads, one a core: the
kernel holds no lock.  A scenario with a declared trigger is run a second time without it,
from the same seeds, so that the verdict can compare where the two settle.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from meshsim import kernel as engine
from meshsim.errors import ConfigError
from meshsim.explanation import explain
from meshsim.kernel.autoscaling import autoscaling_processes
from meshsim.kernel.control import MeshControl
from meshsim.kernel.environment import MeshEnvironment
from meshsim.kernel.faults import fault_process
from meshsim.meshes import profile as profile_of
from meshsim.meshes import resolve
from meshsim.progress import Report, reporter
from meshsim.state.record import WINDOW_COUNT, RunRecord
from meshsim.topology.compiled import CompiledTopology, compile_topology
from meshsim.topology.model import Topology
from meshsim.topology.profile import MeshProfile
from meshsim.topology.rates import class_rate
from meshsim.topology.releases import as_counted, release_of
from meshsim.topology.validate import validated
from meshsim.units import NS_PER_S, to_ns

if TYPE_CHECKING:  # pandas, which it loads, is not needed before there is a result
    from meshsim.results import Result

__all__ = ["Process", "simulate"]

#: A user's process: a SimPy generator over the environment and the running mesh.
Process = Callable[[Any, MeshControl], Generator[Any, Any, Any]]

#: After the measured time, measured requests get this many times that time to end.
_DRAIN_MAX = 1
_SEED_MAX = 2**62
#: `precision` stops here, reached or not.
_REPLICATIONS_MAX = 640


def simulate(
    topology: Topology,
    duration: str | float = "60s",
    replications: int = 10,
    seed: int = 1,
    *,
    mesh: str | None = None,
    precision: str | None = None,
    processes: Sequence[Process] = (),
    traces: int = 20,
    profile: MeshProfile | None = None,
    progress: bool | Report | None = None,
) -> Result:
    """Simulate a scenario.

    Parameters
    ----------
    topology : Topology
        The scenario, e.g. from `meshsim.load`.
    duration : str or float
        Measured time, e.g. ``"60s"`` or seconds, > 0.
    replications : int
        Independent runs, >= 1.
    seed : int
        0 <= seed < 2**62; the same seed gives the same bits.
    mesh : str, optional
        Mesh profile to use instead of the scenario's.
    precision : str, optional
        E.g. ``"p99:5%"``: double the replications until the half-width of that estimate is
        below this share of it in every traffic class, up to 640 replications.
    processes : sequence of callable
        SimPy processes ``process(env, mesh)`` run in every replication; ``mesh`` is a
        `MeshControl`.
    traces : int
        About how many requests of the first replication to keep as traces, >= 0.
    profile : MeshProfile, optional
        Proxies and costs to use instead of those of the scenario's mesh, e.g. measured ones;
        the defaults of unset policies stay the mesh's.
    progress : bool, callable or None
        See `meshsim.progress.reporter`.

    Returns
    -------
    Result

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.

    Examples
    --------
    >>> import meshsim as ms                                          # doctest: +SKIP
    >>> ms.simulate(ms.load("topologies/bookinfo.yaml")).summary()    # doctest: +SKIP
    """
    wanted = None
    if precision is not None:
        from meshsim.results import parse_precision

        wanted = parse_precision(precision)
    duration_ns = _checked(duration, replications, seed)
    declared = topology if mesh is None else topology.model_copy(update={"mesh": mesh})
    resolved = resolve(validated(declared))
    if not resolved.traffic:
        raise ConfigError("the scenario has no traffic: nothing would happen")
    compiled = compile_topology(resolved, profile or profile_of(resolved.mesh))
    report = reporter(progress)
    if not engine.compiled():
        engine.prepare(report)
    runs = _Runs(compiled, duration_ns, seed, tuple(processes), traces, report)
    records = runs.extend([], replications)
    result = runs.result(records)
    while wanted is not None and not wanted.reached(result) and len(records) < _REPLICATIONS_MAX:
        records = runs.extend(records, 2 * len(records))
        result = runs.result(records)
    return result


def _checked(duration: str | float, replications: int, seed: int) -> int:
    try:
        duration_ns = to_ns(duration)
    except ValueError as error:
        raise ConfigError(f"duration: {error}") from None
    if duration_ns < WINDOW_COUNT:
        allowed = f"at least {WINDOW_COUNT}ns, one for each window of its timeline"
        raise ConfigError(f"duration: too short; found {duration}; allowed: {allowed}")
    if replications < 1:
        raise ConfigError(f"replications: found {replications}, allowed: at least 1")
    if not 0 <= seed < _SEED_MAX:
        raise ConfigError(f"seed: found {seed}, allowed: 0 to 2**62 - 1")
    return duration_ns


class _Runs:
    """Runs the replications of one scenario and makes their Result."""

    def __init__(
        self,
        compiled: CompiledTopology,
        duration_ns: int,
        seed: int,
        processes: tuple[Process, ...],
        traces: int,
        report: Report,
    ) -> None:
        self.compiled = compiled
        self.duration_ns = duration_ns
        self.seed = seed
        self.processes = processes
        self.traces = traces
        self.report = report
        self.has_trigger = compiled.catalog.trigger
        self._empty: list[RunRecord] = []
        self._lock = threading.Lock()
        self._done_ns = 0
        self._stop = threading.Event()

    def extend(self, records: list[RunRecord], total: int) -> list[RunRecord]:
        """Return `records` continued up to `total` replications."""
        numbers = range(len(records), total)
        self._total_ns = len(numbers) * self.duration_ns * (2 if self.has_trigger else 1)
        self._done_ns = 0
        jobs = [(number, True) for number in numbers]
        if self.has_trigger:
            jobs += [(number, False) for number in numbers]
        workers = min(os.cpu_count() or 1, len(jobs))
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._replicate, number, after) for number, after in jobs]
            try:
                done = [future.result() for future in futures]
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise
        self.report(1.0, 1.0, "simulated")
        self._empty += done[len(numbers) :]
        return records + done[: len(numbers)]

    def result(self, records: Sequence[RunRecord]) -> Result:
        """Return the Result of `records`."""
        from meshsim.results import Result

        return Result.from_records(
            self.compiled.catalog,
            records,
            notices=self.compiled.topology.notices,
            defaults=self._defaults,
            records_empty=self._empty,
        )

    @cached_property
    def _defaults(self) -> dict[str, str]:
        """What the scenario did not say: field path -> "value: source", of policies."""
        resolved = self.compiled.topology
        defaults = {
            path: place.default for path, place in resolved.provenance.items() if place.default
        }
        for part in explain(resolved, "policies").parts:
            if part.path in defaults:
                defaults[part.path] = part.text.removeprefix(f"{part.path} = ")
        return defaults

    def _replicate(self, number: int, with_trigger: bool) -> RunRecord:
        """Run replication `number`, with or without the faults declared as triggers."""
        share = self._sample_share() if number == 0 and with_trigger else 0.0
        kernel = engine.Kernel(
            self.compiled,
            self.seed,
            number,
            self.duration_ns,
            sample_share=share,
            on_slice=self._check_stop,
            wall_clock=time.perf_counter,
        )
        env = MeshEnvironment(kernel)
        control = MeshControl(kernel, env)
        for fault in self.compiled.topology.faults:
            if with_trigger or not fault.trigger:
                env.process(fault_process(env, control, fault))
        for scaling in autoscaling_processes(env, control, self.compiled.topology):
            env.process(scaling)
        for process in self.processes:
            env.process(process(env, control))
        self._run(kernel, env)
        record = kernel.record()
        release = release_of(self.compiled.topology.envoy_release)
        named = {proxy: as_counted(counts, release) for proxy, counts in record.stats.items()}
        return replace(record, stats=named)

    def _run(self, kernel: engine.Kernel, env: MeshEnvironment) -> None:
        window_ns = 0
        for window in range(WINDOW_COUNT):
            begin_ns, window_ns = window_ns, self.duration_ns * (window + 1) // WINDOW_COUNT
            env.run(until=window_ns / NS_PER_S)
            if kernel.limit:
                return
            kernel.end_window(window)
            self._progress(window_ns - begin_ns)
        env.draining = True
        for step in range(WINDOW_COUNT * _DRAIN_MAX):
            if kernel.measured_in_flight == 0 or kernel.limit:
                return
            until_ns = self.duration_ns + self.duration_ns * (step + 1) // WINDOW_COUNT
            env.run(until=until_ns / NS_PER_S)

    def _sample_share(self) -> float:
        """Return the share of requests to trace, from the declared rates."""
        rate = sum(class_rate(item) for item in self.compiled.topology.traffic.values())
        return min(1.0, self.traces / max(rate * self.duration_ns / NS_PER_S, 1.0))

    def _check_stop(self, now_ns: int) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _progress(self, elapsed_ns: int) -> None:
        self._check_stop(0)
        with self._lock:
            self._done_ns += elapsed_ns
            done_s, total_s = self._done_ns / NS_PER_S, self._total_ns / NS_PER_S
            self.report(min(done_s, total_s), total_s, "simulating")
