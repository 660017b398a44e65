"""The push queue: order, merging, throttle."""

import pytest

from meshsim.controlplane.push_queue import PUSH_THROTTLE, PushQueue, PushRequest
from meshsim.errors import InvariantError


def request(*types, at=0):
    return PushRequest(frozenset(types), at)


def test_default_is_istios():
    assert PushQueue().throttle == PUSH_THROTTLE == 100


def test_first_come_first_served_and_merged_requests_keep_their_place():
    queue = PushQueue()
    queue.add("a", request("routes", at=5))
    queue.add("b", request("routes", at=6))
    queue.add("a", request("clusters", at=7))
    assert len(queue) == 2
    assert queue.take() == ("a", request("routes", "clusters", at=5))
    assert queue.take() == ("b", request("routes", at=6))
    assert queue.take() is None


def test_no_more_pushes_run_than_the_throttle_allows():
    queue = PushQueue(throttle=2)
    for name in "abc":
        queue.add(name, request("routes"))
    assert [queue.take()[0], queue.take()[0]] == ["a", "b"]
    assert (queue.take(), queue.running, len(queue)) == (None, 2, 1)
    queue.done("a")
    assert queue.take()[0] == "c"


def test_what_comes_during_a_push_follows_it_at_the_end_of_the_queue():
    queue = PushQueue()
    queue.add("a", request("routes", at=1))
    queue.take()
    queue.add("a", request("endpoints", at=3))
    queue.add("a", request("clusters", at=2))
    queue.add("b", request("routes", at=4))
    assert queue.take()[0] == "b"
    assert queue.take() is None  # never two pushes to one proxy
    queue.done("a")
    assert queue.take() == ("a", request("endpoints", "clusters", at=2))


def test_gone_proxies_are_forgotten():
    queue = PushQueue()
    for name in "abc":
        queue.add(name, request("routes"))
    queue.take()
    queue.add("a", request("clusters"))
    queue.keep_only({"c"})
    queue.done("a")
    assert queue.take()[0] == "c"
    assert queue.take() is None


def test_an_end_without_a_beginning_is_a_bug():
    with pytest.raises(InvariantError, match="none ran"):
        PushQueue().done("a")
