"""What an inbound proxy asks its engine about a request that came in.

Rule: the engine decides (`ProxyEngine.admit`, then `ConcurrencyGate.enter`); here a request's head
becomes their arguments.  The draws of a try belong to the request and to its number, as they do
at the server.  A request that the gate let in is counted out when its exchange ends.  A limit per
connection knows connections by their numbers (`DownstreamConnection.number`).
"""

from __future__ import annotations

import numpy as np

from emulator.clock import ModelClock
from emulator.decisions.engine import ProxyEngine
from emulator.decisions.filters import AUTHORITY
from emulator.http.heads import RequestHead
from emulator.proxy.context import TextHeaders, decimal, draw_key, joined
from emulator.proxy.inbound import Leave, Refusal
from meshsim.policy.adaptive_concurrency import ADMITTED
from meshsim.rng import mix_in
from meshsim.state.codes import FLAG_NONE, FLAG_RL

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

    def admit(self, head: RequestHead, connection: int) -> Refusal | Leave | None:
        """Return what a request is refused with, what to call when it ends, or None."""
        limited = self._engine.has_inbound_filters
        refusal = self._check_limit(head, connection) if limited else None
        if refusal is not None or not self._engine.gate.active:
            return refusal
        entered_ns = self._clock.now_ns()
        status, life = self._engine.gate.enter(entered_ns)
        if status != ADMITTED:
            return Refusal(status, [], FLAG_NONE)

        def leave(answered: bool) -> None:
            self._engine.gate.leave(life, entered_ns, answered, self._clock.now_ns())

        return leave

    def disconnected(self, connection: int) -> None:
        """Tell the engine that a connection is closed."""
        self._engine.disconnected(connection)

    def _check_limit(self, head: RequestHead, connection: int) -> Refusal | None:
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
            connection,
            self._clock.now_ns(),
        )
        return Refusal(status, self._engine.refusal_headers(), FLAG_RL) if status else None
