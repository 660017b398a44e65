"""How a case is examined: run its study until the answer is precise, then judge.

Rule: an adapter turns a case into a *study*.  `Exact` computes once; `Claims` are statements that
hold or not; `Replicated` draws independent replications.  How many are needed says a pilot of
ten, which is then thrown away (Stein's two stages): a queue that happens to be short also
varies little, so replications that end when they look precise would come out too low.  An
interval that is too wide all the same is given more, up to the study's limit.  Studies with one
key share their replications: several metrics of one scenario are one run.

References
----------
C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the variance",
Annals of Mathematical Statistics 16 (1945).
"""

import importlib
import importlib.util
import json
import math
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import verdict as rules
from pydantic import ValidationError
from truth_cases import Case, seed_of
from verdict import Verdict

from meshsim.errors import ConfigError

FIRST_REPLICATIONS = 10
#: Cheap cases are run at this multiple of their half-width.
CHEAP_WIDENING = 3.0
#: Utilisation up to which a ci case is cheap.
CHEAP_LOAD = 0.8
_KEPT_RUNS = 4
#: More replications than the pilot asks for: its variance is an estimate.
_MARGIN = 1.2
#: Number of the batch that decides how many replications there are.
_PILOT = 900


class NotYet(Exception):
    """What a case asks cannot be expressed, and why."""


@dataclass(frozen=True)
class Exact:
    """Deterministic code under test."""

    compute: Callable[[], Any]
    about: str = ""
    cheap: bool = True
    second: Callable[[], tuple[Any, str]] | None = None


@dataclass(frozen=True)
class Claims:
    """Statements about runs; all must hold."""

    compute: Callable[[], Mapping[str, bool]]
    about: str = ""
    cheap: bool = False


@dataclass(frozen=True)
class Replicated:
    """Independent replications of a scenario.

    `run(seed, replications)` returns what they leave, which `join` puts together; `read` makes
    of that one row a replication.  `second` is the same value by another way, where there is
    one, with its name; `tell` says more of the runs than the metric does.
    """

    key: str
    run: Callable[[int, int], Any]
    read: Callable[[Any], np.ndarray]
    load: float
    replications_max: int = 640
    about: str = ""
    cheap: bool = True
    second: Callable[[], tuple[Any, str]] | None = None
    replications_min: int = FIRST_REPLICATIONS
    tell: Callable[[Any], str] | None = None


Study = Exact | Claims | Replicated


def study_of(case: Case) -> Study:
    """Return the study that the adapter of the case's kind makes of it.

    Raises
    ------
    NotYet
        If there is no adapter, or it cannot express the case.
    """
    name = f"adapters.{case.kind}"
    if importlib.util.find_spec(name) is None:
        raise NotYet(f"no adapter for {case.kind}")
    try:
        study: Study = importlib.import_module(name).study(case)
    except KeyError as missing:
        raise NotYet(f"the case states no parameter {missing}") from missing
    except ValueError as refused:  # of theory: what has no steady state has no mean to expect
        raise NotYet(str(refused)) from refused
    return study


def is_cheap(case: Case) -> bool:
    """Tell whether the case belongs to the tier of every test run."""
    try:
        study = study_of(case)
    except NotYet:
        return True
    if isinstance(study, Replicated):
        return study.cheap and case.rule == "ci" and study.load <= CHEAP_LOAD
    return study.cheap


class Examiner:
    """Examines cases, and keeps the last runs for cases of the same scenario."""

    def __init__(self, seed: int = 1, widen: float = 1.0) -> None:
        self.seed = seed
        self.widen = widen
        self._runs: OrderedDict[str, Any] = OrderedDict()

    def examine(self, case: Case) -> tuple[Verdict, str]:
        """Return the verdict on a case, and how it was run."""
        try:
            study = study_of(case)
            if isinstance(study, Exact):
                found = np.atleast_1d(np.asarray(study.compute(), float))
                verdict = rules.judge_exact(case, found)
                if verdict.status == rules.FAIL and study.second is not None:
                    verdict = rules.dispute_exact(case, found, *study.second())
                return verdict, study.about
            if isinstance(study, Claims):
                return rules.judge_claims(study.compute()), study.about
            return self._replicate(case, study)
        except NotYet as reason:
            return Verdict(rules.NOT_YET, str(reason)), ""
        except ValidationError as refused:
            first = refused.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return Verdict(rules.NOT_YET, f"no such scenario: {where}: {first['msg']}"), ""
        except ConfigError as refused:
            reason = str(refused).splitlines()[0]
            return Verdict(rules.NOT_YET, f"no such scenario: {reason}"), ""

    def _replicate(self, case: Case, study: Replicated) -> tuple[Verdict, str]:
        runs = self._runs.pop(study.key, None)
        if runs is None:
            runs = self._first_runs(case, study)
        values = _columns(study.read(runs))
        while (wide := rules.excess(case, values, self.widen)) > 1:
            wanted = _replications(len(values), wide, study.replications_max)
            if wanted <= len(values):
                break
            seed = self._seed(study, runs.batches)
            runs = runs.joined(study.run(seed, wanted - len(values)))
            values = _columns(study.read(runs))
        self._runs[study.key] = runs
        while len(self._runs) > _KEPT_RUNS:
            self._runs.popitem(last=False)
        verdict = rules.judge_sample(case, values, self.widen)
        if verdict.status == rules.FAIL and study.second is not None:
            second, how = study.second()
            verdict = rules.dispute(case, values, second, how)
        about = f"{study.about}, seed {self.seed}"
        if study.tell is not None:
            about += f"; {study.tell(runs)}"
        return replace(verdict, replications=len(values)), about

    def _first_runs(self, case: Case, study: Replicated) -> Any:
        """Return as many runs as a pilot of ten, which is thrown away, says are needed.

        Other rules than ci allow for more than the noise: ten will do to begin with.
        """
        count = study.replications_min
        if case.rule == "ci" and self.widen == 1:
            pilot = _columns(study.read(study.run(self._seed(study, _PILOT), count)))
            wide = rules.excess(case, pilot, self.widen)
            count = _replications(count, wide, study.replications_max)
        return study.run(self._seed(study, 0), count)

    def _seed(self, study: Replicated, batch: int) -> int:
        """Return the seed of a batch of replications: scores of different runs are independent.

        With one seed for all, every queue would meet the same arrivals and services.
        """
        return seed_of(self.seed, zlib.crc32(study.key.encode()), batch)


def _replications(count: int, wide: float, most: int) -> int:
    """Return how many replications make an interval of `count` that is `wide` narrow enough."""
    return min(max(math.ceil(_MARGIN * count * wide**2), count), most)


def _columns(values: np.ndarray) -> np.ndarray:
    return values[:, None] if values.ndim == 1 else values


def key_of(case: Case, *parts: object) -> str:
    """Return the key of the runs of a case's scenario, in one of several variants."""
    return f"{case.scenario} {json.dumps([str(part) for part in parts])}"
