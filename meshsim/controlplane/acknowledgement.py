"""Acknowledgement: what a proxy makes of a resource, and what the control plane knows of it.

Rule, at the proxy (`Holding`): a resource is taken if its version is higher than the held one of
its type and its body can be carried out; the others stay as they are.  The same version with the
same body is a message delivered twice and is acknowledged again.  An older or equal version is
a replay, and refused.  Resources take effect together as soon as they fit: while routes name
clusters that have not come, the last configuration that fits keeps serving (Envoy calls this
warming), so the order in which messages arrive does not matter.

Rule, at the control plane (`Ledger`): a pushed version is awaited until it is acknowledged
(ACK), refused (NACK: not sent again before it changes) or overtaken by a newer one.  An
acknowledgement that does not come in time means that the message or the answer was lost, or that
the proxy is gone: the version is pushed again, and each time in vain the wait doubles, up to
`BACK_OFF_MAX` times the first.  Whatever a proxy says ends its back-off.  Propagation is measured
from the change at the source to the proxy's own statement of when the version took effect; a
statement outside [published, answered] is not believed, and the arrival of the answer is taken.

References
----------
Envoy, docs/root/api-docs/xds_protocol.rst (ACK/NACK, warming, eventual consistency);
istio/istio pilot/pkg/xds/ads.go (pilot_proxy_convergence_time: change to acknowledgement).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshsim.controlplane.configuration import (
    TYPES,
    ProxyConfiguration,
    Resource,
    missing_clusters,
    with_resource,
)
from meshsim.controlplane.signing import read_json
from meshsim.controlplane.snapshots import Held, canonical, digest_of
from meshsim.errors import ConfigError
from meshsim.state.codes import NEVER_NS

__all__ = [
    "ACK_TIMEOUT_NS",
    "BACK_OFF_MAX",
    "Acknowledgement",
    "Holding",
    "Ledger",
    "Propagation",
    "read_acknowledgements",
    "read_held",
    "write_acknowledgements",
    "write_held",
]

#: An acknowledgement that takes longer is taken for lost [ns].
ACK_TIMEOUT_NS = 5_000_000_000
#: The longest wait for a proxy that does not answer, in first waits.
BACK_OFF_MAX = 16
#: Longest reason of a NACK that travels, and longest statement of a proxy.
_REASON_CHARACTERS_MAX = 500
_STATEMENT_BYTES_MAX = 16 * 1024
#: Answers in one message.
_ANSWERS_MAX = 16
#: Propagations remembered; beyond it the oldest are dropped, and counted.
_PROPAGATIONS_MAX = 200_000
_VERSION_MAX = 2**53


class Acknowledgement(NamedTuple):
    """A proxy's answer to one resource; `reason` is empty if it took effect (ACK)."""

    kind: str
    version: int
    effective_ns: int
    reason: str = ""


class Propagation(NamedTuple):
    """How one version reached one proxy [ns]."""

    proxy: str
    type: str
    version: int
    changed_ns: int
    published_ns: int
    effective_ns: int


# --- Statements on the wire -----------------------------------------------------------------


def write_acknowledgements(answers: Iterable[Acknowledgement]) -> bytes:
    """Return `answers` as one message; a long reason is cut."""
    short = (answer._replace(reason=answer.reason[:_REASON_CHARACTERS_MAX]) for answer in answers)
    return canonical([answer._asdict() for answer in short])


def read_acknowledgements(payload: bytes) -> list[Acknowledgement]:
    """Return the answers in `payload`.

    Raises
    ------
    ConfigError
        If there are none.
    """
    content = _statement(payload)
    if not isinstance(content, list) or len(content) > _ANSWERS_MAX:
        raise ConfigError(f"at most {_ANSWERS_MAX} answers are wanted")
    return [_answer(item) for item in content]


def _answer(content: Any) -> Acknowledgement:
    if not isinstance(content, dict) or content.keys() != set(Acknowledgement._fields):
        raise ConfigError("not an answer")
    if content["kind"] not in TYPES:
        raise ConfigError("kind: unknown type")
    _count(content["version"], "version", _VERSION_MAX)
    effective_ns = content["effective_ns"]  # model time may begin below 0
    if not isinstance(effective_ns, int) or isinstance(effective_ns, bool):
        raise ConfigError("effective_ns: not a whole number")
    reason = content["reason"]
    if not isinstance(reason, str) or len(reason) > _REASON_CHARACTERS_MAX:
        raise ConfigError("reason: not a short text")
    return Acknowledgement(**content)


