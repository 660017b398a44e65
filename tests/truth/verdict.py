"""When a measured value agrees with a known one, by the rule of its case.

- exact: |x - e| <= rel |e| (1e-9 unless said) elementwise; whole numbers are equal.
- ci: R >= 10 independent replications; |mean - e| <= t(.9995, R-1) s / sqrt(R), *and* the 95 %
  half-width is at most `max_halfwidth_rel` |e|.  A wider interval says nothing: INCONCLUSIVE,
  never PASS.  Of k elements each is tested at 0.001 / k (Bonferroni).
- asym: |mean - e| <= rel |e| + t s / sqrt(R), at the stated size of the system.
- simref: |mean - e| <= 3.3 sqrt(ref_se^2 + se^2) + rel |e|: the reference was simulated too.
- band: lo <= x <= hi elementwise; of a stochastic x the mean of R >= 5 replications.
- bound: every 99 % interval meets [lo, hi] and none lies wholly above or below it.
- order: every claim holds.

A ci case fails by chance once in a thousand seeds; one that fails with two seeds is a bug.

References
----------
A. M. Law, "Simulation Modeling and Analysis", 5th ed., chapter 9 (replications, t intervals).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from truth_cases import Case

PASS = "PASS"
FAIL = "FAIL"
INCONCLUSIVE = "INCONCLUSIVE"
DISPUTED = "DISPUTED"
NOT_YET = "NOT YET"

REPLICATIONS_MIN = {"ci": 10, "asym": 10, "simref": 10, "band": 5, "bound": 10}
_EXACT_REL = 1e-9
_FALSE_ALARM = 1e-3
_SIMREF_ERRORS = 3.3


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    `mean`, `half_width` (95 %) and `scores` are of each element; a score is the deviation in
    standard errors, carried from t to the normal distribution, so that right cases of any
    number of replications give N(0, 1).
    """

    status: str
    note: str = ""
    mean: tuple[float, ...] = ()
    half_width: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    replications: int = 0


def t_error(values: np.ndarray, confidence: float) -> np.ndarray:
    """Return the half-width of the t interval of the mean of each column of `values`."""
    count = len(values)
    t = stats.t.ppf(0.5 + confidence / 2, count - 1)
    return t * values.std(axis=0, ddof=1) / math.sqrt(count)


