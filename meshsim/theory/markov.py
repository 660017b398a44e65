"""Queues solved as continuous-time Markov chains, exactly up to a stated truncation.

References
----------
M. Neuts, "Matrix-Geometric Solutions in Stochastic Models" (1981).
S. Zeltyn, A. Mandelbaum, "Call centers with impatient customers: many-server asymptotics of the
M/M/n+G queue", Queueing Systems 51 (2005), section 9 (the exact formulas of M/M/n+G).
J. Rolia, K. Sevcik, "The method of layers", IEEE TSE 21 (1995) (nested possession in layered
queueing networks; here it is solved without their approximation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meshsim.theory.networks import closed_network
from meshsim.theory.queues import check_stable, quantile_of

__all__ = [
    "MMcK",
    "mmpp_mm1_sojourn",
    "nested_possession_sojourn",
    "patience",
    "paused_mm1_sojourn",
    "power_of_choices_sojourn",
    "stationary",
]

_Matrix = npt.NDArray[np.float64]


def stationary(generator: Any) -> _Matrix:
    """Return the stationary distribution of a generator matrix (dense or scipy.sparse).

    Parameters
    ----------
    generator : matrix, shape (n, n)
        Rates off the diagonal; the diagonal is ignored and rebuilt.  One recurrent class.

    Examples
    --------
    >>> [round(float(p), 9) for p in stationary(np.array([[0.0, 1.0], [3.0, 0.0]]))]
    [0.75, 0.25]
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    rates = sparse.csr_matrix(generator, dtype=float)
    rates = rates - sparse.diags(rates.diagonal())
    balance = (rates - sparse.diags(np.asarray(rates.sum(axis=1)).ravel())).T.tocsc()
    # State 0 is given weight 1 and its equation, which the others imply, is left out.
    rest = spsolve(balance[1:, 1:], -balance[1:, 0].toarray().ravel())
    weights = np.concatenate([[1.0], np.atleast_1d(rest)])
    return np.asarray(weights / weights.sum(), dtype=np.float64)


# --- Limited and impatient queues -----------------------------------------------------------


@dataclass(frozen=True)
class MMcK:
    """M/M/c/K: at most `capacity` customers in the system, others are refused.

    An HTTP/1.1 pool with ``max_connections = c`` and ``max_pending_requests = K - c``.

    Examples
    --------
    >>> pool = MMcK(3.6, 1.0, 4, 12)
    >>> round(pool.blocking, 8), round(pool.sojourn_mean, 7), round(pool.sojourn_quantile(0.99), 4)
    (0.04880511, 1.6709422, 5.6842)
    """

    arrival_rate: float
    service_rate: float
    servers: int
    capacity: int

    @property
    def probabilities(self) -> list[float]:
        """Probability of 0 to `capacity` customers."""
        weights = [1.0]
        for n in range(1, self.capacity + 1):
            busy = min(n, self.servers)
            weights.append(weights[-1] * self.arrival_rate / (busy * self.service_rate))
        total = sum(weights)
        return [weight / total for weight in weights]

    @property
    def blocking(self) -> float:
        """Probability that an arrival is refused."""
        return self.probabilities[-1]

    @property
    def sojourn_mean(self) -> float:
        """Mean time in the system, of the accepted (Little)."""
        customers = sum(n * p for n, p in enumerate(self.probabilities))
        return customers / (self.arrival_rate * (1.0 - self.blocking))

    def sojourn_cdf(self, time: float) -> float:
        """Return P(sojourn <= `time`) of the accepted: a mixture of service after Erlang waits."""
        from scipy.integrate import quad
        from scipy.special import gammainc

        c, mu = self.servers, self.service_rate
        p = self.probabilities
        served = 1.0 - math.exp(-mu * time)
        total = sum(p[:c]) * served
        for ahead in range(1, self.capacity - c + 1):
            # `ahead` departures at rate c * mu, then a service.
            waited = gammainc(ahead, c * mu * time)
            tail, _ = quad(
                lambda x, k=ahead: (
                    (
                        c
                        * mu
                        * math.exp(-c * mu * x + (k - 1) * math.log(c * mu * x) - math.lgamma(k))
                        if x > 0
                        else 0.0
                    )
                    * math.exp(-mu * (time - x))
                ),
                0.0,
                time,
            )
            total += p[c + ahead - 1] * (waited - tail)
        return float(total / (1.0 - self.blocking))

    def sojourn_quantile(self, probability: float) -> float:
        """Return the `probability` quantile of the sojourn of the accepted."""
        return quantile_of(self.sojourn_cdf, probability, self.sojourn_mean)


