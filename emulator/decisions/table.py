"""The policy functions that a live proxy decides by; no other code does.

They are the very functions that the simulator's kernel compiles in.
"""

from __future__ import annotations

from meshsim.policy.adaptive_concurrency import may_pass, on_answered, on_given_up
from meshsim.policy.circuit_breakers import (
    can_open_connection,
    can_send_request,
    can_wait,
    on_connection_closed,
    on_connection_opened,
    on_pending_added,
    on_pending_removed,
    on_request_ended,
    on_request_started,
    wants_connection,
)
from meshsim.policy.custom.decisions import learn
from meshsim.policy.fault import abort_status, delay_ns, on_fault_ended, pace_ns
from meshsim.policy.global_rate_limit import count_request, take_answer
from meshsim.policy.health import (
    on_check_result,
    on_picked,
    on_request_connected,
    on_request_dropped,
    on_request_result,
    settle_health,
)
from meshsim.policy.health_check import first_check_ns
from meshsim.policy.load_balancing import (
    on_abandoned,
    on_error,
    on_request_sent,
    on_response,
    pick_host,
)
from meshsim.policy.load_balancing.hash_set import renew_table
from meshsim.policy.load_balancing.prequal import count_probes, draw_target, pick, take_probe
from meshsim.policy.locality import choose_lane, pick_degraded, weighted_localities
from meshsim.policy.rate_limit import begin_bucket, check_limit, seconds_until_reset
from meshsim.policy.request import step
from meshsim.policy.reset_headers import reset_interval_ns
from meshsim.policy.routing import choose_split, is_mirrored, mirror_key
from meshsim.policy.subsets import pick_in_chain
from meshsim.policy.timeout import per_try_deadline_ns
from meshsim.policy.update_merge import believe_now

__all__ = ["DECISIONS"]

#: By name.
DECISIONS = {
    function.__name__: function
    for function in (
        abort_status,
        begin_bucket,
        believe_now,
        can_open_connection,
        can_send_request,
        can_wait,
        check_limit,
        choose_lane,
        choose_split,
        count_probes,
        count_request,
        delay_ns,
        draw_target,
        first_check_ns,
        is_mirrored,
        learn,
        may_pass,
        mirror_key,
        on_abandoned,
        on_answered,
        on_check_result,
        on_connection_closed,
        on_connection_opened,
        on_error,
        on_fault_ended,
        on_given_up,
        on_pending_added,
        on_pending_removed,
        on_picked,
        on_request_connected,
        on_request_dropped,
        on_request_ended,
        on_request_result,
        on_request_sent,
        on_request_started,
        on_response,
        pace_ns,
        per_try_deadline_ns,
        pick,
        pick_degraded,
        pick_host,
        pick_in_chain,
        renew_table,
        reset_interval_ns,
        seconds_until_reset,
        settle_health,
        step,
        take_answer,
        take_probe,
        wants_connection,
        weighted_localities,
    )
}
