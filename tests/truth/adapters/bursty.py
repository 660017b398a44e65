"""The same mean rate in bursts: modulated arrivals, batches, and servers that pause."""

import numpy as np
from theory_scenarios import PER_MS, exponential, ms, poisson, station
from truth_cases import Case
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

from meshsim import theory


def study(case: Case) -> Replicated:
    params = case.params
    if "switch_rates" in params:
        return _modulated(case)
    if "batch" in params:
        return _batches(case)
    if "mean_down" in params:
        return _pauses(case)
    raise NotYet(f"no scenario for {case.model!r}")


def _modulated(case: Case) -> Replicated:
    rates, mu = case.params["rates"], case.params["mu"]
    lengths = [1 / rate for rate in case.params["switch_rates"]]
    weight = [length / sum(lengths) for length in lengths]
    rate = sum(r * w for r, w in zip(rates, weight, strict=True))
    phases = [
        {"rate": r * PER_MS, "mean_sojourn": ms(length)}
        for r, length in zip(rates, lengths, strict=True)
    ]
    # Index of dispersion of a two-phase process: 1 + 2 sum of rate variance x memory / rate.
    memory = 1 / sum(case.params["switch_rates"])
    variance = sum(w * (r - rate) ** 2 for r, w in zip(rates, weight, strict=True))
    return queue_study(
        case,
        lambda: station({"modulated_poisson": {"phases": phases}}, exponential(1 / mu)),
        rate,
        rate / mu,
        variability=1 + variance * memory / rate,
        second=lambda: (theory.mmpp_mm1_sojourn(rates, lengths, mu), "mmpp_mm1_sojourn"),
    )


def _batches(case: Case) -> Replicated:
    params = case.params
    rate, mu, size = params["request_rate"], params["mu"], params["batch"]
    if "geometric" in case.model:
        law, square = "geometric", size * (2 * size - 1)
    else:
        law, square = "fixed", size**2
    arrivals = {"batch": {"rate": rate * PER_MS, "size": size, "size_distribution": law}}
    return queue_study(
        case,
        lambda: station(arrivals, exponential(1 / mu)),
        rate,
        rate / mu,
        variability=size,
        second=lambda: (theory.batch_mm1_sojourn(rate, mu, size, square), "batch_mm1_sojourn"),
    )


def _pauses(case: Case) -> Replicated:
    params = case.params
    rate, mu, up, down = (params[name] for name in ("lam", "mu", "mean_up", "mean_down"))
    load = rate / mu * (up + down) / up

    def pauses(env, mesh):
        rng = np.random.default_rng([env.kernel.seed, env.kernel.replication])
        while True:
            yield env.timeout(rng.exponential(up) / PER_MS)
            mesh.slow("station", 0.0)
            yield env.timeout(rng.exponential(down) / PER_MS)
            mesh.restore("station")

    return queue_study(
        case,
        lambda: station(poisson(rate), exponential(1 / mu)),
        rate,
        load,
        # Work that a pause delays, as the variance of a service.
        variability=1 + rate * down**2 / (up + down),
        second=lambda: (theory.paused_mm1_sojourn(rate, mu, up, down), "paused_mm1_sojourn"),
        processes=[pauses],
        cheap=False,
    )
