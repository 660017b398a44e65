"""Slow start: the factor of one warming host, and its share of many weighted picks."""

import numpy as np
from policy_rows import OFFSET, make_cluster
from truth_cases import Case
from truth_study import Exact, NotYet

from meshsim.policy.load_balancing.slow_start import weight_factor
from meshsim.state.codes import ROUND_ROBIN
from meshsim.topology.compiled.policies import fill_cluster_config
from meshsim.topology.model import ClusterPolicy
from meshsim.units import NS_PER_S


def study(case: Case) -> Exact:
    params = case.params
    if not {"t_s", "window_s", "hosts"} <= params.keys():
        raise NotYet(f"no scenario for {case.model!r}")
    return Exact(lambda: _factor_and_share(params), "rows of one cluster")


def _factor_and_share(params: dict) -> tuple[float, float]:
    """Return the factor of the first host's weight, and its share of the sum of weights."""
    now_ns = round(params["t_s"] * NS_PER_S)
    cluster = make_cluster(ROUND_ROBIN, [1] * params["hosts"])
    _configure(cluster, params)
    cluster.hosts["slow_start_end_ns"][OFFSET] = round(params["window_s"] * NS_PER_S)
    factors = [
        weight_factor(cluster.hosts, OFFSET + row, cluster.configs, 1, now_ns)
        for row in range(params["hosts"])
    ]
    picks = np.bincount([cluster.pick(now_ns=now_ns) for _ in range(1900)])
    share = factors[0] / sum(factors)
    # The picks follow the factors to one pick a host.
    assert abs(picks[0] - 1900 * share) <= 1, picks
    return factors[0], share


def _configure(cluster, params: dict) -> None:
    policy = ClusterPolicy.model_validate(
        {
            "load_balancing": {
                "policy": "ROUND_ROBIN",
                "slow_start": {
                    "slow_start_window": f"{params['window_s']}s",
                    "aggression": float(params.get("aggression", 1.0)),
                    "min_weight_percent": float(params.get("min_weight_percent", 10)),
                },
            },
            "circuit_breakers": {},
            "connection_pool": {},
        }
    )
    fill_cluster_config(cluster.configs[1:2], policy)
    cluster.configs["weights_equal"][1] = 2
