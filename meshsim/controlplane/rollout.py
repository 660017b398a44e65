"""How a Deployment replaces its replicas: Kubernetes' RollingUpdate.

Rule, for `replicas` wanted and two limits, each a number or a percentage of them:
``surge = ceil(percent)`` and ``unavailable = floor(percent)``; if both are 0, unavailable is 1.
Whenever something has changed,

1. new replicas are created until there are `replicas` of them or, old and new together,
   ``replicas + surge`` (those that are terminating do not count);
2. of the old ones as many are stopped as leave ``replicas - unavailable`` that are available:
   old ones, and new ones that are ready.

It knows no clock, and not how long a replica takes to be ready.

References
----------
kubernetes/kubernetes, pkg/controller/deployment/util/deployment_util.go (ResolveFenceposts,
NewRSNewReplicas) and pkg/controller/deployment/rolling.go (reconcileOldReplicaSets);
documentation "Deployments", section "Rolling Update Deployment": both limits are 25 % by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsim.errors import ConfigError, Problem
from meshsim.topology.faults import PERCENT, is_limit

__all__ = ["DEFAULT_LIMIT", "Rollout", "rollout"]

#: Kubernetes' default of both limits.
DEFAULT_LIMIT = "25%"


@dataclass(frozen=True)
class Rollout:
    """The resolved limits of one rollout.

    Parameters
    ----------
    replicas : int
        Wanted, >= 1.
    surge, unavailable : int
        Beyond `replicas` and below it, not both 0.
    """

    replicas: int
    surge: int
    unavailable: int

    def step(self, old: int, starting: int, ready: int) -> tuple[int, int]:
        """Return how many replicas to create and how many old ones to stop.

        Parameters
        ----------
        old : int
            Available, of the version before.
        starting, ready : int
            Of the new version.

        Examples
        --------
        >>> rollout(4, "25%", "25%").step(old=4, starting=0, ready=0)
        (1, 1)
        """
        new = starting + ready
        room = self.replicas + self.surge - old - new
        create = max(0, min(self.replicas - new, room))
        spare = old + ready - (self.replicas - self.unavailable)
        return create, max(0, min(old, spare))


def rollout(replicas: int, max_surge: int | str, max_unavailable: int | str) -> Rollout:
    """Return the limits of a rollout of `replicas`.

    Parameters
    ----------
    replicas : int
        Wanted, >= 1.
    max_surge, max_unavailable : int or str
        A number >= 0, or a percentage, "25%".

    Raises
    ------
    ConfigError
        If a limit is neither.
    """
    surge = _limit("max_surge", max_surge, replicas, up=True)
    unavailable = _limit("max_unavailable", max_unavailable, replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Rollout(replicas, surge, min(unavailable, replicas))


def _limit(name: str, limit: int | str, replicas: int, *, up: bool) -> int:
    if not is_limit(limit):
        allowed = 'a number >= 0, or a percentage, e.g. "25%"'
        raise ConfigError([Problem(f"{name} is no limit", found=repr(limit), allowed=allowed)])
    percent = PERCENT.fullmatch(str(limit))
    if percent is None:
        return int(limit)
    share = int(percent[1]) * replicas
    return -(-share // 100) if up else share // 100
