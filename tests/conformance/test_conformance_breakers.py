"""Circuit breakers: who overflows, by counts that are equal to the last request.

Requests arrive 10 or 20 ms apart and last half a second, so their order does not depend on the
machine's mood.
"""

from dataclasses import replace

import pytest
from engine_rows import cluster, endpoints, route
from planes import SERVICE, Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

ONE = endpoints("b-v1-0")
WORK_S = 0.5
TABLE_SIZE = 65_537
CONNECTIONS = ("upstream_rq_total", "upstream_cx_total")
RETRIES = ("upstream_rq_total", "upstream_rq_retry", "upstream_rq_retry_overflow")


#: Counters of refused requests; releases before 1.39 have the first alone.
REFUSED = ("upstream_rq_pending_overflow", "upstream_rq_active_overflow")


def works(endpoint, number, tries):
    return Reply(after_s=WORK_S)


def limited(asks, members=ONE, script=works, table=None, workers=1, **breakers):
    """Scenario of one cluster with these circuit breakers."""
    return Scenario(
        asks,
        callers=0,
        policies={SERVICE: cluster(breakers=breakers)},
        members={SERVICE: members},
        table=(table or route(),),
        script=script,
        workers=workers,
    )


def spaced(count, first_s=0.0, gap_s=0.01):
    return [Ask(at_s=first_s + gap_s * row) for row in range(count)]


def compare(referee, rule, scenario, counters):
    """Hold that outcomes, overflows and `counters` are equal."""
    envoy, ours = play_envoy(referee.binary, scenario), play_meshsim(scenario, referee.release)
    workers = scenario.workers
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), ours.outcomes(), workers)
    referee.equal(f"{rule}: overflows", envoy.of(*REFUSED), ours.of(*REFUSED), workers)
    referee.equal(f"{rule}: counters", envoy.of(*counters), ours.of(*counters), workers)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("limit", [1, 5, 19, 20])
def test_max_requests(referee, limit, workers):
    """The limit is the cluster's, whichever worker a request came to."""
    scenario = limited(spaced(20), max_requests=limit, workers=workers)
    compare(referee, f"max_requests {limit} of 20", scenario, ("upstream_rq_total",))


@pytest.mark.parametrize(("connections", "pending"), [(1, 0), (2, 3), (2, 0), (0, 2), (30, 30)])
def test_max_connections_and_pending(referee, connections, pending):
    scenario = limited(spaced(20), max_connections=connections, max_pending_requests=pending)
    compare(referee, f"max_connections {connections}, pending {pending}", scenario, CONNECTIONS)


def test_the_next_wave_finds_who_still_waits(referee):
    """The third waits until the second round of work, when ten more come."""
    asks = [*spaced(20), *spaced(10, 0.7)]
    scenario = limited(asks, max_connections=2, max_pending_requests=3)
    compare(referee, "pending requests over two waves", scenario, CONNECTIONS)


def test_every_host_may_have_its_first_connection(referee):
    members = endpoints("b-v1-0", "b-v1-1", "b-v1-2")
    scenario = limited(spaced(6), members, max_connections=1, max_pending_requests=9)
    compare(referee, "max_connections 1, three hosts", scenario, CONNECTIONS)


@pytest.mark.parametrize("workers", [2, 4])
def test_each_worker_may_have_its_first_connection(referee, workers):
    """Pools are a worker's own, and one without a connection may open one whatever the limit."""
    scenario = limited(spaced(20), max_connections=1, workers=workers)
    scenario = replace(scenario, script=lambda *_: Reply(after_s=0.02))
    opened = [
        played.counters[f"{SERVICE}.upstream_cx_total"]
        for played in (play_envoy(referee.binary, scenario), play_meshsim(scenario))
    ]
    referee.bounded("max_connections 1: connections", *opened, 1, workers, workers)


def test_where_refused_requests_are_counted(referee):
    scenario = limited(spaced(20), max_requests=5)
    played = play_envoy(referee.binary, scenario), play_meshsim(scenario, referee.release)
    counts = [one.of(*REFUSED) for one in played]
    referee.equal("max_requests 5 of 20: name of the counter", *counts)


# --- When a connection is free and others still wait ----------------------------------------


@pytest.mark.parametrize(("connections", "pending"), [(2, 3), (0, 2)])
def test_the_overflow_of_connections_is_counted_again(referee, connections, pending):
    scenario = limited(spaced(20), max_connections=connections, max_pending_requests=pending)
    names = ("upstream_cx_overflow",)
    counts = [p.of(*names) for p in (play_envoy(referee.binary, scenario), play_meshsim(scenario))]
    referee.equal(f"max_connections {connections}, pending {pending}: cx overflow", *counts)


