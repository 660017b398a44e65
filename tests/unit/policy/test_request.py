import itertools

import numpy as np
import pytest
from policy_rows import NO_MEMORY, make_exchange, make_limits, make_route

from meshsim.policy import request as machine
from meshsim.policy import transitions
from meshsim.policy.retry import retry_on_bits
from meshsim.rng import PURPOSE_BACK_OFF, make_streams
from meshsim.state import codes
from meshsim.state.exchange import (
    EXCHANGE_ATTEMPTING,
    EXCHANGE_BACKING_OFF,
    EXCHANGE_FREE,
    EXCHANGE_RESPONDING,
    EXCHANGE_ROUTING,
    EXCHANGE_STATE_COUNT,
)

MS = 1_000_000
NO_CODES = np.zeros(0, np.int32)


class Machine:
    """One exchange, driven by stimuli at given times."""

    def __init__(self, route=0, cluster=0, limits=None, retry_on=(), **fields):
        self.routes = make_route(retry_on=retry_on_bits(retry_on), **fields)
        self.clusters, self.configs = limits or make_limits()
        self.exchanges = make_exchange(route, cluster)
        self.rng = make_streams(3, PURPOSE_BACK_OFF, 1)[0]

    def tell(self, stimulus, status=0, reset=codes.RESET_NONE, now_ns=0):
        action, deadline_ns = machine.step(
            self.exchanges,
            0,
            self.routes,
            NO_CODES,
            self.clusters,
            self.configs,
            NO_MEMORY,
            stimulus,
            status,
            reset,
            now_ns,
            self.rng,
        )
        return int(action), int(deadline_ns)

    def request(self, now_ns=0):
        return self.tell(transitions.STIMULUS_REQUEST, now_ns=now_ns)

    def respond(self, status, now_ns=0):
        return self.tell(transitions.STIMULUS_RESPONSE, status, now_ns=now_ns)[0]

    def reset(self, reset):
        return self.tell(transitions.STIMULUS_RESET, reset=reset)[0]

    def wait(self):
        """Let the back-off end."""
        return self.tell(transitions.STIMULUS_BACK_OFF_EXPIRED)[0]

    @property
    def outcome(self):
        row = self.exchanges[0]
        assert row["state"] == EXCHANGE_RESPONDING
        return int(row["status"]), codes.FLAG_NAMES[row["response_flag"]]


def sent(**fields):
    driven = Machine(**fields)
    assert driven.request()[0] == transitions.ACTION_SEND
    return driven


def test_without_trouble():
    driven = Machine(timeout_ns=15_000 * MS, num_retries=2)
    assert driven.request(now_ns=7) == (transitions.ACTION_SEND, codes.NEVER_NS)
    assert driven.exchanges["deadline_ns"][0] == 15_000 * MS + 7
    assert driven.exchanges["retries_remaining"][0] == 2
    assert driven.respond(200) == transitions.ACTION_RESPOND
    assert driven.outcome == (200, "-")


def test_a_reused_row_forgets_its_past():
    driven = sent(num_retries=1, retry_on=["5xx"])
    driven.respond(503)
    driven.tell(transitions.STIMULUS_DOWNSTREAM_RESET)
    driven.exchanges["state"] = EXCHANGE_ROUTING
    driven.exchanges["response_flag"] = codes.FLAG_NONE  # the caller's
    driven.request()
    row = driven.exchanges[0]
    assert (row["retry_count"], row["retry_held"], row["retries_remaining"]) == (0, 0, 1)
    assert (row["status"], row["response_flag"]) == (0, codes.FLAG_NONE)


def test_what_needs_no_try():
    for fields, outcome in (
        ({"route": codes.NO_INDEX}, (404, "NR")),
        ({"cluster": codes.NO_INDEX}, (503, "NC")),
        ({"direct_response": 418}, (418, "-")),
    ):
        driven = Machine(**fields)
        assert driven.request() == (transitions.ACTION_RESPOND, codes.NEVER_NS)
        assert driven.outcome == outcome


