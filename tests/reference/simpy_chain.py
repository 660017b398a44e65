"""A chain of services as a person would write it in SimPy: slow, readable, a second oracle.

Question: what does a request see that goes from a gateway to A to B, each a few single-queue
replicas behind a load balancer, when a caller gives its worker back during a call (tandem), and
when it keeps it (nested possession)?

    client -> gateway -> A[i] -> B[j]

Each replica has `workers` workers and one first-come-first-served queue.  Service times are
exponential, and all of a replica's compute comes before its call.  Every caller balances for
itself: each replica of A goes round those of B from one that chance names.  There is no network, no
proxy and no failure.  It shares no code with the simulator, not even its random numbers.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import cycle, repeat

import numpy as np
import simpy


@dataclass(frozen=True)
class Tier:
    """One service of the chain; `mean` is the mean service time."""

    mean: float
    replicas: int = 1
    workers: int = 1


#: 200 requests a second; means in seconds.
CHAIN_RATE = 200.0
CHAIN = (Tier(0.002), Tier(0.014, replicas=4), Tier(0.012, replicas=4))


def _picks(balancing: str, replicas: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield the replica that each request of one caller goes to."""
    if balancing == "ROUND_ROBIN":
        first = int(rng.integers(replicas))
        return cycle([*range(first, replicas), *range(first)])
    if balancing == "RANDOM":
        return (int(rng.integers(replicas)) for _ in repeat(None))
    raise ValueError(balancing)


def simulate_chain(
    tiers: tuple[Tier, ...] = CHAIN,
    rate: float = CHAIN_RATE,
    count: int = 10_000,
    balancing: str = "RANDOM",
    hold_worker: bool = False,
    seed: int = 1,
) -> np.ndarray:
    """Return the latencies of `count` requests, in order of arrival, from an empty start.

    Parameters
    ----------
    tiers : tuple of Tier
        First the one that clients call.
    rate : float
        Poisson arrivals per unit of time.
    count : int
        Requests.
    balancing : {"RANDOM", "ROUND_ROBIN"}
        Of every tier.
    hold_worker : bool
        Whether a caller's worker stays busy during the call.
    seed : int
        Arrivals, services and picks have one stream each.
    """
    arrivals, services, picks = np.random.default_rng(seed).spawn(3)
    env = simpy.Environment()
    replicas = [[simpy.Resource(env, tier.workers) for _ in range(tier.replicas)] for tier in tiers]
    callers = [1, *(tier.replicas for tier in tiers[:-1])]
    next_replica = [
        [_picks(balancing, tier.replicas, picks) for _ in range(caller_count)]
        for tier, caller_count in zip(tiers, callers, strict=True)
    ]
    latencies = np.full(count, np.nan)

    def serve(depth: int, caller: int) -> Generator[simpy.Event, None, None]:
        """Pass one request of replica `caller` through tier `depth` and all that follow."""
        chosen = next(next_replica[depth][caller])
        last = depth == len(tiers) - 1
        with replicas[depth][chosen].request() as worker:
            yield worker
            yield env.timeout(services.exponential(tiers[depth].mean))
            if hold_worker and not last:
                yield from serve(depth + 1, chosen)
        if not hold_worker and not last:
            yield from serve(depth + 1, chosen)

    def request(number: int) -> Generator[simpy.Event, None, None]:
        started = env.now
        yield from serve(0, 0)
        latencies[number] = env.now - started

    def source() -> Generator[simpy.Event, None, None]:
        for number in range(count):
            yield env.timeout(arrivals.exponential(1.0 / rate))
            env.process(request(number))

    env.process(source())
    env.run()
    return latencies
