"""What a rate limit service counts and answers, by literal times."""

import numpy as np

from meshsim.policy.global_rate_limit import (
    QUOTA_FAILED,
    QUOTA_OK,
    SERVICE_FAILED,
    answer_in_time,
    count_request,
    take_answer,
    wait_for_service_ns,
)
from meshsim.state.filters import QUOTA_COUNTS_DTYPE, QUOTA_DTYPE, QUOTA_WINDOW_DTYPE

SECOND = 1_000_000_000
MS = 1_000_000


class Service:
    """A service with these limits: (unit, requests a unit)."""

    def __init__(self, *limits, deny=0):
        self.quotas = np.zeros(1, QUOTA_DTYPE)
        self.quotas["window_count"] = len(limits)
        self.quotas["failure_mode_deny"] = deny
        self.quotas["status"] = 429
        self.quotas["timeout_ns"] = 20 * MS
        self.windows = np.zeros(len(limits), QUOTA_WINDOW_DTYPE)
        self.windows["unit_ns"] = [unit for unit, _ in limits]
        self.windows["requests_per_unit"] = [requests for _, requests in limits]
        self.listed = np.arange(len(limits), dtype=np.int32)
        self.counts = np.zeros(2, QUOTA_COUNTS_DTYPE)

    def asked(self, now_ns, latency_ns=0, proxy=0):
        answer = count_request(self.windows, self.listed, 0, len(self.listed), now_ns)
        heard = answer_in_time(self.quotas, 0, answer, latency_ns)
        return take_answer(self.quotas, 0, self.counts, proxy, heard)


def test_a_window_begins_anew_at_multiples_of_its_unit():
    service = Service((SECOND, 2))
    times_ns = [SECOND // 2, SECOND - 2, SECOND - 1, SECOND, 2 * SECOND + 7]
    assert [service.asked(now_ns) for now_ns in times_ns] == [0, 0, 429, 0, 0]
    assert service.windows.tolist() == [(SECOND, 2, 2, 1)]


def test_two_windows_allow_what_both_do():
    service = Service((SECOND, 2), (60 * SECOND, 3))
    answers = [service.asked(number * SECOND // 2) for number in range(8)]
    assert answers == [0, 0, 0, 429, 429, 429, 429, 429]
    assert service.counts.tolist() == [(3, 5, 0, 0), (0, 0, 0, 0)]


def test_nothing_may_pass_a_limit_of_nothing():
    assert Service((SECOND, 0)).asked(5) == 429


def test_a_late_answer_is_an_error_from_the_timeout_on():
    lenient, strict = Service((SECOND, 9)), Service((SECOND, 9), deny=1)
    latencies_ns = [20 * MS - 1, 20 * MS, SECOND]
    assert [lenient.asked(0, latency_ns, 1) for latency_ns in latencies_ns] == [QUOTA_OK] * 3
    assert lenient.counts.tolist() == [(0, 0, 0, 0), (1, 0, 2, 2)]
    answers = [strict.asked(0, latency_ns) for latency_ns in latencies_ns]
    assert answers == [QUOTA_OK, QUOTA_FAILED, QUOTA_FAILED]
    assert strict.counts[:1].tolist() == [(1, 0, 2, 0)]
    waits = [wait_for_service_ns(lenient.quotas, 0, latency_ns) for latency_ns in latencies_ns]
    assert waits == [20 * MS - 1, 20 * MS, 20 * MS]


def test_a_service_that_cannot_be_reached_has_failed():
    lenient, strict = Service((SECOND, 9)), Service((SECOND, 9), deny=1)
    rows = [(item.quotas, 0, item.counts, 0, SERVICE_FAILED) for item in (lenient, strict)]
    assert [take_answer(*row) for row in rows] == [QUOTA_OK, QUOTA_FAILED]
    assert lenient.windows["requests"].tolist() == [0]
