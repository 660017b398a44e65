"""Scenarios whose requests have several tries at once; durations are whole milliseconds."""

ON_TIMEOUT = {"hedge_on_per_try_timeout": True}
AFTER_DELAY = {"max_attempts": 4, "hedging_delay": "3ms", "non_fatal_status_codes": [500, 503]}
WATCHED = {"consecutive_5xx": 4, "interval": "50ms", "base_ejection_time": "1s"}


def hedged(retry):
    """Return policies by name; `retry` is the retry policy of other scenarios."""
    on_timeout = {**retry, "per_try_timeout": "5ms"}
    return {
        "hedge_on_timeout": {"routes": [{"retry": on_timeout, "hedge_policy": ON_TIMEOUT}]},
        "hedge_on_timeout_watched": {
            "routes": [{"timeout": "33.5ms", "retry": on_timeout, "hedge_policy": ON_TIMEOUT}],
            "outlier_detection": {
                "consecutive_5xx": 4,
                "interval": "50ms",
                "base_ejection_time": "1s",
            },
            "circuit_breakers": {"max_retries": 2, "max_connections": 4},
        },
        "hedge_after_delay": {"routes": [{"retry": retry, "hedge_policy": AFTER_DELAY}]},
        "hedge_limited": {
            "routes": [
                {
                    "timeout": "25.5ms",
                    "retry": {},
                    "hedge_policy": {"max_attempts": 3, "hedging_delay": "1ms"},
                },
            ],
            "outlier_detection": {
                "consecutive_5xx": 4,
                "interval": "50ms",
                "base_ejection_time": "1s",
            },
            "circuit_breakers": {"max_retries": 5, "max_pending_requests": 3, "max_connections": 6},
        },
    }
