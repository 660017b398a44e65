"""SimPy drives the slow world: its events and the kernel's share one clock.

Rule: before a SimPy event runs, the kernel handles every event of its own up to and including
that time.  SimPy counts in seconds; the boundary rounds to nanoseconds.
"""

from __future__ import annotations

import simpy

from meshsim.kernel.owner import Kernel
from meshsim.units import NS_PER_S

__all__ = ["MeshEnvironment"]


class MeshEnvironment(simpy.Environment):
    """A SimPy environment whose time passes in the kernel.

    Parameters
    ----------
    kernel : Kernel
        Advanced by `step`.

    Notes
    -----
    Everything SimPy offers works: processes, resources, conditions, interrupts.  Only the
    request path is not in it.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        #: True while only measured requests that are still in flight matter.
        self.draining = False

    def step(self) -> None:
        """Advance the kernel to the next SimPy event, then run that event."""
        until_ns = round(self.peek() * NS_PER_S)
        self.kernel.advance_to(until_ns, draining=self.draining)
        super().step()
