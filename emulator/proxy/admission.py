"""What an inbound proxy asks its engine about a request that came in.

Rule: the engine decides (`ProxyEngine.admit`); here a request's head becomes its arguments.  The
draws of a try belong to the request and to its number, as they do at the server.
"""

from __future__ import annotations

import numpy as np

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.decisions.filters import AUTHORITY
from emulator.http.heads import RequestHead
from emulator.proxy.context import TextHeaders, decimal, draw_key, joined
from emulator.proxy.inbound import Refusal
from meshsim.rng import mix_in

__all__ = ["Admission"]


class Admission:
    """Questions of one inbound proxy.

    Parameters
    ----------
    engine : ProxyEngine
    clock : ModelClock
    """

    def __init__(self, engine: ProxyEngine, clock: ModelClock) -> None:
        self._engine = engine
        self._clock = clock
        self._count = 0

    def admit(self, head: RequestHead) -> Refusal | None:
        """Return what a request is refused with, or None."""
        if not self._engine.has_inbound_filters:
            return None
        self._count += 1
        values = joined(head.headers)
        key = draw_key(values.get(b"x-meshsim-key"))
        if key is None:
            key = self._count
        try_number = max(decimal(values.get(b"x-envoy-attempt-count")) - 1, 0)
        headers = TextHeaders(values)
        status = self._engine.admit(
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            headers.get(AUTHORITY, head.host),
            headers,
            int(mix_in(np.uint64(key), try_number)),
            self._clock.now_ns(),
        )
        return (status, self._engine.refusal_headers()) if status else None
