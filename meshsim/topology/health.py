"""What a person says of how a client proxy judges the health of hosts, in Envoy's vocabulary.

Rule: a block that is absent is off; an empty block is on with the mesh's defaults.  Field names
are Envoy's (``cluster.v3.OutlierDetection``, ``core.v3.HealthCheck``,
``common.v3.SlowStartConfig``), those of failure accrual are Linkerd's annotations.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshsim.topology.base import Boolean, Duration, Integer, Model, Number

__all__ = ["FailureAccrual", "HealthCheck", "OutlierDetection", "SlowStart"]

#: A whole percentage.
_Percent = Annotated[Integer, Field(ge=0, le=100)]
#: A number of failures, hosts or requests.
_Count = Annotated[Integer, Field(ge=0, le=2**31 - 1)]


class OutlierDetection(Model):
    """Ejection of hosts that fail, by what each client proxy sees of them."""

    consecutive_5xx: _Count | None = Field(default=None, description="0: off")
    interval: Duration | None = Field(default=None, description="between sweeps")
    base_ejection_time: Duration | None = None
    max_ejection_percent: _Percent | None = None
    enforcing_consecutive_5xx: _Percent | None = None
    enforcing_success_rate: _Percent | None = None
    success_rate_minimum_hosts: _Count | None = None
    success_rate_request_volume: _Count | None = None
    success_rate_stdev_factor: _Count | None = Field(default=None, description="of 1000")
    consecutive_gateway_failure: _Count | None = Field(default=None, description="0: off")
    enforcing_consecutive_gateway_failure: _Percent | None = None
    split_external_local_origin_errors: Boolean | None = None
    consecutive_local_origin_failure: _Count | None = Field(default=None, description="0: off")
    enforcing_consecutive_local_origin_failure: _Percent | None = None
    enforcing_local_origin_success_rate: _Percent | None = None
    failure_percentage_threshold: _Percent | None = None
    enforcing_failure_percentage: _Percent | None = None
    enforcing_failure_percentage_local_origin: _Percent | None = None
    failure_percentage_minimum_hosts: _Count | None = None
    failure_percentage_request_volume: _Count | None = None
    max_ejection_time: Duration | None = None
    max_ejection_time_jitter: Duration | None = None
    successful_active_health_check_uneject_host: Boolean | None = None
    always_eject_one_host: Boolean | None = Field(
        default=None,
        description="whatever max_ejection_percent says; true for Envoy before 1.28",
    )


class FailureAccrual(Model):
    """Linkerd's breaker: failures in a row, a penalty that doubles, one request on probation."""

    consecutive_max_failures: Integer | None = Field(default=None, ge=1, le=2**31 - 1)
    consecutive_min_penalty: Duration | None = None
    consecutive_max_penalty: Duration | None = None
    consecutive_jitter_ratio: Number | None = Field(default=None, ge=0, le=100)


class HealthCheck(Model):
    """Checks of each host by each client proxy: ``GET path``, which must answer 200."""

    timeout: Duration | None = None
    interval: Duration | None = None
    initial_jitter: Duration | None = None
    interval_jitter: Duration | None = None
    interval_jitter_percent: _Percent | None = None
    unhealthy_threshold: Integer | None = Field(default=None, ge=1, le=2**31 - 1)
    healthy_threshold: Integer | None = Field(default=None, ge=1, le=2**31 - 1)
    no_traffic_interval: Duration | None = None
    no_traffic_healthy_interval: Duration | None = None
    unhealthy_interval: Duration | None = None
    unhealthy_edge_interval: Duration | None = None
    healthy_edge_interval: Duration | None = None
    path: str | None = Field(default=None, pattern=r"^/[!-~]*$", max_length=1000)


class SlowStart(Model):
    """A new host's share of the traffic rises over a window."""

    slow_start_window: Duration
    aggression: Number | None = Field(default=None, gt=0, le=100)
    min_weight_percent: Number | None = Field(default=None, ge=0, le=100)
