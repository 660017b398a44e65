"""PEAK_EWMA: the cheaper of two distinct hosts by latency times load.

Rule (Linkerd): draw two *distinct* selectable members; cost = latency * (active + 1); take the
first if its cost is not greater.  The latency is an exponentially weighted moving average that
jumps to a sample above it and forgets with time constant `decay_ns`:

    at a sample r:  projected = ewma * exp(-age / decay)
                    ewma = r                                     if projected < r
                         = projected + r * (1 - exp(-age / decay))  otherwise
    at a read:      ewma * exp(-age / decay), changing nothing

so a host without traffic becomes cheaper until it is tried again.  Before the first sample the
average is `default_rtt_ns` as of `rtt_updated_ns` (the moment the host appeared).

References
----------
linkerd/linkerd2-proxy, linkerd/ewma/src/lib.rs (get_at, add_peak); tower, load/peak_ewma.rs and
balance/p2c/service.rs; linkerd2, policy-controller/grpc/src/outbound.rs (decay 10 s, default
rtt 30 ms).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.policy.load_balancing.random_pick import count_selectable, selectable_at
from meshsim.rng import next_index
from meshsim.state.codes import NO_HOST

__all__ = ["cost_ns", "on_sample", "pick", "rtt_ns"]

#: A smaller time constant is taken as this, so that age / decay is defined (linkerd/ewma).
_DECAY_MIN_NS = 1e6


@kernel_jit_inline
def _kept(hosts: Any, host: int, configs: Any, config: int, now_ns: int) -> float:
    """Return the share of the average that is left at `now_ns`: exp(-age / decay)."""
    age_ns = max(now_ns - hosts["rtt_updated_ns"][host], 0)
    return math.exp(-float(age_ns) / max(configs["decay_ns"][config], _DECAY_MIN_NS))


@kernel_jit_inline
def _average(hosts: Any, host: int, configs: Any, config: int) -> float:
    """Return the average as of its last update [ns]."""
    average = float(hosts["rtt_ewma_ns"][host])
    return average if average > 0.0 else float(configs["default_rtt_ns"][config])


@kernel_jit_inline
def rtt_ns(hosts: Any, host: int, configs: Any, config: int, now_ns: int) -> float:
    """Return the moving average of the latency of `host`, projected to `now_ns` [ns]."""
    return _average(hosts, host, configs, config) * _kept(hosts, host, configs, config, now_ns)


@kernel_jit_inline
def cost_ns(hosts: Any, host: int, configs: Any, config: int, now_ns: int) -> float:
    """Return latency * (active requests + 1) of `host` at `now_ns` [ns]."""
    load = float(hosts["requests_active"][host] + 1)
    return rtt_ns(hosts, host, configs, config, now_ns) * load


@kernel_jit
def on_sample(
    hosts: Any, host: int, configs: Any, config: int, sample_ns: int, now_ns: int
) -> None:
    """Take a measured latency of `host` into its average.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Modified in place: rtt_ewma_ns, rtt_updated_ns.
    host : int
        Row of `hosts`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    config : int
        Row of `configs`.
    sample_ns : int
        Request to first response data [ns], >= 0.
    now_ns : int
        When the sample was complete [ns].
    """
    sample = float(sample_ns)
    kept = _kept(hosts, host, configs, config, now_ns)
    projected = _average(hosts, host, configs, config) * kept
    hosts["rtt_ewma_ns"][host] = sample if projected < sample else projected + sample * (1.0 - kept)
    hosts["rtt_updated_ns"][host] = now_ns


@kernel_jit_inline
def _distinct(rng: Any, count: int) -> tuple[int, int]:
    """Draw an ordered pair of distinct indices below `count` >= 2, all pairs equally likely."""
    first = next_index(rng, count)
    second = next_index(rng, count - 1)
    if second >= first:
        second += 1
    return first, second


@kernel_jit
def pick(
    hosts: Any,
    members: Any,
    start: int,
    count: int,
    configs: Any,
    config: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Pick the cheaper of two distinct selectable members.

    Parameters
    ----------
    hosts : ndarray[HOST_DTYPE], shape (n_hosts,)
        Read only.
    members : ndarray[int32], shape (n_members,)
        Read only; the cluster's are ``members[start : start + count]``.
    start, count : int
        See `members`.
    configs : ndarray[CLUSTER_CONFIG_DTYPE], shape (n_configs,)
        Read only.
    config : int
        Row of `configs`.
    now_ns : int
        Current time of the caller's clock [ns].
    rng : ndarray[uint64], shape (2,)
        Advanced in place.

    Returns
    -------
    int
        Position in [0, count), or `NO_HOST`.

    Notes
    -----
    If a drawn host is not selectable, the pair is drawn again among those that are: every pair
    of selectable hosts stays equally likely.
    """
    first = NO_HOST
    second = NO_HOST
    if count >= 2:
        first, second = _distinct(rng, count)
    if (
        count < 2
        or hosts["healthy"][members[start + first]] == 0
        or hosts["healthy"][members[start + second]] == 0
    ):
        selectable = count_selectable(hosts, members, start, count)
        if selectable < 2:
            return selectable_at(hosts, members, start, count, 0)
        first, second = _distinct(rng, selectable)
        first = selectable_at(hosts, members, start, count, first)
        second = selectable_at(hosts, members, start, count, second)
    first_ns = cost_ns(hosts, members[start + first], configs, config, now_ns)
    second_ns = cost_ns(hosts, members[start + second], configs, config, now_ns)
    return first if first_ns <= second_ns else second
