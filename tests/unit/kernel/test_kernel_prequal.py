"""Probes of servers on their way, and picks by them.  Times in ms, without queueing on the wire."""

import numpy as np
from kernel_runs import Run, recorded, served, wire, worker

from meshsim.kernel.statistics import stats

PREQUAL = {"policy": "PREQUAL"}


def balanced(services, arrivals, network=None, **balancing):
    policies = {"a": {"load_balancing": PREQUAL | balancing}}
    return Run(services, arrivals, policies=policies, **({"network": network} if network else {}))


def pool_of(run):
    probes = run.state.probes[0, : run.state.prequal_pools["count"][0]]
    endpoints = run.state.hosts["endpoint"][probes["host"]].tolist()
    return dict(zip(endpoints, probes["rif"].tolist(), strict=True))


def counted(run):
    return stats(run.state, run.kernel._proxy_names)["load"]


def test_an_answer_takes_a_round_trip_and_tells_what_is_in_flight():
    services = {"a": worker({"sleep": "50ms"}, replicas=4)}
    run = balanced(services, recorded("0s", "10ms", "20ms"), wire("1ms"), r_probe=4, r_remove=0)
    assert pool_of(run.to(1.9)) == {}
    # A request has to connect first: it arrives at 3 ms, and its probes saw idle servers.
    assert pool_of(run.to(2.1)) == dict.fromkeys(range(4), 0)
    assert sorted(pool_of(run.to(12.1)).values()) == [0, 0, 0, 1]
    assert sorted(pool_of(run.to(22.1)).values()) == [0, 0, 1, 1]
    assert sum(served(run.to(30)).values()) == 3
    assert counted(run) == {"outbound.prequal_probes": 12, "outbound.prequal_random_picks": 1}


def test_a_fraction_of_a_probe_is_owed():
    run = balanced(
        {"a": worker({"sleep": "1ms"}, replicas=8)}, {"renewal": {"interval": "1ms"}}, r_probe=0.4
    )
    assert counted(run.to(100.5))["outbound.prequal_probes"] == 40


def test_who_is_dead_or_stands_still_does_not_answer():
    run = balanced(
        {"a": worker({"sleep": "100us"}, replicas=4)},
        {"renewal": {"interval": "1ms"}},
        wire("100us"),
        r_remove=0,
        probe_max_age="50ms",
    )
    run.control.kill("a", replica=1)
    run.control.slow("a", 0.0, replica=2)
    run.to(100.5)
    assert set(pool_of(run)) == {0, 3}
    before = served(run)
    after = served(run.to(600.5))
    assert [after[name] - before[name] for name in before][1:3] == [0, 0]


def test_the_estimate_is_what_requests_took_at_the_server():
    run = balanced(
        {"a": worker({"sleep": "3ms"}, replicas=2)}, recorded("0s", "10ms", "20ms"), wire("1ms")
    )
    run.to(30)
    probes = run.state.probes[0, : run.state.prequal_pools["count"][0]]
    # The wire is not in it, nor is the proxy; a server without requests says 0.
    assert set(probes["latency_ns"].tolist()) <= {0, 3_000_000}
    assert 3_000_000 in probes["latency_ns"]
    assert run.state.prequal_servers["count"].sum() == 3


def test_a_server_that_is_slower_gets_less():
    run = balanced(
        {"a": worker({"compute": "1ms"}, replicas=10)},
        {"poisson": 4000.0},
        wire("100us"),
    )
    run.control.slow("a", 0.25, replica=0)
    run.to(500)
    before = served(run)
    after = served(run.to(1500))
    got = [after[name] - before[name] for name in before]
    assert got[0] < 0.5 * np.mean(got[1:])


def test_an_added_server_is_probed_and_a_removed_one_is_not():
    run = balanced(
        {"front": worker({"call": "a"}, concurrency=50), "a": worker(replicas=2)},
        {"renewal": {"interval": "1ms"}},
        wire("100us"),
    )
    run.to(100.5).control.add_replicas("a", "v1", 2)
    run.control.add_replicas("front", "v1")
    before = served(run)
    after = served(run.to(500.5))
    assert all(after[name] > before.get(name, 0) for name in after)
    assert len(run.state.prequal_pools) == 2
    assert (run.state.prequal_pools["probes_total"] > 0).all()
    run.control.remove_replicas("a", "v1")
    gone = run.state.endpoints["requests"].tolist()
    later = run.to(900.5).state.endpoints["requests"].tolist()
    assert sum(before == after for before, after in zip(gone, later, strict=True)) == 1