def normal_scores(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the deviations of the means in standard errors, as normal quantiles."""
    count = len(values)
    error = values.std(axis=0, ddof=1) / math.sqrt(count)
    deviation = values.mean(axis=0) - expected
    t = np.divide(deviation, error, out=np.zeros_like(deviation), where=error > 0)
    # By the nearer tail: far out, 1 - p is 0.
    tail = stats.t.sf(np.abs(t), count - 1)
    return np.sign(t) * stats.norm.isf(tail)


def excess(case: Case, values: np.ndarray, widen: float = 1.0) -> float:
    """Return the 95 % half-width over what the rule of the case allows, or can use; 1 is enough.

    `widen` multiplies the half-width that a ci case allows.
    """
    half, expected, tolerance = t_error(values, 0.95), np.abs(case.values), case.tolerance
    if case.rule == "ci":
        allowed = widen * tolerance["max_halfwidth_rel"] * expected
    elif case.rule == "asym":
        allowed = tolerance["rel"] * expected
    elif case.rule == "simref":
        allowed = 1.96 * np.maximum(
            tolerance["ref_se"], tolerance["rel"] * expected / _SIMREF_ERRORS
        )
    elif case.rule == "band":
        low, high = _limits(tolerance, values.shape[1])
        allowed = (high - low) / 6
    else:
        allowed = 0.05 * np.abs(values.mean(axis=0))
    allowed = np.broadcast_to(allowed, half.shape)
    ratios = np.divide(half, allowed, out=np.full(half.shape, np.inf), where=allowed > 0)
    return float(np.max(np.where(half > 0, ratios, 0.0)))


def judge_sample(case: Case, values: np.ndarray, widen: float = 1.0) -> Verdict:
    """Return the verdict on replications, shape (R, n): one row each, one column an element."""
    count, width = values.shape
    if count < REPLICATIONS_MIN[case.rule]:
        raise ValueError(f"{count} replications; {case.rule} wants {REPLICATIONS_MIN[case.rule]}")
    expected = case.values if case.rule == "bound" else np.broadcast_to(case.values, width)
    mean, half_95 = values.mean(axis=0), t_error(values, 0.95)
    scores: tuple[float, ...] = ()
    if case.rule == "ci":
        scores = tuple(normal_scores(values, expected).tolist())
        holds = np.abs(mean - expected) <= t_error(values, 1 - _FALSE_ALARM / width)
    elif case.rule == "asym":
        slack = case.tolerance["rel"] * np.abs(expected)
        holds = np.abs(mean - expected) <= slack + t_error(values, 1 - _FALSE_ALARM / width)
    elif case.rule == "simref":
        error = values.std(axis=0, ddof=1) / math.sqrt(count)
        both = np.sqrt(case.tolerance["ref_se"] ** 2 + error**2)
        slack = case.tolerance["rel"] * np.abs(expected)
        holds = np.abs(mean - expected) <= _SIMREF_ERRORS * both + slack
    elif case.rule == "band":
        low, high = _limits(case.tolerance, width)
        holds = (low <= mean) & (mean <= high)
    elif case.rule == "bound":
        low, high = expected
        half_99 = t_error(values, 0.99)
        holds = (mean + half_99 >= low) & (mean - half_99 <= high)
    else:
        raise ValueError(f"{case.rule} is no rule for replications")
    verdict = Verdict(
        PASS if bool(np.all(holds)) else FAIL,
        mean=tuple(mean.tolist()),
        half_width=tuple(half_95.tolist()),
        scores=scores,
        replications=count,
    )
    if case.rule == "ci" and excess(case, values, widen) > 1:
        outside = "" if verdict.status == PASS else ", and outside"
        verdict = replace(verdict, status=INCONCLUSIVE, note=f"interval too wide{outside}")
    return verdict


def judge_exact(case: Case, found: np.ndarray) -> Verdict:
    """Return the verdict on the result of deterministic code, shape (n,)."""
    expected = case.values
    if found.shape != expected.shape:
        raise ValueError(f"{found.shape} values found, {expected.shape} expected")
    if case.rule == "exact":
        slack = case.tolerance.get("rel", _EXACT_REL) * np.abs(expected)
        holds = np.abs(found - expected) <= slack
        if _whole(case.expected):
            holds = found == expected
    elif case.rule == "band":
        low, high = _limits(case.tolerance, len(found))
        holds = (low <= found) & (found <= high)
    else:
        raise ValueError(f"{case.rule} is no rule for one run")
    return Verdict(PASS if bool(np.all(holds)) else FAIL, mean=tuple(found.tolist()))


def judge_claims(claims: Mapping[str, bool]) -> Verdict:
    """Return the verdict on statements that hold or do not."""
    broken = [text for text, holds in claims.items() if not holds]
    if broken or not claims:
        return Verdict(FAIL, f"does not hold: {'; '.join(broken)}")
    return Verdict(PASS, "; ".join(claims))


def dispute(case: Case, values: np.ndarray, second: float | list[float], how: str) -> Verdict:
    """Return DISPUTED if `values` contradict the case and agree with a second computation.

    `second` takes the place of the expected value under the same rule, in the middle of a band
    of the same width; otherwise the verdict of the case stands.
    """
    verdict = judge_sample(case, values)
    if verdict.status != FAIL or case.rule not in ("ci", "asym", "simref", "band"):
        return verdict
    other = replace(case, expected=second)
    if case.rule == "band":
        low, high = _limits(case.tolerance, values.shape[1])
        reach = (high - low) / 2
        limits = {"lo": np.asarray(second) - reach, "hi": np.asarray(second) + reach}
        other = replace(other, tolerance={**case.tolerance, **limits})
    if judge_sample(other, values).status != PASS:
        return replace(verdict, note=f"second computation {second} ({how}) disagrees as well")
    return replace(verdict, status=DISPUTED, note=f"second computation gives {second} ({how})")


def dispute_exact(case: Case, found: np.ndarray, second: list[float], how: str) -> Verdict:
    """Return DISPUTED if `found` contradicts the case and agrees with a second computation."""
    verdict = judge_exact(case, found)
    if verdict.status != FAIL or case.rule != "exact":
        return verdict
    if judge_exact(replace(case, expected=second), found).status != PASS:
        return replace(verdict, note=f"second computation {second} ({how}) disagrees as well")
    return replace(verdict, status=DISPUTED, note=f"second computation gives {second} ({how})")


def _limits(tolerance: Mapping, width: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.asarray(tolerance[name], float) for name in ("lo", "hi"))
    return np.broadcast_to(low, width), np.broadcast_to(high, width)


def _whole(expected: object) -> bool:
    elements = expected if isinstance(expected, list) else [expected]
    return all(isinstance(element, int) for element in elements)
