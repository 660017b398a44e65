"""Run the emulator as a program of its own, and watch how quiet the machine was meanwhile.

Rule: the emulator shares no process with the simulator, so neither slows or warms the other.
A scenario goes in as a topology file, a `Result` comes back from a folder.  The machine's own
counters are read before and after: time stolen by its host spoils a run, and a machine without
idle time measures itself and not the mesh.

References
----------
Linux Documentation/filesystems/proc.rst, /proc/stat: user nice system idle iowait irq softirq
steal, in clock ticks since the start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from meshsim.errors import MeshsimError
from meshsim.results import Result
from meshsim.topology.load import dump_topology
from meshsim.topology.model import Topology
from meshsim.validation.scenarios import Change

__all__ = [
    "BUSY_MAX",
    "LAG_MAX_MS",
    "STEAL_MAX",
    "Emulated",
    "Emulator",
    "EmulatorFailed",
    "Job",
    "MachineTimes",
    "emulate_in_subprocess",
]

#: Share of the machine's time that its host may take before a run counts as disturbed [1].
STEAL_MAX = 0.02
#: How late the event loops may be (p99) before a run counts as disturbed [ms].
LAG_MAX_MS = 2.0
#: Above this share of the machine in use, what is measured is the machine [1].
BUSY_MAX = 0.6
#: Time the emulator may take to start and to drain, beside the load itself [s].
_GRACE_S = 120.0
#: Time it may take to drain when it is interrupted [s].
_DRAIN_S = 10.0
#: Of the emulator's last words, so many lines are passed on.
_STORY_LINES = 12


class EmulatorFailed(MeshsimError):
    """The emulator ended without a result; the message is its own."""


@dataclass(frozen=True)
class Job:
    """One run of the emulator.

    Parameters
    ----------
    topology : Topology
    duration_s : float
        Length in model time, warm-up included [s].
    seed : int
        Same seed, same draws as the simulator's replication 0.
    dilation : float
        A second of model time takes so many seconds of the machine's clock, >= 1.
    change : Change, optional
        Pushed by the control plane on the way.
    """

    topology: Topology
    duration_s: float
    seed: int
    dilation: float = 1.0
    change: Change | None = None


@dataclass(frozen=True)
class Emulated:
    """What the emulator measured, and how quiet the machine was.

    Parameters
    ----------
    result : Result
    steal, busy : float
        Shares of the machine's time during the run [1]; 0 where it keeps no count.
    lag_ms : float
        How late the event loop of the worst process was, 99th percentile [ms].
    """

    result: Result
    steal: float = 0.0
    busy: float = 0.0
    lag_ms: float = 0.0

    @property
    def disturbed(self) -> str:
        """Why the run says more about the machine than about the mesh; empty if it does not."""
        if self.steal > STEAL_MAX:
            return f"the machine's host took {100 * self.steal:.0f} % of its time"
        if self.lag_ms > LAG_MAX_MS:
            return f"an event loop was {self.lag_ms:.1f} ms late (p99)"
        return ""


#: Anything that carries out a `Job`.
Emulator = Callable[[Job], Emulated]


class MachineTimes(NamedTuple):
    """What all cores have spent since the start [clock ticks]."""

    total: int
    idle: int
    steal: int

    @classmethod
    def now(cls, path: Path = Path("/proc/stat")) -> MachineTimes:
        """Read the counters; zeros where there are none."""
        if not path.is_file():
            return cls(0, 0, 0)
        ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
        return cls(sum(ticks), ticks[3] + ticks[4], ticks[7])

    def shares_since(self, before: MachineTimes) -> tuple[float, float]:
        """Return the stolen and the busy share of the time since `before` [1]."""
        total = max(self.total - before.total, 1)
        busy = total - (self.idle - before.idle)
        return (self.steal - before.steal) / total, busy / total if self.total else 0.0


def emulate_in_subprocess(job: Job) -> Emulated:
    """Run ``meshsim emulate`` in a process of its own.

    Raises
    ------
    EmulatorFailed
        If it fails or does not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="meshsim-validate-") as folder:
        scenario = Path(folder) / "scenario.yaml"
        scenario.write_text(dump_topology(job.topology), encoding="utf-8")
        saved = Path(folder) / "result"
        before = MachineTimes.now()
        _run(_command(job, scenario, saved), job.duration_s * job.dilation + _GRACE_S)
        steal, busy = MachineTimes.now().shares_since(before)
        result = Result.load(saved)
        lags = result.emulation.get("lag_ms", {}).values()
        lag_ms = max((float(lag["p99"]) for lag in lags), default=0.0)
        return Emulated(result, steal, busy, lag_ms)


def _command(job: Job, scenario: Path, saved: Path) -> list[str]:
    """Return the command line of the emulator for `job`.

    It records from the first intended arrival on; the warm-up is cut by who compares, at the
    same window in both planes.
    """
    command = [sys.executable, "-m", "meshsim", "emulate", str(scenario)]
    options = {
        "--duration": f"{job.duration_s:g}s",
        "--seed": str(job.seed),
        "--dilation": f"{job.dilation:g}",
        "--draws": "same",
        "--save": str(saved),
    }
    if job.change is not None:
        at_s = job.change.at * job.duration_s
        value = yaml.safe_dump(job.change.value, default_flow_style=True, width=10_000).strip()
        options["--change"] = f"{at_s:g}s:{job.change.path}={value}"
    return [*command, *(word for option in options.items() for word in option)]


def _run(command: list[str], timeout_s: float) -> None:
    """Run `command` in a process group of its own, so that none of its processes outlives it."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, story = process.communicate(timeout=timeout_s)
        except BaseException as error:
            _stop(process)
            if isinstance(error, subprocess.TimeoutExpired):
                message = f"the emulator did not end within {timeout_s:.0f} s"
                raise EmulatorFailed(message) from None
            raise
    if process.returncode:
        last = "\n".join(story.strip().splitlines()[-_STORY_LINES:])
        raise EmulatorFailed(f"the emulator failed (status {process.returncode}):\n{last}")


def _stop(process: subprocess.Popen[str]) -> None:
    """Let the emulator drain; end its whole group if it does not."""
    for sign in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            process.communicate(timeout=_DRAIN_S)
            return
        except subprocess.TimeoutExpired:
            continue
