"""The compiled discrete-event kernel.

`prepare` compiles it (once a machine and version, cached), `Kernel` owns one replication.
"""

from meshsim.kernel.compilation import compiled, prepare
from meshsim.kernel.invariants import validate
from meshsim.kernel.owner import ROWS_MAX, Kernel

__all__ = ["ROWS_MAX", "Kernel", "compiled", "prepare", "validate"]
