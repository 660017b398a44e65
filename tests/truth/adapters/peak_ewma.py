"""Peak EWMA: what one host costs, by the policy's own functions on its rows."""

import re

from policy_rows import OFFSET, make_cluster
from truth_cases import Case
from truth_laws import number_after
from truth_study import Exact, NotYet

from meshsim.policy.load_balancing.peak_ewma import cost_ns, on_sample, rtt_ns
from meshsim.state.codes import PEAK_EWMA

_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
#: Linkerd's time constant.
_DECAY_NS = 10e9


def study(case: Case) -> Exact:
    cost = _time(case, "cost")
    if cost is None:
        raise NotYet("no cost to start from")
    pending = case.params.get("pending", _pending(case.model))
    rtt, elapsed = _time(case, "rtt"), _elapsed(case.params)
    if rtt is None and case.metric != "load" and elapsed == 0:
        raise NotYet(f"nothing happens to the host of {case.model!r}")
    return Exact(lambda: _after(case, cost, rtt, elapsed, pending), "rows of one host")


def _after(
    case: Case, cost: float, rtt: float | None, elapsed: float, pending: int | None
) -> float:
    """Return the cost [ms] (or load [ms]) after a while, and perhaps a sample."""
    cluster = make_cluster(PEAK_EWMA, decay_ns=_decay(case.params))
    cluster.hosts["rtt_ewma_ns"][OFFSET] = cost
    cluster.hosts["requests_active"][OFFSET] = pending or 0
    now_ns = round(elapsed)
    arguments = (cluster.hosts, OFFSET, cluster.configs, 1)
    if rtt is not None:
        on_sample(*arguments, round(rtt), now_ns)
    read = cost_ns if case.metric.startswith("load") else rtt_ns
    return read(*arguments, now_ns) / _NS["ms"]


def _stated(params: dict, *words: str) -> float | None:
    """Return the time [ns] of the first parameter whose name holds one of `words`."""
    for name, value in params.items():
        *stem, unit = name.split("_")
        if any(word in stem for word in words):
            return value * _NS.get(unit, _NS["ms"])
    return None


def _time(case: Case, word: str) -> float | None:
    """Return the time [ns] that parameters such as `cost_ms`, or the model's words, state."""
    stated = _stated(case.params, word)
    if stated is not None:
        return stated
    found = number_after(case.model, word)
    return None if found is None else found * _NS["ms"]


def _elapsed(params: dict) -> float:
    if "dt_over_tau" in params:
        return params["dt_over_tau"] * _decay(params)
    return _stated(params, "dt", "elapsed", "idle", "after") or 0.0


def _decay(params: dict) -> float:
    return _stated(params, "tau", "decay") or _DECAY_NS


def _pending(model: str) -> int | None:
    found = re.search(r"(\d+) pending", model)
    return int(found[1]) if found else None
