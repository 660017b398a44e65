"""Random meshes under random faults keep every invariant and end with nothing left over.

`MESHSIM_CHAOS_SEEDS=1000` runs as many new seeds, beginning at `MESHSIM_CHAOS_FIRST`.
"""

import os
from pathlib import Path

import pytest
from swarm import story

REGRESSIONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "regressions.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
FIRST = int(os.environ.get("MESHSIM_CHAOS_FIRST", "1000"))
COUNT = int(os.environ.get("MESHSIM_CHAOS_SEEDS", "12"))
#: Events between two checks: a prime, so that checks fall everywhere.
EVENTS = 97


@pytest.mark.parametrize("seed", [*REGRESSIONS, *range(FIRST, FIRST + COUNT)])
def test_nothing_is_wrong_and_nothing_is_left(seed):
    assert story(seed, EVENTS).problems == [], f"replay: python tests/chaos/swarm.py {seed}"
