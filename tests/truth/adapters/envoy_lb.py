"""Envoy's own figures: priorities, panic, degraded hosts, weighted localities, gradient limits."""

import math
import re
from dataclasses import replace

import numpy as np
from theory_scenarios import PER_MS, ms, poisson, topology, workload
from truth_cases import Case
from truth_runs import Values, compiled, side_by_side
from truth_scenarios import replications_within
from truth_study import Claims, Exact, NotYet, Replicated, key_of

from meshsim.kernel.owner import Kernel
from meshsim.meshes import profile
from meshsim.policy.locality import weigh_localities
from meshsim.policy.priority import distribute_load
from meshsim.state.locality import LOCALITY_DTYPE, PRIORITY_DTYPE
from meshsim.topology.model import Topology
from meshsim.topology.profile import ProxyCost
from meshsim.units import NS_PER_S

_FACTOR = 140
#: Hosts of a priority or locality: percents are counts.
_HOSTS = 100


def study(case: Case) -> Exact | Claims | Replicated:
    params = case.params
    if {"slots", "buffer"} <= params.keys():
        return _gradient(case, params["slots"], params["buffer"])
    if "healthy_degraded_unhealthy" in params:
        healthy, degraded, _ = params["healthy_degraded_unhealthy"]
        rows = _loads([healthy], [degraded], 0)
        return Exact(lambda: [rows["load"][0], rows["degraded_load"][0]])
    if "healthy_percent" in params:
        # The tables of spill-over leave panic aside.
        threshold = int((re.search(r"panic threshold (\d+)", case.model) or [0, 0])[1])
        rows = _loads(params["healthy_percent"], 0, threshold)
        if case.rule == "order":
            return Claims(lambda: _panic_claims(case.expected, rows), cheap=True)
        return Exact(lambda: rows["load"].tolist())
    if "healthy_X" in params:
        return Exact(lambda: _share_of_first(case.model, params["healthy_X"]))
    raise NotYet(f"no scenario for {case.model!r}")


def _loads(healthy: list[int], degraded: list[int] | int, threshold: int) -> np.ndarray:
    """Return the PRIORITY rows of priorities of which so many percent are healthy."""
    rows = np.zeros(len(healthy), PRIORITY_DTYPE)
    rows["hosts"] = _HOSTS
    rows["healthy"] = healthy
    rows["degraded"] = degraded
    distribute_load(rows, 0, len(rows), _FACTOR, threshold)
    return rows


def _panic_claims(expected: str, rows: np.ndarray) -> dict[str, bool]:
    """Return what "P0 panic, P1 not, 7/93" claims.

    The documentation rounds each share by itself; Envoy's code gives what is left of whole
    percents to the first priority, so a share may differ by one.
    """
    claims = {
        f"P{number} {state}": bool(rows["panic"][int(number)]) == (state == "panic")
        for number, state in re.findall(r"P(\d+) (panic|not)", expected)
    }
    shares = re.search(r"\d+(?:/\d+)+", expected)
    if shares:
        wanted = np.array([int(share) for share in shares[0].split("/")])
        claims[f"{shares[0]} within 1"] = bool((abs(rows["load"] - wanted) <= 1).all())
    return claims


def _share_of_first(model: str, healthy: int) -> float:
    """Return the percentage of picks that the first of two weighted localities gets."""
    weights = [int(weight) for weight in re.findall(r"[XY]=(\d+)", model)]
    localities = np.zeros(2, LOCALITY_DTYPE)
    localities["weight"] = weights
    localities["healthy"] = [healthy, _HOSTS]
    priorities = np.zeros(1, PRIORITY_DTYPE)
    priorities["locality_count"] = 2
    localities["hosts"] = _HOSTS
    weigh_localities(priorities, 0, localities, _FACTOR, 0)
    effective = localities["effective_weight"]
    return 100 * float(effective[0] / (effective[0] + effective[1]))


# --- Adaptive concurrency ---------------------------------------------------------------------

#: Least latency [ms]: latencies are binned by two digits, and those of 60 to 99 the most finely.
_LATENCY_MS = 60.0
#: Requests that come for each that is served: what is refused is there again at once.
_SATURATION = 20.0
#: A window is long beside a latency, so that it holds what its own limit makes of it; the first
#: half of the run is left out, and the least latency is measured once, at its begin.
_WINDOW_S, _END_S = 1, 40
_MANY = 1_000_000


def _gradient(case: Case, slots: int, buffer: float) -> Replicated:
    """Return where the limit settles before a server of equal services, saturated.

    The limit in force is a whole number; the fixed point is read before it is cut, off what the
    controller reports: gradient * limit + sqrt(gradient * limit).
    """
    rate = _SATURATION * slots / _LATENCY_MS

    def run(seed: int, replications: int) -> Values:
        scenario = compiled(_saturated(slots, buffer, rate), _PROXY)

        def one(number: int) -> tuple[float, float]:
            kernel = Kernel(scenario, seed, number, _END_S * NS_PER_S)
            limits = []
            for second in range(1, _END_S):
                assert kernel.advance_to(second * NS_PER_S + NS_PER_S // 2)
                headroom = kernel.state.gradients["burst_queue_size"][0]
                limits.append((headroom**2 + headroom, kernel.state.gradients["limit"][0]))
            return tuple(np.mean(limits[_END_S // 2 :], axis=0))

        return Values(np.array(side_by_side(one, replications)))

    def second() -> tuple[float, str]:
        scaled = (1 + buffer) * slots
        return scaled + math.sqrt(scaled), "headroom as in gradient_controller.cc"

    return Replicated(
        key=key_of(case, "gradient"),
        run=run,
        read=lambda runs: runs.values[:, 0],
        load=1.0,
        replications_max=replications_within(rate * PER_MS * _END_S),
        about=f"{_END_S} s each",
        second=second,
        tell=lambda runs: f"the limit in force is {runs.values[:, 1].mean():.1f}",
    )


#: Sidecars that cost nothing: what limits is an inbound proxy.
_PROXY = replace(profile("istio-sidecar"), cost=ProxyCost())


def _saturated(slots: int, buffer: float, rate: float) -> Topology:
    least = {
        "interval": "1h",
        "jitter": 0,
        "buffer": 100 * buffer,
        "min_concurrency": min(3, slots),
    }
    window = {"concurrency_update_interval": f"{_WINDOW_S}s"}
    policy = {
        "adaptive_concurrency": {"concurrency_limit_params": window, "min_rtt_calc_params": least},
        "routes": [{"retry": {"num_retries": 0}}],
        "circuit_breakers": dict.fromkeys(_BREAKERS, _MANY),
    }
    # Slots in step would serve in batches; cores that are shared take minRTT * max(1, L / c).
    body = workload(
        ms(_LATENCY_MS), concurrency=_MANY, discipline="PROCESSOR_SHARING", cpu=float(slots)
    )
    scenario = topology(
        {"station": body},
        {"load": {"to": "station", "arrivals": poisson(rate)}},
        {"station": policy},
    )
    return scenario.model_copy(update={"mesh": "istio-sidecar"})


_BREAKERS = ("max_connections", "max_pending_requests", "max_requests")
