"""The peer that everyone knows: SimPy, one process a request and one Resource a replica."""

import random
from itertools import cycle

import simpy

__all__ = ["CASES", "run"]

#: Per case: arrival rate [1/s], and per tier (replicas, mean service time [s]).
#: The chain's latency is 80 ms with random picks (Jackson); M/M/1 has 5 ms.
CASES = {
    "mm1": (800.0, ((1, 0.001),)),
    "chain_rand": (200.0, ((1, 0.002), (4, 0.014), (4, 0.012))),
    "chain_rr": (200.0, ((1, 0.002), (4, 0.014), (4, 0.012))),
}


def run(case: str, requests: int, seed: int) -> tuple[int, int, float]:
    """Simulate `requests` arrivals to their end.

    Returns
    -------
    tuple
        Completed requests, SimPy events, mean latency [s].
    """
    rate, tiers = CASES[case]
    rng = random.Random(seed)
    env = simpy.Environment()
    stations = [
        ([simpy.Resource(env, 1) for _ in range(replicas)], 1 / mean) for replicas, mean in tiers
    ]
    turns = [cycle(replicas) for replicas, _ in stations]
    in_turn = case == "chain_rr"
    latencies: list[float] = []

    def request():
        start = env.now
        for (replicas, service_rate), turn in zip(stations, turns, strict=True):
            replica = next(turn) if in_turn else replicas[rng.randrange(len(replicas))]
            with replica.request() as worker:
                yield worker
                yield env.timeout(rng.expovariate(service_rate))
        latencies.append(env.now - start)

    def source():
        for _ in range(requests):
            yield env.timeout(rng.expovariate(rate))
            env.process(request())

    env.process(source())
    env.run()
    return len(latencies), next(env._eid), sum(latencies) / len(latencies)
