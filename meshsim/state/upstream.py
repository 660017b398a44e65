"""What one client proxy knows of its upstreams: hosts, clusters and their configuration.

A *host* is one proxy's belief about one endpoint; a *cluster* row is one proxy's state of one
upstream cluster; a *cluster config* is immutable, shared by all proxies that hold the same
version, and reached only through `CLUSTER_DTYPE["config"]`, so that a push is one index.
Membership is an index list: ``members[member_start : member_start + member_count]`` are the
HOST rows that a pick may return, in the order in which Envoy holds them.
"""

from __future__ import annotations

import numpy as np

from meshsim.state.rows import row_dtype

HOST_DTYPE = row_dtype(
    [
        ("endpoint", "i4"),  # the server this row is a belief about
        ("cluster", "i4"),  # CLUSTER row that owns this host
        ("requests_active", "i4"),  # sent by this proxy and unanswered
        ("connections_open", "i4"),  # established, connecting or idle
        ("connections_connecting", "i4"),
        ("idle_newest", "i4"),  # CONNECTION last used (top of the stack), or NO_INDEX
        ("idle_oldest", "i4"),  # CONNECTION idle for longest, or NO_INDEX
        ("pending_head", "i4"),  # first ATTEMPT that waits for a connection to this host
        ("pending_tail", "i4"),
        ("weight", "i4"),  # load-balancing weight, 1 to 128
        ("table_index", "i4"),  # identity of this host in ring and maglev tables
        ("healthy", "i4"),  # UNHEALTHY: excluded; HEALTHY, PANICKING (meshsim.state.health)
        ("requests_total", "i8"),
        ("latency_sum_ns", "i8"),  # of completed attempts, send to response
        # the second line: averages and schedules
        ("rtt_ewma_ns", "f8"),  # peak EWMA of the round-trip time, as of rtt_updated_ns
        ("rtt_updated_ns", "i8"),
        ("edf_deadline", "f8"),  # virtual deadline in the cluster's EDF schedule
        ("edf_order", "i8"),  # insertion order: FIFO among equal deadlines
        ("errors_total", "i8"),  # status >= 500, resets and timeouts
        ("slow_start_end_ns", "i8"),  # 0: it is not new
        ("unhealthy", "i4"),  # BY_* bits of meshsim.state.health; 0: nothing against it
        ("health", "i4"),  # HOST_HEALTH row, or NO_INDEX: nobody watches
        ("degraded", "i2"),  # DEGRADED_BY_* bits; not 0: for what healthy hosts cannot take
        ("selections", "i2"),  # changes of which hosts of its cluster may be picked; wraps
        ("requests_pending", "i4"),  # ATTEMPT rows of the pending list
    ]
)

CLUSTER_DTYPE = row_dtype(
    [
        ("config", "i4"),  # CLUSTER_CONFIG row in force at this proxy
        ("proxy", "i4"),
        ("member_start", "i4"),
        ("member_count", "i4"),
        ("connections_active", "i4"),  # counted against max_connections
        ("pending_active", "i4"),  # counted against max_pending_requests
        ("requests_active", "i4"),  # counted against max_requests
        ("retries_active", "i4"),  # counted against max_retries or the retry budget
        ("cursor", "i8"),  # where turns go on, or a schedule begins; a place in hash tables
        ("requests_total", "i8"),
        ("connections_total", "i8"),  # opened
        ("connection_overflow", "i8"),  # upstream_cx_overflow
        # the second line
        # of a cluster that hashes see meshsim.policy.load_balancing.hash_set
        ("edf_time", "f8"),  # virtual time of the EDF schedule
        ("edf_next_order", "i8"),
        ("retries_total", "i8"),
        ("pending_overflow", "i8"),  # upstream_rq_pending_overflow
        ("request_overflow", "i8"),  # upstream_rq_active_overflow
        ("retry_overflow", "i8"),  # upstream_rq_retry_overflow
        ("memory_start", "i4"),  # memory[memory_start:][:memory_count]: tokens, custom policies
        ("memory_count", "i4"),
        ("invalid_picks", "i4"),  # positions out of range that a custom load balancer returned
        ("health", "i4"),  # CLUSTER_HEALTH row, or NO_INDEX: nobody watches
        # the third line: what became of tries that failed, and of retries
        ("timeouts", "i8"),  # upstream_rq_timeout
        ("per_try_timeouts", "i8"),  # upstream_rq_per_try_timeout
        ("retry_success", "i8"),  # upstream_rq_retry_success
        ("retry_limit_exceeded", "i8"),  # upstream_rq_retry_limit_exceeded
        ("backoff_exponential", "i8"),  # upstream_rq_retry_backoff_exponential
        ("backoff_ratelimited", "i8"),  # upstream_rq_retry_backoff_ratelimited
        ("deadline_exceeded", "i8"),  # requests not sent: their deadline had passed
    ]
)

