"""Load: requests of one traffic class, at the times the simulator would send them.

Rule: an open loop sends each request when it is meant to be sent, whatever became of the last,
and counts latency from the intended time, so that a slow mesh cannot make its own load lighter
(coordinated omission).  It skips nothing: what it could not send in time it sends at once, and
``lag`` says how late.  A closed loop is users who each wait for the response, think, and ask again.

With the same draws, arrivals, keys, think times and users are those of replication 0 of a
simulation with this seed; fresh draws are those of a replication that no simulation runs.

After the measured time the load goes on until every measured request has ended, so that these
end as they would, but for no longer than half the measured time; then what else was sent is
waited for, for as long as requests go on to end.  If for half the measured time none has, those
that are left are given up and counted as unfinished: neither a request that never ends nor a
machine that is slow to serve the others leaves those without an outcome.

References
----------
G. Tene, "How NOT to measure latency" (2013): coordinated omission.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from typing import Literal

import numpy as np

from emulator.alarm import Alarm
from emulator.clock import ModelClock
from emulator.results.recording import Recorder
from emulator.workload.caller import Caller, PendingRequest, Reply
from emulator.workload.requests import RootTemplate
from meshsim.errors import ConfigError, Problem
from meshsim.rng import PURPOSE_ARRIVAL, PURPOSE_THINK, PURPOSE_TRACE, make_streams, mix, mix_in
from meshsim.state.codes import NEVER_NS, NO_INDEX
from meshsim.state.workload import BATCH
from meshsim.stats.histogram import BIN_COUNT, bin_index, quantile_ns
from meshsim.topology.compiled import CompiledTopology
from meshsim.workload.arrivals import batch_size, next_arrival_ns, set_multiplier
from meshsim.workload.distributions import sample_ns

__all__ = ["FRESH_REPLICATION", "LoadGenerator"]

#: No simulation has so many replications.
FRESH_REPLICATION = 1 << 31
#: A load without any answer is waited for this many times the measured time.
_DRAIN_MAX = 1
#: The threshold of a sampling hash leaves room for the rounding of a float.
_HASH_MAX = float(2**64 - 2**11)


class LoadGenerator:
    """The load of one traffic class.

    Parameters
    ----------
    compiled : CompiledTopology
        Read only.
    traffic : str
        Name of the class.
    gateway : (str, int)
        Address of the class's gateway, or of its client library.
    clock : ModelClock
        Load begins at model time 0.
    recorder : Recorder
        Told of every request and its end.
    seed : int
        As the user gave it; 0 <= seed < 2**62.
    duration_ns : int
        Measured time [model ns].
    draws : {"same", "fresh"}
        Those of replication 0 of a simulation with this seed, or others.
    sample_share : float
        Share of the measured requests to trace.
    connections_max : int
        More requests at once than this wait for a connection, and are counted.
    drain_min_ns : int
        Instead of the measured time if that is shorter, for what is waited [model ns].
    """

    def __init__(
        self,
        compiled: CompiledTopology,
        traffic: str,
        gateway: tuple[str, int],
        clock: ModelClock,
        recorder: Recorder,
        *,
        seed: int,
        duration_ns: int,
        draws: Literal["same", "fresh"] = "same",
        sample_share: float = 0.0,
        connections_max: int = 4096,
        drain_min_ns: int = 0,
    ) -> None:
        names = list(compiled.topology.traffic)
        index = names.index(traffic)
        arrays = compiled.arrays
        replication = 0 if draws == "same" else FRESH_REPLICATION
        base = np.uint64(mix_in(np.uint64(mix(np.uint64(seed))), replication))
        streams = make_streams(int(base >> np.uint64(2)), PURPOSE_ARRIVAL, len(names))
        self.traffic = traffic
        self.duration_ns = duration_ns
        self._drain_min_ns = drain_min_ns
        drain_ns = max(_DRAIN_MAX * duration_ns, drain_min_ns)
        self._patience_ns = drain_ns // 2
        self._sending_ends_ns = duration_ns + self._patience_ns
        self._given_up_ns = duration_ns + drain_ns
        self._clock = clock
        self._recorder = recorder
        self._caller = Caller(*gateway, connections_max)
        self._alarm = Alarm(clock, self._on_alarm)
        self._key = np.uint64(mix_in(base, index))
        self._template = RootTemplate(compiled.topology, traffic, int(self._key))
        self._sample_threshold = int(min(sample_share, 1.0) * _HASH_MAX)
        self._rng = streams[index]
        self._arrivals = arrays["arrivals"][index : index + 1].copy()
        self._distributions = arrays["distributions"]
        self._values = arrays["values"]
        self._is_batch = int(self._arrivals["kind"][0]) == BATCH
        self._batch_left = 0
        self._think_time = int(arrays["traffic"]["think_time"][index])
        loop = compiled.topology.traffic[traffic].closed_loop
        self._users = loop.users if loop is not None else 0
        self._due: list[int] = []  # a heap: when users of a closed loop ask; else the next arrival
        self._number = 0
        self._outstanding: dict[int, tuple[int, PendingRequest]] = {}  # by number
        self._measured_outstanding = 0
        self._stopped = False
        self._finished = asyncio.Event()
        self._lag_bins: Counter[int] = Counter()
        self._plan_first()
        self._rehearse()

    def _rehearse(self) -> None:
        """Call compiled functions once before load begins: the first call takes some 10 ms."""
        self._template.request(0, 0, 0, sampled=False)
        rows = (self._arrivals.copy(), 0, self._distributions, self._values)
        set_multiplier(*rows, 1.0, 0, self._rng.copy())
        if len(self._distributions):
            sample_ns(self._distributions, self._values, 0, self._key)

    # --- Life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until every measured request has ended; wait for the rest while any ends."""
        self._on_alarm()
        await self._finished.wait()
        for arrived_ns, pending in list(self._outstanding.values()):
            pending.cancel()
            self._recorder.unfinished(self.traffic, arrived_ns)
        self._outstanding.clear()
        self._alarm.close()
        await self._caller.close()

    def stop(self) -> None:
        """Send nothing more; `run` returns when what was sent has ended.

        It gives up when for half as long as the load has lasted, and at least for half of
        `drain_min_ns`, nothing has ended.
        """
        now_ns = self._clock.now_ns()
        drain_ns = max(_DRAIN_MAX * now_ns, self._drain_min_ns)
        self._patience_ns = min(self._patience_ns, drain_ns // 2)
        self._given_up_ns = min(self._given_up_ns, now_ns + drain_ns)
        self._stopped = True
        self._due.clear()
        self._end_if_done()
        self._wake()

    def _plan_first(self) -> None:
        """Plan the first arrival, or let the users think first, as the simulator does."""
        if self._think_time == NO_INDEX:
            self._plan_arrival(0)
        else:
            base = np.uint64(mix_in(self._key, PURPOSE_THINK << 32))
            self._due = [self._think_ns(int(mix_in(base, user))) for user in range(self._users)]
            heapq.heapify(self._due)

    def _end_if_done(self) -> None:
        now_ns = self._clock.now_ns()
        late = bool(self._due) and self._due[0] <= self.duration_ns  # the alarm is not heard yet
        measured = now_ns > self.duration_ns and self._measured_outstanding == 0 and not late
        if not self._stopped and (measured or now_ns > self._sending_ends_ns):
            self._stopped = True
            self._due.clear()
        given_up = now_ns > self._given_up_ns
        if given_up or (self._stopped and not self._outstanding):
            self._stopped = True
            self._finished.set()

    # --- Verbs and facts ---------------------------------------------------------------------

    def set_rate(self, factor: float) -> None:
        """Scale the declared rate by `factor` from now on.

        Raises
        ------
        ConfigError
            If the class is a closed loop, or `factor` is negative.
        """
        if self._think_time != NO_INDEX:
            raise ConfigError(f"{self.traffic}: a closed loop has users, not a rate")
        if factor < 0:
            raise ConfigError([Problem("a rate is >= 0", found=str(factor))])
        now_ns = max(self._clock.now_ns(), 0)
        next_ns = set_multiplier(
            *(self._arrivals, 0, self._distributions, self._values),
            *(float(factor), now_ns, self._rng),
        )
        self._due = [] if next_ns == NEVER_NS or self._stopped else [int(next_ns)]
        self._wake()

    def counters(self) -> dict[str, int]:
        """Return connections and lag: how late requests were sent [model ns]."""
        bins = np.zeros(BIN_COUNT, np.int64)
        for place, count in self._lag_bins.items():
            bins[place] = count
        p50, p99 = quantile_ns(np.stack([bins, bins]), np.array([0.5, 0.99]))
        return {
            "requests": self._number,
            "outstanding": len(self._outstanding),
            "connections": self._caller.connections,
            "connections_peak": self._caller.connections_peak,
            "connections_overflow": self._caller.overflows,
            "lag_p50_ns": int(np.nan_to_num(p50)),
            "lag_p99_ns": int(np.nan_to_num(p99)),
        }

    # --- Arrivals ----------------------------------------------------------------------------

    def _think_ns(self, key: int) -> int:
        draw_ns = sample_ns(self._distributions, self._values, self._think_time, np.uint64(key))
        return int(draw_ns)

    def _plan_arrival(self, now_ns: int) -> None:
        """Plan the arrival after the one at `now_ns`; a batch arrives one by one, at once."""
        if self._batch_left > 0:
            self._batch_left -= 1
            self._due.append(now_ns)
            return
        next_ns = next_arrival_ns(
            self._arrivals, 0, self._distributions, self._values, now_ns, self._rng
        )
        if self._is_batch:
            self._batch_left = int(batch_size(self._arrivals, 0, self._rng)) - 1
        if next_ns != NEVER_NS:
            self._due.append(int(next_ns))

    def _on_alarm(self) -> None:
        """Send whatever is due."""
        while self._due and self._due[0] <= (now_ns := self._clock.now_ns()):
            arrived_ns = heapq.heappop(self._due)
            self._lag_bins[bin_index(now_ns - arrived_ns)] += 1
            if self._think_time == NO_INDEX:
                self._plan_arrival(arrived_ns)
            self._send(arrived_ns)
        self._end_if_done()
        self._wake()

    def _wake(self) -> None:
        if self._finished.is_set():
            return
        if self._due:
            self._alarm.set(self._due[0])
        now_ns = self._clock.now_ns()
        ends = (self.duration_ns, self._sending_ends_ns, self._given_up_ns)
        self._alarm.set(min((end_ns for end_ns in ends if end_ns >= now_ns), default=now_ns) + 1)

    def _send(self, arrived_ns: int) -> None:
        number = self._number
        self._number = number + 1
        key = int(mix_in(self._key, number))
        measured = arrived_ns <= self.duration_ns
        sampled = (
            measured
            and self._sample_threshold > 0
            and int(mix(np.uint64(mix_in(np.uint64(key), PURPOSE_TRACE << 24))))
            < self._sample_threshold
        )
        self._recorder.arrived(self.traffic, arrived_ns)
        self._measured_outstanding += measured
        data = self._template.request(number, arrived_ns, key, sampled=sampled)

        def done(reply: Reply) -> None:
            self._on_reply(number, arrived_ns, key, reply)

        pending = self._caller.request(data, self._template.method, done)
        self._outstanding[number] = (arrived_ns, pending)

    def _on_reply(self, number: int, arrived_ns: int, key: int, reply: Reply) -> None:
        now_ns = self._clock.now_ns()
        del self._outstanding[number]
        self._given_up_ns = max(self._given_up_ns, now_ns + self._patience_ns)
        self._measured_outstanding -= arrived_ns <= self.duration_ns
        self._recorder.request(self.traffic, arrived_ns, now_ns, *reply)
        if self._think_time != NO_INDEX and not self._stopped:
            think_ns = self._think_ns(int(mix_in(np.uint64(key), PURPOSE_THINK << 24)))
            heapq.heappush(self._due, now_ns + think_ns)
            self._alarm.set(self._due[0])
        if self._stopped or now_ns > self.duration_ns:
            self._end_if_done()
