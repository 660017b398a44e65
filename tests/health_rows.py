"""One watched cluster, its hosts and its rule, made by hand; every call is the policy's own."""

import numpy as np

from meshsim.policy import health
from meshsim.state.codes import RESET_NONE
from meshsim.state.health import (
    EJECTION_COUNT,
    EJECTION_NAMES,
    HEALTH_RULE_DTYPE,
    blank_cluster_health,
    blank_host_health,
)
from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, CLUSTER_DTYPE, HOST_DTYPE

NS_PER_S = 1_000_000_000
#: Envoy's defaults.
OUTLIERS = {
    "interval_ns": 10 * NS_PER_S,
    "base_ejection_time_ns": 30 * NS_PER_S,
    "max_ejection_time_ns": 300 * NS_PER_S,
    "consecutive_5xx": 5,
    "consecutive_gateway_failure": 5,
    "consecutive_local_origin_failure": 5,
    "max_ejection_percent": 10,
    "success_rate_minimum_hosts": 5,
    "success_rate_request_volume": 100,
    "success_rate_stdev_factor": 1900,
    "failure_percentage_threshold": 85,
    "failure_percentage_minimum_hosts": 5,
    "failure_percentage_request_volume": 50,
    "enforcing_consecutive_5xx": 100,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_success_rate": 100,
    "enforcing_local_origin_success_rate": 100,
    "successful_active_health_check_uneject_host": 1,
}
#: Linkerd's defaults, without jitter.
ACCRUAL = {
    "max_failures": 7,
    "min_penalty_ns": NS_PER_S,
    "max_penalty_ns": 60 * NS_PER_S,
}


class Watched:
    """A cluster of `count` hosts under a rule with these fields; times are seconds."""

    def __init__(self, count, panic_threshold=0, slow_start_s=0, **rule):
        self.hosts = np.zeros(count, HOST_DTYPE)
        self.hosts["weight"] = self.hosts["healthy"] = 1
        self.hosts["health"] = np.arange(count)
        self.members = np.arange(count, dtype=np.int32)
        self.clusters = np.zeros(1, CLUSTER_DTYPE)
        self.clusters["member_count"] = count
        self.configs = np.zeros(1, CLUSTER_CONFIG_DTYPE)
        self.configs["panic_threshold"] = panic_threshold
        self.configs["slow_start_window_ns"] = slow_start_s * NS_PER_S
        self.configs["weights_equal"] = 1
        self.rules = np.zeros(1, HEALTH_RULE_DTYPE)
        for name, value in rule.items():
            self.rules[name] = value
        self.healths = blank_host_health(count)
        self.healths["host"] = np.arange(count)
        self.groups = blank_cluster_health(1)
        self.groups["key"] = 12345
        self.ejections = np.zeros((1, 2 * EJECTION_COUNT), np.int64)

    def _call(self, function, *values, rules=True, ejections=True):
        rows = [self.hosts, self.members, self.clusters, 0, self.configs]
        rows += [self.rules] if rules else []
        rows += [self.healths, self.groups]
        rows += [self.ejections] if ejections else []
        return function(*rows, *values)

    def result(self, host, status=0, reset=RESET_NONE, at_s=0.0, times=1):
        """Let `times` requests to `host` come to `status`, or to `reset`."""
        for _ in range(times):
            now_ns = round(at_s * NS_PER_S)
            self._call(health.on_request_result, host, status, reset, now_ns)

    def connected(self, host, at_s=0.0):
        self._call(health.on_request_connected, host, round(at_s * NS_PER_S))

    def picked(self, host):
        self._call(health.on_picked, host, ejections=False)

    def dropped(self, host):
        self._call(health.on_request_dropped, host, rules=False, ejections=False)

    def checked(self, host, result, at_s=0.0):
        """Return the seconds until the next check."""
        now_ns = round(at_s * NS_PER_S)
        return self._call(health.on_check_result, host, result, now_ns) / NS_PER_S

    def at(self, time_s):
        """Settle what is due until `time_s`; return which hosts may be picked."""
        self._call(health.settle_health, round(time_s * NS_PER_S))
        return np.flatnonzero(self.hosts["healthy"]).tolist()

    def detected(self):
        """Return the kinds of ejections that were detected, with their counts."""
        return self._named(self.ejections[0, :EJECTION_COUNT])

    def enforced(self):
        return self._named(self.ejections[0, EJECTION_COUNT:])

    @staticmethod
    def _named(counts):
        return {
            name: int(count) for name, count in zip(EJECTION_NAMES, counts, strict=True) if count
        }

    @property
    def overflow(self):
        return int(self.groups["ejections_overflow"][0])

    @property
    def ejected(self):
        """Hosts that are ejected or otherwise held unhealthy."""
        return np.flatnonzero(self.hosts["unhealthy"]).tolist()
