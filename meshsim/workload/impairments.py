"""What a bad network does to messages: extra latency, and what TCP makes of lost packets.

Rule: a message is one packet, lost with the `loss` of its direction.  TCP sends it again after a
retransmission timeout, RTO = 200 ms and a round trip, and again after 2, 4, ... RTO, none longer
than 120 s; each of these may be lost too.  When the timeout after the 15th retransmission is over,
TCP gives up; here the message arrives then (924.6 s late for an RTO of 200 ms), which no proxy
waits for.

A connection is there when a SYN and its answer have got through.  The first wait is 1 s, then 2, 4,
... s; after 6 retransmissions in vain, 127 s, there is no connection.

The draws are keyed: of a message by its draw key, of a connection by that of its handshake.

Limits: messages of several packets are lost as one, without fast retransmission; packets of a TLS
handshake are late but never lost.

References
----------
RFC 6298, "Computing TCP's Retransmission Timer", section 2 (first RTO 1 s) and 5.5 (back-off);
Linux, include/net/tcp.h (TCP_RTO_MIN HZ/5, TCP_RTO_MAX 120 s, TCP_TIMEOUT_INIT 1 s) and
Documentation/networking/ip-sysctl.rst (tcp_retries2 15, tcp_syn_retries 6).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from meshsim.jit import kernel_jit
from meshsim.rng import key_uniform, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.workload.distributions import sample_ns

__all__ = ["LEG_BACK", "LEG_HANDSHAKE", "message_ns", "syn_ns"]

#: The legs of a try, modulo 4: request, response, half a handshake, and giving up.
LEG_BACK = 1
LEG_HANDSHAKE = 2

_RTO_MIN_NS = 200_000_000
_RTO_MAX_NS = 120_000_000_000
_RETRIES_MAX = 15
_SYN_RTO_NS = 1_000_000_000
_SYN_RETRIES_MAX = 6
#: What tells the draws of one message apart.
_EXTRA_OUT, _EXTRA_BACK, _LOSS, _SYN = 1, 2, 3, 4


@kernel_jit
def _losses(loss: float, retries_max: int, key: np.uint64) -> int:
    """Return how many packets in a row are lost, at most one more than `retries_max`."""
    if loss <= 0.0:
        return 0
    if loss >= 1.0:
        return int(retries_max + 1)
    # The count is geometric: P(n or more) = loss ** n.
    count = math.log(1.0 - key_uniform(key)) / math.log(loss)
    return int(min(int(count), retries_max + 1))


@kernel_jit
def _waited_ns(losses: int, rto_ns: int) -> int:
    """Return the time until a packet is sent that is lost `losses` times before [ns]."""
    waited_ns = 0
    for _ in range(losses):
        waited_ns += min(rto_ns, _RTO_MAX_NS)
        rto_ns = min(2 * rto_ns, _RTO_MAX_NS)
    return int(waited_ns)


@kernel_jit
def _extra_ns(
    impairments: Any, distributions: Any, values: Any, row: int, back: bool, key: np.uint64
) -> int:
    """Return the extra latency of one direction [ns]."""
    if back:
        distribution = impairments["latency_back"][row]
        draw_key = mix_in(key, _EXTRA_BACK)
    else:
        distribution = impairments["latency_out"][row]
        draw_key = mix_in(key, _EXTRA_OUT)
    if distribution == NO_INDEX:
        return 0
    return int(sample_ns(distributions, values, distribution, draw_key))


@kernel_jit
def message_ns(
    impairments: Any,
    distributions: Any,
    values: Any,
    row: int,
    leg: int,
    base_ns: int,
    key: np.uint64,
) -> int:
    """Return how long a message takes over an impaired wire [ns].

    Parameters
    ----------
    impairments : ndarray[IMPAIRMENT_DTYPE], shape (n_impairments,)
        Read only.
    distributions, values
        As for `sample_ns`.
    row : int
        Of `impairments`; *out* is from the client's zone to the server's.
    leg : int
        Of the try: a response goes back, half a handshake is the mean of both directions and is
        not lost (see `syn_ns`).
    base_ns : int
        What it takes on the sound wire [ns], >= 0.
    key : uint64
        Draw key of the message.
    """
    part = leg & 3
    if part == LEG_HANDSHAKE:
        out_ns = _extra_ns(impairments, distributions, values, row, False, key)
        back_ns = _extra_ns(impairments, distributions, values, row, True, key)
        return int(base_ns + (out_ns + back_ns) // 2)
    back = part == LEG_BACK
    loss = impairments["loss_back"][row] if back else impairments["loss_out"][row]
    latency_ns = base_ns + _extra_ns(impairments, distributions, values, row, back, key)
    losses = _losses(loss, _RETRIES_MAX, mix_in(key, _LOSS))
    return int(latency_ns + _waited_ns(losses, _RTO_MIN_NS + 2 * latency_ns))


@kernel_jit
def syn_ns(impairments: Any, row: int, key: np.uint64) -> int:
    """Return by how much lost packets delay a connection [ns], or NEVER_NS.

    Parameters
    ----------
    impairments : ndarray[IMPAIRMENT_DTYPE], shape (n_impairments,)
        Read only.
    row : int
    key : uint64
        Draw key of the handshake.
    """
    through = (1.0 - impairments["loss_out"][row]) * (1.0 - impairments["loss_back"][row])
    losses = _losses(1.0 - through, _SYN_RETRIES_MAX, mix_in(key, _SYN))
    if losses > _SYN_RETRIES_MAX:
        return int(NEVER_NS)
    return int(_waited_ns(losses, _SYN_RTO_NS))