CLUSTER_CONFIG_DTYPE = np.dtype(
    [
        ("balancing", "i4"),  # ROUND_ROBIN, ... (meshsim.state.codes)
        ("picking", "i4"),  # PICK_*: what comes before the balancer
        ("report_rule", "i4"),  # REPORT_RULE; NO_INDEX: it does not weigh by load reports
        ("prequal_rule", "i4"),  # PREQUAL_RULE; NO_INDEX: it does not probe for load
        ("choice_count", "i4"),
        ("weights_equal", "i4"),  # 1 if all host weights are equal; 2: but for slow start
        ("hash_balance_factor", "i4"),  # percent; 0: off
        ("table_start", "i4"),  # first entry in the shared hash tables
        ("table_count", "i4"),  # entries; 0: no table
        ("set_start", "i4"),  # HASH_SET rows for tables over some of the hosts
        ("set_count", "i4"),
        ("set_capacity", "i4"),  # entries of the largest of these tables
        ("minimum_ring_size", "i8"),
        ("maximum_ring_size", "i8"),
        ("health", "i4"),  # HEALTH_RULE row, or NO_INDEX
        ("panic_threshold", "i4"),  # percent of healthy hosts below which all are used; 0: never
        ("update_merge_window_ns", "i8"),  # 0: changes of health are not merged
        ("slow_start_window_ns", "i8"),  # 0: off
        ("slow_start_aggression", "f8"),
        ("slow_start_min_weight", "f8"),  # share of the weight, 0 to 1
        ("active_request_bias", "f8"),
        ("decay_ns", "f8"),  # of the peak EWMA
        ("default_rtt_ns", "f8"),
        ("max_connections", "i8"),
        ("max_pending_requests", "i8"),
        ("max_requests", "i8"),
        ("max_retries", "i8"),
        ("budget_percent", "f8"),  # retry budget; < 0: none, max_retries holds
        ("min_retry_concurrency", "i8"),
        ("connect_timeout_ns", "i8"),
        ("idle_timeout_ns", "i8"),  # NEVER_NS: off
        ("max_requests_per_connection", "i8"),  # 0: no limit
        ("throttle", "i4"),  # retry throttling: THROTTLE_* of meshsim.policy.retry_throttling
        ("throttle_ttl_ns", "i8"),
        ("throttle_ratio", "f8"),  # tokens a first try deposits, or a success earns
        ("throttle_reserve", "f8"),  # tokens that are always there; gRPC: at most
        ("custom_pick", "i8"),  # addresses of custom policies; 0: none
        ("custom_learn", "i8"),
        ("custom_admit", "i8"),
        ("locality", "i4"),  # LOCALITY_CONFIG; NO_INDEX: its members are not grouped
        ("distinct_choices", "i4"),  # oracles: 1: draws without replacement
        ("view_interval_ns", "i8"),  # ORACLE_STALE_QUEUE: between two looks at the loads
    ],
    align=True,
)

#: One entry of a ring (sorted by hash) or of a maglev table (hash unused).
TABLE_DTYPE = np.dtype([("hash", "u8"), ("table_index", "i4")], align=True)

ROUTE_DTYPE = np.dtype(
    [
        ("split_start", "i4"),  # first SPLIT row
        ("split_count", "i4"),
        ("weight_total", "i8"),
        ("direct_response", "i4"),  # status, or 0
        ("num_retries", "i4"),
        ("retry_on", "i4"),  # RETRY_* bits
        ("code_start", "i4"),  # retriable status codes: codes[code_start:][:code_count]
        ("code_count", "i4"),
        ("previous_hosts", "i4"),  # 1: avoid hosts already tried
        ("host_selection_attempts", "i4"),  # picks tried before a previous host is accepted
        ("timeout_timer", "i4"),  # TIMER of timeout_ns, or NO_INDEX
        ("per_try_timer", "i4"),  # TIMER of per_try_timeout_ns, or NO_INDEX
        ("hash_start", "i4"),  # hash_keys[hash_start:][:hash_count]: keys of its requests
        ("hash_count", "i4"),  # 0: requests carry no hash key
        ("filters", "i4"),  # FILTER row, or NO_INDEX: the route uses none
        ("priority", "i4"),  # PRIORITY_*: whose limits and connections its requests use
        ("hedging", "i4"),  # HEDGE_*
        ("jitter", "i4"),  # JITTER_*
        ("reset_headers", "i4"),  # RESET_BY_* bits: which headers ask for a back-off
        ("hedging_delay_ns", "i8"),  # between two copies; 0: all at once
        ("timeout_ns", "i8"),  # NEVER_NS: none
        ("per_try_timeout_ns", "i8"),  # NEVER_NS: none
        ("base_interval_ns", "i8"),
        ("max_interval_ns", "i8"),
        ("reset_max_interval_ns", "i8"),  # the longest back-off that a header may ask for
        ("custom_retry", "i8"),  # address of a custom policy; 0: none
    ],
    align=True,
)

#: One destination of a weighted split; `cluster` counts from the caller's first CLUSTER row.
SPLIT_DTYPE = np.dtype(
    [
        ("cluster", "i4"),
        ("chain", "i4"),  # of lanes (meshsim.policy.subsets); NO_INDEX: the cluster has no subsets
        ("weight", "i8"),
    ],
    align=True,
)