@pytest.mark.parametrize(
    ("stimulus", "reset", "outcome"),
    [
        (transitions.STIMULUS_RESET, codes.RESET_CONNECT_FAILURE, (503, "UF")),
        (transitions.STIMULUS_RESET, codes.RESET_REMOTE, (503, "UC")),
        (transitions.STIMULUS_RESET, codes.RESET_REFUSED_STREAM, (503, "UR")),
        (transitions.STIMULUS_PER_TRY_TIMEOUT, codes.RESET_NONE, (504, "UT")),
        (transitions.STIMULUS_ROUTE_TIMEOUT, codes.RESET_NONE, (504, "UT")),
        (transitions.STIMULUS_OVERFLOW, codes.RESET_NONE, (503, "UO")),
        (transitions.STIMULUS_NO_HOST, codes.RESET_NONE, (503, "UH")),
    ],
)
def test_a_failure_without_retries_ends_with_envoys_status_and_flag(stimulus, reset, outcome):
    driven = sent()
    assert driven.tell(stimulus, reset=reset) == (transitions.ACTION_RESPOND, codes.NEVER_NS)
    assert driven.outcome == outcome


def test_a_retry_waits_holds_the_breaker_and_may_succeed():
    driven = sent(num_retries=1, retry_on=["5xx"], per_try_timeout_ns=100 * MS)
    action, deadline_ns = driven.tell(transitions.STIMULUS_RESPONSE, 503, now_ns=1000)
    assert action == transitions.ACTION_BACK_OFF
    assert 1000 <= deadline_ns < 1000 + 25 * MS
    assert (deadline_ns - 1000) % MS == 0
    assert driven.clusters["retries_active"][0] == 1
    assert driven.tell(transitions.STIMULUS_BACK_OFF_EXPIRED, now_ns=deadline_ns) == (
        transitions.ACTION_SEND,
        deadline_ns + 100 * MS,
    )
    assert driven.clusters["retries_active"][0] == 1
    assert driven.respond(200) == transitions.ACTION_RESPOND
    assert driven.outcome == (200, "-")
    assert driven.clusters["retries_active"][0] == 0
    assert driven.clusters["retries_total"][0] == 1


def test_exhausted_retries_send_the_last_response_with_urx():
    driven = sent(num_retries=2, retry_on=["5xx"])
    for status in (500, 502):
        assert driven.respond(status) == transitions.ACTION_BACK_OFF
        assert driven.wait() == transitions.ACTION_SEND
    assert driven.respond(503) == transitions.ACTION_RESPOND
    assert driven.outcome == (503, "URX")
    assert driven.clusters["retries_total"][0] == 2
    assert driven.clusters["retry_overflow"][0] == 0


def test_a_response_that_is_not_retriable_carries_no_flag():
    driven = sent(num_retries=2, retry_on=["gateway-error"])
    assert driven.respond(500) == transitions.ACTION_RESPOND
    assert driven.outcome == (500, "-")


def test_exhausted_resets_keep_their_cause():
    driven = sent(num_retries=0, retry_on=["5xx"])
    driven.reset(codes.RESET_CONNECT_FAILURE)
    assert driven.outcome == (503, "UF")
    driven = sent(num_retries=0, retry_on=["5xx"])
    driven.tell(transitions.STIMULUS_PER_TRY_TIMEOUT)
    assert driven.outcome == (504, "UT")


def test_a_full_retry_breaker_answers_with_the_response_and_uses_the_retry_up():
    driven = sent(num_retries=2, retry_on=["5xx"], limits=make_limits(max_retries=0))
    assert driven.respond(502) == transitions.ACTION_RESPOND
    assert driven.outcome == (502, "UO")
    assert driven.clusters["retry_overflow"][0] == 1
    assert driven.exchanges["retries_remaining"][0] == 1


def test_the_previous_retry_leaves_the_breaker_before_the_next_asks():
    # Envoy, RetryStateImpl::shouldRetry: resetRetry comes first.
    driven = sent(num_retries=3, retry_on=["5xx"], limits=make_limits(max_retries=1))
    for _ in range(3):
        assert driven.respond(503) == transitions.ACTION_BACK_OFF
        assert driven.clusters["retries_active"][0] == 1
        driven.wait()
    driven.respond(503)
    assert driven.outcome == (503, "URX")
    assert driven.clusters["retries_active"][0] == 0


