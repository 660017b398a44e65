"""What a rate limit service counts and answers, without sockets and without a clock.

Rule: `meshsim.policy.global_rate_limit.count_request` counts, in one window for each domain,
descriptor and values, for all proxies that ask.  Windows that are over are forgotten when there
are too many; if that is not enough, all are, and counts begin anew.  Every question is a
stimulus (`emulator.decisions.stimuli`), so that a replay meets the same answers; the log begins
with the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from emulator.decisions.stimuli import StimulusLog
from meshsim.errors import LimitError
from meshsim.policy.global_rate_limit import count_request
from meshsim.state.filters import QUOTA_WINDOW_DTYPE
from meshsim.topology.compiled.layout import Rows
from meshsim.topology.compiled.quotas import Counted, window_rows

__all__ = ["DESCRIPTORS_MAX", "WINDOWS_MAX", "RateLimitService", "read_descriptors"]

#: Windows that a service keeps.
WINDOWS_MAX = 1 << 16
#: Descriptors of one question.
DESCRIPTORS_MAX = 1 << 10
_ROWS_FIRST = 64
_UNITS = frozenset(("SECOND", "MINUTE", "HOUR", "DAY"))
_REQUESTS_MAX = 2**32


class RateLimitService:
    """The counts of one rate limit service.

    Parameters
    ----------
    index : int
        In the log: one behind all proxies.
    log : StimulusLog, optional
    """

    def __init__(self, index: int, log: StimulusLog | None = None) -> None:
        self.index = index
        self._log = log
        self._rows: dict[tuple[str, Counted], int] = {}
        self._serves = False
        self._windows: Rows = np.zeros(_ROWS_FIRST, QUOTA_WINDOW_DTYPE)

    def count(self, domain: str, descriptors: Sequence[Any], now_ns: int) -> int:
        """Count one request; return SERVICE_OK or SERVICE_OVER_LIMIT.

        Parameters
        ----------
        domain : str
        descriptors : sequence
            As `read_descriptors` takes them.
        now_ns : int
            Not before that of the last question [model ns].

        Raises
        ------
        LimitError
            If they are more than `DESCRIPTORS_MAX`, or are no descriptors.
        """
        counted = read_descriptors(descriptors)
        if len(self._rows) + len(counted) > WINDOWS_MAX:
            self._forget(now_ns)
        rows = [self._row(domain, item) for item in counted]
        listed = np.array(rows, np.int32)
        if not self._serves:
            self._serves = True
            self._note("serve", None)
        answer = int(count_request(self._windows, listed, 0, len(rows), now_ns))
        self._note("count", domain, descriptors, now_ns, answer)
        return answer

    def _row(self, domain: str, counted: Counted) -> int:
        """Return the window of a descriptor."""
        name = (domain, counted)
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = len(self._rows)
            if row >= len(self._windows):
                longer = np.zeros(2 * len(self._windows), QUOTA_WINDOW_DTYPE)
                longer[: len(self._windows)] = self._windows
                self._windows = longer
            self._windows[row] = window_rows((counted,))[0]
        return row

    def _forget(self, now_ns: int) -> None:
        """Forget the windows that are over; all of them if half of the room is still taken."""
        count = len(self._rows)
        present = now_ns // self._windows["unit_ns"][:count]
        kept = np.flatnonzero(self._windows["number"][:count] == present)
        if len(kept) > WINDOWS_MAX // 2:
            kept = kept[:0]
        names = list(self._rows)
        self._rows = {names[old]: new for new, old in enumerate(kept.tolist())}
        self._windows[: len(kept)] = self._windows[kept]

    def digest(self) -> str:
        """Return a digest of the whole state (64 hex digits)."""
        digest = hashlib.sha256(repr(list(self._rows)).encode())
        digest.update(self._windows[: len(self._rows)].tobytes())
        return digest.hexdigest()

    def close(self) -> str:
        """Write the digest as the last line of this service's log, if it has one; return it."""
        digest = self.digest()
        if self._serves:
            self._note("close", digest)
        return digest

    def _note(self, stimulus: str, *values: Any) -> None:
        if self._log is not None:
            line = json.dumps([self.index, stimulus, *values], separators=(",", ":"))
            self._log.write(line)


def read_descriptors(descriptors: Sequence[Any]) -> list[Counted]:
    """Return descriptors that came over a wire or out of a log.

    Parameters
    ----------
    descriptors : sequence
        Each (entries as pairs, values, unit, requests a unit), as `Counted`.

    Raises
    ------
    LimitError
        If they are more than `DESCRIPTORS_MAX`, or are no descriptors.
    """
    if not 0 < len(descriptors) <= DESCRIPTORS_MAX:
        raise LimitError(f"1 to {DESCRIPTORS_MAX} descriptors, found {len(descriptors)}")
    try:
        return [_counted(*item) for item in descriptors]
    except (TypeError, ValueError):
        raise LimitError(f"no descriptors: {str(descriptors)[:80]}") from None


def _counted(entries: Any, values: Any, unit: Any, requests: Any) -> Counted:
    """Return one descriptor; ValueError or TypeError if it is none."""
    if unit not in _UNITS or type(requests) is not int or not 0 <= requests < _REQUESTS_MAX:
        raise ValueError("no limit")
    pairs = tuple((name, wanted) for name, wanted in entries)
    texts = (*values, *(text for pair in pairs for text in pair))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("no text")
    return pairs, tuple(values), unit, requests
