"""How wrong is the simulator?  Calibrate it on one thing, predict others, then run them.

`validate` answers for one scenario or for the suite; the protocol is in
`meshsim.validation.run`, the costs in `calibration`, the bands and verdicts in `score`.  The
emulator runs as a program of its own, on real sockets.
"""

from __future__ import annotations

from meshsim.validation.lengths import LENGTHS, Lengths
from meshsim.validation.outcome import Validation, load_scores
from meshsim.validation.run import validate
from meshsim.validation.scenarios import Scenario, suite

__all__ = ["LENGTHS", "Lengths", "Scenario", "Validation", "load_scores", "suite", "validate"]
