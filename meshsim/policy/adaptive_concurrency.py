"""Adaptive concurrency: Envoy's gradient controller, which limits what a proxy lets in at once.

Rule: a request may pass while fewer than `limit` are under way; otherwise it is refused at once
(503, no response flag, ``rq_blocked``).  The limit follows the latency of the requests:

- From time to time (`interval`, plus up to `jitter` of it) the *least* latency is measured: the
  limit is set to `min_concurrency` until `request_count` requests have been answered, and their
  `sample_aggregate` quantile is `min_rtt`.
- Otherwise, each `concurrency_update_interval` in which anything was answered ends with

      gradient = min_rtt * (1 + buffer) / sample_rtt, at least 0.5 and at most 2
      limit = gradient * limit + sqrt(gradient * limit), cut to a whole number

  within `min_concurrency` and `max_concurrency_limit`; the square root is room for bursts.
- If the limit stays at `min_concurrency` for five windows, the least latency is measured at once:
  what is known of it may be too small.

The sample of a request is the time from its passing until its answer; one that nobody waited for
until the end is no sample, nor is one that came before the present measurement began.  Latencies
are whole microseconds in log-linear bins of two digits, and a quantile is interpolated within its
bin, as in the library that Envoy uses (circllhist).  Nothing is a timer: what has become due is
done, at its own time and in order, before the next question is answered.

References
----------
Envoy, source/extensions/filters/http/adaptive_concurrency/controller/gradient_controller.cc and
adaptive_concurrency_filter.cc; api/envoy/extensions/filters/http/adaptive_concurrency/v3;
openhistogram/libcircllhist, src/circllhist.c (hist_approx_quantile).
"""

from __future__ import annotations

import math
from typing import Any

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.rng import key_uniform, mix_in
from meshsim.state.codes import NEVER_NS
from meshsim.state.concurrency import LATENCY_BIN_COUNT, LATENCY_BINS_A_DECADE

__all__ = [
    "ADMITTED",
    "begin_controller",
    "may_pass",
    "on_answered",
    "on_given_up",
    "settle_controller",
]

#: `may_pass`: the request may pass.
ADMITTED = 0
#: Windows at the least limit after which the least latency is measured anew.
_AT_MINIMUM_MAX = 5
_GRADIENT_MIN = 0.5
_GRADIENT_MAX = 2.0
_NS_PER_US = 1_000
_NS_PER_MS = 1_000_000


# --- Latencies ------------------------------------------------------------------------------


@kernel_jit_inline
def _bin_of(latency_us: int) -> int:
    """Return the bin of a latency: two digits, and how often ten times as much."""
    tenths = max(latency_us, 1) * 10
    decade = 0
    while tenths >= 100:
        tenths //= 10
        decade += 1
    return min(decade * LATENCY_BINS_A_DECADE + tenths - 10, LATENCY_BIN_COUNT - 1)


