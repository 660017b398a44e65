"""Retries that wait as an answer asks, and what is counted of retries, in the kernel."""

import pytest
from kernel_runs import Run, recorded, worker

from meshsim.kernel.statistics import stats
from meshsim.topology.profile import ProxyCost

BY_LIMIT = {"reset_headers": [{"name": "X-RateLimit-Reset"}]}
BY_SERVER = {"reset_headers": [{"name": "retry-after"}], "max_interval": "5s"}
RETRY = {
    "num_retries": 1,
    "retry_on": ["5xx", "retriable-status-codes"],
    "retriable_status_codes": [429],
    "base_interval": "25ms",
}
SLOW = {
    "token_bucket": {"max_tokens": 1, "fill_interval": "4s"},
    "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
}
PREFIX = "outbound.upstream_rq_retry"


def limited(*times, limit=None, back_off=None, **fields):
    """A class that calls "b", whose inbound proxies have a limit."""
    retry = {**RETRY, **({"rate_limited_retry_back_off": back_off} if back_off else {})}
    policy = {"routes": [{"retry": retry}], **({"rate_limit": limit} if limit else {})}
    return Run(
        {"b": worker({"compute": "1ms"}, **fields)},
        recorded(*times),
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"b": policy},
    )


def counted(run):
    found = stats(run.state, run.kernel._proxy_names).get("gateway-load", {})
    return {name.removeprefix(PREFIX): n for name, n in found.items() if name.startswith(PREFIX)}


def test_a_refused_request_comes_again_when_the_bucket_has_a_token():
    run = limited("0s", "1s", limit=SLOW, back_off=BY_LIMIT).to(20_000)
    first, second = run.spans()
    assert (first.status, first.tries) == (200, 1)
    # Refused after 1 s of 4: in 3 s, and up to half of that longer.
    assert (second.status, second.tries) == (200, 2)
    assert 3001 <= second.end - second.start < 4501
    assert counted(run) == {"": 1, "_success": 1, "_backoff_ratelimited": 1}


@pytest.mark.parametrize(
    ("limit", "back_off"),
    [
        ({**SLOW, "enable_x_ratelimit_headers": "OFF"}, BY_LIMIT),
        (SLOW, None),
        (SLOW, BY_SERVER),
        (SLOW, {**BY_LIMIT, "max_interval": "2s"}),
        (SLOW, {"reset_headers": [{"name": "x-ratelimit-reset", "format": "UNIX_TIMESTAMP"}]}),
    ],
)
def test_else_the_back_off_is_exponential(limit, back_off):
    run = limited("0s", "1s", limit=limit, back_off=back_off).to(20_000)
    span = run.spans()[1]
    assert (span.status, span.flag, span.tries) == (429, "URX", 2)
    assert span.end - span.start < 25
    assert counted(run) == {"": 1, "_limit_exceeded": 1, "_backoff_exponential": 1}


def test_a_limit_may_say_retry_after():
    limit = {
        "token_bucket": {"max_tokens": 1, "fill_interval": "2s"},
        "response_headers_to_add": {"Retry-After": "3"},
    }
    run = limited("0s", "1s", limit=limit, back_off=BY_SERVER).to(20_000)
    span = run.spans()[1]
    assert (span.status, span.tries) == (200, 2)
    assert 3001 <= span.end - span.start < 4501


def test_a_full_queue_says_when_to_come_again():
    body = {"concurrency": 1, "queue_limit": 0, "retry_after": "1500ms"}
    run = Run(
        {"b": worker({"compute": "1s"}, **body)},
        recorded("0s", "500ms"),
        policies={
            "b": {"routes": [{"retry": {**RETRY, "rate_limited_retry_back_off": BY_SERVER}}]}
        },
    ).to(20_000)
    span = run.spans()[1]
    assert (span.status, span.tries) == (200, 2)
    assert 2000 + 1000 <= span.end - span.start < 3000 + 1000  # the header has whole seconds
    assert run.endpoint("b-v1-0")["rejected"] == 1
    assert run.idle()


def test_who_runs_out_of_patience_is_told_too():
    body = {"concurrency": 1, "patience": "100ms", "retry_after": "1s"}
    run = Run(
        {"b": worker({"compute": "1s"}, **body)},
        recorded("0s", "500ms"),
        policies={
            "b": {"routes": [{"retry": {**RETRY, "rate_limited_retry_back_off": BY_SERVER}}]}
        },
    ).to(20_000)
    span = run.spans()[1]
    assert (span.status, span.tries) == (200, 2)
    assert 100 + 1000 + 1000 <= span.end - span.start < 100 + 1500 + 1000


def test_timeouts_are_counted_by_kind():
    retry = {**RETRY, "per_try_timeout": "2ms", "base_interval": "1ms"}
    run = Run(
        {"b": worker({"compute": "9ms"}, concurrency=9)},
        recorded("0s", "1s"),
        policies={"b": {"routes": [{"timeout": "3ms", "retry": retry}]}},
    ).to(5_000)
    found = stats(run.state, run.kernel._proxy_names)["load"]
    assert found["outbound.upstream_rq_per_try_timeout"] == 2
    assert found["outbound.upstream_rq_timeout"] == 2