def test_a_per_try_timeout_is_retried_as_a_reset():
    driven = sent(num_retries=1, retry_on=["reset"], per_try_timeout_ns=100 * MS)
    assert driven.tell(transitions.STIMULUS_PER_TRY_TIMEOUT)[0] == transitions.ACTION_BACK_OFF
    driven = sent(num_retries=1, retry_on=["connect-failure"])
    assert driven.tell(transitions.STIMULUS_PER_TRY_TIMEOUT)[0] == transitions.ACTION_RESPOND


def test_overflow_of_a_retry_is_final():
    driven = sent(num_retries=5, retry_on=["5xx"])
    driven.respond(503)
    driven.wait()
    assert driven.tell(transitions.STIMULUS_OVERFLOW)[0] == transitions.ACTION_RESPOND
    assert driven.outcome == (503, "UO")
    assert driven.clusters["retries_active"][0] == 0


def test_the_route_timeout_ends_a_back_off_and_frees_the_breaker():
    driven = sent(num_retries=1, retry_on=["5xx"], timeout_ns=100 * MS)
    driven.respond(503)
    assert driven.tell(transitions.STIMULUS_ROUTE_TIMEOUT)[0] == transitions.ACTION_RESPOND
    assert driven.outcome == (504, "UT")
    assert driven.clusters["retries_active"][0] == 0


def test_a_gone_downstream_frees_everything():
    driven = sent(num_retries=1, retry_on=["5xx"])
    driven.respond(503)
    assert driven.tell(transitions.STIMULUS_DOWNSTREAM_RESET)[0] == transitions.ACTION_ABANDON
    row = driven.exchanges[0]
    assert (row["state"], row["response_flag"]) == (EXCHANGE_FREE, codes.FLAG_DC)
    assert driven.clusters["retries_active"][0] == 0


def tries_until_answered(**fields):
    driven = sent(retry_on=["5xx"], **fields)
    tries = 1
    while driven.respond(503) == transitions.ACTION_BACK_OFF:
        driven.wait()
        tries += 1
    return tries


def test_attempts_multiply_over_layers():
    # 3 layers of 4 attempts: 64 at the leaf; 5 of 3: 243; 2 of 3: 9 (SRE book, chapter 22).
    limits = make_limits(max_retries=1000)
    for layers, attempts, leaf in ((3, 4, 64), (5, 3, 243), (2, 3, 9)):
        assert tries_until_answered(num_retries=attempts - 1, limits=limits) ** layers == leaf


# --- The table -------------------------------------------------------------------------------


def legal():
    return {(row.state, row.stimulus): row for row in transitions.TRANSITIONS}


def test_the_table_names_each_pair_once_and_knows_all_states():
    assert len(legal()) == len(transitions.TRANSITIONS)
    assert len(transitions.STATE_NAMES) == EXCHANGE_STATE_COUNT
    assert len(transitions.STIMULUS_NAMES) == transitions.STIMULUS_COUNT
    reached = {after for row in transitions.TRANSITIONS for after in row.next_states}
    assert reached | {EXCHANGE_ROUTING} == set(range(EXCHANGE_STATE_COUNT))


def in_state(state):
    driven = Machine(num_retries=1, retry_on=["5xx"])
    if state in (EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF, EXCHANGE_RESPONDING):
        driven.request()
    if state == EXCHANGE_BACKING_OFF:
        driven.respond(503)
    if state == EXCHANGE_RESPONDING:
        driven.respond(200)
    driven.exchanges["state"] = state
    return driven


@pytest.mark.parametrize(
    ("state", "stimulus"),
    list(itertools.product(range(EXCHANGE_STATE_COUNT), range(transitions.STIMULUS_COUNT))),
)
def test_what_is_not_in_the_table_is_invalid_and_changes_nothing(state, stimulus):
    driven = in_state(state)
    before = driven.exchanges.tobytes(), driven.clusters.tobytes(), driven.rng.tobytes()
    action, _ = driven.tell(stimulus, 200)
    if (state, stimulus) in legal():
        assert action != transitions.ACTION_INVALID
    else:
        assert action == transitions.ACTION_INVALID
        after = driven.exchanges.tobytes(), driven.clusters.tobytes(), driven.rng.tobytes()
        assert after == before


