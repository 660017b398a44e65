"""Sources: requests enter the mesh.

Rule: each open-loop class has one arrival event outstanding; a batch enters one by one at one
instant.  Users of a closed loop have one each, while they think.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.draws import draw_ns
from meshsim.kernel.events import ARRIVAL, pack, schedule
from meshsim.kernel.recording import account_in_flight, begin_span, segment_of
from meshsim.kernel.requests import enter, start_exchange
from meshsim.rng import PURPOSE_THINK, PURPOSE_TRACE, mix, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.exchange import FLAGS_SEGMENT_SHIFT, FLAGS_WINDOW_SHIFT, MEASURED, SAMPLED
from meshsim.state.record import WINDOW_COUNT
from meshsim.state.workload import BATCH
from meshsim.workload.arrivals import batch_size, next_arrival_ns

__all__ = ["arrive_root", "begin_traffic", "schedule_arrival"]


@kernel_jit_inline
def arrive_root(state: Any, traffic: int) -> int:
    """A request enters the mesh; its class's next arrival is scheduled."""
    rows = state.traffic
    counters = state.counters
    exchanges = state.exchanges
    now_ns = counters["now_ns"][0]
    number = rows["number"][traffic]
    rows["number"][traffic] = number + 1
    if rows["think_time"][traffic] == NO_INDEX:
        schedule_arrival(state, traffic)
    exchange = start_exchange(state, rows["proxy"][traffic], rows["call"][traffic], traffic, -1)
    key = mix_in(rows["key"][traffic], number)
    window = counters["window"][0]
    flags = (window << FLAGS_WINDOW_SHIFT) | (segment_of(window) << FLAGS_SEGMENT_SHIFT)
    if window < WINDOW_COUNT:
        flags |= MEASURED
        state.windows["arrivals"][window, traffic] += 1
        counters["measured_in_flight"][0] += 1
        if mix(mix_in(key, PURPOSE_TRACE << 24)) < counters["sample_threshold"][0]:
            flags |= SAMPLED
    exchanges["flags"][exchange] = flags
    # The trace of a request is told apart by its class and number.
    exchanges["number"][exchange] = number * rows.shape[0] + traffic
    if flags & SAMPLED != 0:
        begin_span(state, exchange, 0)
    exchanges["key"][exchange] = key
    account_in_flight(state, traffic, 1)
    counters["in_flight"][0] += 1
    counters["requests"][0] += 1
    exchanges["started_ns"][exchange] = now_ns
    return enter(state, exchange)


@kernel_jit_inline
def schedule_arrival(state: Any, traffic: int) -> None:
    """Schedule the next arrival of an open-loop class; a batch arrives one by one, at once."""
    rows = state.traffic
    rng = state.arrival_streams[traffic]
    time_ns = state.counters["now_ns"][0]
    if rows["batch_left"][traffic] > 0:
        rows["batch_left"][traffic] -= 1
    else:
        time_ns = next_arrival_ns(
            state.arrivals, traffic, state.distributions, state.values, time_ns, rng
        )
        if state.arrivals["kind"][traffic] == BATCH:
            rows["batch_left"][traffic] = batch_size(state.arrivals, traffic, rng) - 1
    if time_ns != NEVER_NS:
        what = pack(ARRIVAL, traffic, rows["wake"][traffic])
        schedule(state, time_ns, what)


@kernel_jit
def begin_traffic(state: Any, users: Any) -> None:
    """Schedule the first arrival of each open-loop class; users of a closed loop first think."""
    for traffic in range(state.traffic.shape[0]):
        think_time = state.traffic["think_time"][traffic]
        if think_time == NO_INDEX:
            schedule_arrival(state, traffic)
            continue
        base = mix_in(state.traffic["key"][traffic], PURPOSE_THINK << 32)
        for user in range(users[traffic]):
            key = mix_in(base, user)
            think_ns = draw_ns(state, think_time, key)
            what = pack(ARRIVAL, traffic, state.traffic["wake"][traffic])
            schedule(state, think_ns, what)
