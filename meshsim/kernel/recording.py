"""What is counted, and when.

Rule: a request is recorded in the window of its arrival, when it ends; its hops are recorded
in the segment of that window.  Requests that arrive after the measured time are served, so
that the measured ones end as they would, but not recorded.  Latency and its histograms are of
successes (status below 500), from the intended arrival.  Only the integral of requests in
flight and the responses by the clock belong to the window in which they happen.
"""

from __future__ import annotations

from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.draws import draw_ns
from meshsim.kernel.events import ARRIVAL, pack, schedule
from meshsim.rng import PURPOSE_THINK, mix_in
from meshsim.state.codes import FLAG_NONE, HEDGE_NEVER, NO_INDEX
from meshsim.state.exchange import (
    FLAGS_SEGMENT_MASK,
    FLAGS_SEGMENT_SHIFT,
    FLAGS_WINDOW_SHIFT,
    MEASURED,
    SAMPLED,
)
from meshsim.state.record import SEGMENT_STARTS, WINDOW_COUNT
from meshsim.stats.histogram import bin_index, series_bin_index

__all__ = ["account_in_flight", "begin_span", "record_exchange", "record_root", "segment_of"]

_SUCCESS_BELOW = 500


@kernel_jit_inline
def segment_of(window: int) -> int:
    """Return the segment that holds `window`."""
    segment = 0
    for start in SEGMENT_STARTS[1:]:
        if window >= start:
            segment += 1
    return segment


@kernel_jit_inline
def account_in_flight(state: Any, traffic: int, change: int) -> None:
    """Change the requests in flight of one class by `change`, integrating up to now."""
    rows = state.traffic
    counters = state.counters
    now_ns = counters["now_ns"][0]
    window = counters["window"][0]
    in_flight = rows["in_flight"][traffic]
    if window < WINDOW_COUNT:
        elapsed_ns = now_ns - rows["in_flight_updated_ns"][traffic]
        state.windows["in_flight_ns"][window, traffic] += elapsed_ns * in_flight
    rows["in_flight"][traffic] = in_flight + change
    rows["in_flight_updated_ns"][traffic] = now_ns


@kernel_jit
def begin_span(state: Any, exchange: int, parent_span: int) -> None:
    """Give the exchange of a sampled request its span."""
    span = state.counters["next_span"][0]
    state.counters["next_span"][0] = span + 1
    state.exchanges["span"][exchange] = span
    state.exchanges["parent_span"][exchange] = parent_span


@kernel_jit_inline
def _parts(state: Any, exchange: int) -> tuple[int, int, int, int]:
    """Return queueing, service, proxy and wire time of the exchange's answered attempts [ns]."""
    attempts = state.attempts
    queue_ns = 0
    service_ns = 0
    proxy_ns = state.exchanges["proxy_ns"][exchange]
    wire_ns = 0
    attempt = state.exchanges["attempt"][exchange]
    while attempt != NO_INDEX:
        # One that was given up, or never sent, has neither status nor reset.
        if attempts["status"][attempt] != 0 or attempts["reset"][attempt] != 0:
            queue_ns += attempts["queue_ns"][attempt]
            service_ns += attempts["service_ns"][attempt]
            proxy_ns += attempts["proxy_ns"][attempt]
            wire_ns += attempts["wire_ns"][attempt]
        attempt = attempts["previous"][attempt]
    return queue_ns, service_ns, proxy_ns, wire_ns


@kernel_jit
def record_exchange(state: Any, exchange: int) -> None:
    """Record the ended `exchange` in its edge, its class and, if sampled, as a span."""
    exchanges = state.exchanges
    flags = exchanges["flags"][exchange]
    if flags & MEASURED == 0:
        return
    window = flags >> FLAGS_WINDOW_SHIFT
    segment = (flags >> FLAGS_SEGMENT_SHIFT) & FLAGS_SEGMENT_MASK
    edge = exchanges["edge"][exchange]
    traffic = exchanges["traffic"][exchange]
    series = state.series
    windows = state.windows
    queue_ns, service_ns, proxy_ns, wire_ns = _parts(state, exchange)
    series["requests"][segment, edge] += 1
    if exchanges["status"][exchange] < _SUCCESS_BELOW:
        latency_ns = state.counters["now_ns"][0] - exchanges["started_ns"][exchange]
        series["successes"][segment, edge] += 1
        series["latency_sum_ns"][segment, edge] += latency_ns
        state.series_histogram[segment, edge, series_bin_index(latency_ns)] += 1
    if exchanges["retry_count"][exchange] > 0:
        series["retries"][segment, edge] += exchanges["retry_count"][exchange]
    series["queue_ns"][segment, edge] += queue_ns
    series["service_ns"][segment, edge] += service_ns
    series["proxy_ns"][segment, edge] += proxy_ns
    series["wire_ns"][segment, edge] += wire_ns
    call = exchanges["call"][exchange]
    size_bytes = state.calls["request_bytes"][call] + state.calls["response_bytes"][call]
    series["bytes"][segment, edge] += size_bytes
    flag = exchanges["response_flag"][exchange]
    if flag != FLAG_NONE:
        state.edge_flags[segment, edge, flag] += 1
    windows["queue_ns"][window, traffic] += queue_ns
    windows["service_ns"][window, traffic] += service_ns
    windows["proxy_ns"][window, traffic] += proxy_ns
    windows["wire_ns"][window, traffic] += wire_ns
    if flags & SAMPLED != 0:
        _record_span(state, exchange)


