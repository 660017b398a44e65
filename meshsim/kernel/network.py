"""The network as it is at the moment: which pairs of zones have which latency and loss.

Rule: a pair is directed.  What the wire between a client's zone and a server's costs is one
distribution; while either direction between them is impaired, that is an IMPAIRED one in its
place, which names the sound distribution and what is wrong in each direction
(`meshsim.workload.impairments`).  Endpoints of one node do not use the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meshsim.errors import ConfigError, Problem
from meshsim.jit import kernel_jit
from meshsim.kernel.naming import row_of
from meshsim.state.codes import NO_INDEX
from meshsim.state.workload import DISTRIBUTION_DTYPE, IMPAIRED, IMPAIRMENT_DTYPE
from meshsim.topology.base import Distribution
from meshsim.workload.distributions import build_distributions, sample_ns
from meshsim.workload.impairments import message_ns, syn_ns

__all__ = ["Network", "impaired_wire", "wait_for_syn"]


@kernel_jit
def impaired_wire(state: Any, row: int, generation: int) -> int:
    """Return the latency of a message [ns]; `row` is DISTRIBUTION * 4 + leg, then its key."""
    distribution = row >> 2
    impairment = state.distributions["start"][distribution]
    key = np.uint64(generation)
    base = state.impairments["base"][impairment]
    base_ns = sample_ns(state.distributions, state.values, base, key)
    return message_ns(
        state.impairments, state.distributions, state.values, impairment, row & 3, base_ns, key
    )


@kernel_jit
def wait_for_syn(state: Any, row: int, generation: int) -> int:
    """Return by how much lost packets delay a connection [ns], or NEVER_NS; as `impaired_wire`."""
    if state.distributions["kind"][row] != IMPAIRED:
        return 0
    return syn_ns(state.impairments, state.distributions["start"][row], np.uint64(generation))


class Network:
    """What is wrong with the wires of a kernel.

    Parameters
    ----------
    kernel : Kernel
        Its memory is modified.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        state = kernel.state
        self._sound = {
            name: getattr(state, name).copy() for name in ("distributions", "values", "wire")
        }
        #: (latency, loss) by (from zone, to zone).
        self._impaired: dict[tuple[int, int], tuple[Distribution | None, float]] = {}
        self._cut_off: set[int] = set()

    def impair(
        self, zones: Sequence[str], latency: Distribution | None, loss: float, *, one_way: bool
    ) -> None:
        """Give the way from one zone to another, and back, this latency and loss, and no other.

        Raises
        ------
        ConfigError
            If these are no two zones.
        """
        for pair in self._pairs(zones)[: 1 if one_way else 2]:
            self._impaired[pair] = (latency, loss)
        self._write()

    def mend(self, zones: Sequence[str]) -> None:
        """Let two zones have no extra latency or loss between them."""
        for pair in self._pairs(zones):
            self._impaired.pop(pair, None)
        self._write()

    def cut_off(self, zone: str) -> None:
        """Lose every packet between a zone and the others."""
        self._cut_off.add(self._zone(zone))
        self._write()

    def join(self, zone: str) -> None:
        """Let packets between a zone and the others through."""
        self._cut_off.discard(self._zone(zone))
        self._write()

    def heal(self) -> None:
        """Let every wire be sound again."""
        self._impaired.clear()
        self._cut_off.clear()
        self._write()

    def _zone(self, name: str) -> int:
        return row_of("zone", name, self._kernel.compiled.layout.zones)

    def _pairs(self, zones: Sequence[str]) -> list[tuple[int, int]]:
        """Return the way from the first zone to the second, and the way back."""
        if isinstance(zones, str) or len(zones) != 2:
            allowed = "two, from one to the other"
            raise ConfigError([Problem("a pair of zones", found=str(zones), allowed=allowed)])
        source, target = (self._zone(name) for name in zones)
        return [(source, target), (target, source)]

    def _write(self) -> None:
        """Write rows for what is wrong now."""
        state = self._kernel.state
        distributions, values = self._sound["distributions"], self._sound["values"]
        stated = list(dict.fromkeys(item for item, _ in self._impaired.values() if item))
        added, more = build_distributions(stated)
        added["start"] += len(values)
        first = {item: len(distributions) + row for row, item in enumerate(stated)}
        wire = self._sound["wire"].copy()
        impairments: list[tuple[float, ...]] = []
        zones = wire.shape[1]
        for client in range(zones):
            for server in range(zones):
                out, back = self._wrong(client, server, first), self._wrong(server, client, first)
                if out == back == (NO_INDEX, 0.0):
                    continue
                base = int(wire[client, server])
                wire[client, server] = len(distributions) + len(added) + len(impairments)
                impairments.append((base, out[0], back[0], out[1], back[1]))
        rows = np.zeros(len(impairments), DISTRIBUTION_DTYPE)
        rows["kind"] = IMPAIRED
        rows["start"] = np.arange(len(impairments))
        state.replace(
            distributions=np.concatenate([distributions, added, rows], dtype=DISTRIBUTION_DTYPE),
            values=np.concatenate([values, more]),
            impairments=np.array(impairments, IMPAIRMENT_DTYPE),
            wire=wire,
        )

    def _wrong(self, source: int, target: int, first: dict[Distribution, int]) -> tuple[int, float]:
        """Return the extra latency, as a DISTRIBUTION, and the loss of one direction."""
        latency, loss = self._impaired.get((source, target), (None, 0.0))
        if source != target and self._cut_off & {source, target}:
            loss = 1.0
        return (NO_INDEX if latency is None else first[latency]), loss