def patience(
    arrival_rate: float,
    service_rate: float,
    servers: int,
    patience_mean: float,
    distribution: str = "exponential",
) -> tuple[float, float, float]:
    """Return (share that abandons, mean wait, share that waits) of M/M/c with patience.

    A customer leaves when its wait exceeds its patience; service is never interrupted.  The wait
    is the time in the queue of all customers, served or not.

    Parameters
    ----------
    arrival_rate, service_rate : float
        Service rate of one server.
    servers : int
        c >= 1.
    patience_mean : float
        > 0.
    distribution : {"exponential", "constant"}
        Erlang-A (M/M/c+M), or a queue timeout (M/M/c+D).

    Examples
    --------
    >>> [round(value, 6) for value in patience(12.0, 1.0, 10, 1.0)]
    [0.213632, 0.213632, 0.757608]
    >>> [round(value, 6) for value in patience(1.2, 1.0, 1, 2.0, "constant")[:2]]
    [0.311818, 1.171812]
    """
    from scipy.integrate import quad

    def patient(x: float) -> float:
        """Return the integral of P(patience > u) from 0 to x."""
        if distribution == "constant":
            return min(x, patience_mean)
        return patience_mean * -math.expm1(-x / patience_mean)

    total_rate = servers * service_rate

    def density(x: float) -> float:
        return math.exp(arrival_rate * patient(x) - total_rate * x)

    def integral(function: Callable[[float], float]) -> float:
        # Cut at the mean patience, where a constant patience has its corner.
        near = quad(function, 0.0, patience_mean, epsabs=0.0, epsrel=1e-11, limit=200)[0]
        far = quad(function, patience_mean, math.inf, epsabs=0.0, epsrel=1e-11, limit=200)[0]
        return float(near + far)

    load = arrival_rate / service_rate
    idle = 1.0
    for n in range(1, servers):
        idle = 1.0 + idle * n / load
    mass = integral(density)
    normaliser = idle + arrival_rate * mass
    wait = arrival_rate * integral(lambda x: patient(x) * density(x)) / normaliser
    abandoned = (1.0 + (arrival_rate - total_rate) * mass) / normaliser
    return abandoned, wait, arrival_rate * mass / normaliser


# --- Quasi-birth-death processes ------------------------------------------------------------


def _mean_level(up: _Matrix, local: _Matrix, down: _Matrix, empty: _Matrix) -> float:
    """Return the mean level of a QBD whose level 0 moves by `empty` and `up`.

    R, the minimal solution of up + R local + R**2 down = 0, by natural iteration (linear
    convergence, monotone from 0).
    """
    inverse = np.linalg.inv(-local)
    r = np.zeros_like(local)
    change = 1.0
    while change > 1e-14:
        following = (up + r @ r @ down) @ inverse
        change = float(np.abs(following - r).max())
        r = following
    size = local.shape[0]
    rest = np.linalg.inv(np.eye(size) - r)
    boundary = empty + r @ down
    equations = np.vstack([boundary.T, rest.sum(axis=1)])
    target = np.concatenate([np.zeros(size), [1.0]])
    level_0 = np.linalg.lstsq(equations, target, rcond=None)[0]
    return float(level_0 @ r @ rest @ rest @ np.ones(size))


def _cycle(mean_sojourns: Sequence[float]) -> _Matrix:
    """Return the generator of phases that follow one another cyclically."""
    count = len(mean_sojourns)
    generator = np.zeros((count, count))
    for phase, mean in enumerate(mean_sojourns):
        generator[phase, phase] -= 1.0 / mean
        generator[phase, (phase + 1) % count] += 1.0 / mean
    return generator


def mmpp_mm1_sojourn(
    rates: Sequence[float], mean_sojourns: Sequence[float], service_rate: float
) -> float:
    """Return the mean sojourn of MMPP/M/1 with cyclic phases.

    Parameters
    ----------
    rates, mean_sojourns : sequence of float
        Arrival rate in, and mean length of, each phase.
    service_rate : float
        Above the mean arrival rate.

    Examples
    --------
    >>> round(mmpp_mm1_sojourn([1.5, 0.1], [5.0, 5.0], 1.0), 5)
    11.38529
    """
    pairs = zip(rates, mean_sojourns, strict=True)
    arrival_rate = sum(rate * mean for rate, mean in pairs) / sum(mean_sojourns)
    check_stable(arrival_rate / service_rate)
    up = np.diag(np.array(rates, float))
    down = service_rate * np.eye(len(rates))
    empty = _cycle(mean_sojourns) - up
    return _mean_level(up, empty - down, down, empty) / arrival_rate


