"""Policies under which a live proxy and the simulator's are to decide the same."""

import custom_policies as own
from hedged_scenarios import hedged

RETRY = {
    "num_retries": 2,
    "retry_on": ["5xx"],
    "per_try_timeout": "20ms",
    "previous_hosts": True,
    "host_selection_retry_max_attempts": 3,
    "base_interval": "5ms",
    "max_interval": "50ms",
}
EJECTING = {
    "consecutive_5xx": 1,
    "interval": "20.5ms",
    "base_ejection_time": "30ms",
    "max_ejection_percent": 60,
}
LIMIT = {"token_bucket": {"max_tokens": 5, "tokens_per_fill": 2, "fill_interval": "7ms"}}
SLOW = {"max_tokens": 20, "tokens_per_fill": 1, "fill_interval": "50ms"}
SCENARIOS = {
    **{
        name.lower(): {"load_balancing": {"policy": name}}
        for name in ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA")
    },
    "weighted": {
        "load_balancing": {"policy": "LEAST_REQUEST", "weights": {"v1": 5, "v2": 2, "v3": 1}}
    },
    "ring_hash": {
        "load_balancing": {
            "policy": "RING_HASH",
            "hash_header": "X-User",
            "minimum_ring_size": 64,
            "hash_balance_factor": 120,
        }
    },
    "maglev": {"load_balancing": {"policy": "MAGLEV", "hash_header": "x-user", "table_size": 101}},
    "no_hash_key": {"load_balancing": {"policy": "MAGLEV", "table_size": 101}},
    "retries": {"routes": [{"retry": RETRY}]},
    "retries_timeout": {"routes": [{"timeout": "33.5ms", "retry": RETRY}]},
    "retry_overflow": {
        "routes": [{"retry": RETRY}],
        "circuit_breakers": {"max_retries": 2},
    },
    **hedged(RETRY),
    "request_overflow": {"circuit_breakers": {"max_requests": 4}},
    "pending": {"circuit_breakers": {"max_connections": 3}},
    "pending_overflow": {
        "routes": [{"timeout": "40.5ms", "retry": RETRY}],
        "circuit_breakers": {"max_connections": 2, "max_pending_requests": 3},
    },
    "split": {
        "subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2")},
        "routes": [{"split": [{"subset": "v1", "weight": 30}, {"subset": "v2", "weight": 70}]}],
    },
    "limit_ticks": {
        "routes": [{"rate_limit": {**LIMIT, "refill": "TICKS"}, "retry": RETRY}],
    },
    "limit_shares": {
        "routes": [{"rate_limit": {**LIMIT, "filter_enabled": 70.0, "filter_enforced": 60.0}}],
    },
    "limit_descriptors": {
        "routes": [
            {
                "rate_limit": {
                    **LIMIT,
                    "descriptors": [
                        {"entries": {":path": "*"}, "token_bucket": LIMIT["token_bucket"]},
                        {"entries": {":method": "GET", ":path": "/"}, "token_bucket": SLOW},
                        {"entries": {":authority": "nobody"}, "token_bucket": SLOW},
                    ],
                }
            }
        ],
    },
    "limit_users": {
        "load_balancing": {"policy": "MAGLEV", "hash_header": "x-user", "table_size": 101},
        "routes": [
            {
                "rate_limit": {
                    "token_bucket": {"max_tokens": 200, "fill_interval": "1s"},
                    "descriptors": [
                        {"entries": {"X-User": "*"}, "token_bucket": SLOW | {"max_tokens": 3}},
                        {"entries": {"x-user": "user-5"}, "token_bucket": LIMIT["token_bucket"]},
                    ],
                },
                "global_rate_limit": {
                    "descriptors": [
                        {"entries": {"x-user": name}, "requests_per_unit": limit, "unit": "SECOND"}
                        for name, limit in (("user-5", 9), ("user-7", 5))
                    ],
                    "latency": {"exponential": "7ms"},
                },
            }
        ],
    },
    "global_limit": {
        "routes": [
            {
                "timeout": "40.5ms",
                "retry": RETRY,
                "fault": {"delay": {"fixed_delay": "13ms", "percentage": 20.0}},
                "global_rate_limit": {
                    "descriptors": [
                        {"entries": {":method": "*"}, "requests_per_unit": 90, "unit": "SECOND"},
                        {"entries": {":path": "/"}, "requests_per_unit": 230, "unit": "MINUTE"},
                        {"entries": {"x-user": "nobody"}, "requests_per_unit": 0, "unit": "DAY"},
                    ],
                    "latency": {"exponential": "7ms"},
                },
            }
        ],
    },
    "global_limit_closed": {
        "routes": [
            {
                "global_rate_limit": {
                    "descriptors": [{"requests_per_unit": 200, "unit": "MINUTE"}],
                    "latency": {"exponential": "2ms"},
                    "timeout": "3.3ms",
                    "failure_mode_deny": True,
                    "status_on_error": 503,
                    "rate_limited_status": 420,
                },
            }
        ],
    },
    "prequal": {
        "load_balancing": {"policy": "PREQUAL", "r_probe": 2.3, "probe_pool_size": 4},
    },
    "prequal_few": {
        "load_balancing": {
            "policy": "PREQUAL",
            "r_probe": 0.7,
            "r_remove": 0.4,
            "probe_max_age": "5ms",
            "q_rif": 0.5,
        },
        "circuit_breakers": {"max_requests": 4},
    },
    "fault": {
        "routes": [
            {
                "timeout": "40.5ms",
                "retry": RETRY,
                "fault": {
                    "delay": {"fixed_delay": "13ms", "percentage": 40.0},
                    "abort": {"http_status": 503, "percentage": 25.0},
                    "max_active_faults": 3,
                },
            }
        ],
    },
    "mirror": {
        "subsets": {name: {"labels": {"version": name}} for name in ("v1", "v2")},
        "routes": [
            {
                "timeout": "33.5ms",
                "split": [{"subset": "v1"}],
                "mirrors": [{"subset": "v2", "percentage": 60.0}],
            }
        ],
    },
    # Picks that draw would come, at one instant, before or after a back-off that draws.
    "mirror_retries": {
        "load_balancing": {"policy": "ROUND_ROBIN"},
        "subsets": {"v2": {"labels": {"version": "v2"}}},
        "routes": [
            {
                "timeout": "40.5ms",
                "retry": RETRY,
                "mirrors": [{"subset": "v2", "percentage": 60.0}],
            }
        ],
    },
    "custom": {"load_balancing": own.fastest, "admission": own.two_at_once},
    "custom_retry": {
        "load_balancing": own.at_random,
        "routes": [{"retry": {"num_retries": 2, "custom": own.thrice}}],
    },
    "outliers": {
        "load_balancing": {"policy": "LEAST_REQUEST"},
        "outlier_detection": {
            "consecutive_5xx": 2,
            "interval": "20.5ms",
            "base_ejection_time": "30ms",
            "max_ejection_percent": 50,
            "max_ejection_time_jitter": "10ms",
            "enforcing_consecutive_5xx": 70,
            "success_rate_minimum_hosts": 2,
            "success_rate_request_volume": 2,
            "success_rate_stdev_factor": 800,
        },
        "routes": [{"timeout": "33.5ms", "retry": RETRY}],
    },
    "panic": {
        "load_balancing": {"policy": "ROUND_ROBIN", "healthy_panic_threshold": 60},
        "outlier_detection": {
            "consecutive_5xx": 1,
            "interval": "20.5ms",
            "base_ejection_time": "50ms",
            "max_ejection_percent": 100,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
        },
        "routes": [{"retry": RETRY}],
    },
    "merged": {
        "load_balancing": {"policy": "LEAST_REQUEST", "update_merge_window": "40.5ms"},
        "outlier_detection": EJECTING,
        "routes": [{"retry": RETRY}],
    },
    "ring_of_the_healthy": {
        "load_balancing": {
            "policy": "RING_HASH",
            "hash_header": "X-User",
            "minimum_ring_size": 64,
            "weights": {"v1": 3, "v3": 2},
        },
        "outlier_detection": EJECTING,
        "routes": [{"retry": RETRY}],
    },
    "maglev_of_the_healthy": {
        "load_balancing": {"policy": "MAGLEV", "hash_header": "x-user", "table_size": 101},
        "outlier_detection": EJECTING,
        "routes": [{"retry": RETRY}],
    },
    "accrual": {
        "failure_accrual": {
            "consecutive_max_failures": 2,
            "consecutive_min_penalty": "20.5ms",
            "consecutive_max_penalty": "200.5ms",
        },
        "circuit_breakers": {"max_requests": 4},
        "routes": [{"timeout": "33.5ms", "retry": RETRY}],
    },
    "slow_start": {
        "load_balancing": {
            "policy": "LEAST_REQUEST",
            "slow_start": {"slow_start_window": "10s"},
        },
    },
    "high_priority": {
        "load_balancing": {"policy": "LEAST_REQUEST"},
        "circuit_breakers": {
            "max_requests": 0,
            "high": {
                "max_connections": 9,
                "max_requests": 3,
                "retry_budget": {"budget_percent": 50, "min_retry_concurrency": 0},
            },
        },
        "outlier_detection": {"consecutive_5xx": 3, "interval": "20.5ms"},
        "routes": [{"priority": "HIGH", "timeout": "40.5ms", "retry": RETRY}],
    },
    "no_route": {"routes": [{"match": [{"headers": {"x-user": "nobody"}}]}]},
}
