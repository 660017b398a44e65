"""Autoscaled workloads, as SimPy processes over the verbs of `MeshControl`.

Rule: at every sync period `meshsim.controlplane.autoscaler` is told the CPU that each replica
used since the last one, as a share of the workload's `cpu`, and its answer is carried out.  A new
replica is known to the proxies when its `start_up` is over; fewer replicas cancel those on their
way first, then take away the newest, which finish what they have.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from meshsim.controlplane.autoscaler import Autoscaler, Behavior, ScalingPolicy
from meshsim.kernel.control import MeshControl
from meshsim.topology.model import Autoscale, Topology
from meshsim.units import NS_PER_S, seconds

__all__ = ["autoscaling_processes"]

#: Kubernetes' default rates: +4 or +100 %, and -100 %, in 15 s.
_UP = (ScalingPolicy(4), ScalingPolicy(100, percent=True))
_DOWN = (ScalingPolicy(100, percent=True),)


def autoscaling_processes(
    env: Any, mesh: MeshControl, topology: Topology
) -> list[Generator[Any, None, None]]:
    """Return the process of every autoscaled workload of `topology`."""
    return [
        _Scaled(env, mesh, (service, name), workload.cpu or 1.0, workload.autoscale).run()
        for service, body in topology.services.items()
        for name, workload in body.workloads.items()
        if workload.autoscale is not None
    ]


class _Scaled:
    """One autoscaled workload."""

    def __init__(
        self, env: Any, mesh: MeshControl, where: tuple[str, str], cpu: float, settings: Autoscale
    ) -> None:
        self.env = env
        self.mesh = mesh
        self.where = where
        self.cpu = cpu
        self.settings = settings
        self.starting = 0
        self.cancelled = 0
        self.seen_ns = mesh.cpu_ns(*where)
        self.scaler = Autoscaler(
            settings.target_utilization,
            settings.min_replicas,
            settings.max_replicas,
            settings.tolerance,
            Behavior(seconds(settings.stabilization_up), _UP),
            Behavior(seconds(settings.stabilization_down), _DOWN),
        )

    def run(self) -> Generator[Any, None, None]:
        """Decide at every sync period."""
        while True:
            yield self.env.timeout(seconds(self.settings.sync_period))
            usage = self._utilizations()
            replicas = len(usage) + self.starting
            now_ns = round(self.env.now * NS_PER_S)
            change = self.scaler.decide(usage, self.starting, replicas, now_ns) - replicas
            for _ in range(change):
                self.starting += 1
                self.env.process(self._start())
            self._remove(-change)

    def _utilizations(self) -> list[float]:
        """Return the utilisation of each replica that proxies know, since the last call."""
        now_ns = self.mesh.cpu_ns(*self.where)
        available_ns = self.settings.sync_period * self.cpu
        usage = [
            (used_ns - self.seen_ns.get(endpoint, 0)) / available_ns
            for endpoint, used_ns in now_ns.items()
        ]
        self.seen_ns = now_ns
        return usage

    def _start(self) -> Generator[Any, None, None]:
        yield self.env.timeout(seconds(self.settings.start_up))
        if self.cancelled:
            self.cancelled -= 1
            return
        self.starting -= 1
        self.mesh.add_replicas(*self.where)

    def _remove(self, count: int) -> None:
        """Take away `count` replicas, if positive."""
        if count <= 0:
            return
        on_their_way = min(count, self.starting)
        self.starting -= on_their_way
        self.cancelled += on_their_way
        if count > on_their_way:
            self.mesh.remove_replicas(*self.where, count - on_their_way)
