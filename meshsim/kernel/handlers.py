"""One handler a kind of event.

Rule: a handler has the signature (state, row, generation) -> follow-up.  It drops an event
whose row has ended since, and otherwise calls the one function that knows what to do.
`HANDLERS` is the table; each entry is compiled by itself, so that the first compilation can
show its progress and a change recompiles in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.access import refuses
from meshsim.kernel.attempts import abandon_attempts, connect_waiting, connected
from meshsim.kernel.bulkheads import CALLS, enter_bulkhead, expire, leave_bulkhead, stop_waiting
from meshsim.kernel.caching import fill_cache, is_cached
from meshsim.kernel.cores import reshare_node, settle_node, take_finished
from meshsim.kernel.deadlines import keep_deadline, take_deadline
from meshsim.kernel.events import (
    ABANDON,
    ADMIT,
    ARRIVAL,
    ARRIVE,
    BACK_OFF,
    BECOME_IDLE,
    BULKHEAD_EXPIRED,
    CALL,
    CANCEL_EXCHANGE,
    CANCEL_TASK,
    CHECK,
    CHECK_ARRIVE,
    CHECKED,
    CONFIGURE,
    CONNECT,
    CONNECTED,
    DEADLINE,
    DONE,
    DONE_BESIDE,
    ENTER_BULKHEAD,
    FILL_CACHE,
    FILTER,
    FILTER_INBOUND,
    FINISH,
    HEALTH_CONNECTED,
    HEALTH_DROPPED,
    HEALTH_DUE,
    HEALTH_PICKED,
    HEALTH_RESULT,
    HEAR_RESET,
    HEDGE_DUE,
    IMPAIRED_WIRE,
    IS_CACHED,
    KEEP_DEADLINE,
    KIND_COUNT,
    LEAVE_BULKHEAD,
    LEAVE_FILTERS,
    LEAVE_GATE,
    NODE,
    NOTE_LATENCY,
    NOTHING,
    PICK,
    PLAN_COPY,
    PROBE_ARRIVE,
    PROBED,
    RELEASE,
    RENEGE,
    RESPOND,
    RETURN,
    ROUTE,
    ROUTE_TIMER,
    RUN,
    SEND_COPY,
    SLOW_SERVICE,
    STIMULATE,
    STOP_WAITING,
    TAKE_DEADLINE,
    TAKE_REPORT,
    TRY_TIMER,
    TURN_GRAY,
    WAIT_FOR_SYN,
    pack,
)
from meshsim.kernel.filters import filter_inbound, hear_reset, leave_filters, leave_gate
from meshsim.kernel.gray import slow_service, turn_gray
from meshsim.kernel.health import (
    answer_check,
    begin_check,
    end_check,
    health_connected,
    health_dropped,
    health_due,
    health_picked,
    health_result,
)
from meshsim.kernel.idle import become_idle
from meshsim.kernel.machine import stimulate
from meshsim.kernel.memory import invoke
from meshsim.kernel.network import impaired_wire, wait_for_syn
from meshsim.kernel.passes import enter_proxy
from meshsim.kernel.picks import pick_specially
from meshsim.kernel.pools import drop_abandoned, free_task
from meshsim.kernel.probing import answer_probe, end_probe, note_latency
from meshsim.kernel.reports import take_report
from meshsim.kernel.requests import (
    FORWARDED,
    call,
    caller_gone,
    done,
    filter_request,
    finish,
    retry,
    returned,
    route,
    send,
)
from meshsim.kernel.servers import (
    admit,
    cancel_task,
    cross_back,
    renege,
    run_task,
)
from meshsim.kernel.sources import arrive_root
from meshsim.kernel.timers import take_expired
from meshsim.kernel.tries import (
    done_beside,
    hedge_due,
    on_per_try_timeout,
    on_route_timeout,
    plan_next_copy,
    send_copy,
)
from meshsim.kernel.workers import finish_service
from meshsim.policy.rate_limit import NOT_LIMITED
from meshsim.policy.transitions import STIMULUS_DOWNSTREAM_RESET
from meshsim.state.codes import NO_INDEX
from meshsim.state.exchange import ATTEMPT_ABANDONED, EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF
from meshsim.state.server import TASK_PASSING, TASK_QUEUED, TASK_RUNNING

__all__ = ["HANDLERS", "Handler", "at_machine", "node_event", "passed_back", "passed_inbound"]

#: (state, row, generation) -> follow-up.
Handler = Callable[[Any, int, int], int]


@kernel_jit_inline
def at_machine(state: Any, attempt: int) -> int:
    """`attempt` is at the endpoint's machine: pass the inbound proxy, if there is one."""
    attempts = state.attempts
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        drop_abandoned(state, attempt)
        return NOTHING
    proxy = state.endpoints["proxy"][attempts["endpoint"][attempt]]
    what = pack(ADMIT, attempt, attempts["generation"][attempt])
    if state.proxies["costs"][proxy] == 0:
        if refuses(state, attempt):
            return cross_back(state, attempt, state.counters["now_ns"][0])
        return admit(state, attempt)
    state.proxies["requests"][proxy] += 1
    attempts["entered_ns"][attempt] = state.counters["now_ns"][0]
    row = state.exchanges["call"][attempts["exchange"][attempt]]
    enter_proxy(state, proxy, state.calls["request_bytes"][row], what)
    return NOTHING


