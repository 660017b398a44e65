"""Calibrate on A: what this machine adds to a request, as four numbers and one stage.

Rule: everything is fitted on a single service with one worker, and on nothing else.

- *Harness stage*: the null run's latencies, less the mean time of its one hop as the gateway
  saw it.  Once a request, in series, it queues nowhere.  Its shape is taken as measured.
- *Request cost* s and *fixed cost* f: at loads of 0.2 and 0.6 the emulated mean is above the
  simulated one by ``f + s * g``, where g, the simulator's sensitivity to work at the server, is
  1.6 at the one and 6 at the other.  Two equations, two unknowns, solved by Newton's steps.
  s occupies the worker; f does not.
- *Proxy cost*: CPU a pass, from the proxies' own counters where they keep them.
- *Hop cost*: f less the harness stage's mean and less the four passes of a hop.  It stands in
  for the wire, which on a loopback is the scheduler.
- *Handshake cost*: half of what a new connection for each request adds at a load of 0.2 beyond
  the round trips of TCP and TLS, since both sides compute one after the other.

All runs meet the draws of the simulator, so that sampling noise cancels.  Costs are in the
machine's own time; at a dilation of k they are 1/k of that in model time.

References
----------
R. Sargent, "Verification and validation of simulation models" (2013): operational validity.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from meshsim.errors import ConfigError
from meshsim.results import Result
from meshsim.simulation import simulate
from meshsim.state.record import SEGMENT_STARTS
from meshsim.topology.model import Distribution, Latency, Network, Topology
from meshsim.topology.profile import MeshProfile, ProxyCost
from meshsim.validation.measurement import WARM_UP_WINDOWS, Measurement, measure, pooled
from meshsim.validation.scenarios import SEED_SAME, TRAFFIC, calibration_scenarios

__all__ = ["PROFILE_NAME", "Anchor", "Calibration", "calibrate", "calibrated_topology"]

#: The mesh whose costs are measured on this machine.
PROFILE_NAME = "emulated"
#: Points of the harness stage's distribution.
_STAGE_POINTS = 200
#: Difference by which the sensitivity to the request cost is taken [ns].
_STEP_NS = 200_000
#: Newton's steps; the sensitivity changes by a few percent between them.
_STEPS = 3
#: How often the costs of a request and of a handshake are fitted in turn.
_ROUNDS = 3
#: Passes through a proxy on the way there and back over one hop with two proxies.
_PASSES_A_HOP = 4
#: First segment after the warm-up: it begins two windows later.
_FIRST_SEGMENT = bisect.bisect_left(SEGMENT_STARTS, WARM_UP_WINDOWS)
#: The loads at which the two costs of a request are told apart.
_LOADS = ("light", "busy")


@dataclass(frozen=True)
class Anchor:
    """Evidence: one scenario of A as measured and as the calibrated simulator has it.

    Parameters
    ----------
    requests : int
        Successes measured.
    emulated_ms, simulated_ms : float
        Mean latency [ms].
    spread_ms : float
        Largest difference between the means of two repeats [ms].
    """

    requests: int
    emulated_ms: float
    simulated_ms: float
    spread_ms: float


@dataclass(frozen=True)
class Calibration:
    """What a machine adds to a request.

    Parameters
    ----------
    harness_ns : tuple of float
        Equally likely values of the harness stage [ns].
    hop_ns : float
        Fixed cost of one hop, there and back, beside the proxies' CPU [ns].
    request_ns : float
        What the server spends on a request beside its steps, occupying the worker [ns].
    pass_ns : float
        CPU of one pass through a proxy [ns].
    handshake_ns : float
        CPU of a full mutual TLS handshake on each side [ns].
    anchors : mapping of str to Anchor
        By scenario of A.
    notes : tuple of str
        What the fit had to give way on.
    """

    harness_ns: tuple[float, ...] = (0.0,)
    hop_ns: float = 0.0
    request_ns: float = 0.0
    pass_ns: float = 0.0
    handshake_ns: float = 0.0
    anchors: Mapping[str, Anchor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def profile(self, dilation: float = 1.0) -> MeshProfile:
        """Return the mesh with these costs, in model time at `dilation`."""
        return MeshProfile(
            name=PROFILE_NAME,
            sidecars=True,
            cost=ProxyCost(
                pass_ns=round(self.pass_ns / dilation),
                handshake_ns=round(self.handshake_ns / dilation),
            ),
            references=("calibrated on this machine (meshsim validate)",),
            request_ns=round(self.request_ns / dilation),
        )

    def stage_ns(self, dilation: float = 1.0) -> list[float]:
        """Return the harness stage in model time at `dilation` [ns]."""
        return [value / dilation for value in self.harness_ns]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote."""
        anchors = {name: Anchor(**anchor) for name, anchor in plain["anchors"].items()}
        values = dict(plain, anchors=anchors)
        values["harness_ns"] = tuple(plain["harness_ns"])
        values["notes"] = tuple(plain["notes"])
        return cls(**values)


