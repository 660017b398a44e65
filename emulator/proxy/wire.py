"""A bad network between one proxy and its upstreams: what is sent and what comes arrive late.

Rule: `meshsim.workload.impairments` says how late a message is, with draws that count messages.
Whatever is handed to a socket, or comes from one, at once is a message; it is passed on when it
would have arrived, in the order in which it was sent.  Times are model time.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.clock import ModelClock
from emulator.http.connection import UpstreamConnection
from meshsim.rng import PURPOSE_WIRE, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.workload import IMPAIRMENT_DTYPE
from meshsim.topology.base import Distribution
from meshsim.workload.distributions import build_distributions
from meshsim.workload.impairments import LEG_HANDSHAKE, message_ns, syn_ns

__all__ = ["Impairment", "Wire"]


@dataclass(frozen=True)
class Impairment:
    """What is wrong between a proxy and an endpoint, and back.

    Parameters
    ----------
    latency_out, latency_back : Distribution or None
        Added to each message to the endpoint, and from it.
    loss_out, loss_back : float
        Share of the packets, 0 to 1.
    """

    latency_out: Distribution | None = None
    latency_back: Distribution | None = None
    loss_out: float = 0.0
    loss_back: float = 0.0


class Wire:
    """The network as one proxy sees it, sound at first.

    Parameters
    ----------
    clock : ModelClock
    seed : int
        Of its draws, below 2**64.
    """

    def __init__(self, clock: ModelClock, seed: int) -> None:
        self._clock = clock
        self._key = np.uint64(mix_in(np.uint64(seed), PURPOSE_WIRE << 24))
        self._number = 0
        self._rows: dict[str, int] = {}
        self._impairments = np.zeros(0, IMPAIRMENT_DTYPE)
        self._distributions, self._values = build_distributions([])

    def impair(self, wrong: Mapping[str, Impairment]) -> None:
        """Take what is wrong on the way to each endpoint of these names, and of no other."""
        kinds = list(dict.fromkeys(wrong.values()))
        self._rows = {name: kinds.index(item) for name, item in wrong.items()}
        latencies = [at for item in kinds for at in (item.latency_out, item.latency_back) if at]
        stated = list(dict.fromkeys(latencies))
        self._distributions, self._values = build_distributions(stated)
        rows = np.zeros(len(kinds), IMPAIRMENT_DTYPE)
        for row, item in zip(rows, kinds, strict=True):
            row["base"] = NO_INDEX
            row["latency_out"] = _place(item.latency_out, stated)
            row["latency_back"] = _place(item.latency_back, stated)
            row["loss_out"], row["loss_back"] = item.loss_out, item.loss_back
        self._impairments = rows

    def is_sound(self, name: str) -> bool:
        """Return whether nothing is wrong on the way to an endpoint."""
        return name not in self._rows

    def _next_key(self) -> np.uint64:
        self._number += 1
        return np.uint64(mix_in(self._key, self._number))

    def _message_ns(self, name: str, leg: int) -> int:
        arrays = self._impairments, self._distributions, self._values
        return int(message_ns(*arrays, self._rows[name], leg, 0, self._next_key()))

    def message_s(self, name: str, leg: int) -> float:
        """Return how late a message to (leg 0) or from (leg 1) an endpoint is [real s]."""
        if self.is_sound(name):
            return 0.0
        return self._clock.real_s(self._message_ns(name, leg))

    async def connect(self, name: str) -> None:
        """Wait for as long as the network delays a connection to an endpoint: for ever, if so."""
        if self.is_sound(name):
            return
        waited_ns = int(syn_ns(self._impairments, self._rows[name], self._next_key()))
        if waited_ns == NEVER_NS:
            await asyncio.Event().wait()
        waited_ns += 2 * self._message_ns(name, LEG_HANDSHAKE)
        await asyncio.sleep(self._clock.real_s(waited_ns))

    def attach(self, connection: UpstreamConnection, name: str) -> None:
        """Let an established connection be as late as the way to its endpoint is.

        One that was late stays on its timers, or what is under way would be overtaken.
        """
        if not self.is_sound(name) or connection.late_s is not None:
            connection.late_s = functools.partial(self.message_s, name)


def _place(latency: Distribution | None, stated: Iterable[Any]) -> int:
    return NO_INDEX if latency is None else list(stated).index(latency)