@kernel_jit_inline
def passed_inbound(state: Any, attempt: int) -> int:
    """`attempt` has passed the inbound proxy: serve it."""
    attempts = state.attempts
    now_ns = state.counters["now_ns"][0]
    attempts["proxy_ns"][attempt] += now_ns - attempts["entered_ns"][attempt]
    if refuses(state, attempt):
        return cross_back(state, attempt, now_ns)
    if state.endpoints["inbound"][attempts["endpoint"][attempt]] != NO_INDEX:
        return int(invoke(state, FILTER_INBOUND, attempt, 0))
    return admit(state, attempt)


@kernel_jit
def _filtered_inbound(state: Any, attempt: int, generation: int) -> int:
    """`attempt` has passed an inbound proxy that has filters: answer for them, or serve it."""
    attempts = state.attempts
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        drop_abandoned(state, attempt)
        return NOTHING
    status, reset = filter_inbound(state, attempt, attempts["endpoint"][attempt])
    if status == NOT_LIMITED:
        return admit(state, attempt)
    attempts["status"][attempt] = status
    attempts["reset"][attempt] = reset
    return cross_back(state, attempt, state.counters["now_ns"][0])


@kernel_jit
def passed_back(state: Any, attempt: int) -> int:
    """The response of `attempt` has passed an inbound proxy on shared cores."""
    attempts = state.attempts
    if attempts["state"][attempt] == ATTEMPT_ABANDONED:
        drop_abandoned(state, attempt)
        return NOTHING
    now_ns = state.counters["now_ns"][0]
    attempts["proxy_ns"][attempt] += now_ns - attempts["entered_ns"][attempt]
    return cross_back(state, attempt, now_ns)


@kernel_jit
def node_event(state: Any, node: int) -> int:
    """A task on shared cores has ended; if others have too, the node's next event is now."""
    settle_node(state, node)
    task = take_finished(state, node)
    reshare_node(state, node)
    if task == NO_INDEX:
        return NOTHING
    if state.tasks["state"][task] == TASK_PASSING:
        follow_up = state.tasks["continuation"][task]
        free_task(state, task)
        return follow_up
    return pack(RUN, task, state.tasks["wake"][task])


@kernel_jit
def _on_arrival(state: Any, row: int, generation: int) -> int:
    if state.traffic["wake"][row] != generation:
        return NOTHING
    return arrive_root(state, row)


