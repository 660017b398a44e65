"""Policies of a user, for tests: each in the few lines that a user would write."""

import meshsim as ms
from meshsim.rng import next_index
from meshsim.state.codes import NO_HOST


@ms.policy.load_balancer
def at_random(hosts, members, request, memory, now_ns, rng):
    return next_index(rng, len(members))


@ms.policy.load_balancer(memory=1)
def in_turn(hosts, members, request, memory, now_ns, rng):
    position = int(memory[0])
    memory[0] = (position + 1) % len(members)
    return position


@ms.policy.load_balancer
def by_key(hosts, members, request, memory, now_ns, rng):
    return (int(request.hash_key % 1000) + request.reselection) % len(members)


@ms.policy.load_balancer
def beyond(hosts, members, request, memory, now_ns, rng):
    return len(members)


@ms.policy.load_balancer
def nobody(hosts, members, request, memory, now_ns, rng):
    return NO_HOST


@ms.policy.load_balancer(memory=8)
def fastest(hosts, members, request, memory, now_ns, rng):
    """Pick the member whose last response was the fastest; those never asked come first."""
    best = 0
    for position in range(len(members)):
        if memory[position] < memory[best]:
            best = position
    return best


@fastest.on_response
def note(hosts, host, failed, rtt_ns, memory, now_ns):
    memory[hosts["table_index"][host]] = 1e9 if failed else rtt_ns


@ms.policy.retry_policy
def thrice(outcome, memory, now_ns, rng):
    """Retry what failed, 1 ms later for each retry, but not a connection failure."""
    if outcome.reset != 0 or outcome.status < 500:
        return -1
    return outcome.retry_number * 1_000_000


@ms.policy.admission_policy(memory=1)
def every_other(cluster, memory, now_ns, rng):
    memory[0] += 1
    return 503 if memory[0] % 2 == 0 else 0


@ms.policy.admission_policy
def two_at_once(cluster, memory, now_ns, rng):
    return 429 if cluster["requests_active"] >= 2 else 0
