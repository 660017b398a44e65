"""What policies cost: the chain with each against the same chain without it, in one run.

The cost is CPU time a request, statistics included, as a ratio.  Floors: a policy that is
configured where no request goes within 2 %, the median policy below 10 %, timeouts that never
fire below 10 %, and a load balancer of the user's at 70 % of the built-in's events/s.
"""

import statistics

import measure
from policy_costs import POLICIES, RATE, TIMEOUTS, Policy, chain

from meshsim.simulation import simulate

__all__ = ["measure_policies"]

#: Requests a sample: about half a second.
_REQUESTS = 150_000
_UNUSED_MAX, _USED_MAX, _TIMEOUTS_MAX, _OWN_MIN = 1.02, 1.10, 1.10, 0.7
_OWN = "own load balancer"


def measure_policies(rounds):
    """Measure each policy used and unused; return the rows and whether the floors hold."""
    rows = [_row(policy, rounds) for policy in POLICIES]
    used = statistics.median(row["used"] for row in rows)
    unused = statistics.median(row["unused"] for row in rows)
    worst = max(rows, key=lambda row: row["unused"])
    by_name = {row["case"]: row for row in rows}
    timeouts = by_name[TIMEOUTS.name]["used"]
    own = by_name[_OWN]["events/s"]
    floors = [
        (
            f"not used: at most {_UNUSED_MAX} (median of policies {unused:.3f}; "
            f"{worst['case']} {worst['unused']:.3f})",
            unused <= _UNUSED_MAX and worst["unused min"] <= _UNUSED_MAX,
        ),
        (f"median policy: at most {_USED_MAX} ({used:.3f})", used <= _USED_MAX),
        (f"{TIMEOUTS.name}: at most {_TIMEOUTS_MAX} ({timeouts:.3f})", timeouts <= _TIMEOUTS_MAX),
        (f"{_OWN}: at least {_OWN_MIN} of the built-in's events/s ({own:.2f})", own >= _OWN_MIN),
    ]
    return rows, floors


def _row(policy: Policy, rounds: int) -> dict:
    """Return the costs of one policy, used and unused, over those of its chain without it."""
    without, used = chain(None, like=policy), chain(policy)
    unused = chain(policy, unused=True)
    with_it = _compared(used, without, rounds)
    idle = _compared(unused, without, rounds)
    low, middle, high = _costs(with_it)
    idle_low, idle_middle, idle_high = _costs(idle)
    ours, peer = with_it.ours[-1], with_it.peer[-1]
    return {
        "case": policy.name,
        "used": middle,
        "min": low,
        "max": high,
        "unused": idle_middle,
        "unused min": idle_low,
        "unused max": idle_high,
        "events/s": with_it.ratios(lambda sample: sample.events_per_s)[1],
        "events a request": ours.events / ours.requests,
        "without": peer.events / peer.requests,
    }


def _compared(ours, peer, rounds):
    return measure.interleave(lambda: _sample(ours), lambda: _sample(peer), rounds)


def _sample(topology):
    """Time one whole call of `simulate`."""

    def work():
        engine = simulate(
            topology, duration=_REQUESTS / RATE, replications=1, seed=1, progress=False
        ).engine
        return engine["requests"], engine["events"], 0.0

    return measure.timed(work)


def _costs(comparison):
    """Return minimum, median and maximum of our CPU time a request over the peer's."""
    low, middle, high = comparison.ratios(lambda sample: sample.requests_per_s)
    return 1 / high, 1 / middle, 1 / low
