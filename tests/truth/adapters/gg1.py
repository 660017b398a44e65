"""General arrivals: GI/M/1 exactly, G/G/1 within bounds under two laws of the same variability."""

import numpy as np
from theory_scenarios import station
from truth_cases import Case, seed_of
from truth_laws import arrivals_of, gamma_law, lognormal_law, renewal, service_law
from truth_metrics import reader_of
from truth_runs import Several, engine_runs, requests_wanted
from truth_scenarios import queue_study, replications_within
from truth_study import Replicated, key_of

_LAWS = (gamma_law, lognormal_law)


def study(case: Case) -> Replicated:
    params = case.params
    if "ca2" in params:
        return _bounded(case)
    arrivals, scv = arrivals_of(params)
    law = service_law(params)
    return queue_study(
        case,
        lambda: station(arrivals, law.declared),
        params["lam"],
        params["lam"] * law.mean,
        variability=(scv + law.scv) / 2,
    )


def _bounded(case: Case) -> Replicated:
    """Return the mean wait under gamma and under lognormal times."""
    params = case.params
    mean, load = params["service_mean"], params["rho"]
    variability = (params["ca2"] + params["cs2"]) / 2
    requests = 2 * requests_wanted(load, variability)
    interval = mean / load

    def run(seed: int, replications: int) -> Several:
        scenarios = [
            station(renewal(law(interval, params["ca2"])), law(mean, params["cs2"]).declared)
            for law in _LAWS
        ]
        return Several(
            [
                engine_runs(item, requests * interval, seed_of(seed, row), replications)
                for row, item in enumerate(scenarios)
            ]
        )

    def read(both: Several) -> np.ndarray:
        wait = reader_of("mean wait")
        return np.column_stack([wait(runs) for runs in both.runs])

    return Replicated(
        key=key_of(case),
        run=run,
        read=read,
        load=load,
        replications_max=replications_within(2 * requests),
        about=f"gamma and lognormal, {requests} requests each",
    )
