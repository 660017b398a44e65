"""The engine against SimPy and against a bare compiled loop."""

import measure
import prototype as bare_loop
import simpy_peer

from meshsim import benchmark
from meshsim.simulation import simulate

__all__ = ["prototype", "simpy"]

#: SimPy runs this many requests a round, the engine many more: both take about a second.
SIMPY_REQUESTS = 30_000
ENGINE_REQUESTS = 1_000_000
HOPS = 3

_CHAIN = {"gateway": (1, "2ms"), "a": (4, "14ms"), "b": (4, "12ms")}


def engine_sample(topology, rate, requests=ENGINE_REQUESTS, seed=1):
    """Time one whole call of `simulate`."""

    def work():
        result = simulate(
            topology, duration=requests / rate, replications=1, seed=seed, progress=False
        )
        document = result.to_dict()
        latency_ms = document["traffic"][0]["latency_ms"]["mean"]["value"]
        return document["engine"]["requests"], document["engine"]["events"], latency_ms / 1e3

    return measure.timed(work)


def row(case, comparison, rate):
    """Return the table row of `comparison`, by the `rate` of a sample."""
    low, median, high = comparison.ratios(rate)
    ours, peer = comparison.ours[-1], comparison.peer[-1]
    return {
        "case": case,
        "ratio min": low,
        "median": median,
        "max": high,
        "ours requests/s": ours.requests_per_s,
        "ours events/s": ours.events_per_s,
        "peer requests/s": peer.requests_per_s,
        "peer events/s": peer.events_per_s,
        "ours mean ms": ours.latency_mean_s * 1e3,
        "peer mean ms": peer.latency_mean_s * 1e3,
    }


def simpy(rounds):
    """Compare requests/s with SimPy on the chain (random, round robin) and M/M/1."""
    topologies = {
        "chain_rand": benchmark.CASES["chain_rand"][0],
        "chain_rr": benchmark.tandem("chain_rr", 200.0, _CHAIN, policy="ROUND_ROBIN"),
        "mm1": benchmark.CASES["mm1"][0],
    }
    rows = []
    for case, topology in topologies.items():
        rate = simpy_peer.CASES[case][0]
        comparison = measure.interleave(
            lambda topology=topology, rate=rate: engine_sample(topology, rate),
            lambda case=case: measure.timed(lambda: simpy_peer.run(case, SIMPY_REQUESTS, 1)),
            rounds,
        )
        rows.append(row(case, comparison, lambda sample: sample.requests_per_s))
    floors = [
        (f"{r['case']}: at least 30 times SimPy (median {r['median']:.1f})", r["median"] >= 30)
        for r in rows
        if r["case"].startswith("chain")
    ]
    return rows, floors


def prototype(rounds):
    """Compare events/s with the bare loop on a chain of three services with sidecars."""
    topology, rate = benchmark.CASES["sidecars"]
    comparison = measure.interleave(
        lambda: engine_sample(topology, rate),
        lambda: measure.timed(lambda: bare_loop.run(rate, ENGINE_REQUESTS, HOPS, 4, 1)),
        rounds,
    )
    entry = row("sidecars", comparison, lambda sample: sample.events_per_s)
    ours = comparison.ours[-1]
    entry["events a hop"] = ours.events / ours.requests / HOPS
    floors = [
        (f"at least half its events/s (median {entry['median']:.2f})", entry["median"] >= 0.5),
        (f"at most 8 events a hop ({entry['events a hop']:.2f})", entry["events a hop"] <= 8),
    ]
    return [entry], floors
