"""What holds on every sample path: identities of the kernel, without statistics.

The statement is in the case's text; each is checked on runs that it could break on: overload,
limits, impatience, failures, a chain, several load balancers.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from theory_scenarios import balanced, chain, exponential, ms, poisson, station, topology, workload
from truth_cases import Case
from truth_runs import compiled, engine_runs, span_runs, traced
from truth_study import Claims, Exact, NotYet
from verdict import t_error

import meshsim

_RAMP = {
    "piecewise": {
        "points": [
            {"at": "0s", "rate": 0},
            {"at": "5s", "rate": 1500},
            {"at": "10s", "rate": 0},
        ]
    }
}
#: A chain whose second station is overloaded for a while, in several ways.
_VARIANTS = {
    "plain": {},
    "limited": {"queue_limit": 20},
    "impatient": {"patience": exponential(5.0)},
    "failing": {"error_rate": 0.1},
    "shared": {"discipline": "PROCESSOR_SHARING", "concurrency": 10_000, "cpu": 1.0},
}
_HASH_SEEDS = ("0", "1", "4711")


def study(case: Case) -> Exact | Claims:
    if "interarrival" in case.params:
        regular = tuple(case.params[name] for name in ("interarrival", "service", "n"))
        return Exact(lambda: _regular(*regular, case.metric), "every request traced")
    text = str(case.expected)
    for words, check in _CHECKS.items():
        if words in text:
            return Claims(check, "bursts from empty to empty", cheap=check is not _same_seed)
    raise NotYet(f"no check for the statement {text!r}")


def _regular(interval: float, service: float, count: int, metric: str) -> float:
    """Return the largest wait of D/D/1 [ms], where ends and arrivals meet."""
    scenario = station({"renewal": {"interval": ms(interval)}}, ms(service))
    duration_ns = round((count + 0.5) * interval * 1e6)
    spans, _ = traced(compiled(scenario), duration_ns, count + 1_000, 1, 0)
    assert len(spans) == count
    waits_ms = spans["queue_ns"] / 1e6
    return float(waits_ms.mean() if metric.startswith("mean") else waits_ms.max())


def _burst(name: str):
    bodies = {
        "front": workload(exponential(0.4), "back", concurrency=2),
        "back": workload(exponential(1.0), **_VARIANTS[name]),
    }
    return topology(bodies, {"load": {"to": "front", "arrivals": _RAMP}})


def _record(scenario, duration: str = "20s", **options):
    result = meshsim.simulate(
        scenario, duration=duration, replications=1, traces=0, progress=False, **options
    )
    (record,) = result.records
    assert record.limit == ""
    return record


def _spans(scenario, duration_ms: int = 20_000, spans_max: int = 200_000, seed: int = 1):
    spans, _ = traced(compiled(scenario), duration_ms * 1_000_000, spans_max, seed, 0)
    return spans


def _little() -> dict[str, bool]:
    """L = lambda W: the integral of requests in flight is the sum of all sojourns."""
    claims = {}
    for name in _VARIANTS:
        record, spans = _record(_burst(name)), _spans(_burst(name))
        roots = spans[spans["parent_span"] == 0]
        sojourns_ns = int((roots["end_ns"] - roots["start_ns"]).sum())
        claims[f"{name}: L = lambda W"] = sojourns_ns == int(record.windows["in_flight_ns"].sum())
    return claims


def _conserved() -> dict[str, bool]:
    claims = {}
    for name in _VARIANTS:
        record = _record(_burst(name))
        windows, rows = record.windows, record.endpoints
        ended = windows["successes"] + windows["failures"]
        in_flight = np.cumsum(windows["arrivals"]) - np.cumsum(windows["responses"])
        present = rows["requests"] - rows["rejected"] - rows["reneged"] - rows["completed"]
        # The front gives its worker back during a call: a request is then at the back alone.
        behind = np.array_equal(present[:, 1], rows["in_system"][:, 1])
        before = np.array_equal(present[:, 0], rows["in_system"].sum(axis=1))
        claims[f"{name}: all that arrived has ended"] = bool(
            windows["arrivals"].sum() > 1000
            and np.array_equal(windows["arrivals"], ended)
            and record.counters["unfinished"] == 0
        )
        claims[f"{name}: by the clock, arrived - answered = in flight"] = bool(
            in_flight.min() >= 0 and in_flight[-1] == 0
        )
        claims[f"{name}: at each endpoint as well"] = behind and before
    return claims


def _busy() -> dict[str, bool]:
    claims = {}
    for name in ("plain", "limited", "impatient"):
        record = _record(_burst(name))
        served_ns = int(record.windows["service_ns"].sum())
        claims[f"{name}: busy time is service time"] = (
            int(record.endpoints["busy_ns"][-1].sum()) == served_ns > 0
        )
    return claims


def _with_neighbour(neighbour: bool):
    bodies = {"station": workload(exponential())}
    classes = {"load": {"to": "station", "arrivals": poisson(0.7)}}
    if neighbour:
        bodies["other"] = workload(exponential(), replicas=3)
        classes["noise"] = {"to": "other", "arrivals": poisson(2.0)}
    return topology(bodies, classes)


def trace_digest() -> str:
    """Return a digest of every span of a run with draws of all kinds."""
    import hashlib

    spans = _spans(balanced(3.2, 4, "LEAST_REQUEST"), 3_000, seed=7)
    return hashlib.sha256(spans.tobytes()).hexdigest()


def _same_seed() -> dict[str, bool]:
    here = trace_digest()
    folder = Path(__file__).resolve().parent
    code = "from adapters.engine import trace_digest; print(trace_digest())"
    paths = [str(folder.parent), str(folder.parent.parent / "theory")]
    elsewhere = set()
    for seed in _HASH_SEEDS:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        elsewhere.add(found.stdout.strip())
    alone, beside = (_spans(_with_neighbour(flag), 3_000) for flag in (False, True))
    of_first = beside[beside["trace"] % 2 == 0]
    times = ("start_ns", "end_ns", "queue_ns", "service_ns")
    return {
        "the same seed gives the same trace": trace_digest() == here,
        "in other processes, whatever PYTHONHASHSEED": elsewhere == {here},
        "a second service changes nothing of the first": all(
            np.array_equal(alone[name], of_first[name]) for name in times
        ),
    }


def _monotone() -> dict[str, bool]:
    claims = {}
    for faster in (1.05, 2.0):
        slow, fast = (
            np.sort(_spans(station(poisson(0.8), exponential(), speed=speed)), order="trace")
            for speed in (1.0, faster)
        )
        sojourns = [spans["end_ns"] - spans["start_ns"] for spans in (slow, fast)]
        claims[f"{faster} times as fast: no request is slower"] = bool(
            np.array_equal(slow["start_ns"], fast["start_ns"])
            and (sojourns[1] <= sojourns[0]).all()
            and sojourns[1].sum() < sojourns[0].sum()
        )
    return claims


def _scaled() -> dict[str, bool]:
    def sojourns(scale: float) -> np.ndarray:
        tiers = [(1.0 * scale, 1, 1), (0.8 * scale, 1, 1)]
        spans = _spans(chain(0.5 / scale, tiers, "RANDOM", False), round(2_000 * scale))
        roots = np.sort(spans[spans["parent_span"] == 0], order="trace")
        return (roots["end_ns"] - roots["start_ns"]).astype(float)

    short, long = sojourns(1), sojourns(1000)
    count = min(len(short), len(long))
    # A draw is rounded to a nanosecond: some per cent of a microsecond over a busy period.
    near = np.abs(long[:count] / 1000 - short[:count]) <= 1_000
    return {"a thousand times slower, a thousand times longer": bool(near.all() and count > 900)}


def _arrivals_see_time_averages() -> dict[str, bool]:
    runs = span_runs(station(poisson(0.7), exponential()), 40_000, 0.7, 1, 20)
    difference = runs.waited / runs.count - (1 - runs.in_system[:, 0] / runs.time_ns)
    error = float(t_error(difference, 0.999))
    agrees = abs(float(difference.mean())) <= error <= 0.01
    return {"Poisson arrivals wait as often as the server is busy": agrees}


def _common_draws() -> dict[str, bool]:
    """Two policies on the same draws differ by less noise than on draws of their own."""

    def means(policy: str, seed: int) -> np.ndarray:
        return engine_runs(balanced(3.2, 4, policy), 3_000, seed, 20).mean()

    random, in_turn, other = means("RANDOM", 1), means("ROUND_ROBIN", 1), means("ROUND_ROBIN", 2)
    paired, apart = float((random - in_turn).var()), float((random - other).var())
    return {"common random numbers halve the variance of a difference": 2 * paired < apart}


_CHECKS: dict[str, Callable[[], dict[str, bool]]] = {
    "lambda*W": _little,
    "arrivals ==": _conserved,
    "sum(service)": _busy,
    "same seed": _same_seed,
    "raising a service speed": _monotone,
    "1000": _scaled,
    "PASTA": _arrivals_see_time_averages,
    "common random numbers reduce": _common_draws,
}
