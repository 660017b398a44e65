"""The outcome of a validation: scores, orders, conditions, and their tables.

Rule: an outcome holds measurements and predictions, and makes every score from them when
asked; the overall verdict is of the same draws alone, as the bands are.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from meshsim.errors import ConfigError, Problem
from meshsim.validation import report
from meshsim.validation.calibration import Calibration
from meshsim.validation.emulation import BUSY_MAX
from meshsim.validation.lengths import Lengths
from meshsim.validation.measurement import Measurement
from meshsim.validation.prediction import Prediction
from meshsim.validation.scenarios import Scenario
from meshsim.validation.score import VERDICTS, Order, Score, order, score

__all__ = ["Condition", "Validation", "load_scores"]

#: Relative change of the null run's mean that is told.
_DRIFT_MAX = 0.1
_Repeats = Mapping[str, Sequence[Mapping[str, Measurement]]]


@dataclass(frozen=True)
class Condition:
    """How quiet the machine was during one run of the emulator.

    Parameters
    ----------
    run : str
    round : int
    steal, busy : float
        Shares of the machine's time [1].
    lag_ms : float
        How late the worst event loop was, 99th percentile [ms].
    disturbed : str
        Why the run is left out where enough others are not; empty if it counts.
    """

    run: str
    round: int
    steal: float
    busy: float
    lag_ms: float
    disturbed: str


@dataclass(frozen=True, eq=False, repr=False)
class Validation:
    """How wrong the simulator was.

    Parameters
    ----------
    scenarios : tuple of Scenario
        What was predicted.
    calibration : Calibration
    predictions : mapping of str to Prediction
        As read back from the file that was written before B was run.
    same, fresh : mapping of str to sequence
        Measurements of each repeat, by scenario, with the prediction's draws and with others.
    null : sequence of Measurement
        The null run of each round: the drift of the machine.
    conditions : tuple of Condition
    machine : mapping of str to str
    lengths : Lengths
    dilation : float
    predicted_at, digest : str
        When the predictions were written, and their SHA-256.
    predictions_path : str
        Where they are.
    notes : tuple of str
    wall_s : float
        Wall time of the whole [s].
    """

    scenarios: tuple[Scenario, ...]
    calibration: Calibration
    predictions: Mapping[str, Prediction]
    same: _Repeats
    fresh: _Repeats
    null: Sequence[Measurement]
    conditions: tuple[Condition, ...]
    machine: Mapping[str, str]
    lengths: Lengths
    dilation: float
    predicted_at: str
    digest: str
    predictions_path: str = ""
    notes: tuple[str, ...] = ()
    wall_s: float = 0.0

    @cached_property
    def all_scores(self) -> tuple[Score, ...]:
        """Every score, same draws first."""
        return tuple(
            item
            for draws, repeats in (("same", self.same), ("fresh", self.fresh))
            for name, prediction in self.predictions.items()
            if repeats.get(name)
            for item in score(prediction, repeats[name], draws)
        )

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The order of each group of scenarios."""
        groups: dict[str, list[Scenario]] = {}
        for scenario in self.scenarios:
            if scenario.group:
                groups.setdefault(scenario.group, []).append(scenario)
        found = []
        for group, members in groups.items():
            names = [item.name for item in members]
            traffic = next(iter(members[0].topology.traffic))
            for draws, repeats in (("same", self.same), ("fresh", self.fresh)):
                if len(names) > 1 and all(repeats.get(name) for name in names):
                    chosen = {name: self.predictions[name] for name in names}
                    found.append(order(group, chosen, repeats, draws, traffic))
        return tuple(found)

    @property
    def counts(self) -> dict[str, int]:
        """Number of verdicts of each kind on the same draws, orders included."""
        verdicts = [s.verdict for s in self.all_scores if s.draws == "same" and s.verdict]
        verdicts += [item.verdict for item in self.orders if item.draws == "same"]
        counted = Counter(verdicts)
        return {name: counted[name] for name in VERDICTS}

    @property
    def findings(self) -> tuple[str, ...]:
        """What is outside, and what limits the answer: one sentence each."""
        found = [
            f"{s.scenario}: {s.metric} is {100 * s.error:+.1f} % off "
            f"(band {100 * s.band:.3g} %, floor {100 * s.floor:.1f} %). {s.reason}".strip()
            for s in self.all_scores
            if s.draws == "same" and s.verdict == "outside"
        ]
        found += [
            f"order of {item.group} ({item.draws} draws): {item.reason}"
            for item in self.orders
            if item.verdict == "outside"
        ]
        busy = [item for item in self.conditions if item.busy > BUSY_MAX]
        if busy:
            found.append(
                f"the machine was more than {100 * BUSY_MAX:.0f} % busy in {len(busy)} of "
                f"{len(self.conditions)} runs: latencies there are partly the machine's"
            )
        disturbed = [item for item in self.conditions if item.disturbed]
        if disturbed:
            found.append(
                f"{len(disturbed)} of {len(self.conditions)} runs were disturbed, e.g. "
                f"{disturbed[0].run}: {disturbed[0].disturbed}"
            )
        if self.drift > _DRIFT_MAX:
            found.append(f"the null run's mean moved by {100 * self.drift:.0f} % between rounds")
        if abs(self.calibration_drift) > _DRIFT_MAX:
            found.append(
                f"the null run's mean was {100 * self.calibration_drift:+.0f} % off in the rounds "
                "against the calibration: the machine is not the one that was calibrated"
            )
        return (*found, *self.notes, *self.calibration.notes)

    @property
    def drift(self) -> float:
        """Range of the null run's mean over the rounds, relative to its mean [1]."""
        means = [item.mean_ns for item in self.null if item.successes]
        if len(means) < 2:
            return math.nan
        return (max(means) - min(means)) / (sum(means) / len(means))

    @property
    def calibration_drift(self) -> float:
        """Null run's mean over the rounds against that of the calibration, relative [1]."""
        anchor = self.calibration.anchors.get("null")
        means = [item.mean_ns / 1e6 for item in self.null if item.successes]
        if anchor is None or not means:
            return math.nan
        return sum(means) / len(means) / anchor.emulated_ms - 1

    # --- Views -------------------------------------------------------------------------------

    def scores(self) -> pd.DataFrame:
        """Return one row a scenario, class, draws and metric: error, floor, band, verdict."""
        return pd.DataFrame([asdict(item) for item in self.all_scores])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the distributions, as JSON has it."""
        return {
            "machine": dict(self.machine),
            "calibration": self.calibration.to_dict(),
            "predicted_at": self.predicted_at,
            "predictions_digest": self.digest,
            "lengths": asdict(self.lengths),
            "dilation": self.dilation,
            "wall_s": self.wall_s,
            "counts": self.counts,
            "scores": [asdict(item) for item in self.all_scores],
            "orders": [asdict(item) for item in self.orders],
            "drift": self.drift,
            "calibration_drift": self.calibration_drift,
            "conditions": [asdict(item) for item in self.conditions],
            "findings": list(self.findings),
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON; what is not a finite number is null."""
        return json.dumps(_finite(self.to_dict()), indent=2)

    def report(self, folder: str | Path) -> Path:
        """Write report.html, report.md, their figures and validation.json; return the HTML."""
        return report.write(self, Path(folder))

    def __str__(self) -> str:
        return report.text(self)

    def __repr__(self) -> str:
        words = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"<Validation of {len(self.scenarios)} scenarios: {words}>"

    def _repr_html_(self) -> str:
        return report.html_table(self)


def load_scores(path: str | Path) -> tuple[Score, ...]:
    """Read the scores of a stored ``validation.json``.

    Raises
    ------
    ConfigError
        If the file holds none.
    """
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8"))
        rows: list[dict[str, Any]] = [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in plain["scores"]
        ]
        return tuple(Score(**row) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError([Problem("no scores of a validation", file=str(path))]) from None


def _finite(plain: Any) -> Any:
    """Return a JSON value with null for NaN and infinity."""
    if isinstance(plain, dict):
        return {name: _finite(value) for name, value in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
