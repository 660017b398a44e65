"""What an outbound proxy asks of the policy engine, and whom it tells what became of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from emulator.recording import ExchangeOutcome
from emulator.upstream import PoolEngine

__all__ = ["Decision", "ExchangeRecorder", "OutboundEngine"]


class Decision(Protocol):
    """What the engine answers to a stimulus."""

    @property
    def action(self) -> int:
        """`ACTION_*` code."""

    @property
    def deadline_ns(self) -> int:
        """When a back-off ends [ns]."""

    @property
    def status(self) -> int:
        """Status to answer with."""

    @property
    def response_flag(self) -> int:
        """`FLAG_*` code to answer with."""


class OutboundEngine(PoolEngine, Protocol):
    """The decisions about requests (`emulator.engine.ProxyEngine`)."""

    @property
    def name(self) -> str:
        """Name of the proxy."""

    def start(
        self,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        traffic_key: int | None,
        now_ns: int,
    ) -> int:
        """Begin an exchange."""

    def route(self, exchange: int, now_ns: int) -> Decision:
        """Route the request."""

    def tell(self, exchange: int, stimulus: int, status: int, reset: int, now_ns: int) -> Decision:
        """Tell the machine what happened."""

    def pick(self, exchange: int, now_ns: int) -> int:
        """Pick a host for the next try."""

    def sent(self, exchange: int, host: int, now_ns: int) -> int:
        """Count a try that has its connection; return when it times out [ns]."""

    def ended(
        self, exchange: int, host: int, outcome: str, failed: bool, rtt_ns: int, now_ns: int
    ) -> None:
        """Discount a try that had a connection."""

    def finish(self, exchange: int) -> None:
        """Forget the exchange."""

    def exchange_deadline_ns(self, exchange: int) -> int:
        """Return when the route times out [ns]."""

    def retry_count(self, exchange: int) -> int:
        """Return how many retries were decided on."""

    def retries_remaining(self, exchange: int) -> int:
        """Return how many retries are left."""


class ExchangeRecorder(Protocol):
    """Whoever keeps the record (`emulator.recording.Recorder`)."""

    def exchange(self, outcome: ExchangeOutcome) -> None:
        """Record an ended request."""
