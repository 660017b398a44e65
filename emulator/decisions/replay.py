"""Replay: the stimuli of a log, told to new engines, must meet the same decisions.

Rule: an engine's answers are a function of its stimuli, so a new engine that is told the same
must answer the same, down to the digest of its state.  The first answer that differs is a
*divergence*; what that proxy was told afterwards says nothing any more and is passed over.  A
divergence tells its story: the stimuli of the same exchange before it, or the last ones of the
proxy where it belongs to none.

A life without a digest ended without notice: its proxy was killed, or the log was cut off with
the process that wrote it.  It is replayed as far as it goes, and the report says so.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emulator.decisions.engine import ProxyEngine
from emulator.decisions.exchanges import ASK
from emulator.decisions.rate_limit_service import RateLimitService
from emulator.decisions.stimuli import Stimulus, StimulusFile
from meshsim.controlplane.configuration import ProxyConfiguration, with_resource
from meshsim.errors import MeshsimError
from meshsim.policy.transitions import ACTION_NAMES, STIMULUS_COUNT, STIMULUS_NAMES
from meshsim.state.codes import FLAG_NAMES, NEVER_NS

__all__ = ["Divergence", "Life", "Replay", "describe", "replay"]

#: Stimuli of one exchange, or of one proxy, that are kept for a story.
_STORY_MAX = 32
#: Stimuli that belong to an exchange: their first argument is its number.
_OF_EXCHANGE = frozenset(
    (
        "bound",
        "route",
        "heard",
        "hear_reset",
        "tell",
        "tell_of",
        "pick",
        "sent",
        "ended",
        "finish",
        "mirror",
        "pace",
    )
)
#: Position of the host among the arguments.
_HOST_AT = {
    "sent": 1,
    "tell_of": 1,
    "ended": 1,
    **dict.fromkeys(("can_wait", "can_open", "can_send", "opened", "closed"), 0),
    **dict.fromkeys(("pending_added", "pending_removed", "first_check", "checked"), 0),
}


@dataclass(frozen=True)
class Divergence:
    """The first answer of a proxy that is not the recorded one.

    Parameters
    ----------
    proxy : str
    stimulus : Stimulus
        With the recorded answer.
    answer : str
        What the new engine answered, or why it could not.
    story : tuple of Stimulus
        What led there: stimuli of the same exchange, or the proxy's last ones.
    """

    proxy: str
    stimulus: Stimulus
    answer: str
    story: tuple[Stimulus, ...]

    def __str__(self) -> str:
        wanted = describe(self.stimulus)
        told = [f"    {describe(item)}" for item in self.story]
        return "\n".join(
            [f"{self.proxy}: {wanted}", f"  replayed: {self.answer}", "  before it:", *told]
        )


@dataclass
class Life:
    """One proxy from its beginning to its end, or to the end of the log.

    Parameters
    ----------
    name : str
    index : int
    line : int
        Where it begins in the log.
    stimuli : int
        That were replayed and met the same answer.
    digest : str
        Of the state of the new engine after the last of them.
    closed : bool
        Whether the log has the digest, that is the proxy was ended and not killed.
    divergence : Divergence or None
    """

    name: str
    index: int
    line: int
    stimuli: int = 0
    digest: str = ""
    closed: bool = False
    divergence: Divergence | None = None


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Parameters
    ----------
    lives : tuple of Life
        In the order in which they begin.
    cut : bool
        Whether the log ends within a line, or a proxy's life does not end.
    """

    lives: tuple[Life, ...]
    cut: bool

    @property
    def decisions(self) -> int:
        """Stimuli that met the recorded answer."""
        return sum(life.stimuli for life in self.lives)

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """First divergence of each proxy that has one, in the order of the log."""
        found = [life.divergence for life in self.lives if life.divergence is not None]
        return tuple(sorted(found, key=lambda item: item.stimulus.line))

    @property
    def digest(self) -> str:
        """Digest of the state digests of all lives (64 hex digits)."""
        text = "\n".join(f"{life.name} {life.digest}" for life in self.lives)
        return hashlib.sha256(text.encode()).hexdigest()

    def report(self) -> str:
        """Return what a person wants to know."""
        lines = [
            f"{life.name}: {life.stimuli} stimuli, digest {life.digest[:16]}"
            + ("" if life.closed or life.divergence else " (ended without a digest)")
            for life in self.lives
        ]
        if self.cut:
            lines.append("The log is cut off; it was replayed up to there.")
        if self.divergences:
            first, *others = self.divergences
            lines.append(f"First divergence, {first}")
            lines += [f"Diverges too, {item.proxy} at line {item.stimulus.line}" for item in others]
        else:
            lines.append(f"All {self.decisions} decisions were met again. Digest {self.digest}")
        return "\n".join(lines)


