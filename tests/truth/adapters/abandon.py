"""Queues whose customers leave when their patience ends; service is never interrupted."""

from theory_scenarios import exponential, ms, poisson, station
from truth_cases import Case
from truth_laws import number_after
from truth_scenarios import queue_study
from truth_study import NotYet, Replicated

from meshsim import theory


def study(case: Case) -> Replicated:
    params = case.params
    rate, service, workers = params["lam"], 1 / params["mu"], params.get("c", 1)
    law, mean = _patience(params)
    declared = exponential(mean) if law == "exponential" else ms(mean)

    def second() -> tuple[float, str]:
        abandoned, wait, waiting = theory.patience(rate, params["mu"], workers, mean, law)
        by_metric = {"mean": wait, "P(al": waiting}
        return by_metric.get(case.metric[:4], abandoned), "meshsim.theory.patience"

    return queue_study(
        case,
        lambda: station(
            poisson(rate), exponential(service), concurrency=workers, patience=declared
        ),
        rate,
        # Patience bounds the queue: what it forgets in is a patience and a service.
        0.0,
        requests=max(50_000, round(400 * rate * (mean + service))),
        second=second,
    )


def _patience(params: dict) -> tuple[str, float]:
    """Return (law, mean patience) as `theory.patience` names them."""
    if "queue_timeout" in params:
        return "constant", params["queue_timeout"]
    text = params["patience"]
    rate = number_after(text, "rate")
    if not text.startswith("Exp") or rate is None:
        raise NotYet(f"no law for the patience {text!r}")
    return "exponential", 1 / rate
