"""Service and arrival laws, from the words of a case to what a topology declares.

A law carries its mean [units of time] and squared coefficient of variation, which say how long
a run must be and what Pollaczek and Khinchine would answer.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from theory_scenarios import exponential, hyperexponential, lognormal, ms, poisson
from truth_study import NotYet


@dataclass(frozen=True)
class Law:
    """A distribution of times: as declared, with its first two moments."""

    declared: Any
    mean: float
    scv: float

    @property
    def second_moment(self) -> float:
        return self.mean**2 * (1 + self.scv)


def constant_law(mean: float) -> Law:
    return Law(ms(mean), mean, 0.0)


def exponential_law(mean: float) -> Law:
    return Law(exponential(mean), mean, 1.0)


def gamma_law(mean: float, scv: float) -> Law:
    if scv == 0:
        return constant_law(mean)
    return Law({"gamma": {"mean": ms(mean), "shape": 1 / scv}}, mean, scv)


def lognormal_law(mean: float, scv: float) -> Law:
    if scv == 0:
        return constant_law(mean)
    return Law(lognormal(mean, scv), mean, scv)


def mixture_law(branches: list[tuple[float, float]]) -> Law:
    """Return a mixture of exponentials, by pairs (probability, mean)."""
    mean = sum(p * m for p, m in branches)
    second = 2 * sum(p * m * m for p, m in branches)
    return Law(hyperexponential(*branches), mean, second / mean**2 - 1)


def pareto_law(low: float, high: float, shape: float) -> Law:
    """Return a bounded Pareto on [low, high]."""
    share = 1 - (low / high) ** shape

    def moment(n: int) -> float:
        if n == shape:
            return shape * low**shape * math.log(high / low) / share
        powers = low ** (n - shape) - high ** (n - shape)
        return shape * low**shape * powers / (share * (shape - n))

    declared = {"pareto_bounded": {"low": ms(low), "high": ms(high), "shape": shape}}
    return Law(declared, moment(1), moment(2) / moment(1) ** 2 - 1)


def number_after(text: str, name: str) -> float | None:
    """Return the number that follows `name` in `text`, as in "mean .1", "k=1.0", "rate 0.2"."""
    found = re.search(rf"\b{name}\s*=?\s*(\d*\.?\d+(?:[eE]-?\d+)?)", text)
    return float(found[1]) if found else None


def service_law(params: dict[str, Any]) -> Law:
    """Return the service law of a case.

    Raises
    ------
    NotYet
        If nobody has said how to declare it.
    """
    text = str(params.get("service", "exp"))
    name = text.lower()
    mean = params.get("mean", params.get("D", params.get("S")))
    if mean is None:
        mean = 1 / params["mu"] if "mu" in params else number_after(text, "mean") or 1.0
    branches = re.findall(r"(\d*\.?\d+)\s*Exp\((?:mean\s*)?(\d*\.?\d+)\)", text)
    if branches:
        return mixture_law([(float(p), float(m)) for p, m in branches])
    if name.startswith(("exp", "m")):
        return exponential_law(mean)
    if name.startswith("d"):
        return constant_law(mean)
    scv = params.get("scv", number_after(text, "scv"))
    erlang = re.match(r"erlang-?_?(\d+)", name)
    if erlang:
        return gamma_law(mean, 1 / int(erlang[1]))
    if name.startswith("gamma") and scv is not None:
        return gamma_law(mean, scv)
    if name.startswith("lognormal") and scv is not None:
        return lognormal_law(mean, scv)
    if "pareto" in name:
        return pareto_of(text)
    raise NotYet(f"no law for the service {text!r}")


def pareto_of(text: str) -> Law:
    """Return the law of "bounded Pareto k=1.0 p=100.0 alpha=1.1"."""
    low, high, shape = (number_after(text, name) for name in ("k", "p", "alpha"))
    if low is None or high is None or shape is None:
        raise NotYet(f"no bounds and index in {text!r}")
    return pareto_law(low, high, shape)


def arrivals_of(params: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return (declared arrivals, squared coefficient of variation of an interval)."""
    name = str(params.get("arrival", "poisson")).lower()
    rate = params["lam"]
    if name.startswith(("poisson", "exp", "m")):
        return poisson(rate), 1.0
    erlang = re.match(r"(?:erlang|e)-?_?(\d+)", name)
    if erlang:
        law = gamma_law(1 / rate, 1 / int(erlang[1]))
    elif name.startswith("d"):
        law = constant_law(1 / rate)
    elif (scv := number_after(name, "scv")) is not None:
        law = lognormal_law(1 / rate, scv) if "lognormal" in name else gamma_law(1 / rate, scv)
    else:
        raise NotYet(f"no arrivals {name!r}")
    return renewal(law), law.scv


def renewal(law: Law) -> dict[str, Any]:
    """Return arrivals with independent intervals of a law."""
    return {"renewal": {"interval": law.declared}}
