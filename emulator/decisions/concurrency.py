"""Adaptive concurrency of one live proxy: who may come in while others are inside.

Rule: `meshsim.policy.adaptive_concurrency` decides, over the rows of one controller.  Its life
begins with the first request that comes in under a filter, and ends when another filter is put
in force.  Every question and every answer that went out is a stimulus.
"""

from __future__ import annotations

from emulator.decisions.stimuli import StimulusLog
from meshsim.policy.adaptive_concurrency import (
    may_pass,
    on_answered,
    on_given_up,
)
from meshsim.state.codes import NO_INDEX
from meshsim.topology.compiled.concurrency import (
    blank_controllers,
    controller_stats,
    gradient_rule,
    start_controller,
)
from meshsim.topology.model import AdaptiveConcurrency

__all__ = ["ConcurrencyGate"]

_ROW = 0


class ConcurrencyGate:
    """The controller of one proxy.

    Parameters
    ----------
    run_seed, index : int
        Of the run and the proxy: they select the draws.
    log : StimulusLog, optional
    """

    def __init__(self, run_seed: int, index: int, log: StimulusLog | None = None) -> None:
        self._identity = run_seed, index
        self._index = index
        self._log = log
        self._stated: AdaptiveConcurrency | None = None
        self._life = 0  # number of the filter in force, for requests that came in under another
        self._rows, self._bins = blank_controllers(1)

    @property
    def active(self) -> bool:
        """Whether there is a filter to ask (no stimulus)."""
        return self._stated is not None

    def apply(self, stated: AdaptiveConcurrency | None) -> None:
        """Put another filter in force; the same one goes on."""
        if stated == self._stated:
            return
        self._stated = stated
        self._life += 1
        self._rows, self._bins = blank_controllers(1)
        if stated is not None:
            self._rules = gradient_rule(stated)

    def enter(self, now_ns: int) -> tuple[int, int]:
        """Let a request in, or refuse it.

        Returns
        -------
        status, life : int
            Of the refusal, or ADMITTED; what `leave` is to be told.
        """
        if self._rows["rule"][_ROW] == NO_INDEX:
            self._rows["rule"][_ROW] = 0
            start_controller(self._rows, _ROW, self._rules, self._bins, *self._identity, now_ns)
        status = int(may_pass(self._rows, _ROW, self._rules, self._bins, now_ns))
        if self._log is not None:
            self._log.write(f'[{self._index},"enter",{now_ns},[{status},{self._life}]]')
        return status, self._life

    def leave(self, life: int, entered_ns: int, answered: bool, now_ns: int) -> None:
        """Count a request out that `enter` let in at `entered_ns`.

        Parameters
        ----------
        life : int
            As `enter` said.
        entered_ns : int
        answered : bool
            Whether its caller got a whole answer.
        now_ns : int
        """
        if life == self._life:
            if answered:
                rules, bins = self._rules, self._bins
                on_answered(self._rows, _ROW, rules, bins, entered_ns, now_ns)
            else:
                on_given_up(self._rows, _ROW)
        if self._log is not None:
            truth = "true" if answered else "false"
            self._log.write(f'[{self._index},"leave",{life},{entered_ns},{truth},{now_ns},null]')

    def counters(self) -> dict[str, int]:
        """Return Envoy's counter and gauges as of the last stimulus, without those that are 0."""
        return controller_stats(self._rows[_ROW])

    def state(self) -> tuple[bytes, ...]:
        """Return the bytes of everything that changes."""
        return repr(self._rows.tolist()).encode(), self._bins.tobytes()
