"""Predict: what the calibrated simulator says of a scenario, before it is emulated.

Rule: two answers.  With the *same* draws as the emulator (same seed, replication 0) the
sampling noise of arrivals and service times cancels, so that what differs is the model.  With
*fresh* draws the answer is that of many replications, as a user would get it.  The harness
stage, measured in the null run, comes on top of both.

A configuration change is believed by every proxy after the control plane's debounce; what
transport adds to it is milliseconds, and is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from meshsim.controlplane.debounce import DEBOUNCE_AFTER_NS
from meshsim.kernel.control import MeshControl
from meshsim.results import Result
from meshsim.results.verdict import UNSTABLE
from meshsim.simulation import Process, simulate
from meshsim.units import NS_PER_S
from meshsim.validation.calibration import Calibration, calibrated_topology
from meshsim.validation.measurement import Latencies, Measurement, measure
from meshsim.validation.scenarios import SEED_SAME, Change, Scenario

__all__ = ["Forecast", "Prediction", "predict", "processes"]

#: Replications of the prediction for fresh draws, and the first seed they have.
_REPLICATIONS = 20
_SEED = 1


@dataclass(frozen=True, eq=False)
class Forecast:
    """What one traffic class will do.

    Parameters
    ----------
    latencies : Latencies
        Of successes, the harness stage included, in model time.
    throughput_rps, error_fraction : float
        Successes a second [1/s]; share of the requests that fail [1].
    denied_fraction : float
        Share of the requests judged by access rules that these refuse [1]; NaN without rules.
    """

    latencies: Latencies
    throughput_rps: float
    error_fraction: float
    denied_fraction: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON has it."""
        return {
            "latencies": self.latencies.to_json(),
            "throughput_rps": self.throughput_rps,
            "error_fraction": self.error_fraction,
            "denied_fraction": None if math.isnan(self.denied_fraction) else self.denied_fraction,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Forecast:
        """Read what `to_dict` wrote."""
        denied = plain.get("denied_fraction")
        known = dict(plain, denied_fraction=math.nan if denied is None else denied)
        return cls(**dict(known, latencies=Latencies.from_json(plain["latencies"])))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a scenario will do, by traffic class.

    Parameters
    ----------
    scenario : str
    same, fresh : mapping of str to Forecast
        With the draws of the emulator, and of many replications.
    load : float
        Utilisation of the busiest server, nominal if the scenario states it [1].
    unstable : bool
        Whether the backlog is predicted to grow: only the throughput is compared then.
    """

    scenario: str
    same: Mapping[str, Forecast]
    fresh: Mapping[str, Forecast]
    load: float
    unstable: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON has it."""
        return {
            "scenario": self.scenario,
            "same": {name: item.to_dict() for name, item in self.same.items()},
            "fresh": {name: item.to_dict() for name, item in self.fresh.items()},
            "load": self.load,
            "unstable": self.unstable,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Prediction:
        """Read what `to_dict` wrote."""
        values = dict(plain)
        for side in ("same", "fresh"):
            values[side] = {name: Forecast.from_dict(item) for name, item in plain[side].items()}
        return cls(**values)


def predict(
    scenario: Scenario, calibration: Calibration, duration_s: float, dilation: float = 1.0
) -> Prediction:
    """Predict what the emulator will measure.

    Parameters
    ----------
    scenario : Scenario
    calibration : Calibration
        Of the machine that will emulate.
    duration_s : float
        Of one run of the emulator, in model time [s].
    dilation : float
        Of the emulator, >= 1.
    """
    stage_ns = calibration.stage_ns(dilation)

    def run(seed: int, replications: int) -> Result:
        return simulate(
            calibrated_topology(scenario.topology, calibration, dilation),
            duration_s,
            replications,
            seed,
            processes=processes(scenario.change, duration_s),
            profile=calibration.profile(dilation),
            traces=0,
            progress=False,
        )

    many = run(_SEED, _REPLICATIONS)
    load = scenario.load
    if load is None:
        load = float(many.endpoints()["utilisation"].max())
    return Prediction(
        scenario.name,
        _forecasts(measure(run(SEED_SAME, 1)), stage_ns),
        _forecasts(measure(many), stage_ns),
        load if math.isfinite(load) else 0.0,
        many.verdict.name == UNSTABLE,
    )


def _forecasts(
    measurements: Mapping[str, Measurement], stage_ns: list[float]
) -> dict[str, Forecast]:
    return {
        name: Forecast(
            item.latencies.after(stage_ns),
            item.throughput_rps,
            item.error_fraction,
            item.denied_fraction,
        )
        for name, item in measurements.items()
    }


def processes(change: Change | None, duration_s: float) -> tuple[Process, ...]:
    """Return the process that lets every proxy believe `change` when it reaches them."""
    if change is None:
        return ()
    at_s = change.at * duration_s
    weights = dict(change.weights)

    def push(env: Any, mesh: MeshControl) -> Generator[Any, Any, None]:
        yield env.timeout(at_s)
        mesh.push_weights(change.service, weights, delays=DEBOUNCE_AFTER_NS / NS_PER_S)

    return (push,)
