"""The push queue: which proxy is pushed to next, and how many at once.

Rule (istiod's): first come, first served, with at most one pending push a proxy.  A request for
a proxy that waits merges into its pending one and keeps its place; a request for a proxy that is
being pushed to merges into the one that follows, which is queued when the running one is done.
No more than `throttle` pushes run at once.

A merged request is the union of the types to send, dated by its oldest change: a proxy that
waited through three changes is late by the first of them.

References
----------
istio/istio pilot/pkg/xds/pushqueue.go, pilot/pkg/model/push_context.go (PushRequest.Merge);
pilot/pkg/features/tuning.go (PILOT_PUSH_THROTTLE: 100, or where unset
min(15 + 5 GOMAXPROCS, 100)).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from meshsim.errors import InvariantError

__all__ = ["PUSH_THROTTLE", "PushQueue", "PushRequest"]

#: PILOT_PUSH_THROTTLE: pushes that run at once.
PUSH_THROTTLE = 100


@dataclass(frozen=True)
class PushRequest:
    """What a proxy is to be sent.

    Parameters
    ----------
    types : frozenset of str
        Types of resources that changed.
    changed_ns : int
        When the oldest of these changes became true at the source [ns].
    """

    types: frozenset[str]
    changed_ns: int

    def merged(self, other: PushRequest) -> PushRequest:
        """Return one request for both."""
        return PushRequest(self.types | other.types, min(self.changed_ns, other.changed_ns))


class PushQueue:
    """Pending pushes, in order, and those that run.

    Parameters
    ----------
    throttle : int
        Pushes that may run at once, >= 1.

    Examples
    --------
    >>> queue = PushQueue(throttle=1)
    >>> queue.add("a", PushRequest(frozenset({"routes"}), 5))
    >>> queue.add("b", PushRequest(frozenset({"routes"}), 6))
    >>> queue.add("a", PushRequest(frozenset({"clusters"}), 7))
    >>> name, request = queue.take()
    >>> name, sorted(request.types), request.changed_ns
    ('a', ['clusters', 'routes'], 5)
    >>> queue.take() is None  # one runs
    True
    """

    def __init__(self, throttle: int = PUSH_THROTTLE) -> None:
        self.throttle = throttle
        self._order: deque[str] = deque()
        self._pending: dict[str, PushRequest] = {}
        #: Running pushes, and what came for their proxies meanwhile.
        self._running: dict[str, PushRequest | None] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def running(self) -> int:
        """Pushes that run."""
        return len(self._running)

    def add(self, proxy: str, request: PushRequest) -> None:
        """Add a request; it merges with one that waits for the same proxy."""
        if proxy in self._running:
            following = self._running[proxy]
            self._running[proxy] = request if following is None else following.merged(request)
        elif proxy in self._pending:
            self._pending[proxy] = self._pending[proxy].merged(request)
        else:
            self._pending[proxy] = request
            self._order.append(proxy)

    def take(self) -> tuple[str, PushRequest] | None:
        """Return the next push and count it as running; None if none waits or none may start."""
        if not self._order or len(self._running) >= self.throttle:
            return None
        proxy = self._order.popleft()
        self._running[proxy] = None
        return proxy, self._pending.pop(proxy)

    def done(self, proxy: str) -> None:
        """Note that the push to `proxy` ended, well or not."""
        if proxy not in self._running:
            raise InvariantError(f"push to {proxy} ended, but none ran")
        following = self._running.pop(proxy)
        if following is not None:
            self._pending[proxy] = following
            self._order.append(proxy)

    def keep_only(self, proxies: Iterable[str]) -> None:
        """Forget what waits for any proxy but these; running pushes end by themselves."""
        kept = set(proxies)
        self._order = deque(proxy for proxy in self._order if proxy in kept)
        self._pending = {name: item for name, item in self._pending.items() if name in kept}
        for proxy in self._running.keys() - kept:
            self._running[proxy] = None