def paused_mm1_sojourn(
    arrival_rate: float, service_rate: float, mean_up: float, mean_down: float
) -> float:
    """Return the mean sojourn of M/M/1 whose server pauses at exponential times and resumes.

    Examples
    --------
    >>> round(paused_mm1_sojourn(0.5, 1.0, 100.0, 5.0), 6)
    2.711779
    """
    check_stable(arrival_rate / service_rate * (mean_up + mean_down) / mean_up)
    up = arrival_rate * np.eye(2)
    down = np.diag([service_rate, 0.0])
    empty = _cycle([mean_up, mean_down]) - up
    return _mean_level(up, empty - down, down, empty) / arrival_rate


# --- Chains of several dimensions -----------------------------------------------------------


def nested_possession_sojourn(
    arrival_rate: float,
    caller_rate: float,
    caller_workers: int,
    callee_rate: float,
    callee_workers: int,
    truncation: int = 400,
) -> float:
    """Return the mean sojourn when a caller's worker is held while it calls.

    A request takes one of the caller's workers, computes (exponential), then calls the callee,
    queues there for one of its workers, is served (exponential) and returns; only then is the
    caller's worker free for the next.  State: requests in the system, and how many of them are
    at the callee.

    Parameters
    ----------
    arrival_rate : float
        Poisson.
    caller_rate, callee_rate : float
        Of one worker.
    caller_workers, callee_workers : int
        >= 1.
    truncation : int
        Requests in the system beyond which arrivals are ignored.  The caller chooses it so that
        their probability is negligible; it is checked to be below 1e-9.

    Raises
    ------
    ValueError
        If there is no steady state (the throughput of a caller that is never short of requests
        is that of a closed network), or if the truncation is felt.

    Examples
    --------
    With one worker at the caller nothing ever queues at the callee: M/G/1 with the sum, whose
    mean is 2 and second moment 6.

    >>> round(nested_possession_sojourn(0.4, 1.0, 1, 1.0, 3), 6)
    8.0
    """
    from scipy.sparse import lil_matrix

    saturated, _ = closed_network(
        caller_workers, 1.0 / caller_rate, [1.0 / callee_rate], [callee_workers]
    )
    check_stable(arrival_rate / saturated)
    width = caller_workers + 1
    size = (truncation + 1) * width
    rates = lil_matrix((size, size))
    for total in range(truncation + 1):
        held = min(total, caller_workers)
        for calling in range(width):
            state = total * width + calling
            if calling > held:
                # Not a state: sent to where it becomes one, so that the chain stays connected.
                rates[state, total * width + held] = 1.0
                continue
            if total < truncation:
                rates[state, state + width] = arrival_rate
            if calling < held:
                rates[state, state + 1] = (held - calling) * caller_rate
            if calling > 0:
                rates[state, state - width - 1] = min(calling, callee_workers) * callee_rate
    level = stationary(rates.tocsr()).reshape(truncation + 1, width).sum(axis=1)
    if level[-1] > 1e-9:
        raise ValueError(f"truncation {truncation} is felt: P = {level[-1]:.2g}")
    return float(level @ np.arange(truncation + 1)) / arrival_rate


def power_of_choices_sojourn(
    arrival_rate: float, servers: int, choices: int = 2, truncation: int = 30
) -> float:
    """Return the mean sojourn of the shortest of `choices` queues drawn with replacement.

    Servers are exponential of rate 1; as in Envoy's LEAST_REQUEST one host may be drawn twice.
    State: the sorted queue lengths.

    Parameters
    ----------
    arrival_rate : float
        In total, below `servers`.
    servers : int
        2 to 4; the chain has (truncation + servers choose servers) states.
    truncation : int
        Longest queue; an arrival that would exceed it is ignored.

    Examples
    --------
    One choice is a random split.

    >>> round(power_of_choices_sojourn(1.0, 2, choices=1), 6)
    2.0
    """
    from itertools import combinations_with_replacement

    from scipy.sparse import lil_matrix

    check_stable(arrival_rate / servers)
    states = list(combinations_with_replacement(range(truncation + 1), servers))
    index = {state: i for i, state in enumerate(states)}
    rates = lil_matrix((len(states), len(states)))
    for i, state in enumerate(states):
        for rank in range(servers):
            # The least of the draws has this rank: all at or above it, not all above.
            above, at_or_above = servers - rank - 1, servers - rank
            share = (at_or_above**choices - above**choices) / servers**choices
            for step, rate in ((1, arrival_rate * share), (-1, 1.0)):
                length = state[rank] + step
                if 0 <= length <= truncation:
                    target = tuple(sorted((*state[:rank], length, *state[rank + 1 :])))
                    rates[i, index[target]] += rate
    lengths = np.array([sum(state) for state in states])
    return float(stationary(rates.tocsr()) @ lengths) / arrival_rate
