"""Global rate limits of one live proxy: what it asks the service, and what it makes of the answer.

Rule: `meshsim.policy.global_rate_limit` decides, over rows of this proxy; this module finds which
rows.  The proxy asks about every descriptor that fits a request, with the limit of each, as
Envoy's descriptors may state it (`limit`), so that the service needs no configuration and a
proxy's limits change with its routes.  How long the service takes is drawn from the request's key,
as in the simulator, and travels with the question.

References
----------
Envoy, api/envoy/extensions/common/ratelimit/v3/ratelimit.proto (RateLimitDescriptor.limit).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from meshsim.policy.global_rate_limit import QUOTA_FAILED, QUOTA_OK, take_answer
from meshsim.policy.routing import RequestAttributes
from meshsim.policy.transitions import STIMULUS_RATE_LIMITED, STIMULUS_REQUEST
from meshsim.rng import PURPOSE_QUOTA, mix_in
from meshsim.state.codes import RESET_NONE, RESET_REMOTE
from meshsim.state.filters import QUOTA_COUNTS_DTYPE, QUOTA_DTYPE, QUOTA_STATS
from meshsim.topology.compiled.draws import Draws
from meshsim.topology.compiled.quotas import Counted, fitting_descriptors, quota_settings
from meshsim.workload.distributions import sample_ns

if TYPE_CHECKING:
    from meshsim.topology.model import GlobalRateLimit

__all__ = ["ProxyQuotas", "Question"]

_ROW = 0


class Question(NamedTuple):
    """What a proxy asks the rate limit service about one request.

    Parameters
    ----------
    domain : str
    descriptors : tuple of Counted
        That fit the request, at least one.
    latency_ns : int
        How long the service takes to answer [model ns].
    """

    domain: str
    descriptors: tuple[Counted, ...]
    latency_ns: int


class ProxyQuotas:
    """Settings and counts of the global rate limits of one proxy."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, QUOTA_COUNTS_DTYPE)
        self._draws = Draws()
        self._distributions, self._values = self._draws.build()
        self._quotas = np.zeros(0, QUOTA_DTYPE)
        self._rows: dict[str, int] = {}

    def _row(self, stated: GlobalRateLimit) -> int:
        """Return the QUOTA row of a limit."""
        name = stated.model_dump_json()
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            fields = (0, 0, self._draws.row(stated.latency), *quota_settings(stated), 1)
            added = np.array([fields], QUOTA_DTYPE)
            self._quotas = np.concatenate((self._quotas, added), dtype=QUOTA_DTYPE)
            self._distributions, self._values = self._draws.build()
        return self._rows[name]

    def question(
        self, stated: GlobalRateLimit, request: RequestAttributes, key: int
    ) -> Question | None:
        """Return what to ask about a request; None if no descriptor fits it, as Envoy does.

        Parameters
        ----------
        stated : GlobalRateLimit
            Of its route.
        request : RequestAttributes
        key : int
            Its draw key.
        """
        descriptors = fitting_descriptors(stated, request)
        if not descriptors:
            return None
        row = self._row(stated)
        draw_key = np.uint64(mix_in(np.uint64(key), PURPOSE_QUOTA << 24))
        distribution = int(self._quotas["distribution"][row])
        latency_ns = int(sample_ns(self._distributions, self._values, distribution, draw_key))
        return Question(stated.domain, tuple(descriptors), latency_ns)

    def timeout_ns(self, stated: GlobalRateLimit) -> int:
        """Return how long an answer is waited for [ns]."""
        row = self._row(stated)
        return int(self._quotas["timeout_ns"][row])

    def heard(self, stated: GlobalRateLimit, answer: int) -> tuple[int, int, int]:
        """Take what was heard of the service about a request.

        Parameters
        ----------
        stated : GlobalRateLimit
        answer : int
            SERVICE_OK, SERVICE_OVER_LIMIT or SERVICE_FAILED.

        Returns
        -------
        stimulus, value, reset : int
            What to tell the machine; STIMULUS_REQUEST: the request may pass.
        """
        row = self._row(stated)
        status = int(take_answer(self._quotas, row, self.counts, _ROW, answer))
        if status == QUOTA_OK:
            return STIMULUS_REQUEST, 0, RESET_NONE
        if status == QUOTA_FAILED:
            failed = int(self._quotas["status_on_error"][row])
            return STIMULUS_RATE_LIMITED, failed, RESET_REMOTE
        return STIMULUS_RATE_LIMITED, status, RESET_NONE

    def counters(self) -> dict[str, int]:
        """Return Envoy's counters of global rate limits that are not 0."""
        counts = {name: int(self.counts[field][_ROW]) for name, field in QUOTA_STATS.items()}
        return {name: count for name, count in counts.items() if count}

    def state(self) -> Iterator[bytes]:
        """Yield the bytes of everything that changes."""
        yield self.counts.tobytes()
