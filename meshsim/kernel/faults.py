"""Timed faults of a scenario, as SimPy processes over the verbs of `MeshControl`.

Rule: a fault begins at `at` and is undone after `duration`; without a duration it stays.  Which
verbs do that, `meshsim.topology.faults` says.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from meshsim.kernel.control import MeshControl
from meshsim.topology.faults import TimedFault, verbs_at_begin, verbs_at_end
from meshsim.units import seconds

__all__ = ["fault_process"]


def fault_process(env: Any, mesh: MeshControl, fault: TimedFault) -> Generator[Any, None, None]:
    """Inject `fault` at its time, and undo it after its duration."""
    yield env.timeout(seconds(fault.at))
    for verb in verbs_at_begin(fault):
        getattr(mesh, verb.name)(**verb.values)
    if fault.duration is not None:
        yield env.timeout(seconds(fault.duration))
        for verb in verbs_at_end(fault):
            getattr(mesh, verb.name)(**verb.values)