def test_the_machine_goes_exactly_where_the_table_says():
    seen = {pair: set() for pair in legal()}
    statuses, resets = (200, 503), (codes.RESET_CONNECT_FAILURE, codes.RESET_OVERFLOW)
    hedging = (
        (codes.HEDGE_NEVER, 0),
        (codes.HEDGE_ON_PER_TRY_TIMEOUT, 1),
        (codes.HEDGE_AFTER_DELAY, 1),
    )
    variants = itertools.product((0, 1), (codes.NO_INDEX, 0), statuses, resets, hedging)
    for (num_retries, route, status, reset, hedges), pair in itertools.product(variants, legal()):
        state, stimulus = pair
        driven = in_state(state)
        driven.exchanges["retries_remaining"] = num_retries
        driven.exchanges["route"] = route if state == EXCHANGE_ROUTING else 0
        driven.routes["hedging"], driven.exchanges["attempts_active"] = hedges
        responses = (transitions.STIMULUS_RESPONSE, transitions.STIMULUS_EARLIER_RESPONSE)
        driven.tell(stimulus, status, codes.RESET_NONE if stimulus in responses else reset)
        seen[pair].add(int(driven.exchanges["state"][0]))
    assert seen == {pair: set(row.next_states) for pair, row in legal().items()}


def test_the_diagram_shows_every_transition():
    lines = transitions.transitions_mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    shown = sum(len(row.next_states) for row in transitions.TRANSITIONS)
    assert len(lines) == shown + 3
    assert "    ATTEMPTING --> BACKING_OFF : RESET" in lines
    assert "    RESPONDING --> [*] : DOWNSTREAM_RESET" in lines


def test_filters_answer_with_their_flag_and_are_not_retried():
    for stimulus, outcome in (
        (transitions.STIMULUS_FAULT_ABORT, (503, "FI")),
        (transitions.STIMULUS_RATE_LIMITED, (429, "RL")),
    ):
        driven = Machine(num_retries=3, retry_on=["5xx"])
        answer = driven.tell(stimulus, outcome[0])
        assert answer == (transitions.ACTION_RESPOND, codes.NEVER_NS)
        assert driven.outcome == outcome


def test_a_delay_is_waited_out_before_any_timeout_runs():
    driven = Machine(timeout_ns=10 * MS)
    held = driven.tell(transitions.STIMULUS_FAULT_DELAY, 50 * MS, now_ns=5)
    assert held == (transitions.ACTION_DELAY, 50 * MS + 5)
    assert driven.tell(transitions.STIMULUS_DELAY_EXPIRED)[0] == transitions.ACTION_NONE
    driven.request(now_ns=50 * MS + 5)
    assert driven.exchanges["deadline_ns"][0] == 60 * MS + 5
    driven.respond(200)
    assert driven.outcome == (200, "DI")


@pytest.mark.parametrize(
    ("stimulus", "status", "outcome"),
    [
        (transitions.STIMULUS_FAULT_ABORT, 500, (500, "FI")),
        (transitions.STIMULUS_RATE_LIMITED, 429, (429, "RL")),
    ],
)
def test_after_a_delay_the_cause_of_the_end_is_kept(stimulus, status, outcome):
    driven = Machine()
    driven.tell(transitions.STIMULUS_FAULT_DELAY, MS)
    driven.tell(transitions.STIMULUS_DELAY_EXPIRED)
    driven.tell(stimulus, status)
    assert driven.outcome == outcome


def test_whoever_waits_in_a_delay_may_be_left_alone():
    driven = Machine()
    driven.tell(transitions.STIMULUS_FAULT_DELAY, MS)
    assert driven.tell(transitions.STIMULUS_DOWNSTREAM_RESET)[0] == transitions.ACTION_ABANDON
    assert driven.exchanges["state"][0] == EXCHANGE_FREE
    assert driven.exchanges["response_flag"][0] == codes.FLAG_DC
