"""One station with Poisson or renewal arrivals: formulas in closed form.

*Wait* is the time in the queue, *sojourn* wait plus service.  ``rho`` is the utilisation of one
server, ``offered load`` the mean number of busy servers.

References
----------
L. Kleinrock, "Queueing Systems", vol. 1 (1975) and vol. 2 (1976).
M. Harchol-Balter, "Performance Modeling and Design of Computer Systems" (2013).
A. Cobham, "Priority assignment in waiting line problems", Operations Research 2 (1954).
J. Abate, W. Whitt, "Numerical inversion of Laplace transforms of probability distributions",
ORSA Journal on Computing 7 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

__all__ = [
    "GIM1",
    "MMc",
    "batch_mm1_sojourn",
    "check_stable",
    "erlang_b",
    "erlang_c",
    "gg1_wait_bounds",
    "laplace_cdf",
    "md1_wait_cdf",
    "md1_wait_quantile",
    "mg1_wait",
    "mg1_wait_transform",
    "preemptive_sojourns",
    "priority_waits",
    "ps_sojourn",
    "quantile_of",
]


def check_stable(utilisation: float) -> None:
    """Raise ValueError unless 0 <= `utilisation` < 1."""
    if not 0 <= utilisation < 1:
        raise ValueError(f"no steady state: utilisation {utilisation:g} is not below 1")


def quantile_of(cdf: Callable[[float], float], probability: float, scale: float) -> float:
    """Return the smallest t >= 0 with cdf(t) >= `probability`; `scale` is a first guess."""
    from scipy.optimize import brentq

    if cdf(0.0) >= probability:
        return 0.0
    high = scale
    while cdf(high) < probability:
        high *= 2.0
    return float(brentq(lambda t: cdf(t) - probability, 0.0, high, xtol=1e-12 * scale, rtol=1e-12))


def erlang_b(servers: int, offered_load: float) -> float:
    """Return the blocking probability of M/G/c/c, whatever the service distribution.

    Examples
    --------
    >>> round(erlang_b(10, 8.0), 8)
    0.12166106
    """
    blocking = 1.0
    for server in range(1, servers + 1):
        blocking = offered_load * blocking / (server + offered_load * blocking)
    return blocking


def erlang_c(servers: int, offered_load: float) -> float:
    """Return the probability that a customer of M/M/c has to wait.

    Examples
    --------
    >>> round(erlang_c(10, 9.0), 8)
    0.66873152
    """
    rho = offered_load / servers
    check_stable(rho)
    blocking = erlang_b(servers, offered_load)
    return blocking / (1.0 - rho * (1.0 - blocking))


@dataclass(frozen=True)
class MMc:
    """The M/M/c queue, first come first served; M/M/1 with one server.

    Parameters
    ----------
    arrival_rate : float
        Of the Poisson arrivals, >= 0.
    service_rate : float
        Of one server, > 0.
    servers : int
        c >= 1.

    Examples
    --------
    >>> round(MMc(0.8, 1.0).sojourn_mean, 9)
    5.0
    >>> round(MMc(9.0, 1.0, 10).sojourn_quantile(0.99), 4)
    6.2499
    """

    arrival_rate: float
    service_rate: float
    servers: int = 1

    @property
    def wait_probability(self) -> float:
        """Probability that an arrival finds all servers busy."""
        return erlang_c(self.servers, self.arrival_rate / self.service_rate)

    @property
    def wait_mean(self) -> float:
        """Mean time in the queue, of all customers."""
        spare_rate = self.servers * self.service_rate - self.arrival_rate
        return self.wait_probability / spare_rate

    @property
    def sojourn_mean(self) -> float:
        """Mean time in the system."""
        return self.wait_mean + 1.0 / self.service_rate

    def sojourn_cdf(self, time: float) -> float:
        """Return P(sojourn <= `time`)."""
        mu, k = self.service_rate, self.servers * self.service_rate - self.arrival_rate
        served = math.exp(-mu * time)
        if math.isclose(k, mu, rel_tol=1e-9):
            waited = mu * time * served
        else:
            waited = mu / (k - mu) * (served - math.exp(-k * time))
        return 1.0 - served - self.wait_probability * waited

    def sojourn_quantile(self, probability: float) -> float:
        """Return the `probability` quantile of the sojourn."""
        return quantile_of(self.sojourn_cdf, probability, self.sojourn_mean)


@dataclass(frozen=True)
class GIM1:
    """The GI/M/1 queue: sojourns are exponential with rate service_rate * (1 - sigma).

    sigma is the root below 1 of sigma = A(service_rate * (1 - sigma)), A the Laplace transform
    of an interval.

    Parameters
    ----------
    transform : callable
        A, from a real number >= 0 to (0, 1].
    arrival_rate, service_rate : float
        arrival_rate < service_rate.

    Examples
    --------
    >>> erlang_2 = GIM1(lambda s: (1.6 / (1.6 + s)) ** 2, 0.8, 1.0)
    >>> round(erlang_2.sojourn_mean, 6)
    3.84398
    """

    transform: Callable[[float], float]
    arrival_rate: float
    service_rate: float

    @property
    def sigma(self) -> float:
        """Probability that an arrival finds the server busy."""
        check_stable(self.arrival_rate / self.service_rate)
        # From 0 the iteration ascends to the smaller root; the other one is 1.
        sigma, before = 0.0, -1.0
        while sigma - before > 1e-15:
            before, sigma = sigma, self.transform(self.service_rate * (1.0 - sigma))
        return sigma

    @property
    def sojourn_mean(self) -> float:
        """Mean time in the system."""
        return 1.0 / (self.service_rate * (1.0 - self.sigma))

    def sojourn_quantile(self, probability: float) -> float:
        """Return the `probability` quantile of the sojourn."""
        return -math.log(1.0 - probability) * self.sojourn_mean


def mg1_wait(arrival_rate: float, mean: float, second_moment: float) -> float:
    """Return the mean wait of M/G/1 (Pollaczek-Khinchine).

    Parameters
    ----------
    arrival_rate : float
        Of the Poisson arrivals.
    mean, second_moment : float
        Of the service time.

    Examples
    --------
    >>> mg1_wait(0.5, 1.0, 1.0)
    0.5
    """
    rho = arrival_rate * mean
    check_stable(rho)
    return arrival_rate * second_moment / (2.0 * (1.0 - rho))


def mg1_wait_transform(
    arrival_rate: float, mean: float, service_transform: Callable[[complex], complex]
) -> Callable[[complex], complex]:
    """Return the Laplace transform of the wait of M/G/1, for `laplace_cdf`."""
    rho = arrival_rate * mean
    check_stable(rho)

    def transform(s: complex) -> complex:
        return (1.0 - rho) * s / (s - arrival_rate * (1.0 - service_transform(s)))

    return transform


def laplace_cdf(transform: Callable[[complex], complex], time: float) -> float:
    """Return P(X <= `time`) for X >= 0 with Laplace transform `transform`.

    The Euler algorithm of Abate and Whitt (1995) with 38 terms and 11 averages; absolute error
    about 1e-8 where the distribution function is smooth.

    Examples
    --------
    >>> round(laplace_cdf(lambda s: 1 / (1 + s), 2.0), 7)
    0.8646647
    """
    if time <= 0.0:
        return 0.0
    a, terms, averages = 18.4, 38, 11

    def summand(k: int) -> float:
        s = complex(a, 2.0 * math.pi * k) / (2.0 * time)
        return (transform(s) / s).real

    partial = summand(0) / 2.0
    sums = []
    for k in range(1, terms + averages + 1):
        partial += (-1.0) ** k * summand(k)
        if k >= terms:
            sums.append(partial)
    weighted = sum(math.comb(averages, j) * sums[j] for j in range(averages + 1))
    return math.exp(a / 2.0) / time * weighted / 2.0**averages


def md1_wait_cdf(arrival_rate: float, service_time: float, time: float) -> float:
    """Return P(wait <= `time`) of M/D/1.

    Erlang's alternating sum, in 60 digits, for float loses all of its own.

    References
    ----------
    A. K. Erlang (1909); C. D. Crommelin, P. O. Electrical Engineers' Journal 25 (1932).

    Examples
    --------
    >>> md1_wait_cdf(0.5, 1.0, 0.0)
    0.5
    """
    rho = arrival_rate * service_time
    check_stable(rho)
    if time < 0.0:
        return 0.0
    with localcontext() as context:
        context.prec = 60
        load, scaled = Decimal(rho), Decimal(time) / Decimal(service_time)
        total = Decimal(0)
        for j in range(int(scaled) + 1):
            x = load * (scaled - j)
            total += (-x) ** j / Decimal(math.factorial(j)) * x.exp() if j else x.exp()
        return float((1 - load) * total)


def md1_wait_quantile(arrival_rate: float, service_time: float, probability: float) -> float:
    """Return the `probability` quantile of the wait of M/D/1.

    Examples
    --------
    >>> round(md1_wait_quantile(0.5, 1.0, 0.99), 5)
    3.33626
    """
    return quantile_of(
        lambda t: md1_wait_cdf(arrival_rate, service_time, t), probability, service_time
    )


def gg1_wait_bounds(
    arrival_rate: float, mean: float, arrival_scv: float, service_scv: float
) -> tuple[float, float]:
    """Return bounds of the mean wait of G/G/1: Marchal's lower and Kingman's upper.

    Parameters
    ----------
    arrival_rate, mean : float
        Reciprocal of the mean interval; mean service time.
    arrival_scv, service_scv : float
        Squared coefficients of variation.

    References
    ----------
    J. Kingman, Proc. Cambridge Phil. Soc. 58 (1962); W. Marchal, Operations Research 26 (1978).

    Examples
    --------
    >>> low, high = gg1_wait_bounds(0.8, 1.0, 4.0, 3.0)
    >>> round(low, 9), round(high, 9)
    (3.0, 18.5)
    """
    rho = arrival_rate * mean
    check_stable(rho)
    lower = (rho * rho * service_scv + rho * (rho - 2.0)) / (2.0 * arrival_rate * (1.0 - rho))
    variances = arrival_scv / arrival_rate**2 + service_scv * mean**2
    return max(lower, 0.0), arrival_rate * variances / (2.0 * (1.0 - rho))


def ps_sojourn(arrival_rate: float, mean: float, size: float | None = None) -> float:
    """Return the mean sojourn under processor sharing, of all or of requests of one `size`.

    It depends on the service time through its mean only.

    Examples
    --------
    >>> round(ps_sojourn(0.8, 1.0, size=2.0), 9)
    10.0
    """
    rho = arrival_rate * mean
    check_stable(rho)
    return (mean if size is None else size) / (1.0 - rho)


def priority_waits(
    arrival_rates: Sequence[float], means: Sequence[float], second_moments: Sequence[float]
) -> list[float]:
    """Return the mean wait of each class of non-preemptive M/G/1, the first served first (Cobham).

    Examples
    --------
    >>> [round(wait, 9) for wait in priority_waits([0.5, 0.3], [1, 1], [2, 2])]
    [1.6, 8.0]
    """
    check_stable(sum(rate * mean for rate, mean in zip(arrival_rates, means, strict=True)))
    pairs = zip(arrival_rates, second_moments, strict=True)
    residual = sum(rate * second for rate, second in pairs) / 2.0
    waits, before = [], 0.0
    for rate, mean in zip(arrival_rates, means, strict=True):
        after = before + rate * mean
        waits.append(residual / ((1.0 - before) * (1.0 - after)))
        before = after
    return waits


def preemptive_sojourns(
    arrival_rates: Sequence[float], means: Sequence[float], second_moments: Sequence[float]
) -> list[float]:
    """Return the mean sojourn of each class of preemptive-resume M/G/1, the first served first.

    Examples
    --------
    >>> [round(time, 9) for time in preemptive_sojourns([0.6, 0.3], [1, 1], [2, 2])]
    [2.5, 25.0]
    """
    check_stable(sum(rate * mean for rate, mean in zip(arrival_rates, means, strict=True)))
    sojourns, before, residual = [], 0.0, 0.0
    for rate, mean, second in zip(arrival_rates, means, second_moments, strict=True):
        residual += rate * second / 2.0
        after = before + rate * mean
        sojourns.append(mean / (1.0 - before) + residual / ((1.0 - before) * (1.0 - after)))
        before = after
    return sojourns


def batch_mm1_sojourn(
    arrival_rate: float,
    service_rate: float,
    batch_mean: float,
    batch_second_moment: float | None = None,
) -> float:
    """Return the mean sojourn of a request of M^[B]/M/1: Poisson batches of size B.

    A batch waits as one customer of M/G/1; within it a request waits for those before it.

    Parameters
    ----------
    arrival_rate, service_rate : float
        Of requests.
    batch_mean, batch_second_moment : float
        Moments of B; the second one defaults to a fixed size.

    Examples
    --------
    >>> round(batch_mm1_sojourn(0.8, 1.0, 4), 9)
    12.5
    """
    second = batch_mean**2 if batch_second_moment is None else batch_second_moment
    work_mean = batch_mean / service_rate
    work_second = (batch_mean + second) / service_rate**2
    wait = mg1_wait(arrival_rate / batch_mean, work_mean, work_second)
    ahead_in_batch = (second / batch_mean - 1.0) / 2.0
    return wait + (ahead_in_batch + 1.0) / service_rate
