"""Validate: calibrate on A, write the predictions of B, then run B and compare.

Rule, in this order and no other: (1) the anchors of A are emulated and the costs fitted, or a
stored calibration of this very machine is taken; (2) every scenario of B is predicted and the
predictions are written to a file; (3) B is emulated in rounds, each round every scenario once
and a null run before them, same draws and fresh draws in turn (so a drift of the machine meets
all alike); (4) the predictions are read back and scored.  Nothing is fitted after (2).

A run counts as disturbed if the machine's host took more than 2 % of its time, or if an event
loop was more than 2 ms late (p99).  Disturbed repeats are left out as long as two others
remain; otherwise all are used, and the report says so.  A round that would not end within the
wall time of its lengths is not begun, and the report says that too.  Ctrl-C, once every
scenario of B was run, ends the rounds: what was measured until then is scored, and said to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.meshes import profile
from meshsim.progress import Report, reporter
from meshsim.topology.model import Step, Topology
from meshsim.topology.rates import class_rate
from meshsim.validation import store
from meshsim.validation.calibration import Calibration, calibrate
from meshsim.validation.emulation import Emulated, Emulator, Job, emulate_in_subprocess
from meshsim.validation.lengths import Lengths, lengths
from meshsim.validation.measurement import Measurement, measure
from meshsim.validation.outcome import Condition, Validation
from meshsim.validation.prediction import Prediction, predict
from meshsim.validation.scenarios import (
    SEED_FRESH,
    SEED_SAME,
    Scenario,
    calibration_scenarios,
    suite,
)
from meshsim.workload.distributions import mean_ns

__all__ = ["dilation_for", "validate"]

#: Without a suite: these lengths.
_DEFAULT_SUITE = "quick"
#: Shortest typical service time: what timers of 1 ms add to it is at most a fifth, and is
#: modelled [ns].
_SERVICE_MIN_NS = 5e6
#: Requests a second over all hops that two cores emulate below 60 %.
_HOPS_MAX_RPS = 250.0
_DILATION_MAX = 100.0
_NULL = "null"
#: Repeats that a noise floor needs.
_REPEATS_MIN = 2


def validate(
    topology: Topology | Sequence[Scenario] | None = None,
    suite_name: str = _DEFAULT_SUITE,
    *,
    dilation: float | None = None,
    recalibrate: bool = False,
    folder: str | Path | None = None,
    emulator: Emulator = emulate_in_subprocess,
    plan: Lengths | None = None,
    progress: bool | Report | None = None,
) -> Validation:
    """Say how wrong the simulator is about a scenario, or about the whole suite.

    Parameters
    ----------
    topology : Topology, sequence of Scenario or None
        What to predict and emulate; None is the suite.
    suite_name : str
        ``quick`` (within 45 minutes) or ``full`` (five repeats of a minute, several hours).
    dilation : float, optional
        A second of model time takes so many seconds, >= 1; by default what `dilation_for` says.
    recalibrate : bool
        Measure A again even if this machine has a stored calibration.  The suite always does.
    folder : str or Path, optional
        Where the predictions are written (``predictions.json``); by default a folder named by
        the time, beside the calibrations of this user.
    emulator : callable
        Carries out a `Job`.
    plan : Lengths, optional
        Lengths other than those of `suite_name`.
    progress : bool, callable or None
        See `meshsim.progress.reporter`.

    Returns
    -------
    Validation

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.
    EmulatorFailed
        If the emulator fails.

    Examples
    --------
    >>> import meshsim as ms                                              # doctest: +SKIP
    >>> ms.validate(ms.load("topologies/bookinfo.yaml")).scores()         # doctest: +SKIP
    """
    chosen = lengths(suite_name) if plan is None else plan
    scenarios = _scenarios(topology)
    if dilation is None:
        dilation = max(dilation_for(item.topology) for item in scenarios)
    if not 1 <= dilation <= _DILATION_MAX:
        raise ConfigError(f"dilation: found {dilation}, allowed: 1 to {_DILATION_MAX:g}")
    fresh_calibration = recalibrate or topology is None
    work = _Work(chosen, dilation, emulator, reporter(progress))
    facts = store.machine()
    calibration = None if fresh_calibration else store.load_calibration(facts)
    work.expect(calibration is None, scenarios)
    if calibration is None:
        calibration = work.calibrate()
        if emulator is emulate_in_subprocess:
            store.save_calibration(calibration, facts)
    place = Path(folder) if folder is not None else store.predictions_folder()
    path = place / "predictions.json"
    _write_predictions(path, scenarios, calibration, facts, work)
    work.run_rounds(scenarios)
    same, fresh = work.measured("same"), work.measured("fresh")
    if work.shaky:
        work.notes.append(f"rest on disturbed runs: {', '.join(work.shaky)}")
    sealed = store.read_json(path)
    predictions = {
        name: Prediction.from_dict(plain)
        for name, plain in sealed["content"]["predictions"].items()
    }
    return Validation(
        scenarios=scenarios,
        calibration=calibration,
        predictions=predictions,
        same=same,
        fresh=fresh,
        null=work.null,
        conditions=tuple(work.conditions),
        machine=facts,
        lengths=chosen,
        dilation=dilation,
        predicted_at=str(sealed["written"]),
        digest=str(sealed["digest"]),
        predictions_path=str(path),
        notes=tuple(work.notes),
        wall_s=work.elapsed_s,
    )


def _scenarios(topology: Topology | Sequence[Scenario] | None) -> tuple[Scenario, ...]:
    if topology is None:
        return suite()
    if isinstance(topology, Topology):
        if not topology.traffic:
            raise ConfigError("the scenario has no traffic: there is nothing to predict")
        if not profile(topology.mesh).sidecars:
            problem = Problem(
                "a mesh without proxies: the costs are calibrated with them",
                path="mesh",
                found=topology.mesh,
                allowed="a mesh with sidecars",
            )
            raise ConfigError([problem])
        return (Scenario(topology.name, topology, topology.question),)
    return tuple(topology)


def dilation_for(topology: Topology) -> float:
    """Return the time dilation that lets this machine emulate `topology` undistorted.

    The median step takes 5 ms at least, and all services together are asked at most 250 times
    a second, as if every request asked each service once.

    Examples
    --------
    >>> from meshsim.validation.scenarios import suite
    >>> dilation_for(suite()[0].topology)
    1.0
    """
    steps = [
        step
        for service in topology.services.values()
        for workload in service.workloads.values()
        for step in _all_steps(
            (*workload.steps, *(s for more in workload.operations.values() for s in more))
        )
    ]
    work = [mean_ns(drawn) for step in steps if (drawn := step.compute or step.sleep) is not None]
    # The median: one short step beside long ones does not decide.
    typical_ns = sorted(work)[len(work) // 2] if work else _SERVICE_MIN_NS
    rate = sum(class_rate(item) for item in topology.traffic.values())
    hops_rps = rate * len(topology.services)
    wanted = max(1.0, _SERVICE_MIN_NS / max(typical_ns, 1.0), hops_rps / _HOPS_MAX_RPS)
    return min(float(round(wanted, 1)), _DILATION_MAX)


def _all_steps(steps: Sequence[Step]) -> list[Step]:
    found = list(steps)
    for step in steps:
        for sequence in step.sequences:
            found += _all_steps(sequence)
    return found


def _write_predictions(
    path: Path,
    scenarios: Sequence[Scenario],
    calibration: Calibration,
    facts: dict[str, str],
    work: _Work,
) -> None:
    """Predict every scenario and write the predictions; nothing of B has been run yet."""
    predictions = {}
    for number, scenario in enumerate(scenarios):
        work.report(number, len(scenarios), f"predicting {scenario.name}")
        duration_s = work.plan.duration_s / work.dilation
        prediction = predict(scenario, calibration, duration_s, work.dilation)
        predictions[scenario.name] = prediction.to_dict()
    content: dict[str, Any] = {
        "machine": facts,
        "calibration": calibration.to_dict(),
        "dilation": work.dilation,
        "duration_s": work.plan.duration_s,
        "seed_same": SEED_SAME,
        "seed_fresh": SEED_FRESH,
        "predictions": predictions,
    }
    store.write_json(path, content)


@dataclass
class _Work:
    """Emulates what is asked, keeps what was measured, and watches the time."""

    plan: Lengths
    dilation: float
    emulator: Emulator
    report: Report
    runs: dict[str, dict[str, list[Emulated]]] = field(
        default_factory=lambda: {"same": {}, "fresh": {}}
    )
    null: list[Measurement] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: What rests on disturbed runs.
    shaky: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._begun_s = self.clock()
        self._done_s = 0.0
        self._total_s = 1.0

    @property
    def elapsed_s(self) -> float:
        """Wall time since the beginning [s]."""
        return self.clock() - self._begun_s

    def expect(self, calibrating: bool, scenarios: Sequence[Scenario]) -> None:
        """Set how much load is ahead, for the progress [s]."""
        plan = self.plan
        rounds = plan.same + plan.fresh
        anchors = len(calibration_scenarios()) * plan.calibration_repeats * calibrating
        # A null run a round is an anchor that shows drift.
        self._total_s = anchors * plan.calibration_s + rounds * (
            len(scenarios) * plan.duration_s + plan.duration_s
        )

    def calibrate(self) -> Calibration:
        """Emulate A, interleaved, and fit."""
        scenarios = calibration_scenarios()
        runs: dict[str, list[Emulated]] = {name: [] for name in scenarios}
        for repeat in range(self.plan.calibration_repeats):
            for name, topology in scenarios.items():
                job = Job(topology, self.plan.calibration_s, SEED_SAME)
                emulated = self._emulate(f"A/{name}", repeat, job)
                runs[name].append(emulated)
        chosen = {
            name: [item.result for item in self._quiet(f"A/{name}", results, 1)]
            for name, results in runs.items()
        }
        return calibrate(chosen)

    def _quiet(self, name: str, runs: list[Emulated], wanted: int) -> list[Emulated]:
        """Return the undisturbed of `runs` if there are as many as `wanted`, else all."""
        quiet = [item for item in runs if not item.disturbed]
        if len(quiet) >= wanted:
            return quiet
        self.shaky.append(name)
        return runs

    def measured(self, draws: str) -> dict[str, list[dict[str, Measurement]]]:
        """Return the measurements of each scenario of B with these draws, repeat by repeat."""
        return {
            name: [
                measure(item.result)
                for item in self._quiet(f"{name} ({draws})", runs, min(len(runs), _REPEATS_MIN))
            ]
            for name, runs in self.runs[draws].items()
        }

    def run_rounds(self, scenarios: Sequence[Scenario]) -> None:
        """Emulate B: same and fresh draws in turn, a null run before each round."""
        planned = {"same": self.plan.same, "fresh": self.plan.fresh}
        left = dict(planned)
        number, slowest_s = 0, 0.0
        while any(left.values()):
            if self.elapsed_s + slowest_s > self.plan.wall_max_s:
                self.notes.append(
                    f"{sum(left.values())} rounds were not begun: the wall time of "
                    f"{self.plan.wall_max_s / 60:.0f} minutes would not have held them"
                )
                return
            draws = max(left, key=lambda kind: left[kind] / max(planned[kind], 1))
            left[draws] -= 1
            begun_s = self.elapsed_s
            try:
                self._round(number, draws, scenarios)
            except KeyboardInterrupt:
                if len(self.runs["same"]) < len(scenarios):
                    raise  # there is a scenario of which nothing can be said
                self.notes.append(f"interrupted in round {number + 1} of {sum(planned.values())}")
                return
            slowest_s = max(slowest_s, self.elapsed_s - begun_s)
            number += 1

    def _round(self, number: int, draws: str, scenarios: Sequence[Scenario]) -> None:
        seed = SEED_SAME if draws == "same" else SEED_FRESH + number
        null = Job(calibration_scenarios()[_NULL], self.plan.duration_s, SEED_SAME)
        emulated = self._emulate("A/null", number, null)
        self.null += list(measure(emulated.result).values())
        duration_s = self.plan.duration_s / self.dilation
        for scenario in scenarios:
            job = Job(scenario.topology, duration_s, seed, self.dilation, scenario.change)
            emulated = self._emulate(f"{scenario.name} ({draws})", number, job)
            self.runs[draws].setdefault(scenario.name, []).append(emulated)

    def _emulate(self, name: str, number: int, job: Job) -> Emulated:
        self.report(min(self._done_s, self._total_s), self._total_s, f"emulating {name}")
        emulated = self.emulator(job)
        self._done_s += job.duration_s * job.dilation
        state = (emulated.steal, emulated.busy, emulated.lag_ms, emulated.disturbed)
        self.conditions.append(Condition(name, number, *state))
        return emulated
