"""What the two planes agree on: one row a rule, and the bounds for what is random.

Rule: what is decided without chance is equal, number by number.  What is random is compared with
the law that both must follow, each plane by itself: a chi-square test of the counts, whose level
of 1e-6 makes a false alarm in 1,000 comparisons a matter of one in a thousand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from scipy import stats

#: Level of every statistical test.
LEVEL = 1e-6


class Row(NamedTuple):
    """One comparison."""

    rule: str
    release: str
    workers: int
    envoy: str
    meshsim: str
    within: str
    agrees: bool


class Verdicts:
    """Rows of one run of the suite."""

    def __init__(self):
        self.rows = []

    def lines(self):
        """Yield the table, then what is not compared."""
        head = Row("rule", "Envoy", "workers", "Envoy's", "meshsim's", "equal within", "")
        for row in (head, *self.rows):
            *cells, agrees = row
            last = "" if row is head else ("yes" if agrees else "NO")
            yield "| " + " | ".join(str(cell) for cell in (*cells, last)) + " |"
            if row is head:
                yield "|---" * len(row) + "|"
        differing = sum(not row.agrees for row in self.rows)
        yield ""
        yield f"{len(self.rows)} comparisons, {differing} differ."

    def write(self, folder):
        """Write the table; return its path."""
        path = Path(folder) / "conformance.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.lines()) + "\n")
        return path


class Referee(NamedTuple):
    """One release of Envoy, and where what it says is noted."""

    binary: str
    release: tuple[int, ...]
    verdicts: Verdicts

    def _note(self, rule, envoy, meshsim, within, agrees, workers):
        release = ".".join(map(str, self.release))
        row = Row(rule, release, workers, _short(envoy), _short(meshsim), within, bool(agrees))
        self.verdicts.rows.append(row)
        assert agrees, f"{rule}: Envoy {envoy}, meshsim {meshsim}"

    def equal(self, rule, envoy, meshsim, workers=1):
        """Hold that both planes have the same numbers."""
        self._note(rule, envoy, meshsim, "0", envoy == meshsim, workers)

    def near(self, rule, envoy, meshsim, within, unit, workers=1):
        """Hold that two numbers differ by `within` at most."""
        agrees = abs(envoy - meshsim) <= within
        shown = (f"{value:.4g} {unit}" for value in (envoy, meshsim))
        self._note(rule, *shown, f"{within:g} {unit}", agrees, workers)

    def bounded(self, rule, envoy, meshsim, low, high, workers=1):
        """Hold that both are between `low` and `high`."""
        agrees = all(low <= value <= high for value in (envoy, meshsim))
        self._note(rule, envoy, meshsim, f"{low:.4g} to {high:.4g}", agrees, workers)

    def law(self, rule, envoy: Mapping, meshsim: Mapping, law: Mapping, workers=1):
        """Hold that the counts of both planes follow `law`: probability by outcome."""
        values = [_chi_square(counts, law) for counts in (envoy, meshsim)]
        freedom = sum(share > 0 for share in law.values()) - 1
        bound = stats.chi2.isf(LEVEL, freedom) if freedom else 0.0
        agrees = max(values) <= bound
        within = f"chi2 {values[0]:.1f}, {values[1]:.1f} <= {bound:.1f}"
        shown = ({name: counts.get(name, 0) for name in law} for counts in (envoy, meshsim))
        self._note(rule, *shown, within, agrees, workers)


def _chi_square(counts, law):
    """Return the statistic of `counts` under `law`; infinite where the impossible happened."""
    total = sum(counts.values())
    if any(count and not law.get(name) for name, count in counts.items()):
        return float("inf")
    return sum(
        (counts.get(name, 0) - total * share) ** 2 / (total * share)
        for name, share in law.items()
        if share
    )


def _short(value):
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items(), key=str))
    return str(value)
