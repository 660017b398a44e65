"""Imported once by the server that node processes are forked from: load everything slow.

Importing is what it is for: numba, pandas and pydantic take a second, and compiled policies
come from the cache of `meshsim.jit` into memory that all node processes then share.
"""

from __future__ import annotations

import emulator.running.node_process  # noqa: F401 - importing is the purpose
from emulator.decisions.rehearsal import rehearse

rehearse()
