"""A rollout on live sockets: replicas restarted in place, so many at a time.

Rule: of `meshsim.controlplane.rollout`, without surge: as many replicas as may be unavailable are
drained at once, and each is brought back, made what the new version is, and told to the proxies
when it is ready; then the next ones follow.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshsim.controlplane.rollout import DEFAULT_LIMIT, rollout
from meshsim.errors import ConfigError, Problem
from meshsim.topology.compiled.layout import Place

if TYPE_CHECKING:
    from emulator.running.faults import LiveControl

__all__ = ["restart_in_turn"]


async def restart_in_turn(
    mesh: LiveControl,
    place: Place,
    *,
    max_surge: int | str = DEFAULT_LIMIT,
    max_unavailable: int | str = DEFAULT_LIMIT,
    readiness_s: float = 0.0,
    grace_s: float = 30.0,
    pre_stop_s: float = 0.0,
    speed: float = 1.0,
    error_rate: float | None = None,
) -> None:
    """Restart the replicas of a workload, the newest first.

    Parameters
    ----------
    mesh : LiveControl
    place : Place
        Of the workload.
    max_surge, max_unavailable : int or str
        Of `rollout`; the first is 0 here.
    readiness_s, grace_s, pre_stop_s : float
        Spans of model time [s].
    speed, error_rate : float
        Of the new version, as in `meshsim.kernel.control.MeshControl.roll_out`.

    Raises
    ------
    ConfigError
        If a limit or a span is none.
    """
    if speed <= 0 or readiness_s < 0:
        found = f"speed {speed}, readiness_s {readiness_s}"
        raise ConfigError([Problem("a speed is > 0, a span >= 0", found=found)])
    rollout(place.replicas, max_surge, max_unavailable)  # refuses what is no limit
    at_once = rollout(place.replicas, 0, max_unavailable).unavailable

    async def replace(replica: int) -> None:
        one = {"workload": place.workload, "replica": replica}
        await mesh.drain(place.service, grace_s=grace_s, pre_stop_s=pre_stop_s, **one)
        await mesh.sleep(readiness_s)
        await mesh.restore(place.service, **one)
        if speed != 1.0:
            await mesh.slow(place.service, speed, **one)
        if error_rate is not None:
            await mesh.fail(place.service, error_rate, **one)
        await mesh.withdraw(place.service, healthy=True, **one)

    left = list(range(place.replicas))
    while left:
        batch, left = left[-at_once:], left[:-at_once]
        await asyncio.gather(*(replace(replica) for replica in batch))
