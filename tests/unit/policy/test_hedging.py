"""Several tries of one request at once, as Envoy's router and as gRPC's hedging policy have it."""

import numpy as np
import pytest
from policy_rows import NO_MEMORY, make_exchange, make_limits, make_route

from meshsim.policy import request as machine
from meshsim.policy import transitions as table
from meshsim.policy.hedging import waits_for_others
from meshsim.policy.retry import retry_on_bits
from meshsim.rng import PURPOSE_BACK_OFF, make_streams
from meshsim.state import codes
from meshsim.state.exchange import EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF

MS = 1_000_000
CODES = np.array([503, 504], np.int32)


class Hedged:
    """One exchange whose tries are counted as the kernel counts them."""

    def __init__(self, hedging, limits=None, retry_on=("5xx",), **fields):
        fields.setdefault("code_count", len(CODES))
        self.routes = make_route(hedging=hedging, retry_on=retry_on_bits(retry_on), **fields)
        self.clusters, self.configs = limits or make_limits()
        self.exchanges = make_exchange()
        self.rng = make_streams(3, PURPOSE_BACK_OFF, 1)[0]
        assert self.tell(table.STIMULUS_REQUEST) == table.ACTION_SEND

    def tell(self, stimulus, status=0, reset=codes.RESET_NONE, now_ns=0):
        action, self.deadline_ns = machine.step(
            self.exchanges, 0, self.routes, CODES, self.clusters, self.configs, NO_MEMORY,
            stimulus, status, reset, now_ns, self.rng,
        )  # fmt: skip
        if action == table.ACTION_SEND:
            self.exchanges["attempts_active"] += 1
        return int(action)

    def ended(self, stimulus, status=0, reset=codes.RESET_NONE, now_ns=0):
        self.exchanges["attempts_active"] -= 1
        return self.tell(stimulus, status, reset, now_ns)

    def late(self):
        return self.tell(table.STIMULUS_SOFT_PER_TRY_TIMEOUT)

    def due(self, now_ns=0):
        return self.tell(table.STIMULUS_HEDGE_DUE, now_ns=now_ns)

    def wait(self):
        assert self.tell(table.STIMULUS_BACK_OFF_EXPIRED) == table.ACTION_SEND

    @property
    def outcome(self):
        row = self.exchanges[0]
        return int(row["status"]), codes.FLAG_NAMES[row["response_flag"]]

    @property
    def held(self):
        return int(self.clusters["retries_active"][0])


def on_timeout(**fields):
    return Hedged(codes.HEDGE_ON_PER_TRY_TIMEOUT, per_try_timeout_ns=10 * MS, **fields)


def after_delay(copies, delay_ns=5 * MS, **fields):
    return Hedged(
        codes.HEDGE_AFTER_DELAY,
        num_retries=copies - 1,
        hedging_delay_ns=delay_ns,
        retry_on=("retriable-status-codes", "reset"),
        **fields,
    )


# --- On a per-try timeout -------------------------------------------------------------------


def test_a_late_try_goes_on_beside_its_retry_and_may_win():
    driven = on_timeout(num_retries=2)
    assert driven.late() == table.ACTION_BACK_OFF
    assert driven.held == 1
    driven.wait()
    assert driven.exchanges["attempts_active"][0] == 2
    assert driven.ended(table.STIMULUS_EARLIER_RESPONSE, 200) == table.ACTION_RESPOND
    assert driven.outcome == (200, "-")
    assert driven.held == 0
    assert driven.clusters["retries_total"][0] == 1


def test_the_late_try_may_win_before_its_retry_is_sent():
    driven = on_timeout(num_retries=1)
    driven.late()
    assert driven.ended(table.STIMULUS_EARLIER_RESPONSE, 200) == table.ACTION_RESPOND
    assert driven.held == 0


@pytest.mark.parametrize("sent", [False, True])
def test_a_bad_end_of_an_earlier_try_waits(sent):
    for stimulus in (table.STIMULUS_EARLIER_RESPONSE, table.STIMULUS_EARLIER_RESET):
        driven = on_timeout(num_retries=1)
        driven.late()
        if sent:
            driven.wait()
        state = driven.exchanges["state"][0]
        assert state == (EXCHANGE_ATTEMPTING if sent else EXCHANGE_BACKING_OFF)
        assert driven.ended(stimulus, 503, codes.RESET_NONE) == table.ACTION_NONE
        assert driven.exchanges["state"][0] == state


def test_an_answer_that_no_condition_names_is_final_though_bad():
    driven = on_timeout(num_retries=1, retry_on=("gateway-error",))
    driven.late()
    driven.wait()
    assert driven.ended(table.STIMULUS_EARLIER_RESPONSE, 500) == table.ACTION_RESPOND
    assert driven.outcome == (500, "-")


def test_a_failed_retry_is_retried_while_the_late_try_goes_on():
    driven = on_timeout(num_retries=2)
    driven.late()
    driven.wait()
    assert driven.ended(table.STIMULUS_RESPONSE, 503) == table.ACTION_BACK_OFF
    driven.wait()
    assert driven.ended(table.STIMULUS_RESPONSE, 503) == table.ACTION_NONE  # none remain
    assert driven.ended(table.STIMULUS_EARLIER_RESPONSE, 200) == table.ACTION_RESPOND
    assert driven.outcome == (200, "URX")  # as Envoy's access log has it


