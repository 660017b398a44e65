"""Processor sharing: one core, as many workers as there are requests."""

from collections.abc import Callable

import numpy as np
from theory_scenarios import poisson, station
from truth_cases import Case
from truth_laws import service_law
from truth_metrics import NS_PER_MS, ratio
from truth_runs import SpanRuns
from truth_scenarios import queue_study
from truth_study import Replicated

from meshsim import theory
from meshsim.kernel.owner import Kernel
from meshsim.rng import PURPOSE_SERVICE, mix_in
from meshsim.state.server import STEP_COMPUTE
from meshsim.workload.distributions import sample_ns

#: Tagged requests have a size within this share of the stated one.
_BIN = 0.02
_FIRST_TRY = 0


def study(case: Case) -> Replicated:
    params = case.params
    law = service_law(params)
    rate, size = params["lam"], params.get("job_size")
    options = {}
    if size is not None:
        options = {"spans": True, "read": _mean_of_tagged, "extra": _tagged(size), "cheap": False}
    return queue_study(
        case,
        lambda: station(
            poisson(rate),
            law.declared,
            discipline="PROCESSOR_SHARING",
            concurrency=100_000,
            cpu=1.0,
        ),
        rate,
        rate * law.mean,
        variability=(1 + law.scv) / 2,
        variant=[size],
        second=lambda: (theory.ps_sojourn(rate, law.mean, size), "meshsim.theory.ps_sojourn"),
        **options,
    )


def _tagged(size: float) -> Callable[[np.ndarray, Kernel], tuple[float, float]]:
    """Return how to sum up and count the sojourns [ms] of requests of one size [ms].

    A request's work is not in its span, but it is a function of its key: it is drawn again.
    """

    def tagged(spans: np.ndarray, kernel: Kernel) -> tuple[float, float]:
        state = kernel.state
        (step,) = np.flatnonzero(state.steps["kind"] == STEP_COMPUTE)
        row = state.steps["distribution"][step]
        purpose = (PURPOSE_SERVICE << 24) + int(state.steps["ordinal"][step])
        base = np.uint64(state.traffic["key"][0])
        total, count = 0.0, 0
        for number, latency_ns in zip(
            spans["trace"].tolist(), (spans["end_ns"] - spans["start_ns"]).tolist(), strict=True
        ):
            key = base
            for part in (number, _FIRST_TRY, purpose):
                key = np.uint64(mix_in(key, part))
            work = sample_ns(state.distributions, state.values, row, key) / NS_PER_MS
            if abs(work / size - 1) <= _BIN:
                total += latency_ns / NS_PER_MS
                count += 1
        return total, float(count)

    return tagged


def _mean_of_tagged(runs: SpanRuns) -> np.ndarray:
    return ratio(runs.extra[:, 0], runs.extra[:, 1])
