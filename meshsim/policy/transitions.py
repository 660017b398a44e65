"""The table of the per-request machine: states, stimuli, actions, and what may follow what.

Rule: `TRANSITIONS` is the whole of the legal behaviour of `meshsim.policy.request.step`; a pair
of state and stimulus that is not in it is a bug of the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshsim.state.exchange import (
    EXCHANGE_ATTEMPTING,
    EXCHANGE_BACKING_OFF,
    EXCHANGE_DELAYED,
    EXCHANGE_FREE,
    EXCHANGE_RESPONDING,
    EXCHANGE_ROUTING,
    EXCHANGE_STATE_COUNT,
)

__all__ = [
    "ACTION_ABANDON",
    "ACTION_BACK_OFF",
    "ACTION_DELAY",
    "ACTION_INVALID",
    "ACTION_NAMES",
    "ACTION_NONE",
    "ACTION_RESPOND",
    "ACTION_SEND",
    "HANDLERS",
    "HANDLE_ANSWERED",
    "HANDLE_DOWNSTREAM_GONE",
    "HANDLE_EARLIER_ANSWERED",
    "HANDLE_EARLIER_FAILED",
    "HANDLE_FAILED",
    "HANDLE_HEDGE_DUE",
    "HANDLE_HELD_BACK",
    "HANDLE_INVALID",
    "HANDLE_LET_GO",
    "HANDLE_REFUSED",
    "HANDLE_RETRY_DUE",
    "HANDLE_ROUTED",
    "HANDLE_SOFTLY_TIMED_OUT",
    "HANDLE_TIMED_OUT",
    "STATE_NAMES",
    "STIMULUS_BACK_OFF_EXPIRED",
    "STIMULUS_COUNT",
    "STIMULUS_DELAY_EXPIRED",
    "STIMULUS_DOWNSTREAM_RESET",
    "STIMULUS_EARLIER_RESET",
    "STIMULUS_EARLIER_RESPONSE",
    "STIMULUS_FAULT_ABORT",
    "STIMULUS_FAULT_DELAY",
    "STIMULUS_HEDGE_DUE",
    "STIMULUS_NAMES",
    "STIMULUS_NO_HOST",
    "STIMULUS_OVERFLOW",
    "STIMULUS_PER_TRY_TIMEOUT",
    "STIMULUS_RATE_LIMITED",
    "STIMULUS_REQUEST",
    "STIMULUS_RESET",
    "STIMULUS_RESPONSE",
    "STIMULUS_ROUTE_TIMEOUT",
    "STIMULUS_SOFT_PER_TRY_TIMEOUT",
    "TRANSITIONS",
    "Transition",
    "transitions_mermaid",
]

# --- Stimuli: what happened ------------------------------------------------------------------

STIMULUS_REQUEST = 0  # the request is complete and routed
STIMULUS_RESPONSE = 1  # `status`; reset = RESET_RATELIMITED if marked x-envoy-ratelimited
STIMULUS_RESET = 2  # `reset`: the try ended without a response
STIMULUS_PER_TRY_TIMEOUT = 3  # the caller has already given the try up
STIMULUS_ROUTE_TIMEOUT = 4
STIMULUS_BACK_OFF_EXPIRED = 5
STIMULUS_OVERFLOW = 6  # a circuit breaker refused the try
STIMULUS_NO_HOST = 7  # no selectable host for the try
STIMULUS_DOWNSTREAM_RESET = 8  # whoever asked is gone
STIMULUS_FAULT_DELAY = 9  # a filter holds the request back; `status`: for how long [ns]
STIMULUS_DELAY_EXPIRED = 10
STIMULUS_FAULT_ABORT = 11  # a filter answers with `status`
STIMULUS_RATE_LIMITED = 12  # the request is over a limit; `status`
STIMULUS_SOFT_PER_TRY_TIMEOUT = 13  # of the newest try, which goes on (hedging)
STIMULUS_EARLIER_RESPONSE = 14  # of a try that another has followed already (hedging); `status`
STIMULUS_EARLIER_RESET = 15  # such a try ended without a response; `reset`
STIMULUS_HEDGE_DUE = 16  # it is time for another copy (hedging after a delay)
STIMULUS_COUNT = 17
STIMULUS_NAMES = (
    "REQUEST",
    "RESPONSE",
    "RESET",
    "PER_TRY_TIMEOUT",
    "ROUTE_TIMEOUT",
    "BACK_OFF_EXPIRED",
    "OVERFLOW",
    "NO_HOST",
    "DOWNSTREAM_RESET",
    "FAULT_DELAY",
    "DELAY_EXPIRED",
    "FAULT_ABORT",
    "RATE_LIMITED",
    "SOFT_PER_TRY_TIMEOUT",
    "EARLIER_RESPONSE",
    "EARLIER_RESET",
    "HEDGE_DUE",
)

# --- Actions: what the caller must do --------------------------------------------------------

ACTION_INVALID = -1  # no such transition: a bug of the caller
ACTION_NONE = 0  # go on: other tries are under way, or may begin
ACTION_SEND = 1  # pick a host and send a try; deadline: its per-try timeout
ACTION_BACK_OFF = 2  # do nothing until the deadline, then STIMULUS_BACK_OFF_EXPIRED
ACTION_RESPOND = 3  # send `status` and `response_flag` of the exchange down; give up live tries
ACTION_ABANDON = 4  # nobody waits: give up live tries and free the exchange
ACTION_DELAY = 5  # do nothing until the deadline, then STIMULUS_DELAY_EXPIRED
ACTION_NAMES = ("NONE", "SEND", "BACK_OFF", "RESPOND", "ABANDON", "DELAY")

STATE_NAMES = ("FREE", "ROUTING", "ATTEMPTING", "BACKING_OFF", "RESPONDING", "DELAYED")

# --- The table -------------------------------------------------------------------------------

HANDLE_INVALID = 0
HANDLE_ROUTED = 1
HANDLE_ANSWERED = 2
HANDLE_FAILED = 3
HANDLE_TIMED_OUT = 4
HANDLE_RETRY_DUE = 5
HANDLE_DOWNSTREAM_GONE = 6
HANDLE_HELD_BACK = 7
HANDLE_LET_GO = 8
HANDLE_REFUSED = 9
HANDLE_SOFTLY_TIMED_OUT = 10
HANDLE_EARLIER_ANSWERED = 11
HANDLE_EARLIER_FAILED = 12
HANDLE_HEDGE_DUE = 13


class Transition(NamedTuple):
    """One legal pair of state and stimulus.

    Parameters
    ----------
    state, stimulus : int
        `EXCHANGE_*` and `STIMULUS_*` codes.
    handler : int
        Which handler of this module decides.
    next_states : tuple of int
        Every state the exchange may be in afterwards.
    """

    state: int
    stimulus: int
    handler: int
    next_states: tuple[int, ...]


_RESPOND_ONLY = (EXCHANGE_RESPONDING,)
_WAIT_OR_RESPOND = (EXCHANGE_ATTEMPTING, EXCHANGE_RESPONDING)
#: ATTEMPTING: others are under way, or another copy is sent at once.
_RETRY_WAIT_OR_RESPOND = (EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF, EXCHANGE_RESPONDING)

#: All legal behaviour; whatever is missing is a bug of the caller.
TRANSITIONS = tuple(
    Transition(*row)
    for row in (
        (
            EXCHANGE_ROUTING,
            STIMULUS_REQUEST,
            HANDLE_ROUTED,
            (EXCHANGE_ATTEMPTING, EXCHANGE_RESPONDING),
        ),
        (EXCHANGE_ROUTING, STIMULUS_DOWNSTREAM_RESET, HANDLE_DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_ROUTING, STIMULUS_FAULT_DELAY, HANDLE_HELD_BACK, (EXCHANGE_DELAYED,)),
        (EXCHANGE_ROUTING, STIMULUS_FAULT_ABORT, HANDLE_REFUSED, _RESPOND_ONLY),
        (EXCHANGE_ROUTING, STIMULUS_RATE_LIMITED, HANDLE_REFUSED, _RESPOND_ONLY),
        (EXCHANGE_DELAYED, STIMULUS_DELAY_EXPIRED, HANDLE_LET_GO, (EXCHANGE_ROUTING,)),
        (EXCHANGE_DELAYED, STIMULUS_DOWNSTREAM_RESET, HANDLE_DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_ATTEMPTING, STIMULUS_RESPONSE, HANDLE_ANSWERED, _RETRY_WAIT_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_RESET, HANDLE_FAILED, _RETRY_WAIT_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_PER_TRY_TIMEOUT, HANDLE_FAILED, _RETRY_WAIT_OR_RESPOND),
        (
            EXCHANGE_ATTEMPTING,
            STIMULUS_SOFT_PER_TRY_TIMEOUT,
            HANDLE_SOFTLY_TIMED_OUT,
            (EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF),
        ),
        (
            EXCHANGE_ATTEMPTING,
            STIMULUS_EARLIER_RESPONSE,
            HANDLE_EARLIER_ANSWERED,
            _WAIT_OR_RESPOND,
        ),
        (EXCHANGE_ATTEMPTING, STIMULUS_EARLIER_RESET, HANDLE_EARLIER_FAILED, _WAIT_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_HEDGE_DUE, HANDLE_HEDGE_DUE, (EXCHANGE_ATTEMPTING,)),
        (EXCHANGE_ATTEMPTING, STIMULUS_OVERFLOW, HANDLE_FAILED, _WAIT_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_NO_HOST, HANDLE_FAILED, _WAIT_OR_RESPOND),
        (EXCHANGE_ATTEMPTING, STIMULUS_ROUTE_TIMEOUT, HANDLE_TIMED_OUT, _RESPOND_ONLY),
        (EXCHANGE_ATTEMPTING, STIMULUS_DOWNSTREAM_RESET, HANDLE_DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_BACKING_OFF, STIMULUS_BACK_OFF_EXPIRED, HANDLE_RETRY_DUE, (EXCHANGE_ATTEMPTING,)),
        (
            EXCHANGE_BACKING_OFF,
            STIMULUS_EARLIER_RESPONSE,
            HANDLE_EARLIER_ANSWERED,
            (EXCHANGE_BACKING_OFF, EXCHANGE_RESPONDING),
        ),
        (
            EXCHANGE_BACKING_OFF,
            STIMULUS_EARLIER_RESET,
            HANDLE_EARLIER_FAILED,
            (EXCHANGE_BACKING_OFF,),
        ),
        (EXCHANGE_BACKING_OFF, STIMULUS_ROUTE_TIMEOUT, HANDLE_TIMED_OUT, _RESPOND_ONLY),
        (EXCHANGE_BACKING_OFF, STIMULUS_DOWNSTREAM_RESET, HANDLE_DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
        (EXCHANGE_RESPONDING, STIMULUS_DOWNSTREAM_RESET, HANDLE_DOWNSTREAM_GONE, (EXCHANGE_FREE,)),
    )
)


def _handler_table() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    table = np.full(EXCHANGE_STATE_COUNT * STIMULUS_COUNT, HANDLE_INVALID, np.int64)
    for row in TRANSITIONS:
        table[row.state * STIMULUS_COUNT + row.stimulus] = row.handler
    return table


#: Handler by state * STIMULUS_COUNT + stimulus; a constant of the compiled code.
HANDLERS = _handler_table()


def transitions_mermaid() -> str:
    """Return `TRANSITIONS` as the text of a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {STATE_NAMES[EXCHANGE_ROUTING]}"]
    lines += [
        f"    {STATE_NAMES[row.state]} --> "
        f"{'[*]' if after == EXCHANGE_FREE else STATE_NAMES[after]} : "
        f"{STIMULUS_NAMES[row.stimulus]}"
        for row in TRANSITIONS
        for after in row.next_states
    ]
    lines.append(f"    {STATE_NAMES[EXCHANGE_RESPONDING]} --> [*] : delivered")
    return "\n".join(lines) + "\n"
