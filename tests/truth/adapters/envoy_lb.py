"""Envoy's priorities, panic, degraded hosts and weighted localities: the policy's own figures."""

import re

import numpy as np
from truth_cases import Case
from truth_study import Claims, Exact, NotYet

from meshsim.policy.locality import weigh_localities
from meshsim.policy.priority import distribute_load
from meshsim.state.locality import LOCALITY_DTYPE, PRIORITY_DTYPE

_FACTOR = 140
#: Hosts of a priority or locality: percents are counts.
_HOSTS = 100


def study(case: Case) -> Exact | Claims:
    params = case.params
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
    weigh_localities(priorities, 0, localities, _FACTOR)
    effective = localities["effective_weight"]
    return 100 * float(effective[0] / (effective[0] + effective[1]))
