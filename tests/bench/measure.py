"""How contestants are compared: in one process, in turn, per CPU second.

The machine is shared and its clock rate drifts, so a rate alone says little.  Contestants run
interleaved (ABAB...), each round gives one ratio, and the ratios' minimum, median and maximum
are reported.  CPU time, not wall time: every contestant is single-threaded.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Comparison", "Sample", "interleave", "timed"]


@dataclass(frozen=True)
class Sample:
    """One timed run.

    Parameters
    ----------
    requests, events : int
        Completed requests, and kernel events (0 if the contestant does not count them).
    cpu_s : float
        CPU time [s].
    latency_mean_s : float
        What the run computed: contestants that disagree are not comparable [s].
    """

    requests: int
    events: int
    cpu_s: float
    latency_mean_s: float

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.cpu_s

    @property
    def events_per_s(self) -> float:
        return self.events / self.cpu_s


@dataclass(frozen=True)
class Comparison:
    """Samples of two contestants, round by round."""

    ours: list[Sample]
    peer: list[Sample]

    def ratios(self, rate: Callable[[Sample], float]) -> tuple[float, float, float]:
        """Return minimum, median and maximum of ours over the peer's `rate`."""
        ratios = [rate(a) / rate(b) for a, b in zip(self.ours, self.peer, strict=True)]
        return min(ratios), statistics.median(ratios), max(ratios)


def timed(work: Callable[[], tuple[int, int, float]]) -> Sample:
    """Run `work`, which returns (requests, events, mean latency [s])."""
    start = time.process_time()
    requests, events, latency_mean_s = work()
    return Sample(requests, events, time.process_time() - start, latency_mean_s)


def interleave(ours: Callable[[], Sample], peer: Callable[[], Sample], rounds: int) -> Comparison:
    """Run both in turn, `rounds` times; an untimed first turn compiles and warms up."""
    ours()
    peer()
    comparison = Comparison([], [])
    for _ in range(rounds):
        comparison.ours.append(ours())
        comparison.peer.append(peer())
    return comparison
