"""What the exchanges of one outbound proxy share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.http.heads import RequestHead
from emulator.proxy.probes import Probes
from emulator.proxy.rate_limits import RateLimits
from emulator.proxy.upstream import UpstreamPools
from emulator.results.recording import ExchangeOutcome

__all__ = ["ExchangeRecorder", "ProxyServices"]


class ExchangeRecorder(Protocol):
    """Whoever keeps the record (`emulator.results.recording.Recorder`)."""

    def exchange(self, outcome: ExchangeOutcome) -> None:
        """Record an ended request."""


class ProxyServices(NamedTuple):
    """What the exchanges of one proxy share."""

    engine: ProxyEngine
    clock: ModelClock
    pools: UpstreamPools
    rate_limits: RateLimits
    probes: Probes
    recorder: ExchangeRecorder | None
    count_end: Callable[[int], object]
    counts: Counter[str]
    #: (exchange, head, headers by name, body) of a request whose route has mirrors.
    mirror: Callable[[int, RequestHead, dict[bytes, bytes], tuple[bytes, ...]], object]
