"""Published figures of retries: what clients win by them, and what load they make.

Brooker's clients retry at once, three times at most, and each client for itself keeps

- an *adaptive* bucket: it begins with some tokens, each call adds a part of one, without a
  limit, and a retry takes one; or
- a *breaker*: no retry while the client's failures (of tries) over its calls exceed a threshold.

Both are policies of the user's: an admission that counts calls, a retry policy that decides.
Clients do not meet: the server is never busy.  One replication is one of them.

References
----------
M. Brooker, "Fixing retries with token buckets and circuit breakers" (2022).
"""

import re
from collections.abc import Callable

import numpy as np
from theory_scenarios import poisson, topology
from truth_cases import Case
from truth_laws import number_after
from truth_metrics import ratio
from truth_runs import EngineRuns
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

import meshsim as ms
from meshsim.topology.model import Topology

_MANY = 1_000_000
#: The figures' setting, where a model does not say another: each client so long [ms] at such a
#: rate [1/ms].
_DURATION_MS = 10_000.0
_RATE = 0.01
_RETRIES = 3
_START, _DEPOSIT, _THRESHOLD = 5.0, 0.1, 0.1
_AT_ONCE = {"base_interval": "1us", "max_interval": "1us"}


def study(case: Case) -> Replicated:
    text = case.model.lower()
    fails = case.params["p"]
    if "adaptive" in text:
        start = case.params.get("start", number_after(text, "start"))
        deposit = case.params.get("deposit", _deposit(text))
        begin = _START if start is None else start
        return _clients(case, fails, _RETRIES, lambda: adaptive_bucket(begin, deposit))
    if "breaker" in text:
        threshold = case.params.get("threshold", number_after(text, "threshold"))
        return _clients(case, fails, _retries(text), lambda: breaker(threshold or _THRESHOLD))
    if re.search(r"\bretries\b", text):
        return _clients(case, fails, _retries(text), None)
    raise NotYet(f"no policy for {case.model!r}")


def _deposit(text: str) -> float:
    found = re.search(r"\+(\d*\.?\d+)/call", text)
    return float(found[1]) if found else _DEPOSIT


def _retries(text: str) -> int:
    """Return the number of "three retries", "3 retries"."""
    names = ("no", "one", "two", "three", "four", "five")
    found = re.search(r"(\w+) retr(?:ies|y)\b", text)
    if found is None:
        return _RETRIES
    return int(found[1]) if found[1].isdigit() else names.index(found[1])


def adaptive_bucket(start: float, deposit: float) -> tuple:
    """Return (admission, retry) of clients that pay for retries from a bucket."""

    def count_call(cluster, memory, now_ns, rng):
        if memory[1] == 0.0:
            memory[1] = 1.0
            memory[0] = start
        memory[0] += deposit
        return 0

    def pay(outcome, memory, now_ns, rng):
        if outcome.status < 500 or memory[0] < 1.0:
            return -1
        memory[0] -= 1.0
        return 0

    return ms.policy.admission_policy(memory=2)(count_call), ms.policy.retry_policy(memory=2)(pay)


def breaker(threshold: float) -> tuple:
    """Return (admission, retry) of clients that stop retrying while too much fails."""

    def count_call(cluster, memory, now_ns, rng):
        memory[0] += 1.0
        return 0

    def unless_open(outcome, memory, now_ns, rng):
        if outcome.status < 500:
            return -1
        memory[1] += 1.0
        return -1 if memory[1] > threshold * memory[0] else 0

    admission = ms.policy.admission_policy(memory=2)(count_call)
    return admission, ms.policy.retry_policy(memory=2)(unless_open)


def _clients(case: Case, fails: float, retries: int, own: Callable[[], tuple] | None) -> Replicated:
    text = case.model
    rate = (number_before(text, "rps") or _RATE * 1e3) / 1e3
    duration_ms = (number_before(text, "s,") or _DURATION_MS / 1e3) * 1e3
    body = {"concurrency": _MANY, "error_rate": fails, "steps": [{"compute": "1us"}]}
    traffic = {"client": {"to": "station", "arrivals": poisson(rate)}}

    def scenario() -> Topology:
        retry: dict = {"num_retries": retries, "retry_on": ["5xx"], **_AT_ONCE}
        policy: dict = {"routes": [{"retry": retry}]}
        if own is not None:  # defined now: the last of a name is the one that is used
            policy["admission"], retry["custom"] = own()
        return topology({"station": body}, traffic, {"station": policy})

    return queue_study(
        case,
        scenario,
        rate,
        0.0,
        requests=round(rate * duration_ms),
        visits=2.0,
        variant=(case.model,),
        read=_success_and_load,
        first_window=0,
    )


def number_before(text: str, name: str) -> float | None:
    """Return the number that stands before `name` in `text`, as in "100 clients"."""
    found = re.search(rf"(\d*\.?\d+)\s*{name}", text)
    return float(found[1]) if found else None


def _success_and_load(runs: EngineRuns) -> np.ndarray:
    """Share of requests that succeed, and tries a request."""
    return np.column_stack([1 - runs.failed(), ratio(runs.endpoint_requests[:, 0], runs.ended)])
