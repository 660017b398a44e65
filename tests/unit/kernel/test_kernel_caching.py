"""Caches of replicas: what is found, kept, forgotten and flushed.  Exact [ms], with constants."""

import numpy as np
import pytest
from kernel_runs import Run, recorded, worker

from meshsim.errors import ConfigError
from meshsim.rng import mix_in
from meshsim.workload.caching import asked_key

LOOKUP = {"keys": 1, "miss": [{"compute": "4ms"}]}


def every(step_ms, count):
    return recorded(*(f"{number * step_ms}ms" for number in range(count)))


def stays(run, edge="load>a"):
    """Return how long each request of `edge` took [ms]."""
    return [span.end - span.start for span in run.spans(edge)]


def test_what_was_found_once_is_there():
    run = Run({"a": worker({"cache": LOOKUP}, {"compute": "1ms"})}, every(10, 4)).to(100)
    assert stays(run) == [5, 1, 1, 1]
    assert run.idle()


def test_an_answer_is_kept_for_its_time_to_live():
    cache = {**LOOKUP, "ttl": "25ms"}
    run = Run({"a": worker({"cache": cache}, {"compute": "1ms"})}, every(10, 6)).to(100)
    # Found at 4 and kept until 29: the requests at 10 and 20 find it, that at 30 does not.
    assert stays(run) == [5, 1, 1, 5, 1, 1]


def test_a_miss_that_fails_is_not_kept():
    services = {
        "a": worker({"cache": {"keys": 1, "miss": [{"call": "b"}]}, "optional": True}),
        "b": worker({"compute": "2ms"}),
    }
    run = Run(services, every(10, 5))
    run.control.fail("b", 1.0)
    run.to(25).control.restore("b")
    run.to(100)
    assert len(run.spans("a>b")) == 4  # three that failed, one that is kept
    assert {span.status for span in run.spans("load>a")} == {200}


def test_a_failed_miss_fails_its_request():
    services = {"a": worker({"cache": {"keys": 1, "miss": [{"call": "b"}]}}), "b": worker()}
    run = Run(services, recorded("0s"))
    run.control.fail("b", 1.0)
    assert [span.status for span in run.to(10).spans("load>a")] == [500]


def test_who_asks_while_a_miss_is_under_way_misses_too():
    body = worker({"cache": LOOKUP}, concurrency=9)
    run = Run({"a": body}, recorded("0s", "1ms", "5ms")).to(100)
    assert stays(run) == [4, 4, 0]


def test_a_flush_empties_the_caches_that_are_meant():
    body = worker({"cache": LOOKUP}, {"compute": "1ms"}, replicas=2)
    rotation = {"a": {"load_balancing": {"policy": "ROUND_ROBIN"}}}
    run = Run({"a": body}, every(10, 8), policies=rotation).to(35)
    run.control.flush("a", replica=0)
    run.to(100)
    by_replica = {name: [] for name in ("a-v1-0", "a-v1-1")}
    for span in run.spans():
        by_replica[span.endpoint].append(span.end - span.start)
    assert by_replica == {"a-v1-0": [5, 1, 5, 1], "a-v1-1": [5, 1, 1, 1]}


def test_a_killed_replica_comes_back_without_what_it_had_cached():
    run = Run({"a": worker({"cache": LOOKUP})}, every(10, 4)).to(15)
    run.control.kill("a")
    run.to(16).control.restore("a")
    assert stays(run.to(100)) == [4, 0, 4, 0]


def test_an_added_replica_has_caches_of_its_own():
    run = Run({"a": worker({"cache": LOOKUP}, replicas=1)}, every(10, 20)).to(15)
    run.control.add_replicas("a", "v1")
    run.to(500)
    assert sorted(stays(run)) == [0] * 18 + [4] * 2


def test_a_cache_may_begin_with_its_most_popular_keys():
    cache = {"keys": 4, "zipf": 1.0, "filled": 0.5, "ttl": "15ms", "miss": [{"compute": "4ms"}]}
    run = Run({"a": worker({"cache": cache}, replicas=2)}, recorded("1ms"))
    assert (run.state.cached_until_ns / 1e6).tolist() == [15, 15, 0, 0] * 2
    run.control.add_replicas("a", "v1")
    assert (run.state.cached_until_ns / 1e6).tolist() == [15, 15, 0, 0] * 2 + [0] * 4


def test_caches_of_one_workload_are_apart():
    two = [{"cache": {"keys": 3, "miss": [{"compute": f"{ms}ms"}]}} for ms in (2, 3)]
    run = Run({"a": worker(*two)}, every(20, 50)).to(2000)
    assert set(stays(run)) == {0, 2, 3, 5}
    assert sum(stays(run)) == 3 * 2 + 3 * 3
    assert run.state.cached_until_ns.astype(bool).tolist() == [True] * 6


@pytest.mark.parametrize(("zipf", "share"), [(0.0, 1 / 50), (1.0, 1 / 4.4992), (2.0, 1 / 1.62513)])
def test_keys_are_asked_for_by_their_popularity(zipf, share):
    """The weights k**-zipf of 50 keys sum to 50, 4.49921 and 1.62513."""
    cache = {"keys": 50, "cacheable": 0.5, "zipf": zipf, "miss": [{"sleep": "0s"}]}
    state = Run({"a": worker({"cache": cache})}, recorded("0s")).state
    task_keys = [np.uint64(mix_in(np.uint64(1), number)) for number in range(4000)]
    keys = [asked_key(state.caches, state.popularity, 0, key, 1) for key in task_keys]
    cacheable = [key for key in keys if key >= 0]
    # four standard deviations of a binomial share
    assert abs(len(cacheable) / 4000 - 0.5) < 4 * (0.25 / 4000) ** 0.5
    spread = 4 * (share * (1 - share) / len(cacheable)) ** 0.5
    assert abs(cacheable.count(0) / len(cacheable) - share) < spread
    assert max(cacheable) < 50


def test_a_flush_means_something_that_has_a_cache():
    run = Run({"a": worker({"call": "b"}), "b": worker({"cache": LOOKUP})}, recorded("0s"))
    with pytest.raises(ConfigError, match=r"nothing here has a cache.*a-v1-0"):
        run.control.flush("a")


def test_hit_shares_by_theory():
    """N equal keys, requests every D, a life of T: each is found in a share of the requests.

    A key is asked for after geometric gaps with q = 1/N; a cycle is one miss and the hits within
    T, floor(T/D) requests of which each asks for it with q: 1 miss and q * T/D hits.
    """
    cache = {"keys": 10, "ttl": "100500us", "miss": [{"sleep": "0s"}, {"call": "b"}]}
    services = {"a": worker({"cache": cache}), "b": worker()}
    run = Run(services, every(5, 6000)).to(31_000)
    hits_a_miss = 0.1 * 20
    expected = 1 / (1 + hits_a_miss)
    misses = len(run.spans("a>b")) / 6000
    # Cycles of 20 + geometric(0.1) requests for a key: standard deviation below 3 % over 200 of
    # each of 10 keys.
    assert misses == pytest.approx(expected, rel=0.05)