def replay(path: str | Path, report: Callable[[int], None] | None = None) -> Replay:
    """Tell new engines the stimuli of a log and compare their answers.

    Parameters
    ----------
    path : str or Path
        Written by `emulator.decisions.stimuli.StimulusLog`; several may be joined end to end.
    report : callable, optional
        Called with the number of lines read, every 10,000.

    Raises
    ------
    ConfigError
        If the file is no log of this version, or is damaged; names file and line.
    OSError
        If the file cannot be opened.
    """
    file = StimulusFile(path)
    tellers: dict[int, _Teller] = {}
    lives: list[Life] = []
    for stimulus in file:
        if stimulus.name in ("open", "serve"):
            if stimulus.proxy in tellers:
                tellers[stimulus.proxy].end()
            tellers[stimulus.proxy] = teller = _Teller(stimulus)
            lives.append(teller.life)
        elif stimulus.proxy not in tellers:
            life = Life(f"proxy {stimulus.proxy}", stimulus.proxy, stimulus.line)
            life.divergence = Divergence(life.name, stimulus, "the proxy was never begun", ())
            lives.append(life)
            tellers[stimulus.proxy] = _Teller(stimulus, life)
        else:
            tellers[stimulus.proxy].tell(stimulus)
        if report is not None and stimulus.line % 10_000 == 0:
            report(stimulus.line)
    for teller in tellers.values():
        teller.end()
    open_at_end = any(not t.life.closed and t.life.divergence is None for t in tellers.values())
    return Replay(tuple(lives), file.cut or open_at_end)


class _Teller:
    """Tells one life's stimuli to a new engine."""

    def __init__(self, opening: Stimulus, life: Life | None = None) -> None:
        self._engine: ProxyEngine | RateLimitService
        if opening.name == "serve":
            name = "rate limit service"
            self._engine = RateLimitService(opening.proxy)
        else:
            name, run_seed = opening.arguments if life is None else (life.name, 0)
            self._engine = ProxyEngine(name, opening.proxy, run_seed)
        self.life = life or Life(name, opening.proxy, opening.line, stimuli=1)
        self._stories: dict[int, deque[Stimulus]] = {}
        self._last: deque[Stimulus] = deque(maxlen=_STORY_MAX)

    def tell(self, stimulus: Stimulus) -> None:
        """Replay `stimulus` unless this life has diverged or ended."""
        life = self.life
        if life.divergence is not None:
            return
        try:
            answer = self._answer(stimulus)
        except _REFUSALS as error:
            self._diverge(stimulus, f"{type(error).__name__}: {error}")
            return
        if answer != stimulus.result:
            self._diverge(stimulus, _answer_in_words(stimulus.name, answer))
            return
        life.stimuli += 1
        life.closed = stimulus.name == "close"
        self._remember(stimulus)

    def end(self) -> None:
        """Note the state this life ended in."""
        self.life.digest = self._engine.digest()

    def _diverge(self, stimulus: Stimulus, answer: str) -> None:
        story = self._stories.get(_exchange_of(stimulus), self._last)
        self.life.divergence = Divergence(self.life.name, stimulus, answer, tuple(story))

    def _remember(self, stimulus: Stimulus) -> None:
        self._last.append(stimulus)
        exchange = _exchange_of(stimulus)
        if exchange:
            self._stories.setdefault(exchange, deque(maxlen=_STORY_MAX)).append(stimulus)
        if stimulus.name == "finish":
            del self._stories[exchange]

    def _answer(self, stimulus: Stimulus) -> Any:
        """Return what the new engine answers, in the form of the log."""
        engine = self._engine
        if self.life.closed:
            raise _Impossible("the proxy had ended")
        if isinstance(engine, RateLimitService) or stimulus.name == "count":
            return _answer_of_service(engine, stimulus)
        if stimulus.name == "apply":
            parts, versions, now_ns = stimulus.arguments
            configuration = _with_parts(engine.configuration, parts, versions)
            return list(engine.apply(configuration, now_ns))
        host_at = _HOST_AT.get(stimulus.name)
        if host_at is not None and not engine.knows(stimulus.arguments[host_at]):
            raise _Impossible("there is no such host")
        told_at = {"tell": 1, "tell_of": 2}.get(stimulus.name)
        if told_at is not None and not 0 <= stimulus.arguments[told_at] < STIMULUS_COUNT:
            raise _Impossible("the machine has no such stimulus")
        if stimulus.name == "authorize":
            return engine.inbound.authorize(*stimulus.arguments)
        of = engine.gate if stimulus.name in ("enter", "leave") else engine
        answer = getattr(of, stimulus.name)(*stimulus.arguments)
        if stimulus.name in ("route", "heard"):
            return [*engine.routed_to(stimulus.arguments[0]), *answer]
        listed = ("tell", "tell_of", "mirror", "enter")
        return list(answer) if stimulus.name in listed else answer


