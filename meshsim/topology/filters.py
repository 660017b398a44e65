"""Filters: what a person says of limits, injected faults, mirrors and redirects.

Rule: names are Envoy's where Envoy has them.  A percentage is a number from 0 to 100; Envoy's
fractions of 100, 10,000 and 1,000,000 are all percentages with at most four decimals.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from meshsim.topology.base import Boolean, Distribution, Duration, Integer, Model, Number, one_of

__all__ = [
    "AdaptiveConcurrency",
    "ConcurrencyLimitParams",
    "Fault",
    "FaultAbort",
    "FaultDelay",
    "GlobalRateLimit",
    "LocalRateLimit",
    "MinRttCalcParams",
    "Mirror",
    "Percentage",
    "QuotaDescriptor",
    "RateLimitDescriptor",
    "Redirect",
    "ResponseRateLimit",
    "TokenBucket",
]

Percentage = Annotated[Number, Field(ge=0, le=100)]
_Tokens = Annotated[Integer, Field(ge=1, le=2**32 - 1)]


class TokenBucket(Model):
    """A bucket that starts full: `tokens_per_fill` (default 1) come in each `fill_interval`."""

    max_tokens: _Tokens
    tokens_per_fill: _Tokens | None = None
    fill_interval: Duration


class RateLimitDescriptor(Model):
    """A bucket of its own for requests with these headers.

    `entries` maps names of headers, or ``:path`` (without its query), ``:method`` and
    ``:authority``, to the value that is meant; ``*`` means a bucket for each value.
    """

    entries: dict[str, str] = Field(min_length=1)
    token_bucket: TokenBucket


class LocalRateLimit(Model):
    """Envoy's local rate limit: each proxy has buckets of its own, or each connection to it.

    A request takes a token of every descriptor's bucket that fits it, then one of `token_bucket`.
    """

    token_bucket: TokenBucket
    descriptors: tuple[RateLimitDescriptor, ...] = ()
    refill: Literal["TICKS", "CONTINUOUS"] | None = Field(
        default=None,
        description="tokens come all at once at multiples of fill_interval, or evenly",
    )
    local_rate_limit_per_downstream_connection: Boolean | None = Field(
        default=None, description="each connection of a caller has buckets of its own"
    )
    status: Integer | None = Field(default=None, ge=400, le=599, description="of a refusal")
    filter_enabled: Percentage | None = Field(default=None, description="of requests counted")
    filter_enforced: Percentage | None = Field(
        default=None, description="of requests over the limit that are refused"
    )
    response_headers_to_add: dict[str, str] = Field(
        default_factory=dict,
        description="on a refusal; x-envoy-ratelimited decides whether it is retried",
    )
    enable_x_ratelimit_headers: Literal["OFF", "DRAFT_VERSION_03"] | None = Field(
        default=None, description="whether refusals say x-ratelimit-limit, -remaining and -reset"
    )

    @property
    def marks(self) -> bool:
        """Whether refusals are marked ``x-envoy-ratelimited``."""
        return "x-envoy-ratelimited" in (name.lower() for name in self.response_headers_to_add)

    @property
    def tells_reset(self) -> bool:
        """Whether refusals say ``x-ratelimit-reset``."""
        return self.enable_x_ratelimit_headers == "DRAFT_VERSION_03"

    @property
    def retry_after(self) -> str:
        """What refusals say in ``retry-after``, or nothing."""
        added = {name.lower(): value for name, value in self.response_headers_to_add.items()}
        return added.get("retry-after", "")


class QuotaDescriptor(Model):
    """How many requests with these headers may come in a second, minute, hour or day.

    `entries` are those of `RateLimitDescriptor`; without any, it fits every request.
    """

    entries: dict[str, str] = Field(default_factory=dict)
    requests_per_unit: Integer = Field(ge=0, le=2**32 - 1)
    unit: Literal["SECOND", "MINUTE", "HOUR", "DAY"]


class GlobalRateLimit(Model):
    """Envoy's global rate limit: all proxies ask one service, which counts for all of them.

    Equal descriptors of one `domain` share their count, whichever route or service asks.
    """

    domain: str = "default"
    descriptors: tuple[QuotaDescriptor, ...] = Field(min_length=1)
    latency: Distribution = Field(description="until the service answers")
    timeout: Duration | None = Field(default=None, ge=1, description="until it has failed")
    failure_mode_deny: Boolean | None = Field(
        default=None, description="refuse what the service does not answer in time"
    )
    status_on_error: Integer | None = Field(default=None, ge=400, le=599)
    rate_limited_status: Integer | None = Field(default=None, ge=400, le=599)


class ConcurrencyLimitParams(Model):
    """How often the limit is worked out anew, and how high it may be."""

    max_concurrency_limit: Integer | None = Field(default=None, ge=1, le=2**32 - 1)
    concurrency_update_interval: Duration = Field(ge=1_000_000)


class MinRttCalcParams(Model):
    """How the least latency is measured: at an interval, or not if it is a `fixed_value`."""

    interval: Duration | None = Field(default=None, ge=1_000_000)
    fixed_value: Duration | None = Field(default=None, ge=1_000)
    request_count: Integer | None = Field(
        default=None, ge=1, le=2**31 - 1, description="requests of one measurement"
    )
    jitter: Percentage | None = Field(default=None, description="of the interval, at most")
    min_concurrency: Integer | None = Field(
        default=None, ge=1, le=2**32 - 1, description="limit meanwhile, and the least there is"
    )
    buffer: Percentage | None = Field(default=None, description="added to the least latency")

    @model_validator(mode="after")
    def _exactly_one(self) -> MinRttCalcParams:
        one_of(self, ("interval", "fixed_value"))
        return self


class AdaptiveConcurrency(Model):
    """Envoy's adaptive concurrency filter with its gradient controller, one a proxy."""

    sample_aggregate_percentile: Percentage | None = Field(
        default=None, description="of latencies, which stands for all of a window"
    )
    concurrency_limit_params: ConcurrencyLimitParams
    min_rtt_calc_params: MinRttCalcParams
    concurrency_limit_exceeded_status: Integer | None = Field(default=None, ge=400, le=599)


class FaultDelay(Model):
    """Requests that wait before they are sent."""

    fixed_delay: Duration
    percentage: Percentage


class FaultAbort(Model):
    """Requests that are answered at once."""

    http_status: Integer = Field(ge=200, le=599)
    percentage: Percentage


class ResponseRateLimit(Model):
    """Responses that leave slowly, in slices of 50 ms."""

    limit_kbps: Integer = Field(ge=1, le=2**32 - 1, description="KiB a second, of one response")
    percentage: Percentage


class Fault(Model):
    """Envoy's fault filter, for the requests of one route."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    response_rate_limit: ResponseRateLimit | None = None
    max_active_faults: Integer | None = Field(default=None, ge=0, le=2**32 - 1)


class Mirror(Model):
    """Copies of the requests of a route; the answers to them are ignored.

    `service` is the routed one unless it says otherwise.
    """

    service: str | None = None
    subset: str | None = None
    percentage: Percentage | None = Field(default=None, description="default: all requests")


class Redirect(Model):
    """An answer that sends the caller elsewhere; callers here do not go there."""

    response_code: Literal[301, 302, 303, 307, 308] = 301
    host: str | None = None
    path: str | None = None
