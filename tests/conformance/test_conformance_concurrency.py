"""Adaptive concurrency: who is blocked while the limit is measured, and how the limit grows.

Endpoints work for 205 ms, the middle of a bin of the histograms, so that a few milliseconds of
the machine change no quantile much; the limits hold for gradients from 1.15 to 1.29.
"""

import heapq
from collections import Counter

import envoy_resources
from engine_rows import endpoints
from planes import SERVICE, Scenario, play_envoy
from wire import Ask, Reply

from emulator.decisions.concurrency import ConcurrencyGate
from meshsim.meshes.defaults import ADAPTIVE_CONCURRENCY, CONCURRENCY_LIMIT, MIN_RTT_CALC
from meshsim.topology.model import AdaptiveConcurrency

WORK_S = 0.205
PREFIX = "adaptive_concurrency.gradient_controller."
COUNTERS = ("rq_blocked", "concurrency_limit", "min_rtt_calculation_active")
_S = 1_000_000_000


def works(endpoint, number, tries):
    return Reply(after_s=WORK_S)


def wave(count, first_s):
    return [Ask(at_s=first_s + 0.01 * row) for row in range(count)]


def stated(request_count):
    """Return the filter, with Envoy's defaults as our table has them."""
    tables = CONCURRENCY_LIMIT, MIN_RTT_CALC, ADAPTIVE_CONCURRENCY
    limits, least, rest = ({name: item.value for name, item in table.items()} for table in tables)
    limits["concurrency_update_interval"] = "500ms"
    least |= {"interval": "60s", "request_count": request_count, "jitter": 0}
    return AdaptiveConcurrency.model_validate(
        {**rest, "concurrency_limit_params": limits, "min_rtt_calc_params": least}
    )


def play_gate(asks, rule):
    """Return the outcomes and the counters of our gate over a server of endless size."""
    gate, outcomes = ConcurrencyGate(1, 0), Counter()
    gate.apply(rule)
    events = [(round(ask.at_s * _S), 0, 0) for ask in asks]
    heapq.heapify(events)
    while events:
        now_ns, entered_ns, life = heapq.heappop(events)
        if life:
            gate.leave(life, entered_ns, True, now_ns)
            continue
        status, life = gate.enter(now_ns)
        outcomes[status or 200, "-"] += 1
        if not status:
            heapq.heappush(events, (now_ns + round(WORK_S * _S), now_ns, life))
    return outcomes, gate.counters()


def compare(referee, rule, asks, request_count):
    told = stated(request_count)
    scenario = Scenario(
        asks, callers=0, script=works, members={SERVICE: endpoints("b-v1-0")}, late_s=0.05,
        filters=(envoy_resources.adaptive_concurrency(told),),
    )  # fmt: skip
    envoy = play_envoy(referee.binary, scenario)
    outcomes, counters = play_gate(asks, told)
    referee.equal(f"{rule}: outcomes", envoy.outcomes(), outcomes)
    names = [PREFIX + name for name in COUNTERS]
    theirs = {name: envoy.counters[name] for name in names}
    referee.equal(f"{rule}: counters", theirs, {name: counters.get(name, 0) for name in names})


def test_a_measurement_lets_the_least_in(referee):
    compare(referee, "adaptive concurrency, measuring", wave(20, 0.0), 50)


def test_the_limit_grows_by_the_formula(referee):
    # Measured by 3; 3 more fill a window: 3.75 + sqrt(3.75) is 5; then 6.25 + sqrt(6.25) is 8.
    asks = [*wave(3, 0.0), *wave(3, 0.3), *wave(8, 0.8), *wave(12, 1.3)]
    compare(referee, "adaptive concurrency, growing", asks, 3)