@kernel_jit_inline
def _bin_edges(number: int) -> tuple[float, float]:
    """Return where a bin begins, and its width [us]."""
    scale = 0.1
    for _ in range(number // LATENCY_BINS_A_DECADE):
        scale *= 10.0
    return scale * (10 + number % LATENCY_BINS_A_DECADE), scale


@kernel_jit
def _take_quantile_us(controllers: Any, row: int, bins: Any, share: float) -> int:
    """Return a quantile of the latencies in the bins [us], and empty them."""
    wanted = controllers["samples"][row] * share
    controllers["samples"][row] = 0
    found = 0.0
    below = 0
    for number in range(LATENCY_BIN_COUNT):
        count = bins[row, number]
        bins[row, number] = 0
        if count > 0 and (below == 0 or below < wanted):
            edge, width = _bin_edges(number)
            found = edge + width * (wanted - below) / count
            below += count
    return int(found)


# --- The limit ------------------------------------------------------------------------------


@kernel_jit
def _set_limit(controllers: Any, row: int, rules: Any, limit: int, now_ns: int) -> None:
    """Put a limit in force; notice when it stays at the least there is."""
    rule = controllers["rule"][row]
    least = rules["min_concurrency"][rule]
    stays = controllers["limit"][row] == least and limit == least
    controllers["limit"][row] = limit
    if not stays or controllers["deferred_limit"][row] > 0:
        controllers["at_minimum"][row] = 0
        return
    controllers["at_minimum"][row] += 1
    if controllers["at_minimum"][row] >= _AT_MINIMUM_MAX and rules["fixed_us"][rule] == 0:
        controllers["measure_ns"][row] = now_ns


@kernel_jit
def _begin_measurement(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> None:
    controllers["deferred_limit"][row] = controllers["limit"][row]
    _set_limit(controllers, row, rules, rules["min_concurrency"][controllers["rule"][row]], now_ns)
    for number in range(LATENCY_BIN_COUNT):
        bins[row, number] = 0
    controllers["samples"][row] = 0
    controllers["epoch_ns"][row] = now_ns
    controllers["measure_ns"][row] = NEVER_NS
    controllers["update_ns"][row] = NEVER_NS


@kernel_jit
def _end_measurement(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> None:
    rule = controllers["rule"][row]
    share = rules["sample_aggregate"][rule]
    controllers["min_rtt_us"][row] = _take_quantile_us(controllers, row, bins, share)
    _set_limit(controllers, row, rules, controllers["deferred_limit"][row], now_ns)
    controllers["deferred_limit"][row] = 0
    interval_ns = rules["interval_ns"][rule]
    range_ms = math.ceil(interval_ns / _NS_PER_MS * rules["jitter"][rule])
    controllers["draws"][row] += 1
    draw = key_uniform(mix_in(controllers["key"][row], controllers["draws"][row]))
    wait_ns = interval_ns + int(draw * range_ms) * _NS_PER_MS
    controllers["measure_ns"][row] = now_ns + wait_ns
    controllers["update_ns"][row] = now_ns + rules["concurrency_update_interval_ns"][rule]


@kernel_jit
def _update_limit(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> None:
    """Work the limit out anew from the latencies of the window that ends."""
    rule = controllers["rule"][row]
    share = rules["sample_aggregate"][rule]
    sample_us = _take_quantile_us(controllers, row, bins, share)
    controllers["sample_rtt_us"][row] = sample_us
    gradient = _GRADIENT_MAX
    if sample_us > 0:
        least_us = controllers["min_rtt_us"][row] * (1.0 + rules["buffer"][rule])
        gradient = max(_GRADIENT_MIN, min(_GRADIENT_MAX, least_us / sample_us))
    scaled = controllers["limit"][row] * gradient
    burst = math.sqrt(scaled)
    controllers["gradient"][row] = gradient
    controllers["burst_queue_size"][row] = burst
    limit = min(rules["max_concurrency_limit"][rule], int(scaled + burst))
    _set_limit(controllers, row, rules, max(rules["min_concurrency"][rule], limit), now_ns)


@kernel_jit
def settle_controller(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> None:
    """Do what has become due by `now_ns`.

    Parameters
    ----------
    controllers : ndarray[GRADIENT_DTYPE], shape (n_controllers,)
        Row `row` is modified in place.
    row : int
    rules : ndarray[GRADIENT_RULE_DTYPE], shape (n_rules,)
        Read only.
    bins : ndarray[int32], shape (n_controllers, LATENCY_BIN_COUNT)
        Row `row` is modified in place.
    now_ns : int
        Not before that of the last call [ns].
    """
    while True:
        update_ns = controllers["update_ns"][row]
        measure_ns = controllers["measure_ns"][row]
        if min(update_ns, measure_ns) > now_ns:
            return
        if measure_ns <= update_ns:
            _begin_measurement(controllers, row, rules, bins, measure_ns)
            continue
        interval_ns = rules["concurrency_update_interval_ns"][controllers["rule"][row]]
        if controllers["samples"][row] > 0:
            _update_limit(controllers, row, rules, bins, update_ns)
            controllers["update_ns"][row] = update_ns + interval_ns
        else:  # as do all others until something else happens
            idle_ns = min(now_ns, measure_ns) - update_ns
            controllers["update_ns"][row] = update_ns + (idle_ns // interval_ns + 1) * interval_ns


def begin_controller(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> None:
    """Begin the life of a controller, whose `rule` and `key` are set; parameters as above."""
    rule = controllers["rule"][row]
    least = rules["min_concurrency"][rule]
    controllers["limit"][row] = least
    controllers["measure_ns"][row] = NEVER_NS
    controllers["update_ns"][row] = now_ns + rules["concurrency_update_interval_ns"][rule]
    if rules["fixed_us"][rule] > 0:
        controllers["min_rtt_us"][row] = rules["fixed_us"][rule]
    else:
        _begin_measurement(controllers, row, rules, bins, now_ns)


# --- Requests -------------------------------------------------------------------------------


@kernel_jit
def may_pass(controllers: Any, row: int, rules: Any, bins: Any, now_ns: int) -> int:
    """Let a request pass, or refuse it; return ADMITTED or the status of the refusal.

    Parameters are those of `settle_controller`.
    """
    settle_controller(controllers, row, rules, bins, now_ns)
    if controllers["outstanding"][row] < controllers["limit"][row]:
        controllers["outstanding"][row] += 1
        return ADMITTED
    controllers["blocked"][row] += 1
    return int(rules["status"][controllers["rule"][row]])


@kernel_jit
def on_answered(
    controllers: Any, row: int, rules: Any, bins: Any, passed_ns: int, now_ns: int
) -> None:
    """Count out a request that passed at `passed_ns` and has its whole answer.

    The other parameters are those of `settle_controller`.
    """
    settle_controller(controllers, row, rules, bins, now_ns)
    controllers["outstanding"][row] -= 1
    if passed_ns < controllers["epoch_ns"][row]:
        return
    bins[row, _bin_of((now_ns - passed_ns) // _NS_PER_US)] += 1
    controllers["samples"][row] += 1
    rule = controllers["rule"][row]
    measuring = controllers["deferred_limit"][row] > 0
    if measuring and controllers["samples"][row] >= rules["request_count"][rule]:
        _end_measurement(controllers, row, rules, bins, now_ns)


@kernel_jit
def on_given_up(controllers: Any, row: int) -> None:
    """Count out a request that passed and got no whole answer: it is no sample."""
    controllers["outstanding"][row] -= 1