def test_who_waits_gets_the_connection_that_another_host_gave_back(referee):
    """Two connections for two hosts; the second host loses its one.

    Then the first host may have two, and does when its first request ends: of the two that wait
    for it, one takes the free connection, and Envoy opens another for the last.
    """
    first, second = _keys_of_two_hosts()
    asks = [
        Ask(0.0, headers={"user": first}),
        Ask(0.05, headers={"user": second}),
        Ask(0.1, headers={"user": first}),
        Ask(0.15, headers={"user": first}),
    ]

    def script(endpoint, number, tries):
        return Reply(after_s=0.2, reset=True) if number == 1 else Reply(after_s=WORK_S)

    policy = cluster(
        "MAGLEV", breakers={"max_connections": 2}, hash_header="user", table_size=TABLE_SIZE
    )
    members = endpoints("b-v1-0", "b-v1-1")
    policies, members = {SERVICE: policy}, {SERVICE: members}
    scenario = Scenario(asks, 0, policies, members, script=script)
    ends = []
    for played in (play_envoy(referee.binary, scenario), play_meshsim(scenario)):
        assert played.outcomes() == {(200, "-"): 3, (503, "UC"): 1}
        ends.append(max(answer.at_s + answer.after_s for answer in played.answers))
    referee.near("pending requests, a connection given back: last answer", *ends, 0.1, "s")


def _keys_of_two_hosts():
    """Return a key of each of two hosts, as a Maglev table of ours has them."""
    policy = cluster("MAGLEV", hash_header="user", table_size=TABLE_SIZE)
    asks = [Ask(headers={"user": str(number)}) for number in range(20)]
    members = {SERVICE: endpoints("b-v1-0", "b-v1-1")}
    picks = play_meshsim(Scenario(asks, policies={SERVICE: policy}, members=members)).picks()
    return str(picks.index("b-v1-0")), str(picks.index("b-v1-1"))


# --- Priorities -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "high"),
    [
        ({"max_requests": 5}, {"max_requests": 8}),
        ({"max_connections": 2, "max_pending_requests": 0}, {"max_connections": 3}),
        ({"max_connections": 4}, {"max_connections": 2, "max_pending_requests": 1}),
    ],
)
def test_requests_of_high_priority_count_apart(referee, default, high):
    """Every other request is of priority HIGH: limits and connections are its own."""
    asks = [
        ask._replace(headers={"x-priority": "high"} if row % 2 else {})
        for row, ask in enumerate(spaced(24))
    ]
    table = (route(match=[{"headers": {"x-priority": "high"}}], priority="HIGH"), route())
    scenario = replace(limited(asks, **default, high=high), table=table)
    counters = (*CONNECTIONS, "upstream_cx_overflow")
    compare(referee, f"priorities {default}, HIGH {high}", scenario, counters)


# --- Retries that run at once ---------------------------------------------------------------


def fails(endpoint, number, tries):
    return Reply(503, WORK_S)


#: Retries at once, so that their time is that of the work.
AT_ONCE = {"retry_on": ["5xx"], "num_retries": 2, "base_interval": "1ms", "max_interval": "1ms"}


@pytest.mark.parametrize(("limit", "workers"), [(0, 1), (1, 1), (3, 1), (3, 4), (10, 2), (50, 1)])
def test_max_retries(referee, limit, workers):
    """The limit is the cluster's, like that of requests."""
    asks, table = spaced(20, gap_s=0.02), route(retry=AT_ONCE)
    scenario = limited(asks, script=fails, table=table, workers=workers, max_retries=limit)
    compare(referee, f"max_retries {limit} of 20", scenario, RETRIES)


@pytest.mark.parametrize(
    ("percent", "least", "workers"),
    [
        (20, 3, 1), (20, 3, 4), (20, 0, 1), (50, 1, 2), (0, 2, 1), (100, 0, 1), (10, 0, 1),
        (33.3, 0, 1),
    ],
)  # fmt: skip
def test_retry_budget(referee, percent, least, workers):
    """A share of the requests that are active as each failure comes in."""
    budget = {"budget_percent": percent, "min_retry_concurrency": least}
    asks, table = spaced(20, gap_s=0.02), route(retry=AT_ONCE)
    scenario = limited(asks, script=fails, table=table, workers=workers, retry_budget=budget)
    compare(referee, f"retry budget {percent} %, at least {least}", scenario, RETRIES)
