"""What takes time to happen to a mesh, as SimPy processes over its replicas.

Rules:

- *Draining*, as Kubernetes ends a pod: proxies are told at once to choose it no more; its preStop
  hook runs for `pre_stop`; then it is sent SIGTERM, refuses what comes and finishes what it has;
  what is left after `grace` (counted from the beginning) is reset.
- *Flapping*: killed for `down`, back for `up`, again and again.
- *A ramp* of a rate, or of the speed of a replica that is cold (`meshsim.workload.ramps`).
- *A rollout* asks `meshsim.controlplane.rollout` whenever something has changed.  A new replica is
  known to the proxies when it is ready; an old one is drained, and what it was is forgotten when
  the rollout is over.

A process whose replica has begun another life, or whose rate has been set anew, ends without
a further word.

References
----------
kubernetes.io, "Pod Lifecycle", section "Termination of Pods".
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from meshsim.controlplane.rollout import Rollout
from meshsim.errors import ConfigError, Problem
from meshsim.kernel.replicas import Replicas
from meshsim.kernel.verbs import set_rate
from meshsim.kernel.watching import withdraw_hosts
from meshsim.state.kernel import POOLS
from meshsim.topology.model import ColdStart
from meshsim.units import seconds
from meshsim.workload.ramps import ramp

__all__ = ["Lasting", "Process", "check_grace", "check_spans"]

Process = Generator[Any, None, None]


def check_spans(**spans_s: float) -> None:
    """Raise ConfigError if one of these spans [s] is negative."""
    for name, span_s in spans_s.items():
        if span_s < 0:
            raise ConfigError([Problem(f"{name} is a span of time", found=str(span_s))])


def check_grace(grace_s: float, pre_stop_s: float) -> None:
    """Raise ConfigError if a preStop hook is no part of the termination grace period."""
    check_spans(grace_s=grace_s, pre_stop_s=pre_stop_s)
    if pre_stop_s > grace_s:
        message = "pre_stop_s is a part of grace_s"
        raise ConfigError([Problem(message, found=str(pre_stop_s), allowed=f"0 to {grace_s}")])


class Lasting:
    """Makes the processes of one run.

    Parameters
    ----------
    env : simpy.Environment
        Its clock is the kernel's.
    replicas : Replicas
    """

    def __init__(self, env: Any, replicas: Replicas) -> None:
        self._env = env
        self._replicas = replicas
        self._kernel = replicas.kernel
        #: How often the rate of a traffic class was set, by its row.
        self._rates_set: dict[int, int] = {}
        self._rolling: set[tuple[str, str]] = set()

    # --- Replicas ---

    def drain(self, endpoints: Sequence[int], grace_s: float, pre_stop_s: float) -> Process:
        """Return the process that ends replicas as Kubernetes does; the caller has withdrawn them.

        It is of the life that they lead now, though a process begins only after whatever else
        is done at this instant.
        """
        eras = {endpoint: self._replicas.era(endpoint) for endpoint in endpoints}
        return self._drain(eras, grace_s, pre_stop_s)

    def _drain(self, eras: Mapping[int, int], grace_s: float, pre_stop_s: float) -> Process:
        yield self._env.timeout(pre_stop_s)
        for endpoint in self._same(eras):
            self._replicas.refuse(endpoint)
        yield self._env.timeout(grace_s - pre_stop_s)
        for endpoint in self._same(eras):
            self._replicas.kill(endpoint)

    def _same(self, eras: Mapping[int, int]) -> list[int]:
        return [endpoint for endpoint, era in eras.items() if self._replicas.era(endpoint) == era]

    def flap(self, endpoints: Sequence[int], times: int, down_s: float, up_s: float) -> Process:
        """Kill replicas and bring them back."""
        for _ in range(times):
            for endpoint in endpoints:
                self._replicas.kill(endpoint)
            yield self._env.timeout(down_s)
            for endpoint in endpoints:
                self.bring_back(endpoint)
            yield self._env.timeout(up_s)

    def bring_back(self, endpoint: int) -> None:
        """Heal a replica; one that was dead is cold, if its workload is when it starts."""
        if self._replicas.heal(endpoint):
            self.start_cold(endpoint)

    def start_cold(self, endpoint: int) -> None:
        """Let a replica be slow at first, if its workload is when it starts."""
        compiled = self._kernel.compiled
        place = compiled.layout.workloads[int(self._kernel.state.endpoints["workload"][endpoint])]
        workload = compiled.topology.services[place.service].workloads[place.workload]
        if workload.cold_start is not None:
            era = self._replicas.era(endpoint)
            self._env.process(self._warm_up(endpoint, era, workload.cold_start))

    def _warm_up(self, endpoint: int, era: int, cold: ColdStart) -> Process:
        steps = ramp(
            cold.initial_speed,
            1.0,
            seconds(cold.duration),
            exponential=cold.shape == "EXPONENTIAL",
        )
        begin_s = self._env.now
        for offset_s, factor in steps:
            if offset_s > 0:
                yield self._env.timeout(max(begin_s + offset_s - self._env.now, 0.0))
            if self._replicas.era(endpoint) != era:
                return
            self._replicas.warm(endpoint, factor)

    # --- Rates ---

    def set_rate(self, traffic: int, factor: float) -> None:
        """Scale the declared rate of an open-loop class from now on."""
        self._rates_set[traffic] = self._rates_set.get(traffic, 0) + 1
        self._scale_rate(traffic, factor)

    def _scale_rate(self, traffic: int, factor: float) -> None:
        self._kernel.reserve_events(len(POOLS))
        set_rate(self._kernel.state, traffic, factor)

    def ramp_rate(self, traffic: int, factor: float, ramp_s: float) -> Process:
        """Return the process that goes from the present scale of a class's rate to another.

        It is the class's last word from now on, though it begins after whatever else is done
        at this instant.
        """
        self._rates_set[traffic] = mine = self._rates_set.get(traffic, 0) + 1
        return self._ramp_rate(traffic, factor, ramp_s, mine)

    def _ramp_rate(self, traffic: int, factor: float, ramp_s: float, mine: int) -> Process:
        before = float(self._kernel.state.arrivals["multiplier"][traffic])
        begin_s = self._env.now
        for offset_s, value in ramp(before, factor, ramp_s):
            if offset_s > 0:
                yield self._env.timeout(max(begin_s + offset_s - self._env.now, 0.0))
            if self._rates_set[traffic] != mine:
                return
            self._scale_rate(traffic, value)

    # --- Versions ---

    def roll_out(
        self,
        where: tuple[str, str],
        limits: Rollout,
        spans_s: Mapping[str, float],
        version: Mapping[str, float],
    ) -> Process:
        """Return the process that replaces every replica of a workload.

        Parameters
        ----------
        where : (str, str)
            Service and workload.
        limits : Rollout
        spans_s : mapping of str to float
            `readiness_s`, `grace_s`, `pre_stop_s`.
        version : mapping of str to float
            `speed` and `error_rate` of the new replicas.

        Raises
        ------
        ConfigError
            If the last rollout of the workload is not over.
        """
        if where in self._rolling:
            found = "/".join(where)
            raise ConfigError([Problem("a rollout of it is under way", found=found)])
        self._rolling.add(where)
        return self._replace(where, limits, spans_s, version)

    def _replace(
        self,
        where: tuple[str, str],
        limits: Rollout,
        spans_s: Mapping[str, float],
        version: Mapping[str, float],
    ) -> Process:
        old = self._replicas.members(*where)
        models = list(reversed(old))
        drains: list[Any] = []
        starting: list[Any] = []
        ready = 0
        while old or ready < limits.replicas:
            create, stop = limits.step(len(old), len(starting), ready)
            starting += [self._env.timeout(spans_s["readiness_s"]) for _ in range(create)]
            drains += [self._stop(old.pop(), spans_s) for _ in range(stop)]
            if stop:
                self._replicas.note(*where)
            if starting:
                yield starting.pop(0)
                ready += 1
                self.start_cold(self._replicas.add(models[ready - 1], version))
                self._replicas.note(*where)
        yield self._env.all_of(drains)
        for endpoint in models:
            self._replicas.remove(endpoint)
        self._rolling.remove(where)

    def _stop(self, endpoint: int, spans_s: Mapping[str, float]) -> Any:
        """Begin to drain a replica that does not come back; return the process."""
        withdraw_hosts(self._kernel, [endpoint], healthy=False)
        self._replicas.depart(endpoint)
        spans = spans_s["grace_s"], spans_s["pre_stop_s"]
        return self._env.process(self.drain([endpoint], *spans))