def test_the_last_bad_end_is_the_answer():
    driven = on_timeout(num_retries=1)
    driven.late()
    driven.wait()
    assert driven.ended(table.STIMULUS_RESET, 0, codes.RESET_REMOTE) == table.ACTION_NONE
    reset = codes.RESET_CONNECT_FAILURE
    assert driven.ended(table.STIMULUS_EARLIER_RESET, 0, reset) == table.ACTION_RESPOND
    assert driven.outcome == (503, "UF")


def test_a_late_try_without_retries_left_goes_on_and_says_so():
    driven = on_timeout(num_retries=0)
    assert driven.late() == table.ACTION_NONE
    assert driven.ended(table.STIMULUS_RESPONSE, 200) == table.ACTION_RESPOND
    assert driven.outcome == (200, "URX")


def test_a_refused_hedge_is_used_up_and_the_next_failure_may_be_retried():
    driven = on_timeout(num_retries=2, limits=make_limits(max_retries=0))
    assert driven.late() == table.ACTION_NONE
    assert driven.exchanges["retries_remaining"][0] == 1
    assert driven.clusters["retry_overflow"][0] == 1
    driven.configs["max_retries"] = 1
    assert driven.ended(table.STIMULUS_RESPONSE, 503) == table.ACTION_BACK_OFF


def test_without_conditions_nothing_is_hedged():
    driven = on_timeout(num_retries=3, retry_on=())
    assert driven.late() == table.ACTION_NONE
    driven.ended(table.STIMULUS_RESPONSE, 200)
    assert driven.outcome == (200, "-")


def test_no_host_for_a_hedge_ends_the_request_and_an_overflow_does_not():
    for stimulus, action in (
        (table.STIMULUS_NO_HOST, table.ACTION_RESPOND),
        (table.STIMULUS_OVERFLOW, table.ACTION_NONE),
    ):
        driven = on_timeout(num_retries=1)
        driven.late()
        driven.wait()
        assert driven.ended(stimulus) == action


# --- After a delay --------------------------------------------------------------------------


def test_copies_leave_at_a_fixed_pace_until_there_are_enough():
    driven = after_delay(3)
    assert driven.exchanges["hedge_due_ns"][0] == 5 * MS
    assert driven.due(5 * MS) == table.ACTION_SEND
    assert driven.exchanges["hedge_due_ns"][0] == 10 * MS
    assert driven.due(10 * MS) == table.ACTION_SEND
    assert driven.exchanges["hedge_due_ns"][0] == codes.NEVER_NS
    assert driven.exchanges["attempts_active"][0] == 3
    assert driven.held == 1  # one place a request
    assert driven.ended(table.STIMULUS_RESPONSE, 200) == table.ACTION_RESPOND
    assert driven.outcome == (200, "-")
    assert driven.held == 0


def test_a_failure_that_is_not_fatal_brings_the_next_copy_forward():
    driven = after_delay(3)
    assert driven.ended(table.STIMULUS_RESPONSE, 503, now_ns=2 * MS) == table.ACTION_SEND
    assert driven.exchanges["hedge_due_ns"][0] == 7 * MS
    assert driven.due(7 * MS) == table.ACTION_SEND
    reset = codes.RESET_REMOTE
    assert driven.ended(table.STIMULUS_RESET, 0, reset, 8 * MS) == table.ACTION_NONE
    assert driven.ended(table.STIMULUS_RESPONSE, 503, now_ns=9 * MS) == table.ACTION_RESPOND
    assert driven.outcome == (503, "URX")


def test_a_fatal_answer_is_the_answer():
    driven = after_delay(2)
    driven.due(5 * MS)
    assert driven.ended(table.STIMULUS_RESPONSE, 500) == table.ACTION_RESPOND
    assert driven.outcome == (500, "-")


def test_a_refused_copy_is_used_up_and_the_next_is_asked_for_in_its_turn():
    driven = after_delay(3, limits=make_limits(max_retries=0))
    assert driven.due(5 * MS) == table.ACTION_NONE
    assert driven.exchanges["hedge_due_ns"][0] == 10 * MS
    assert driven.due(10 * MS) == table.ACTION_NONE
    assert driven.exchanges["hedge_due_ns"][0] == codes.NEVER_NS
    assert driven.clusters["retry_overflow"][0] == 2


@pytest.mark.parametrize("stimulus", [table.STIMULUS_NO_HOST, table.STIMULUS_OVERFLOW])
def test_a_copy_that_cannot_be_sent_leaves_the_others_alone(stimulus):
    driven = after_delay(2)
    driven.due(5 * MS)
    assert driven.ended(stimulus) == table.ACTION_NONE
    assert driven.ended(stimulus) == table.ACTION_RESPOND


def test_no_delay_sends_all_at_once():
    driven = after_delay(3, delay_ns=0)
    assert [driven.due(), driven.due()] == [table.ACTION_SEND] * 2
    assert driven.exchanges["hedge_due_ns"][0] == codes.NEVER_NS


def test_who_waits_for_whom():
    timeout, delay = codes.HEDGE_ON_PER_TRY_TIMEOUT, codes.HEDGE_AFTER_DELAY
    assert not waits_for_others(timeout, 0, True, codes.RESET_NONE)
    assert not waits_for_others(codes.HEDGE_NEVER, 1, True, codes.RESET_NONE)
    assert not waits_for_others(delay, 1, False, codes.RESET_REMOTE)
    assert waits_for_others(timeout, 1, False, codes.RESET_REMOTE)