def _answer_of_service(engine: ProxyEngine | RateLimitService, stimulus: Stimulus) -> Any:
    """Return what a new rate limit service answers."""
    if not isinstance(engine, RateLimitService) or stimulus.name not in ("count", "close"):
        raise _Impossible("it is told to the wrong one")
    return getattr(engine, stimulus.name)(*stimulus.arguments)


class _Impossible(MeshsimError):
    """A stimulus that no engine could have been told at this point."""


#: What an engine raises if it is told what cannot have happened.
_REFUSALS = (MeshsimError, KeyError, OverflowError)


def _with_parts(
    configuration: ProxyConfiguration, parts: dict[str, Any], versions: dict[str, Any]
) -> ProxyConfiguration:
    """Return `configuration` with the bodies `parts` in place of its own."""
    for kind, body in parts.items():
        resource = {"proxy": configuration.proxy, "type": kind, "version": 1, "body": body}
        configuration = with_resource(configuration, resource)
    return replace(configuration, versions=versions)


def _exchange_of(stimulus: Stimulus) -> int:
    """Return the exchange that `stimulus` belongs to, or 0."""
    if stimulus.name == "start":
        return int(stimulus.result)
    return int(stimulus.arguments[0]) if stimulus.name in _OF_EXCHANGE else 0


# --- In words -------------------------------------------------------------------------------

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "open": ("name", "run_seed"),
    "apply": ("parts", "versions", "now"),
    "start": ("service", "method", "path", "headers", "key", "now"),
    "bound": ("exchange", "now"),
    "route": ("exchange", "now"),
    "heard": ("exchange", "answer", "now"),
    "hear_reset": ("exchange", "headers", "unix_s"),
    "tell": ("exchange", "stimulus", "status", "reset", "now"),
    "tell_of": ("exchange", "host", "stimulus", "status", "reset", "now"),
    "pick": ("exchange", "now"),
    "sent": ("exchange", "host", "now"),
    "ended": ("exchange", "host", "outcome", "failed", "rtt", "now"),
    "finish": ("exchange",),
    "mirror": ("exchange", "number", "now"),
    "pace": ("exchange", "bytes", "now"),
    "admit": ("method", "path", "authority", "headers", "key", "connection", "now"),
    "disconnected": ("connection",),
    "enter": ("now",),
    "leave": ("filter", "entered", "answered", "now"),
    "authorize": ("principal", "method", "path", "host", "headers"),
    "first_check": ("host", "now"),
    "checked": ("host", "result", "now"),
    "probed": ("pool", "slot", "number", "in flight", "latency", "now"),
    "probe_lost": ("pool", "slot", "number"),
    "close": (),
    "serve": (),
    "count": ("domain", "descriptors", "now"),
}


def describe(stimulus: Stimulus) -> str:
    """Return a stimulus and its recorded answer in words.

    Examples
    --------
    >>> describe(Stimulus(7, 0, "pick", (3, 2_000_000), 1))
    'line 7: pick exchange 3, now 2 ms -> 1'
    """
    names = _ARGUMENTS.get(stimulus.name, ("host",))
    told = ", ".join(
        f"{name} {_value(name, value)}"
        for name, value in zip(names, stimulus.arguments, strict=True)
    )
    head = " ".join(part for part in (f"line {stimulus.line}: {stimulus.name}", told) if part)
    if stimulus.result is None:
        return head
    return f"{head} -> {_answer_in_words(stimulus.name, stimulus.result)}"


def _value(name: str, value: Any) -> str:
    if name in ("now", "rtt", "entered", "latency"):
        return _ms(value)
    if name == "stimulus" and 0 <= value < STIMULUS_COUNT:
        return STIMULUS_NAMES[value]
    if name == "parts":
        return "+".join(value) or "nothing new"
    return str(value)


def _ms(time_ns: int) -> str:
    return "never" if time_ns == NEVER_NS else f"{time_ns / 1e6:.12g} ms"


def _answer_in_words(name: str, answer: Any) -> str:
    """Return the answer to a stimulus in words."""
    if name == "sent":
        return f"times out {_ms(answer)}"
    if name in ("first_check", "checked"):
        return f"asks at {_ms(answer)}"
    if name in ("route", "heard") and len(answer) == 6:
        route, cluster, *decision = answer
        return f"route {route}, cluster {cluster}, {_decision(decision)}"
    if name in ("tell", "tell_of") and len(answer) == 4:
        return _decision(answer)
    return str(answer)


def _decision(decision: list[int]) -> str:
    action, deadline_ns, status, flag = decision
    if action == ASK:
        return f"ASK until {_ms(deadline_ns)}"
    if not 0 <= action < len(ACTION_NAMES):
        return "INVALID"
    said = ACTION_NAMES[action]
    if status:
        flagged = FLAG_NAMES[flag] if 0 <= flag < len(FLAG_NAMES) else str(flag)
        return f"{said} {status} {flagged}"
    return said if deadline_ns == NEVER_NS else f"{said} until {_ms(deadline_ns)}"
