"""Stations in series, in networks, in a closed loop, and behind a load balancer.

References
----------
J. R. Jackson, "Jobshop-like queueing systems", Management Science 10 (1963).
E. Reich, "Waiting times when queues are in tandem", Ann. Math. Stat. 28 (1957): the sojourns of
one customer at the stations of a tandem of M/M/1 queues are independent.
M. Reiser, S. Lavenberg, "Mean-value analysis of closed multichain queuing networks", JACM 27
(1980).
M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001);
N. Vvedenskaya, R. Dobrushin, F. Karpelevich, Problems of Information Transmission 32 (1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meshsim.theory.queues import GIM1, MMc, check_stable, quantile_of

__all__ = [
    "Hypoexponential",
    "closed_network",
    "jackson_sojourn",
    "round_robin_split",
    "supermarket_sojourn",
    "supermarket_tail",
    "tandem",
]


@dataclass(frozen=True)
class Hypoexponential:
    """The sum of independent exponentials with the given rates (equal ones allowed).

    Examples
    --------
    >>> total = Hypoexponential((0.5, 1.5, 0.75))
    >>> round(total.mean, 9), round(total.quantile(0.99), 5)
    (4.0, 12.13095)
    """

    rates: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Sum of the means."""
        return sum(1.0 / rate for rate in self.rates)

    def cdf(self, time: float) -> float:
        """Return P(sum <= `time`), by the exponential of the bidiagonal generator."""
        from scipy.linalg import expm

        if time <= 0.0:
            return 0.0
        generator = np.diag(-np.array(self.rates)) + np.diag(self.rates[:-1], 1)
        return float(1.0 - expm(generator * time)[0].sum())

    def quantile(self, probability: float) -> float:
        """Return the `probability` quantile."""
        return quantile_of(self.cdf, probability, self.mean)


def tandem(arrival_rate: float, service_rates: Sequence[float]) -> Hypoexponential:
    """Return the end-to-end sojourn of a tandem of M/M/1 queues.

    Where a station is one of n behind a random split, its own arrival rate is a n-th of the
    total: pass the spare rates ``service_rate - arrival_rate / n`` to `Hypoexponential`.

    Examples
    --------
    >>> round(tandem(0.5, [1.0, 2.0, 1.25]).mean, 9)
    4.0
    """
    check_stable(max(arrival_rate / rate for rate in service_rates))
    return Hypoexponential(tuple(rate - arrival_rate for rate in service_rates))


def jackson_sojourn(
    external_rates: Sequence[float],
    routing: Sequence[Sequence[float]],
    service_rates: Sequence[float],
    servers: Sequence[int] | None = None,
) -> float:
    """Return the mean time from external arrival to exit of an open Jackson network.

    Parameters
    ----------
    external_rates : sequence of float, length n
        Poisson arrivals from outside.
    routing : n sequences of n floats
        Probability to go from station i to j; the rest leaves.
    service_rates : sequence of float, length n
        Of one server.
    servers : sequence of int, length n, optional
        One each by default.

    Examples
    --------
    >>> routing = [[0, 0.6, 0.4], [0.2, 0, 0], [0, 0, 0]]
    >>> round(jackson_sojourn([0.5, 0, 0], routing, [2.0, 1.0, 0.8]), 6)
    2.621784
    """
    count = len(service_rates)
    external = np.array(external_rates, float)
    rates = np.linalg.solve(np.eye(count) - np.array(routing, float).T, external)
    stations = zip(rates, service_rates, servers or [1] * count, strict=True)
    customers = sum(
        float(rate) * MMc(float(rate), service_rate, workers).sojourn_mean
        for rate, service_rate, workers in stations
        if rate > 0
    )
    return customers / float(external.sum())


def closed_network(
    users: int,
    think_time: float,
    demands: Sequence[float],
    servers: Sequence[int] | None = None,
) -> tuple[float, float]:
    """Return (throughput, mean response) of `users` who think and ask, by exact MVA.

    Parameters
    ----------
    users : int
        >= 1.
    think_time : float
        Mean, of any distribution.
    demands : sequence of float
        Mean total service a request needs at each station; exponential, first come first
        served.
    servers : sequence of int, optional
        One each by default.

    Examples
    --------
    >>> throughput, response = closed_network(20, 1.0, [0.1])
    >>> round(throughput, 7), round(response, 7)
    (9.9813095, 1.0037451)
    """
    workers = list(servers or [1] * len(demands))
    # marginal[i][j]: probability of j customers at station i, for j below its servers.
    marginal = [[1.0] + [0.0] * (c - 1) for c in workers]
    queues = [0.0] * len(demands)
    throughput, response = 0.0, 0.0
    for population in range(1, users + 1):
        times = []
        for demand, c, queue, p in zip(demands, workers, queues, marginal, strict=True):
            idle = sum((c - 1 - j) * p[j] for j in range(c - 1))
            times.append(demand / c * (1.0 + queue + idle))
        response = sum(times)
        throughput = population / (think_time + response)
        queues = [throughput * time for time in times]
        for demand, c, p in zip(demands, workers, marginal, strict=True):
            load = throughput * demand
            for j in range(c - 1, 0, -1):
                p[j] = load / j * p[j - 1]
            p[0] = 1.0 - (load + sum((c - j) * p[j] for j in range(1, c))) / c
    return throughput, response


def round_robin_split(arrival_rate: float, service_rate: float, servers: int) -> GIM1:
    """Return one queue behind a round robin over `servers` exponential servers: E_n/M/1.

    Parameters
    ----------
    arrival_rate : float
        Poisson, in total.
    service_rate : float
        Of each server.
    servers : int
        n >= 1.

    Examples
    --------
    >>> round(round_robin_split(3.6, 1.0, 4).sojourn_mean, 6)
    6.38305
    """
    return GIM1(
        lambda s: float((arrival_rate / (arrival_rate + s)) ** servers),
        arrival_rate / servers,
        service_rate,
    )


def supermarket_tail(rho: float, choices: int, length: int) -> float:
    """Return the share of servers with at least `length` customers, for infinitely many servers.

    ``rho ** ((d**k - 1) / (d - 1))`` where each arrival joins the shortest of d random queues.

    Examples
    --------
    >>> round(supermarket_tail(0.9, 2, 3), 7)
    0.4782969
    """
    if choices == 1:
        return float(rho**length)
    return float(rho ** ((choices**length - 1) / (choices - 1)))


def supermarket_sojourn(rho: float, choices: int = 2) -> float:
    """Return the mean sojourn, in mean service times, for infinitely many servers.

    Examples
    --------
    >>> round(supermarket_sojourn(0.95), 6)
    3.383046
    """
    check_stable(rho)
    total, length, tail = 0.0, 1, 1.0
    while tail > 1e-18 and rho > 0:
        tail = supermarket_tail(rho, choices, length)
        total += tail
        length += 1
    return total / rho if rho > 0 else 1.0