def calibrated_topology(
    topology: Topology, calibration: Calibration, dilation: float = 1.0
) -> Topology:
    """Return `topology` on the emulator's network: a loopback, whose legs cost half a hop.

    The latencies that the scenario states are those of another network; the emulator has none
    of them.
    """
    leg = Distribution.model_validate(f"{round(calibration.hop_ns / 2 / dilation)}ns")
    latency = Latency(same_node=leg, same_zone=leg, same_region=leg, cross_region=leg)
    return topology.model_copy(update={"network": Network(latency=latency)})


def calibrate(runs: Mapping[str, Sequence[Result]], seed: int = SEED_SAME) -> Calibration:
    """Fit the costs to the emulator's runs of A.

    Parameters
    ----------
    runs : mapping of str to sequence of Result
        The repeats of each of `calibration_scenarios`, all of one duration and with the draws
        of `seed`.
    seed : int
        Of the runs.

    Returns
    -------
    Calibration

    Raises
    ------
    ConfigError
        If no request of a scenario succeeded: there is nothing to fit to.
    """
    scenarios = calibration_scenarios()
    duration_s = runs["null"][0].records[0].duration_ns / 1e9
    emulated = {
        name: pooled([measure(result)[TRAFFIC] for result in results])
        for name, results in runs.items()
    }
    silent = [name for name, measurement in emulated.items() if not measurement.successes]
    if silent:
        raise ConfigError(f"nothing to calibrate on: no request of {', '.join(silent)} succeeded")

    def simulated_mean(name: str, calibration: Calibration) -> float:
        return _simulate(scenarios[name], calibration, duration_s, seed).mean_ns

    null = emulated["null"].latencies
    stage_mean_ns = _stage_mean_ns(runs["null"])
    points = (np.arange(_STAGE_POINTS) + 0.5) / _STAGE_POINTS
    stage = np.array([null.quantile(float(q)) for q in points])
    # The hop's mean is counted with the hop; what the points miss of the tail is made up for.
    stage += stage_mean_ns - stage.mean()
    known = Calibration(
        harness_ns=tuple(float(round(value)) for value in stage),
        pass_ns=_pass_ns([result for name in _LOADS for result in runs[name]]),
    )
    fitted = known
    for _ in range(_ROUNDS):
        # Each in turn, for the few connections that a busy server needs have handshakes too.
        fitted = _fit(fitted, emulated, simulated_mean)
        fitted = _fit_handshake(fitted, emulated["handshake"], simulated_mean)
    anchors = {
        name: _anchor(runs[name], emulated[name], stage_mean_ns + simulated_mean(name, fitted))
        for name in scenarios
    }
    return replace(fitted, anchors=anchors, notes=_notes(fitted))


def _simulate(
    topology: Topology, calibration: Calibration, duration_s: float, seed: int
) -> Measurement:
    """Return one simulated run of A, the harness stage not included in its histogram."""
    result = simulate(
        calibrated_topology(topology, calibration),
        duration_s,
        1,
        seed,
        profile=calibration.profile(),
        traces=0,
        progress=False,
    )
    return measure(result)[TRAFFIC]


