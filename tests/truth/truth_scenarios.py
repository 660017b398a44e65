"""From a scenario and a metric to a study: how long it runs, and what is read off it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from truth_cases import Case
from truth_metrics import needs_spans, quantile_of, reader_of
from truth_runs import FIRST_WINDOW, SPANS_MAX, engine_runs, requests_wanted, span_runs
from truth_study import NotYet, Replicated, key_of

from meshsim.state.record import WINDOW_COUNT
from meshsim.topology.model import Topology

#: Requests of all replications of one study at most, if a request is one visit.
_REQUESTS_MAX = 150_000_000
_REPLICATIONS_MAX = 2560

Read = Callable[[Any], np.ndarray]


def queue_study(
    case: Case,
    topology: Callable[[], Topology],
    rate: float,
    load: float,
    *,
    variability: float = 1.0,
    visits: float = 1.0,
    requests: int | None = None,
    read: Read | None = None,
    spans: bool | None = None,
    unit_ms: float = 1.0,
    variant: Sequence[object] = (),
    second: Callable[[], tuple[Any, str]] | None = None,
    cheap: bool = True,
    first_window: int = FIRST_WINDOW,
    **options: Any,
) -> Replicated:
    """Return the study of one scenario in its steady state.

    Parameters
    ----------
    case : Case
        Its metric says what is read, unless `read` does.
    topology : callable
        Makes the scenario, in milliseconds.
    rate : float
        Requests of all classes [1/ms].
    load : float
        Utilisation of the busiest station.
    variability : float
        (ca2 + cs2) / 2.
    visits : float
        Stations that a request visits, to bound the work.
    requests : int, optional
        Of one replication, instead of what `load` asks for.
    read, spans : optional
        How the metric is read, and whether that needs single requests.
    unit_ms : float
        The case's unit of time [ms].
    variant : sequence
        Tells this scenario from others of the same parameters.
    second : callable, optional
        The expected value by another way, and that way's name.
    cheap : bool
        False keeps the case out of the tier of every test run.
    first_window : int
        Of sixty; those before it are warm-up (runs of single requests keep their fifth).
    """
    if load >= 1:
        raise NotYet(f"no steady state at a utilisation of {load:g}")
    wanted = requests or requests_wanted(load, variability, quantile_of(case.metric) or 0.0)
    traced = needs_spans(case.metric) if spans is None else spans
    if traced:
        wanted = min(wanted, SPANS_MAX)
    reader = read or reader_of(case.metric, unit_ms)

    def run(seed: int, replications: int) -> Any:
        if traced:
            return span_runs(topology(), wanted, rate, seed, replications, **options)
        duration = wanted / rate
        return engine_runs(topology(), duration, seed, replications, first_window, **options)

    return Replicated(
        key=key_of(case, traced, wanted, *variant),
        run=run,
        read=reader,
        load=load,
        replications_max=replications_within(wanted * visits),
        about=f"{wanted} requests each, first {first_window / WINDOW_COUNT:.0%} deleted",
        cheap=cheap,
        second=second,
    )


def replications_within(requests: float) -> int:
    """Return how many replications of so many requests are affordable."""
    return int(min(max(_REQUESTS_MAX / requests, 20), _REPLICATIONS_MAX))
