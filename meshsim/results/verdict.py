"""Stable, unstable or metastable: what kind of answer the run gives.

Rule, in this order:

- *unstable*: a limit of the run was reached (a stop by hand, or by a failure of what carries an
  emulated mesh, is none), or the backlog of a traffic class grows over the last half of the run
  (`meshsim.stats.backlog`, level 1 % shared by the classes).  A stable run is called unstable in
  about 1 of 100 cases, up to 5 of 100 with fewer than five replications of a short run at high
  load.
- *metastable*: the same seeds and the same final load, once started empty and once after the
  declared trigger, settle differently, and lower after the trigger: paired over the
  replications, 99 %, and by at least `GOODPUT_DIFFERENCE_MINIMUM`.  Never without a trigger.
  A *higher* goodput after the trigger is no second state: the backlog that the trigger left
  is being served on top of the arrivals, and ends.
- *stable*: otherwise.

References
----------
N. Bronson et al., "Metastable failures in distributed systems", HotOS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meshsim.results.measured import STOPPED_BY_FAILURE, STOPPED_BY_HAND, Measured
from meshsim.results.wording import listed, number
from meshsim.state.record import WINDOW_COUNT, Catalog, RunRecord
from meshsim.stats.backlog import backlog_growth
from meshsim.stats.intervals import mean_interval
from meshsim.units import NS_PER_S

__all__ = ["METASTABLE", "STABLE", "UNSTABLE", "Verdict", "judge", "metastable"]

STABLE = "stable"
UNSTABLE = "unstable"
METASTABLE = "metastable"
_SIGNIFICANCE = 0.01
_NO_FINDINGS = (STOPPED_BY_HAND, STOPPED_BY_FAILURE)
#: Smallest difference of goodput that counts, relative to the run started empty.
GOODPUT_DIFFERENCE_MINIMUM = 0.01
_LATE = slice(WINDOW_COUNT // 2, None)
#: Whole windows below which growth is not looked for.
_WINDOWS_MIN = 4


@dataclass(frozen=True)
class Verdict:
    """What kind of answer the run gives, and why.

    Parameters
    ----------
    name : str
        ``"stable"``, ``"unstable"`` or ``"metastable"``.
    reason : str
        One clause for the reader.
    growth_rps : float
        Growth of the backlog, all classes together [1/s]; 0 unless unstable.
    """

    name: str
    reason: str
    growth_rps: float = 0.0

    def __str__(self) -> str:
        return self.name


def _in_flight(measured: Measured) -> npt.NDArray[np.float64]:
    """Return the mean number in flight, shape (replications, windows passed, classes)."""
    reached = measured.windows["in_flight_ns"][:, : measured.whole_window_end]
    mean: npt.NDArray[np.float64] = reached / (measured.window_s * NS_PER_S)
    return mean


def _unstable(measured: Measured) -> Verdict | None:
    in_flight = _in_flight(measured)
    names = measured.catalog.traffic
    level = _SIGNIFICANCE / max(1, len(names))
    growths = [backlog_growth(in_flight[:, :, traffic], level) for traffic in range(len(names))]
    half_s = (in_flight.shape[1] - in_flight.shape[1] // 2) * measured.window_s
    limits = [
        record.limit
        for record in measured.records
        if record.limit and not record.limit.startswith(_NO_FINDINGS)
    ]
    growing = [(name, growth) for name, growth in zip(names, growths, strict=True) if growth.grows]
    if limits:
        rate = sum(growth.total for growth in growths) / half_s if half_s else 0.0
        return Verdict(UNSTABLE, f"queue growth: {limits[0]}", max(rate, 0.0))
    if not growing:
        return None
    rate = sum(growth.total for _, growth in growing) / half_s
    classes = listed([name for name, _ in growing])
    return Verdict(UNSTABLE, f"the backlog of {classes} grows by {number(rate)} requests/s", rate)


def _late_goodput(records: Sequence[RunRecord]) -> npt.NDArray[np.float64]:
    """Return the goodput over the last half of each replication [1/s]."""
    return np.array(
        [
            record.windows["good_responses"][_LATE].sum() * 2 * NS_PER_S / record.duration_ns
            for record in records
        ]
    )


def metastable(
    catalog: Catalog,
    records_empty: Sequence[RunRecord],
    records_after_trigger: Sequence[RunRecord],
) -> Verdict | None:
    """Tell whether a system settles lower after a trigger than when started empty.

    Parameters
    ----------
    catalog : Catalog
        Of the scenario with the trigger.
    records_empty, records_after_trigger : sequence of RunRecord
        The same seeds and final load, in the same order; at least three pairs.

    Returns
    -------
    Verdict or None
        None if nothing supports the claim: no trigger, too few pairs, or no loss.
    """
    pairs = len(records_empty)
    if not catalog.trigger or pairs < 3 or pairs != len(records_after_trigger):
        return None
    empty, after = _late_goodput(records_empty), _late_goodput(records_after_trigger)
    loss = mean_interval(empty - after, confidence=1 - _SIGNIFICANCE)
    material = loss.value >= GOODPUT_DIFFERENCE_MINIMUM * float(empty.mean())
    if not material or loss.low <= 0:
        return None
    return Verdict(
        METASTABLE,
        f"goodput settles at {number(float(after.mean()), 4)}/s after the trigger, "
        f"at {number(float(empty.mean()), 4)}/s when started empty",
    )


def judge(measured: Measured, records_empty: Sequence[RunRecord] = ()) -> Verdict:
    """Return the verdict on a scenario.

    Parameters
    ----------
    measured : Measured
        The runs to be judged; those after the trigger if there is one.
    records_empty : sequence of RunRecord
        The same seeds and final load started empty, without the trigger; may be empty.
    """
    unstable = _unstable(measured)
    if unstable is not None:
        return unstable
    collapsed = metastable(measured.catalog, records_empty, measured.records)
    if collapsed is not None:
        return collapsed
    if measured.whole_window_end < _WINDOWS_MIN:
        return Verdict(STABLE, "stopped too early to see a backlog grow")
    return Verdict(STABLE, "the backlog does not grow")
