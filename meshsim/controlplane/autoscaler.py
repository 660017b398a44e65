"""How many replicas: Kubernetes' HorizontalPodAutoscaler, version 2.

Rule, once every sync period (15 s in Kubernetes), for a target of mean utilisation:

1. ``usage = mean utilisation of the ready replicas / target``.  Within `tolerance` (0.1) of 1
   nothing changes; otherwise ``desired = ceil(usage * ready)``.  Replicas that are not ready yet
   count as idle when this would scale up (and the sum is taken again over all of them), and are
   left out when it would scale down; if that turns the direction, nothing changes.
2. Stabilisation: scaling down goes to the *highest* recommendation of the last 300 s, scaling up
   to the *lowest* of the last 0 s, the present one included.
3. Rate: within any window of a scaling policy's period, replicas may grow from what they were at
   its start by the most that a policy allows (by default +4 or +100 % in 15 s, whichever is
   more), and shrink likewise (by default -100 % in 15 s).
4. The bounds: `min_replicas` to `max_replicas`.

It knows no clock: the time comes in.

References
----------
kubernetes/kubernetes, pkg/controller/podautoscaler/horizontal.go
(stabilizeRecommendationWithBehaviors, convertDesiredReplicasWithBehaviorRate) and
replica_calculator.go (GetResourceReplicas, calcPlainMetricReplicas); documentation
"Horizontal Pod Autoscaling", sections "Algorithm details" and "Default behavior".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshsim.errors import ConfigError
from meshsim.units import NS_PER_S

__all__ = ["Autoscaler", "Behavior", "ScalingPolicy"]


#: What floats may add to a number that is exact on paper.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ScalingPolicy:
    """One limit on the rate of scaling.

    Parameters
    ----------
    value : float
        Replicas, or percent of those at the start of the period; > 0.
    period_s : float
        0 < period <= 1800 [s].
    percent : bool
        Whether `value` is in percent.
    """

    value: float
    period_s: float = 15.0
    percent: bool = False

    def change(self, replicas: int) -> float:
        """Return by how many `replicas` may change in one period; not rounded."""
        return replicas * self.value / 100.0 if self.percent else self.value


@dataclass(frozen=True)
class Behavior:
    """How fast one direction may go: the most permissive of `policies` holds."""

    stabilization_s: float
    policies: tuple[ScalingPolicy, ...]


_UP = Behavior(0.0, (ScalingPolicy(4), ScalingPolicy(100, percent=True)))
_DOWN = Behavior(300.0, (ScalingPolicy(100, percent=True),))


@dataclass
class Autoscaler:
    """Recommendations for one workload; remembers what it needs of the past.

    Parameters
    ----------
    target : float
        Utilisation that replicas should have, as a share of what they request; > 0.
    min_replicas, max_replicas : int
        1 <= min <= max.
    tolerance : float
        Around a usage of 1, within which nothing changes; >= 0.
    up, down : Behavior

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    target: float
    min_replicas: int = 1
    max_replicas: int = 10
    tolerance: float = 0.1
    up: Behavior = _UP
    down: Behavior = _DOWN
    _recommended: list[tuple[int, int]] = field(default_factory=list)  # time [ns], replicas
    _changed: list[tuple[int, int]] = field(default_factory=list)  # time [ns], by how many

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise ConfigError(f"target utilisation: found {self.target}, allowed: above 0")
        if not 1 <= self.min_replicas <= self.max_replicas:
            found = f"{self.min_replicas} to {self.max_replicas}"
            raise ConfigError(f"replicas: found {found}, allowed: 1 <= min <= max")

    def decide(
        self, utilizations: Sequence[float], unready: int, replicas: int, now_ns: int
    ) -> int:
        """Return how many replicas there should be from now on.

        Parameters
        ----------
        utilizations : sequence of float
            Of each ready replica since the last decision, >= 0.
        unready : int
            Replicas that were started and are not ready.
        replicas : int
            Those asked for at present; 0 means that scaling is off.
        now_ns : int
            Time of the decision; not before the last one [ns].
        """
        if replicas == 0:
            return 0
        wanted = self._wanted(utilizations, unready, replicas)
        steady = self._stabilized(wanted, replicas, now_ns)
        limited = self._limited(steady, replicas, now_ns)
        if limited != replicas:
            self._changed.append((now_ns, limited - replicas))
        return limited

    def _wanted(self, utilizations: Sequence[float], unready: int, replicas: int) -> int:
        """Return what the utilisation alone asks for."""
        ready = len(utilizations)
        if ready == 0:
            return replicas
        usage = sum(utilizations) / ready / self.target
        if unready == 0 or usage < 1.0:
            return replicas if self._near(usage) else _ceil(usage * ready)
        # Those on their way count as idle, so that a slow start is not answered by more of them.
        of_all = sum(utilizations) / (ready + unready) / self.target
        if self._near(of_all) or of_all < 1.0:
            return replicas
        return max(_ceil(of_all * (ready + unready)), replicas)

    def _near(self, usage: float) -> bool:
        return abs(usage - 1.0) <= self.tolerance + _ROUNDING

    def _stabilized(self, wanted: int, replicas: int, now_ns: int) -> int:
        longest_s = max(self.up.stabilization_s, self.down.stabilization_s)
        self._recommended = [
            item for item in self._recommended if item[0] > now_ns - longest_s * NS_PER_S
        ]
        self._recommended.append((now_ns, wanted))
        lowest = min(self._within(self.up, now_ns))
        highest = max(self._within(self.down, now_ns))
        return min(max(replicas, lowest), highest)

    def _within(self, behavior: Behavior, now_ns: int) -> list[int]:
        begin_ns = now_ns - behavior.stabilization_s * NS_PER_S
        return [count for at_ns, count in self._recommended if at_ns > begin_ns or at_ns == now_ns]

    def _limited(self, wanted: int, replicas: int, now_ns: int) -> int:
        if wanted > replicas:
            most = max(
                _ceil(start + policy.change(start))
                for policy in self.up.policies
                for start in [replicas - self._moved(policy, now_ns, up=True)]
            )
            wanted = min(wanted, max(most, replicas))
        elif wanted < replicas:
            least = min(
                int(start - policy.change(start))
                for policy in self.down.policies
                for start in [replicas + self._moved(policy, now_ns, up=False)]
            )
            wanted = max(wanted, min(least, replicas))
        return min(max(wanted, self.min_replicas), self.max_replicas)

    def _moved(self, policy: ScalingPolicy, now_ns: int, *, up: bool) -> int:
        """Return by how many replicas were added (or removed) in the policy's last period."""
        begin_ns = now_ns - policy.period_s * NS_PER_S
        changes = [change for at_ns, change in self._changed if at_ns > begin_ns]
        return (
            sum(change for change in changes if change > 0)
            if up
            else -sum(change for change in changes if change < 0)
        )


def _ceil(value: float) -> int:
    """Return `value` rounded up; what floats add to a whole number does not count."""
    return math.ceil(value - _ROUNDING)
