"""What an outbound proxy says of a request that has ended, for the record."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ExchangeOutcome"]


class ExchangeOutcome(NamedTuple):
    """One ended request at an outbound proxy.

    Parameters
    ----------
    proxy, service : str
        Who called whom; a gateway is named ``gateway-<class>``.
    operation, traffic : str
        Of the headers ``x-meshsim-operation`` and ``x-meshsim-traffic``; empty if absent.
    number : int
        Of ``x-meshsim-number``; -1 if absent.
    status : int
        Sent down; 0 if the caller had gone.
    response_flag : int
        `FLAG_*` code.
    retry_count : int
        Retries that were decided on.
    started_ns, ended_ns : int
        Model time of the head's arrival and of the last byte down [ns].
    queue_ns, service_ns : int
        Sums over the answered tries, as the workloads say in their responses [ns].
    request_bytes, response_bytes : int
        Bodies, as received [bytes].
    arrived_ns : int
        Intended arrival of the root request, of ``x-meshsim-arrival`` [ns]; -1 if absent.
    endpoint : str
        Of the last try; empty if no host was picked.
    key, parent : str
        Draw key of the exchange (``x-meshsim-key``), and of the one whose server called
        (``x-meshsim-parent``: "0" for a root, empty unless the request is sampled); hexadecimal.
    other_ns : int
        Time in proxies and on the wire of the answered tries [ns].
    """

    proxy: str
    service: str
    operation: str
    traffic: str
    number: int
    status: int
    response_flag: int
    retry_count: int
    started_ns: int
    ended_ns: int
    queue_ns: int
    service_ns: int
    request_bytes: int
    response_bytes: int
    arrived_ns: int = -1
    endpoint: str = ""
    key: str = ""
    parent: str = ""
    other_ns: int = 0