def _stage_mean_ns(results: Sequence[Result]) -> float:
    """Return the null run's mean latency less the mean time of its only hop [ns].

    The hop's is what the gateway saw, of the same requests.
    """
    sums, count = 0, 0
    for record in (record for result in results for record in result.records):
        hop = record.series[_FIRST_SEGMENT:]
        whole = record.windows[SEGMENT_STARTS[_FIRST_SEGMENT] :]
        sums += int(whole["latency_sum_ns"].sum()) - int(hop["latency_sum_ns"].sum())
        count += int(hop["successes"].sum())
    return sums / count if count else 0.0


def _pass_ns(results: Sequence[Result]) -> float:
    """Return the CPU of one pass, from the proxies' counters; 0 where they keep none [ns].

    After the warm-up, in which most connections are opened: handshakes are in these counters.
    """
    cpu_ns, requests = 0, 0
    for record in (record for result in results for record in result.records):
        first, last = record.proxies[_FIRST_SEGMENT - 1], record.proxies[-1]
        cpu_ns += int((last["cpu_ns"] - first["cpu_ns"]).sum())
        requests += int((last["requests"] - first["requests"]).sum())
    return cpu_ns / (2 * requests) if requests else 0.0


def _fit(
    known: Calibration,
    emulated: Mapping[str, Measurement],
    simulated_mean: Callable[[str, Calibration], float],
) -> Calibration:
    """Solve for the request cost and the hop cost by Newton's steps."""
    stage_ns = float(np.mean(known.harness_ns))
    targets = np.array([emulated[name].mean_ns - stage_ns for name in _LOADS])
    request_ns, hop_ns = known.request_ns, known.hop_ns
    for _ in range(_STEPS):
        here = replace(known, request_ns=request_ns, hop_ns=hop_ns)
        there = replace(here, request_ns=request_ns + _STEP_NS)
        means = np.array([simulated_mean(name, here) for name in _LOADS])
        moved = np.array([simulated_mean(name, there) for name in _LOADS])
        slopes = (moved - means) / _STEP_NS
        excess = targets - means
        step = (excess[1] - excess[0]) / (slopes[1] - slopes[0])
        step = max(step, -request_ns)
        request_ns += step
        hop_ns = max(hop_ns + float(np.mean(excess - slopes * step)), 0.0)
    return replace(known, request_ns=float(request_ns), hop_ns=hop_ns)


def _fit_handshake(
    fitted: Calibration,
    emulated: Measurement,
    simulated_mean: Callable[[str, Calibration], float],
) -> Calibration:
    """Find the handshake's CPU on each side: what is missing is shared by the two sides."""
    target_ns = emulated.mean_ns - float(np.mean(fitted.harness_ns))
    handshake_ns = fitted.handshake_ns
    for _ in range(_STEPS):
        here = replace(fitted, handshake_ns=handshake_ns)
        missing_ns = target_ns - simulated_mean("handshake", here)
        handshake_ns = max(handshake_ns + missing_ns / 2, 0.0)
    return replace(fitted, handshake_ns=handshake_ns)


def _anchor(results: Sequence[Result], emulated: Measurement, simulated_ns: float) -> Anchor:
    means = [measure(result)[TRAFFIC].mean_ns for result in results]
    return Anchor(
        emulated.successes,
        emulated.mean_ns / 1e6,
        simulated_ns / 1e6,
        (max(means) - min(means)) / 1e6,
    )


def _notes(fitted: Calibration) -> tuple[str, ...]:
    notes = []
    if fitted.request_ns == 0.0:
        notes.append(
            "the request cost came out at zero or below: the server adds nothing that occupies "
            "its worker, and the hop cost is the mean over both loads"
        )
    if fitted.hop_ns == 0.0:
        notes.append("the hop cost came out at zero or below")
    if fitted.pass_ns == 0.0:
        notes.append("the proxies count no CPU of their own: it is part of the hop cost")
    if fitted.handshake_ns == 0.0:
        notes.append("a new connection for each request added nothing measurable")
    return tuple(notes)
