"""A limit per connection decides alike in both planes: an engine that is told of the connections.

The callers' pools stand here in the shortest way: the idle connection used last, or a new one,
which is closed when it has carried `LAST` requests.  The engine is asked as the listener of a live
proxy asks it; at the end the buckets of every open connection are the kernel's.
"""

from itertools import count

import numpy as np
import pytest
from engine_rows import listening_engine
from kernel_runs import NS_PER_MS, Run, recorded

from emulator.decisions.replay import replay
from emulator.decisions.stimuli import StimulusLog
from meshsim.kernel.statistics import stats
from meshsim.rng import mix_in
from meshsim.state.filters import INBOUND
from meshsim.topology.profile import ProxyCost

#: Requests of one connection at most.
LAST = 9
SLEEPS_MS = {"ann": 23, "bob": 7}
#: Whole milliseconds, and a time of day for each request, so that no two events coincide.
TIMES_US = {
    "ann": [4000 * number + 1 + 2 * number for number in range(150)],
    "bob": [3000 * number + 2 + 2 * number for number in range(200)],
}
NO_RETRY = {"retry": {"num_retries": 0}}


def stated(refill):
    return {
        "token_bucket": {"max_tokens": 4, "tokens_per_fill": 2, "fill_interval": "50ms"},
        "descriptors": [
            {
                "entries": {":method": "GET"},
                "token_bucket": {"max_tokens": 3, "fill_interval": "30ms"},
            }
        ],
        "refill": refill,
        "filter_enabled": 90.0,
        "filter_enforced": 80.0,
        "local_rate_limit_per_downstream_connection": True,
    }


class Listener:
    """Callers of an engine, each with a pool of connections."""

    def __init__(self, engine):
        self.engine = engine
        self.now_ns = 0
        self._numbers = count(1)
        self._idle = {name: [] for name in SLEEPS_MS}
        self._carried = {}
        self._busy = []  # (end, caller, connection)

    def ask(self, now_ns, caller, key):
        """Return the status that a request gets."""
        self.end_until(now_ns)
        idle = self._idle[caller]
        connection = idle.pop() if idle else next(self._numbers)
        status = self.engine.admit("GET", f"/{caller}", "b", {}, key, connection, now_ns)
        work_ns = 0 if status else SLEEPS_MS[caller] * NS_PER_MS
        self._busy.append((now_ns + work_ns, caller, connection))
        self.end_until(now_ns)
        return status or 200

    def end_until(self, now_ns):
        for item in sorted(item for item in self._busy if item[0] <= now_ns):
            self._busy.remove(item)
            _, caller, connection = item
            self._carried[connection] = self._carried.get(connection, 0) + 1
            if self._carried[connection] == LAST:
                self.engine.disconnected(connection)
            else:
                self._idle[caller].append(connection)


@pytest.mark.parametrize("refill", ["TICKS", "CONTINUOUS"])
def test_a_live_listener_limits_connections_as_the_kernel_does(refill, tmp_path):
    run = Run(
        {"b": {"concurrency": 1000, "operations": {
            name: [{"sleep": f"{sleep}ms"}] for name, sleep in SLEEPS_MS.items()
        }}},
        traffic={
            name: {"to": "b", "operation": name, "path": f"/{name}",
                   "arrivals": recorded(*(f"{time}us" for time in times))}
            for name, times in TIMES_US.items()
        },
        mesh="istio-sidecar",
        cost=ProxyCost(),
        policies={"b": {
            "rate_limit": stated(refill),
            "routes": [NO_RETRY],
            "connection_pool": {"max_requests_per_connection": LAST},
        }},
    ).to(2_000)  # fmt: skip
    keys = dict(zip(SLEEPS_MS, run.state.traffic["key"], strict=True))
    asked = sorted(
        (1000 * time, name, int(mix_in(np.uint64(mix_in(keys[name], number)), 0)))
        for name, times in TIMES_US.items()
        for number, time in enumerate(times)
    )
    path = tmp_path / "stimuli.jsonl"
    with StimulusLog(path) as log:
        engine = listening_engine(run.topology.policies["b"].rate_limit, log)
        listener = Listener(engine)
        statuses = [listener.ask(*item) for item in asked]
        listener.end_until(2_000 * NS_PER_MS)
        digest = engine.close()
    assert statuses == [span.status for span in run.spans()]
    assert 50 < statuses.count(429) < 250
    counted = stats(run.state, run.kernel._proxy_names)["b-v1-0"]
    assert engine.filter_counters(inbound=True) == {
        name.removeprefix("inbound."): value for name, value in counted.items()
    }
    assert engine._filters.limit_counts[INBOUND]["rate_limited"] > statuses.count(429)
    held = engine._filters._of_connections.values()
    assert sorted(item.rows.tobytes() for item in held) == in_the_kernel(run)
    replayed = replay(path)
    assert replayed.divergences == ()
    assert replayed.lives[0].digest == digest


def in_the_kernel(run):
    """Return the buckets of every open connection that has met the limit."""
    state = run.state
    begun = state.buckets_begun == state.connections["generation"] + 1
    rows = state.connection_buckets.reshape(len(begun), -1)[begun]
    return sorted(row.tobytes() for row in rows)
