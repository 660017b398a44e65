"""Token budgets and gRPC throttling: by hand."""

import numpy as np
import pytest
from kernel_runs import Run, recorded, worker
from policy_rows import make_limits

from meshsim.policy import retry_throttling as throttling

S = 1_000_000_000


class Throttle:
    """One cluster and its tokens."""

    def __init__(self, kind, **config):
        self.clusters, self.configs = make_limits(throttle=kind, **config)
        self.clusters["memory_count"] = throttling.THROTTLE_FLOATS
        self.memory = np.zeros(throttling.THROTTLE_FLOATS)
        self.rows = self.clusters, 0, self.configs, self.memory

    def request(self, at_s=0.0):
        throttling.on_first_try(*self.rows, int(at_s * S))

    def retry(self, at_s=0.0):
        return bool(throttling.take_retry(*self.rows, int(at_s * S)))


def budget(ratio=0.2, reserve=0.0, ttl_s=10):
    kind = throttling.THROTTLE_TOKENS
    return Throttle(kind, throttle_ratio=ratio, throttle_reserve=reserve, throttle_ttl_ns=ttl_s * S)


def test_five_requests_pay_for_a_retry():
    it = budget()
    for _ in range(5):
        assert not it.retry()
        it.request()
    assert it.retry()
    assert not it.retry()
    assert it.clusters["retry_overflow"][0] == 6


def test_the_reserve_is_there_from_the_start_and_again_after_the_ttl():
    it = budget(reserve=3.0)
    assert [it.retry(0.5) for _ in range(4)] == [True, True, True, False]
    assert not it.retry(9.9)  # the withdrawals are still in their slot
    assert [it.retry(10.0) for _ in range(4)] == [True, True, True, False]


def test_deposits_expire():
    it = budget()
    for _ in range(10):
        it.request(0.0)
    assert it.retry(9.99)
    assert not it.retry(10.0)


def test_a_long_silence_empties_every_slot():
    it = budget(ratio=1.0)
    for second in range(10):
        it.request(second)
    assert it.retry(9.0)
    assert not it.retry(1000.0)


def grpc(tokens=10, ratio=0.1):
    return Throttle(throttling.THROTTLE_GRPC, throttle_ratio=ratio, throttle_reserve=float(tokens))


def test_grpc_retries_while_more_than_half_of_the_tokens_are_left():
    it = grpc()
    allowed = []
    for _ in range(7):
        throttling.on_retriable_failure(*it.rows)
        allowed.append(it.retry())
    assert allowed == [True] * 4 + [False] * 3
    for _ in range(20):
        throttling.on_success(*it.rows)
    assert not it.retry()  # 3 + 2 of 10: half, not more
    throttling.on_success(*it.rows)
    assert it.retry()


def test_grpc_tokens_stay_between_none_and_all():
    it = grpc(4, 1.0)
    for _ in range(100):
        throttling.on_retriable_failure(*it.rows)
    for _ in range(3):
        throttling.on_success(*it.rows)
    assert it.retry()
    for _ in range(100):
        throttling.on_success(*it.rows)
    assert it.memory[0] == 0.0


def test_without_throttling_nothing_is_counted():
    it = Throttle(throttling.THROTTLE_NONE)
    it.request()
    throttling.on_success(*it.rows)
    throttling.on_retriable_failure(*it.rows)
    assert it.retry()
    assert not it.memory.any()


@pytest.mark.parametrize(
    ("said", "tries"),
    [
        ({"token_budget": {"retry_ratio": 0.2, "min_retries_per_second": 0}}, 1.2),
        ({"token_budget": {"retry_ratio": 0.5, "min_retries_per_second": 0}}, 1.5),
        ({"grpc": {}}, 1.0),
    ],
)
def test_tries_of_a_request_when_everything_fails(said, tries):
    retry = {"num_retries": 3, "retry_on": ["5xx"], "base_interval": "1ms", "max_interval": "1ms"}
    breakers = {"retry_throttling": said, "max_retries": 1000}
    ended = Run(
        {"a": worker({"sleep": "1ms"}, concurrency=99, error_rate=1.0)},
        recorded(*(f"{5 * number}ms" for number in range(1000))),
        policies={"a": {"circuit_breakers": breakers, "routes": [{"retry": retry}]}},
    ).to(10_000)
    spans = ended.spans()
    mean = sum(span.tries for span in spans) / len(spans)
    assert mean == pytest.approx(tries, abs=0.005)  # 4 retries of gRPC at the start: 0.004
    flags = {span.flag for span in spans}
    assert "UO" in flags  # the throttle refused
