"""Cases with known answers, as files hold them.

A case names a model, its parameters, one metric, the value that theory or a paper gives, and
the rule by which a measured value agrees with it (`verdict`).  Cases of one `group` are metrics
of one scenario.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

OPEN_CASES = Path(__file__).resolve().parent / "truth-open.json"
SCHEMA = "meshsim-truth/1"


@dataclass(frozen=True, eq=False)
class Case:
    """One known answer.  `params`, `model` and `metric` say what to run; `id` only names it."""

    id: str
    kind: str
    metric: str
    expected: Any
    tolerance: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    level: str = ""
    notes: str = ""

    @property
    def rule(self) -> str:
        return self.tolerance["rule"]

    @cached_property
    def values(self) -> np.ndarray:
        """The expected value or values, shape (n,)."""
        return np.atleast_1d(np.asarray(self.expected, float))

    @property
    def scenario(self) -> str:
        """What tells this scenario from others of its kind."""
        return f"{self.kind} {json.dumps(self.params, sort_keys=True)}"


def seed_of(*parts: int) -> int:
    """Return the seed, below 2**62, that belongs to some whole numbers."""
    low, high = np.random.SeedSequence(parts).generate_state(2).tolist()
    return (high << 30) ^ low


def read_cases(path: Path = OPEN_CASES) -> list[Case]:
    """Return the cases of a file, in its order.

    Raises
    ------
    ValueError
        If it is no file of cases.
    """
    document = json.loads(Path(path).read_text())
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: no file of schema {SCHEMA!r}")
    fields = Case.__dataclass_fields__
    cases = []
    for number, entry in enumerate(document["cases"]):
        stated = {name: entry[name] for name in fields if entry.get(name) is not None}
        missing = {"id", "kind", "metric", "expected", "tolerance"} - stated.keys()
        if missing:
            raise ValueError(f"{path}: case {number} states no {', '.join(sorted(missing))}")
        cases.append(Case(**stated))
    return cases
