"""Timed faults of a scenario, as SimPy processes over the verbs of `MeshControl`.

Rule: a fault begins at `at` and is undone after `duration`; without a duration it stays.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from meshsim.kernel.control import MeshControl
from meshsim.topology.model import TimedFault
from meshsim.units import seconds

__all__ = ["fault_process"]


def fault_process(env: Any, mesh: MeshControl, fault: TimedFault) -> Generator[Any, None, None]:
    """Inject `fault` at its time, and undo it after its duration."""
    yield env.timeout(seconds(fault.at))
    _begin(mesh, fault)
    if fault.duration is not None:
        yield env.timeout(seconds(fault.duration))
        _end(mesh, fault)


def _where(fault: TimedFault) -> dict[str, Any]:
    return {"workload": fault.workload, "replica": fault.replica, "zone": fault.zone}


def _begin(mesh: MeshControl, fault: TimedFault) -> None:
    match fault.kind:
        case "kill":
            mesh.kill(fault.service, **_where(fault))
        case "slow":
            mesh.slow(fault.service, fault.factor, **_where(fault))
        case "pause":
            mesh.slow(fault.service, 0.0, **_where(fault))
        case "errors":
            mesh.fail(fault.service, fault.factor, **_where(fault))
        case "flush":
            mesh.flush(fault.service, **_where(fault))
        case "rate":
            mesh.set_rate(fault.traffic or "", fault.factor)


def _end(mesh: MeshControl, fault: TimedFault) -> None:
    if fault.kind == "rate":
        mesh.set_rate(fault.traffic or "", 1.0)
    else:
        mesh.restore(fault.service, **_where(fault))
