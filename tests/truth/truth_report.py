"""What is said of the examined cases: a line each, counts by kind, and a QQ plot of the scores.

A bias shows in the plot long before a single case fails: the scores of right cases are N(0, 1).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats
from truth_cases import Case
from verdict import DISPUTED, FAIL, INCONCLUSIVE, NOT_YET, PASS, Verdict

_STATUSES = (PASS, FAIL, INCONCLUSIVE, DISPUTED, NOT_YET)
_SCORES_MIN = 10


@dataclass(frozen=True)
class Entry:
    """One case, what became of it, how it was run, and for how long."""

    case: Case
    verdict: Verdict
    about: str
    seconds: float

    def line(self) -> str:
        """Return the case in one line."""
        verdict = self.verdict
        parts = [f"{verdict.status:<12} {self.case.id}: {self.case.metric}"]
        if verdict.mean:
            found = _numbers(verdict.mean)
            if verdict.half_width:
                found += f" +- {_numbers(verdict.half_width, 2)}"
            parts.append(f"found {found}, expected {_expected(self.case.expected)}")
        if verdict.scores:
            parts.append(f"z {_numbers(verdict.scores, 2)}")
        if verdict.replications:
            parts.append(f"R {verdict.replications}")
        parts += [part for part in (self.about, verdict.note) if part]
        return "; ".join([*parts, f"{self.seconds:.1f} s"])


def _numbers(values: tuple[float, ...], digits: int = 6) -> str:
    texts = [f"{value:.{digits}g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _expected(value: object) -> str:
    if isinstance(value, str):
        return value
    return _numbers(tuple(np.atleast_1d(np.asarray(value, float)).tolist()))


@dataclass
class Report:
    """All examined cases, in their order."""

    entries: list[Entry] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [entry.line() for entry in self.entries]

    def table(self) -> Iterator[str]:
        """Yield the counts of verdicts by kind."""
        yield f"{'kind':<18}" + "".join(f"{status:>14}" for status in _STATUSES)
        kinds = dict.fromkeys(entry.case.kind for entry in self.entries)
        for kind in [*kinds, "all"]:
            counts = Counter(
                entry.verdict.status for entry in self.entries if kind in (entry.case.kind, "all")
            )
            yield f"{kind:<18}" + "".join(f"{counts[status] or '-':>14}" for status in _STATUSES)
        scores = self.scores()
        if len(scores) >= _SCORES_MIN:
            fit = stats.kstest(scores, "norm").pvalue
            yield (
                f"{len(scores)} scores: mean {scores.mean():+.2f}, deviation {scores.std():.2f}, "
                f"normal with p = {fit:.2g}"
            )

    def scores(self) -> np.ndarray:
        return np.array([score for entry in self.entries for score in entry.verdict.scores])

    def write(self, folder: Path) -> list[str]:
        """Write the report and its plot to `folder`, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        text = folder / "report.txt"
        text.write_text("\n".join([*self.lines(), *self.table(), ""]))
        data = folder / "report.json"
        rows = [
            {"id": entry.case.id, "kind": entry.case.kind, "about": entry.about}
            | asdict(entry.verdict)
            for entry in self.entries
        ]
        data.write_text(json.dumps(rows, indent=1))
        written = [text, data]
        if len(self.scores()) >= _SCORES_MIN:
            written.append(_plot(self.scores(), folder / "qq.png"))
        return [str(path) for path in written]


def _plot(scores: np.ndarray, path: Path) -> Path:
    """Plot the scores against the normal quantiles, with 95 % limits of each order statistic."""
    from matplotlib.figure import Figure

    ordered = np.sort(scores)
    rank = np.arange(1, len(ordered) + 1)
    normal = stats.norm.ppf((rank - 0.5) / len(ordered))
    limits = [
        stats.norm.ppf(stats.beta.ppf(p, rank, len(ordered) + 1 - rank)) for p in (0.025, 0.975)
    ]
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(normal, *limits, color="0.85", label="95 % of each order statistic")
    axes.plot(normal, normal, color="0.5", linewidth=1)
    axes.plot(normal, ordered, "o", markersize=3)
    axes.set_xlabel("quantile of N(0, 1)")
    axes.set_ylabel("score of a case (its t value as a normal quantile)")
    axes.set_title(f"{len(ordered)} scores")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
    return path
