"""Cases with known answers, as files hold them.

A case names a model, its parameters, one metric, the value that theory or a paper gives, and
the rule by which a measured value agrees with it (`verdict`).  Cases of one `group` are metrics
of one scenario.
"""

import json
from dataclasses import dataclass
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
    model: str
    params: dict[str, Any]
    metric: str
    expected: Any
    tolerance: dict[str, Any]
    level: str
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
    """Return the cases of a file, in its order."""
    document = json.loads(Path(path).read_text())
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {document.get('schema')!r}, expected {SCHEMA!r}")
    fields = Case.__dataclass_fields__
    return [
        Case(**{name: entry[name] for name in fields if entry.get(name) is not None})
        for entry in document["cases"]
    ]
