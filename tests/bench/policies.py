"""What a policy costs: the chain with it against the same chain without it, in one run."""

import measure
import versus

import meshsim as ms
from meshsim import benchmark
from meshsim.rng import next_index

__all__ = ["less_loaded_of_two", "measure_policies"]

_CHAIN = {"gateway": (1, "2ms"), "a": (4, "14ms"), "b": (4, "12ms")}
_RATE = 200.0


@ms.policy.load_balancer
def less_loaded_of_two(hosts, members, request, memory, now_ns, rng):
    """Do what LEAST_REQUEST does with two choices and equal weights."""
    first = next_index(rng, len(members))
    second = next_index(rng, len(members))
    active = hosts["requests_active"]
    return second if active[members[second]] < active[members[first]] else first


def measure_policies(rounds):
    """Compare events/s of the chain with the user's own load balancer and with the built-in."""
    built_in = benchmark.tandem("chain_lr", _RATE, _CHAIN, policy="LEAST_REQUEST")
    values = {f"policies.{name}.load_balancing": less_loaded_of_two for name in _CHAIN}
    own = ms.with_values(built_in, values)
    comparison = measure.interleave(
        lambda: versus.engine_sample(own, _RATE),
        lambda: versus.engine_sample(built_in, _RATE),
        rounds,
    )
    entry = versus.row("own load balancer", comparison, lambda sample: sample.events_per_s)
    floor = f"at least 0.7 of the built-in's events/s (median {entry['median']:.2f})"
    return [entry], [(floor, entry["median"] >= 0.7)]
