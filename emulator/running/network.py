"""The network of a live mesh: which zones are cut off, and between which it is bad.

Rule: the harness keeps what is wrong and tells every process all of it; a process applies it to
its proxies' side of each connection (`emulator.proxy.wire`), as loopback loses and delays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshsim.errors import ConfigError, Problem
from meshsim.topology.base import Distribution
from meshsim.yamlfile import did_you_mean

if TYPE_CHECKING:
    from emulator.running.run import Run

__all__ = ["LiveNetwork"]


class LiveNetwork:
    """What is wrong with the network of one run.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cut_off: set[str] = set()
        self._impaired: dict[tuple[str, str], tuple[Distribution | None, float]] = {}

    async def cut_off(self, zone: str) -> None:
        """Lose every packet between a zone and the others."""
        self._cut_off.add(self._zone(zone))
        await self._write_partitions()

    async def join(self, zone: str) -> None:
        """Let packets between a zone and the others through."""
        self._cut_off.discard(self._zone(zone))
        await self._write_partitions()

    async def impair(
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
        await self._write_impairments()

    async def mend(self, zones: Sequence[str]) -> None:
        """Let two zones have no extra latency or loss between them."""
        for pair in self._pairs(zones):
            self._impaired.pop(pair, None)
        await self._write_impairments()

    async def heal(self) -> None:
        """Let the whole network be sound again."""
        self._impaired.clear()
        self._cut_off.clear()
        await self._write_impairments()
        await self._write_partitions()

    async def _write_partitions(self) -> None:
        """Tell every process which proxies cannot reach which endpoints."""
        layout, traffic = self._run.compiled.layout, self._run.topology.traffic
        at = [layout.zones[row] for row in layout.endpoint_zone]
        zones = dict(zip(layout.endpoint_names, at, strict=True))
        clients = {f"gateway-{name}": it.zone or layout.zones[0] for name, it in traffic.items()}
        unreachable = {
            client: sorted(
                name
                for name, zone in zones.items()
                if zone != mine and self._cut_off & {zone, mine}
            )
            for client, mine in {**zones, **clients}.items()
        }
        await self._run.tell_all("partition", unreachable=unreachable)

    async def _write_impairments(self) -> None:
        """Tell every process between which zones the network is bad."""
        pairs = [
            (*pair, None if latency is None else latency.model_dump(exclude_none=True), loss)
            for pair, (latency, loss) in self._impaired.items()
        ]
        await self._run.tell_all("impair", pairs=pairs)

    def _zone(self, name: str) -> str:
        zones = self._run.compiled.layout.zones
        if name not in zones:
            allowed, near = ", ".join(zones[:20]), did_you_mean(name, zones)
            raise ConfigError(
                [Problem("unknown zone", found=name, allowed=allowed, suggestion=near)]
            )
        return name

    def _pairs(self, zones: Sequence[str]) -> list[tuple[str, str]]:
        """Return the way from the first zone to the second, and the way back."""
        if isinstance(zones, str) or len(zones) != 2:
            allowed = "two, from one to the other"
            raise ConfigError([Problem("a pair of zones", found=str(zones), allowed=allowed)])
        source, target = (self._zone(name) for name in zones)
        return [(source, target), (target, source)]
