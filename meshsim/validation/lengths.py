"""How long and how often the emulator runs, by the name of a length.

Rule: one sixth of each run is warm-up.  ``full``: five repeats of 60 s measured after 12 s;
``quick``: two of 15 s after 3 s, so that the suite ends within 45 minutes.  Repeats are
interleaved: each round runs the anchors of A and every scenario of B once.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsim.errors import ConfigError, Problem
from meshsim.yamlfile import did_you_mean

__all__ = ["LENGTHS", "Lengths", "lengths"]


@dataclass(frozen=True)
class Lengths:
    """How long and how often the emulator runs.

    Parameters
    ----------
    calibration_s, duration_s : float
        Length of a run of A and of B, warm-up included [s of the machine's clock].
    calibration_repeats, same, fresh : int
        Runs of each scenario of A; of each of B with the draws of the prediction, and with
        fresh ones.
    wall_max_s : float
        No round is begun that would not end by then [s]; infinite without a limit.
    """

    calibration_s: float
    calibration_repeats: int
    duration_s: float
    same: int
    fresh: int
    wall_max_s: float = float("inf")


LENGTHS = {
    # 4 x 2 x 30 s + 22 x 4 x 18 s = 31 minutes of load, and the start of 96 emulators.
    "quick": Lengths(30.0, 2, 18.0, 2, 2, wall_max_s=44 * 60.0),
    "full": Lengths(72.0, 3, 72.0, 5, 5),
}


def lengths(name: str) -> Lengths:
    """Return the lengths called `name`.

    Raises
    ------
    ConfigError
        If there are none.
    """
    if name not in LENGTHS:
        problem = Problem(
            "unknown suite",
            found=name,
            allowed=", ".join(LENGTHS),
            suggestion=did_you_mean(name, LENGTHS),
        )
        raise ConfigError([problem])
    return LENGTHS[name]