@kernel_jit
def _on_route(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    if state.exchanges["state"][row] != EXCHANGE_ATTEMPTING:
        follow_up = route(state, row)
        if follow_up != FORWARDED:
            return follow_up
    return send(state, row)


@kernel_jit
def _on_arrive(state: Any, row: int, generation: int) -> int:
    return at_machine(state, row)


@kernel_jit
def _on_admit(state: Any, row: int, generation: int) -> int:
    return passed_inbound(state, row)


@kernel_jit
def _on_return(state: Any, row: int, generation: int) -> int:
    return returned(state, row)


@kernel_jit
def _on_done(state: Any, row: int, generation: int) -> int:
    return done(state, row)


@kernel_jit
def _on_run(state: Any, row: int, generation: int) -> int:
    if state.tasks["wake"][row] != generation:
        return NOTHING
    if state.tasks["state"][row] == TASK_RUNNING:
        finish_service(state, row)
    return run_task(state, row)


@kernel_jit
def _on_node(state: Any, row: int, generation: int) -> int:
    if state.nodes["wake"][row] != generation:
        return NOTHING
    return node_event(state, row)


@kernel_jit
def _on_route_timer(state: Any, row: int, generation: int) -> int:
    exchange = take_expired(state, row, state.exchanges, ROUTE_TIMER)
    return NOTHING if exchange == NO_INDEX else on_route_timeout(state, exchange)


@kernel_jit
def _on_try_timer(state: Any, row: int, generation: int) -> int:
    attempt = take_expired(state, row, state.attempts, TRY_TIMER)
    return NOTHING if attempt == NO_INDEX else on_per_try_timeout(state, attempt)


@kernel_jit
def _on_back_off(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    if state.exchanges["state"][row] != EXCHANGE_BACKING_OFF:  # an earlier try was answered
        return NOTHING
    return retry(state, row)


@kernel_jit
def _on_hedge_due(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    return hedge_due(state, row)


@kernel_jit
def _on_deadline(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    if state.exchanges["state"][row] not in (EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF):
        return NOTHING
    return on_route_timeout(state, row)


@kernel_jit
def _on_connected(state: Any, row: int, generation: int) -> int:
    if state.connections["generation"][row] == generation:
        connected(state, row)
    return NOTHING


@kernel_jit
def _on_renege(state: Any, row: int, generation: int) -> int:
    if state.tasks["wake"][row] != generation or state.tasks["state"][row] != TASK_QUEUED:
        return NOTHING
    return renege(state, row)


@kernel_jit
def _on_cancel_exchange(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    return stimulate(state, row, STIMULUS_DOWNSTREAM_RESET)


@kernel_jit
def _on_cancel_task(state: Any, row: int, generation: int) -> int:
    if state.tasks["generation"][row] == generation and caller_gone(state, row):
        cancel_task(state, row)
    return NOTHING


@kernel_jit
def _on_respond(state: Any, row: int, generation: int) -> int:
    return passed_back(state, row)


@kernel_jit
def _on_call(state: Any, row: int, generation: int) -> int:
    if state.tasks["wake"][row] != generation:
        return NOTHING
    if state.steps["distribution"][state.tasks["step"][row]] != NO_INDEX:
        follow_up = int(invoke(state, ENTER_BULKHEAD, row, generation))
        if follow_up != CALLS:
            return follow_up
    return call(state, row)


@kernel_jit
def _on_finish(state: Any, row: int, generation: int) -> int:
    return finish(state, row)


@kernel_jit
def _on_release(state: Any, row: int, generation: int) -> int:
    if state.exchanges["generation"][row] != generation:
        return NOTHING
    return finish(state, row)


@kernel_jit
def _on_configure(state: Any, row: int, generation: int) -> int:
    base = generation * state.counters["route_block"][0]
    if base > state.proxies["route_base"][row]:
        state.proxies["route_base"][row] = base
    return NOTHING


@kernel_jit
def _on_check(state: Any, row: int, generation: int) -> int:
    return begin_check(state, row)


@kernel_jit
def _on_check_arrive(state: Any, row: int, generation: int) -> int:
    return answer_check(state, row)


@kernel_jit
def _on_checked(state: Any, row: int, generation: int) -> int:
    return end_check(state, row, generation)


_BY_KIND: dict[int, Handler] = {
    ARRIVAL: _on_arrival,
    ROUTE: _on_route,
    ARRIVE: _on_arrive,
    ADMIT: _on_admit,
    RETURN: _on_return,
    DONE: _on_done,
    RUN: _on_run,
    NODE: _on_node,
    ROUTE_TIMER: _on_route_timer,
    TRY_TIMER: _on_try_timer,
    BACK_OFF: _on_back_off,
    CONNECTED: _on_connected,
    RENEGE: _on_renege,
    CANCEL_EXCHANGE: _on_cancel_exchange,
    CANCEL_TASK: _on_cancel_task,
    RESPOND: _on_respond,
    CALL: _on_call,
    FINISH: _on_finish,
    CONFIGURE: _on_configure,
    RELEASE: _on_release,
    CHECK: _on_check,
    CHECK_ARRIVE: _on_check_arrive,
    CHECKED: _on_checked,
    FILTER: filter_request,
    STIMULATE: stimulate,
    ABANDON: abandon_attempts,
    LEAVE_FILTERS: leave_filters,
    FILTER_INBOUND: _filtered_inbound,
    HEALTH_DUE: health_due,
    HEALTH_PICKED: health_picked,
    HEALTH_CONNECTED: health_connected,
    HEALTH_RESULT: health_result,
    HEALTH_DROPPED: health_dropped,
    PICK: pick_specially,
    TAKE_REPORT: take_report,
    BECOME_IDLE: become_idle,
    IS_CACHED: is_cached,
    FILL_CACHE: fill_cache,
    CONNECT: connect_waiting,
    LEAVE_GATE: leave_gate,
    DONE_BESIDE: done_beside,
    PLAN_COPY: plan_next_copy,
    SEND_COPY: send_copy,
    HEDGE_DUE: _on_hedge_due,
    NOTE_LATENCY: note_latency,
    PROBE_ARRIVE: answer_probe,
    PROBED: end_probe,
    IMPAIRED_WIRE: impaired_wire,
    WAIT_FOR_SYN: wait_for_syn,
    TURN_GRAY: turn_gray,
    SLOW_SERVICE: slow_service,
    HEAR_RESET: hear_reset,
    TAKE_DEADLINE: take_deadline,
    KEEP_DEADLINE: keep_deadline,
    DEADLINE: _on_deadline,
    ENTER_BULKHEAD: enter_bulkhead,
    LEAVE_BULKHEAD: leave_bulkhead,
    STOP_WAITING: stop_waiting,
    BULKHEAD_EXPIRED: expire,
}

#: Handler of each kind of event, and of each part that handlers share.
HANDLERS: tuple[Handler, ...] = tuple(_BY_KIND[kind] for kind in range(KIND_COUNT))