def write_held(held: Mapping[str, Held]) -> bytes:
    """Return what a proxy holds as a message."""
    return canonical({kind: item._asdict() for kind, item in held.items()})


def read_held(payload: bytes) -> dict[str, Held]:
    """Return what a proxy holds, by type.

    Raises
    ------
    ConfigError
        If `payload` does not say.
    """
    content = _statement(payload)
    if not isinstance(content, dict):
        raise ConfigError("not a mapping")
    held = {}
    for kind, item in content.items():
        if kind not in TYPES or not isinstance(item, dict) or item.keys() != {"version", "digest"}:
            raise ConfigError(f"{kind[:60]}: version and digest of a known type are wanted")
        if not isinstance(item["digest"], str):
            raise ConfigError(f"{kind}.digest: not a text")
        held[kind] = Held(_count(item["version"], f"{kind}.version", _VERSION_MAX), item["digest"])
    return held


def _statement(payload: bytes) -> Any:
    if len(payload) > _STATEMENT_BYTES_MAX:
        raise ConfigError(f"{len(payload)} bytes; allowed: {_STATEMENT_BYTES_MAX}")
    return read_json(payload)


def _count(value: Any, path: str, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise ConfigError(f"{path}: not a whole number below {limit}")
    return value


# --- The proxy's side -----------------------------------------------------------------------


class Holding:
    """What a proxy has received, and what of it is in effect.

    Parameters
    ----------
    proxy : str
        Its name.
    apply : callable, optional
        Called with a configuration before it counts as effective; raises ConfigError if it
        cannot be carried out.
    """

    def __init__(
        self, proxy: str, apply: Callable[[ProxyConfiguration], None] | None = None
    ) -> None:
        self._apply = apply
        #: The configuration that serves; without versions until the first took effect.
        self.effective = ProxyConfiguration(proxy)
        self._newest = ProxyConfiguration(proxy)
        #: The last acknowledgement of each type: sent again on each connect, for the first may
        #: have been lost.
        self.acknowledgements: dict[str, Acknowledgement] = {}
        self._digests: dict[str, str] = {}

    @property
    def held(self) -> dict[str, Held]:
        """Version and digest of each type received, in effect or warming."""
        return {
            kind: Held(version, self._digests[kind])
            for kind, version in self._newest.versions.items()
        }

    @property
    def is_complete(self) -> bool:
        """Whether every type is in effect."""
        return self.effective.versions.keys() == set(TYPES)

    def on_resource(self, resource: Resource, now_ns: int) -> list[Acknowledgement]:
        """Take a resource in; return the answers due, none while it waits for others.

        `effective` changes if the resource, and those that waited for it, take effect.

        Raises
        ------
        ConfigError
            If the resource is refused: malformed, another proxy's, not newer than the held one,
            or impossible to apply.  Nothing has changed then.
        """
        candidate = with_resource(self._newest, resource)
        kind, version = resource["type"], resource["version"]
        digest = digest_of(resource["body"])
        before = self.held.get(kind)
        if before is not None and version <= before.version:
            if (version, digest) != before:
                raise ConfigError(f"replay: version {version} of {kind}, held: {before.version}")
            answer = self.acknowledgements.get(kind)
            return [answer] if answer is not None and answer.version == version else []
        answers = self._take_effect(candidate, now_ns)
        self._newest = candidate
        self._digests[kind] = digest
        return answers

    def _take_effect(self, candidate: ProxyConfiguration, now_ns: int) -> list[Acknowledgement]:
        """Let the newest of every type serve, if they are complete and fit."""
        if candidate.versions.keys() != set(TYPES) or missing_clusters(candidate):
            return []
        if self._apply is not None:
            self._apply(candidate)
        before = self.effective.versions
        self.effective = candidate
        answers = [
            Acknowledgement(kind, version, now_ns)
            for kind, version in self.effective.versions.items()
            if before.get(kind) != version
        ]
        self.acknowledgements |= {answer.kind: answer for answer in answers}
        return answers


# --- The control plane's side ---------------------------------------------------------------


@dataclass
class _Awaited:
    version: int
    changed_ns: int
    published_ns: int
    deadline_ns: int
    losses: int = 0  # in a row, since the proxy was last heard


class Ledger:
    """Who has acknowledged what.

    Parameters
    ----------
    timeout_ns : int
        First wait for an answer before the version is pushed again [ns].

    Examples
    --------
    >>> ledger = Ledger(timeout_ns=100)
    >>> ledger.on_published("a", "routes", 2, 0, 0)
    >>> ledger.overdue(100), ledger.deadline_ns  # in vain once: twice the wait
    ({'a': frozenset({'routes'})}, 300)
    >>> ledger.on_heard("a", 110)
    >>> ledger.deadline_ns
    210
    """

    def __init__(self, timeout_ns: int = ACK_TIMEOUT_NS) -> None:
        self.timeout_ns = timeout_ns
        #: Answers counted: acknowledged, refused, and of versions nobody waits for.
        self.counters = {"ack": 0, "nack": 0, "stray": 0, "lost": 0}
        #: Last refusals: (proxy, answer), newest last.
        self.refusals: deque[tuple[str, Acknowledgement]] = deque(maxlen=1000)
        self.propagations: deque[Propagation] = deque(maxlen=_PROPAGATIONS_MAX)
        self._awaited: dict[tuple[str, str], _Awaited] = {}
        #: (deadline, proxy, type), a heap; one that is not the deadline of what is awaited is void.
        self._deadlines: list[tuple[int, str, str]] = []

    @property
    def awaited(self) -> int:
        """Resources whose answer is due."""
        return len(self._awaited)

    @property
    def deadline_ns(self) -> int:
        """When `overdue` has something to return, or NEVER_NS [ns]."""
        deadlines = self._deadlines
        while deadlines:
            deadline_ns, *key = deadlines[0]
            item = self._awaited.get((key[0], key[1]))
            if item is not None and item.deadline_ns == deadline_ns:
                return deadline_ns
            heapq.heappop(deadlines)
        return NEVER_NS

    def _await(self, key: tuple[str, str], item: _Awaited, now_ns: int) -> None:
        """Set the deadline of `item` by how often its proxy did not answer."""
        wait_ns = max(self.timeout_ns, 1) * min(2**item.losses, BACK_OFF_MAX)
        item.deadline_ns = now_ns + wait_ns
        self._awaited[key] = item
        heapq.heappush(self._deadlines, (item.deadline_ns, *key))

    def on_published(
        self, proxy: str, kind: str, version: int, changed_ns: int, now_ns: int
    ) -> None:
        """Note that a version was handed to the bus.  The oldest unanswered change counts."""
        before = self._awaited.get((proxy, kind))
        published_ns, losses = now_ns, 0
        if before is not None:
            losses = before.losses
            changed_ns = min(changed_ns, before.changed_ns)
            if before.version == version:
                published_ns = before.published_ns
        item = _Awaited(version, changed_ns, published_ns, NEVER_NS, losses)
        self._await((proxy, kind), item, now_ns)

    def on_heard(self, proxy: str, now_ns: int) -> None:
        """End the back-off of a proxy that says anything: it lives."""
        for kind in TYPES:
            item = self._awaited.get((proxy, kind))
            if item is not None and item.losses:
                item.losses = 0
                self._await((proxy, kind), item, now_ns)

    def on_answer(self, proxy: str, answer: Acknowledgement, now_ns: int) -> None:
        """Take in what a proxy answered."""
        item = self._awaited.get((proxy, answer.kind))
        if answer.reason:
            self.counters["nack"] += 1
            self.refusals.append((proxy, answer))
        if item is None or item.version != answer.version:
            self.counters["stray"] += not answer.reason
            return
        del self._awaited[proxy, answer.kind]
        if answer.reason:
            return
        self.counters["ack"] += 1
        believed = item.published_ns <= answer.effective_ns <= now_ns
        effective_ns = answer.effective_ns if believed else now_ns
        self.propagations.append(
            Propagation(
                proxy, answer.kind, item.version, item.changed_ns, item.published_ns, effective_ns
            )
        )

    def overdue(self, now_ns: int) -> dict[str, frozenset[str]]:
        """Return types to push again by proxy; their deadlines move on, further each time."""
        found: dict[str, set[str]] = {}
        while self.deadline_ns <= now_ns:
            _, proxy, kind = heapq.heappop(self._deadlines)
            item = self._awaited[proxy, kind]
            item.losses += 1
            self._await((proxy, kind), item, now_ns)
            found.setdefault(proxy, set()).add(kind)
            self.counters["lost"] += 1
        return {proxy: frozenset(kinds) for proxy, kinds in found.items()}

    def forget(self, proxy: str) -> None:
        """Await nothing of `proxy` any more: it is gone."""
        for key in [key for key in self._awaited if key[0] == proxy]:
            del self._awaited[key]