@kernel_jit_inline
def _answering(state: Any, exchange: int, newest: int) -> int:
    """Return the attempt that answered: the newest, unless the route hedges."""
    if state.routes["hedging"][state.exchanges["route"][exchange]] == HEDGE_NEVER:
        return newest
    status = state.exchanges["status"][exchange]
    attempt = newest
    while attempt != NO_INDEX and state.attempts["status"][attempt] != status:
        attempt = state.attempts["previous"][attempt]
    return newest if attempt == NO_INDEX else attempt


@kernel_jit
def _record_span(state: Any, exchange: int) -> None:
    """Write the span of `exchange`; when the table is full, spans are counted but not kept."""
    exchanges = state.exchanges
    spans = state.spans
    number = state.counters["spans"][0]
    state.counters["spans"][0] = number + 1
    if number >= spans.shape[0]:
        return
    attempt = exchanges["attempt"][exchange]
    spans["trace"][number] = exchanges["number"][exchange]
    spans["span"][number] = exchanges["span"][exchange]
    spans["parent_span"][number] = exchanges["parent_span"][exchange]
    spans["edge"][number] = exchanges["edge"][exchange]
    spans["endpoint"][number] = NO_INDEX
    if attempt != NO_INDEX:
        attempt = _answering(state, exchange, attempt)
        spans["endpoint"][number] = state.attempts["endpoint"][attempt]
    spans["status"][number] = exchanges["status"][exchange]
    spans["response_flag"][number] = exchanges["response_flag"][exchange]
    spans["tries"][number] = exchanges["retry_count"][exchange] + 1
    spans["start_ns"][number] = exchanges["started_ns"][exchange]
    spans["end_ns"][number] = state.counters["now_ns"][0]
    queue_ns, service_ns, proxy_ns, wire_ns = _parts(state, exchange)
    spans["queue_ns"][number] = queue_ns
    spans["service_ns"][number] = service_ns
    spans["proxy_ns"][number] = proxy_ns
    spans["wire_ns"][number] = wire_ns


@kernel_jit
def record_root(state: Any, exchange: int) -> None:
    """Record the end of a root request; a closed loop's user starts to think."""
    exchanges = state.exchanges
    counters = state.counters
    traffic = exchanges["traffic"][exchange]
    now_ns = counters["now_ns"][0]
    good = exchanges["status"][exchange] < _SUCCESS_BELOW
    account_in_flight(state, traffic, -1)
    counters["in_flight"][0] -= 1
    clock_window = counters["window"][0]
    if clock_window < WINDOW_COUNT:
        state.windows["responses"][clock_window, traffic] += 1
        if good:
            state.windows["good_responses"][clock_window, traffic] += 1
    flags = exchanges["flags"][exchange]
    if flags & MEASURED != 0:
        counters["measured_in_flight"][0] -= 1
        window = flags >> FLAGS_WINDOW_SHIFT
        flag = exchanges["response_flag"][exchange]
        segment = (flags >> FLAGS_SEGMENT_SHIFT) & FLAGS_SEGMENT_MASK
        state.traffic_flags[segment, traffic, flag] += 1
        if good:
            latency_ns = now_ns - exchanges["started_ns"][exchange]
            state.windows["successes"][window, traffic] += 1
            state.windows["latency_sum_ns"][window, traffic] += latency_ns
            state.window_histogram[window, traffic, bin_index(latency_ns)] += 1
        else:
            state.windows["failures"][window, traffic] += 1
    think_time = state.traffic["think_time"][traffic]
    if think_time != NO_INDEX:
        key = mix_in(exchanges["key"][exchange], PURPOSE_THINK << 24)
        think_ns = draw_ns(state, think_time, key)
        wake = state.traffic["wake"][traffic]
        schedule(state, now_ns + think_ns, pack(ARRIVAL, traffic, wake))
