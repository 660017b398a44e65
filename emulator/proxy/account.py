"""Where the time of one request at an outbound proxy goes, for the record.

Rule: an answered try says itself how long its workload had it (``x-meshsim-server-ns``, of which
it queued and was served); the rest of its time, and the way to the first try's connection, is
the proxies' and the wire's.
"""

from __future__ import annotations

from emulator.http.heads import RequestHead
from emulator.proxy.context import decimal
from emulator.results.recording import ExchangeOutcome

__all__ = ["TimeAccount"]


class TimeAccount:
    """The times of one request, and what else is recorded of it.

    Attributes
    ----------
    started_ns, sent_ns : int
        When it began, and its newest try was sent [model ns].
    request_bytes, response_bytes : int
        Of the bodies.
    endpoint : str
        Name of the newest try's host.
    """

    __slots__ = (
        "_first_sent_ns", "_head", "_other_ns", "_queue_ns", "_service_ns", "_values", "endpoint",
        "request_bytes", "response_bytes", "sent_ns", "started_ns",
    )  # fmt: skip

    def __init__(self, head: RequestHead, values: dict[bytes, bytes]) -> None:
        self._head = head
        self._values = values
        self.started_ns = 0
        self.sent_ns = 0
        self.endpoint = ""
        self.request_bytes = 0
        self.response_bytes = 0
        self._first_sent_ns = -1
        self._other_ns = 0
        self._queue_ns = 0
        self._service_ns = 0

    def sent(self, now_ns: int) -> None:
        """Note that a try is sent."""
        self.sent_ns = now_ns
        if self._first_sent_ns < 0:
            self._first_sent_ns = now_ns

    def answered(self, values: dict[bytes, bytes], now_ns: int) -> None:
        """Note where the time of an answered try went, as its workload says in its headers."""
        if b"x-meshsim-server-ns" not in values:
            return
        server_ns = decimal(values[b"x-meshsim-server-ns"])
        self._queue_ns += max(decimal(values.get(b"x-meshsim-queue-ns")), 0)
        self._service_ns += max(decimal(values.get(b"x-meshsim-service-ns")), 0)
        if server_ns >= 0:
            if self._other_ns == 0:  # the way to the first try's connection, once
                self._other_ns = self._first_sent_ns - self.started_ns
            self._other_ns += max(now_ns - self.sent_ns - server_ns, 0)

    def outcome(
        self, proxy: str, status: int, response_flag: int, retry_count: int, now_ns: int
    ) -> ExchangeOutcome:
        """Return the record of the request, which ends now."""
        return ExchangeOutcome(
            proxy,
            self._head.host,
            self._text(b"x-meshsim-operation"),
            self._text(b"x-meshsim-traffic"),
            decimal(self._values.get(b"x-meshsim-number")),
            status,
            response_flag,
            retry_count,
            self.started_ns,
            now_ns,
            self._queue_ns,
            self._service_ns,
            self.request_bytes,
            self.response_bytes,
            decimal(self._values.get(b"x-meshsim-arrival")),
            self.endpoint,
            self._text(b"x-meshsim-key"),
            self._text(b"x-meshsim-parent"),
            self._other_ns,
        )

    def _text(self, name: bytes) -> str:
        return self._values.get(name, b"").decode("latin-1")
