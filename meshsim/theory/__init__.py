"""Exact queueing results: the oracles of the tests and the overlays of the notebooks.

Rule: nothing here is simulated and nothing is fitted.  Rates and times carry no unit of their
own: give both in the same one (per second and seconds, or per service time), and results come
back in it.  A queue that has no steady state raises ValueError; it has no mean to return.

Single stations are in `queues`, Markov chains solved numerically in `markov`, networks and
load balancing in `networks`.
"""

from meshsim.theory.markov import (
    MMcK,
    mmpp_mm1_sojourn,
    nested_possession_sojourn,
    patience,
    paused_mm1_sojourn,
    power_of_choices_sojourn,
    stationary,
)
from meshsim.theory.networks import (
    Hypoexponential,
    closed_network,
    jackson_sojourn,
    round_robin_split,
    supermarket_sojourn,
    supermarket_tail,
    tandem,
)
from meshsim.theory.queues import (
    GIM1,
    MMc,
    batch_mm1_sojourn,
    erlang_b,
    erlang_c,
    gg1_wait_bounds,
    laplace_cdf,
    md1_wait_cdf,
    md1_wait_quantile,
    mg1_wait,
    mg1_wait_transform,
    preemptive_sojourns,
    priority_waits,
    ps_sojourn,
)

__all__ = [
    "GIM1",
    "Hypoexponential",
    "MMc",
    "MMcK",
    "batch_mm1_sojourn",
    "closed_network",
    "erlang_b",
    "erlang_c",
    "gg1_wait_bounds",
    "jackson_sojourn",
    "laplace_cdf",
    "md1_wait_cdf",
    "md1_wait_quantile",
    "mg1_wait",
    "mg1_wait_transform",
    "mmpp_mm1_sojourn",
    "nested_possession_sojourn",
    "patience",
    "paused_mm1_sojourn",
    "power_of_choices_sojourn",
    "preemptive_sojourns",
    "priority_waits",
    "ps_sojourn",
    "round_robin_split",
    "stationary",
    "supermarket_sojourn",
    "supermarket_tail",
    "tandem",
]
