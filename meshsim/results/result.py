"""Result: what a person asks a simulation for, the same for every plane.

Rule: a Result holds the records of its replications and makes every table, estimate and
verdict from them when asked; it never holds an average that it cannot explain.  One warm-up
cut and one verdict serve all tables.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from meshsim.errors import ConfigError, Problem
from meshsim.results import report, scaling, storage, tables
from meshsim.results.breakdown import breakdown
from meshsim.results.estimates import METRICS, QUANTILES, Estimate
from meshsim.results.measured import Measured
from meshsim.results.traces import Trace, traces
from meshsim.results.verdict import UNSTABLE, Verdict, judge
from meshsim.state.record import Catalog, RunRecord
from meshsim.stats.intervals import jackknife_values, mean_interval

__all__ = ["Result"]

_NS_PER_MS = 1e6


def _version() -> str:
    try:
        return metadata.version("meshsim")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The outcome of one scenario: tables, estimates, verdict, plots.

    Parameters
    ----------
    catalog : Catalog
        Names of everything in the records.
    records : tuple of RunRecord
        One a replication, in order.
    notices : tuple of str
        What was read and not used, or assumed: one sentence each.
    defaults : mapping of str to str
        What the scenario did not say: field path -> "2: Istio default (retry.go)".
    records_empty : tuple of RunRecord
        The same seeds and final load started empty, of a scenario with a trigger.
    version : str
        Version of meshsim that made the records.
    emulation : mapping
        How an emulated result was made (dilation, lag, CPU, accounting of requests); empty of
        a simulated one.

    Examples
    --------
    >>> result = Result.from_records(catalog, records)         # doctest: +SKIP
    >>> result.traffic()["p99_ms"]                             # doctest: +SKIP
    """

    catalog: Catalog
    records: tuple[RunRecord, ...]
    notices: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    records_empty: tuple[RunRecord, ...] = ()
    version: str = field(default_factory=_version)
    emulation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_records(
        cls,
        catalog: Catalog,
        records: Sequence[RunRecord],
        *,
        notices: Sequence[str] = (),
        defaults: Mapping[str, str] | None = None,
        records_empty: Sequence[RunRecord] = (),
        emulation: Mapping[str, Any] | None = None,
    ) -> Result:
        """Build a result from what the replications left behind.

        Parameters
        ----------
        catalog, records, notices, defaults, records_empty, emulation
            As of the class; at least one record, all of one duration.

        Raises
        ------
        ValueError
            If there is no record, or if their durations differ.
        """
        durations = {record.duration_ns for record in records}
        if len(durations) != 1:
            raise ValueError(f"records of one duration are needed, found {sorted(durations)}")
        return cls(
            catalog,
            tuple(records),
            tuple(notices),
            dict(defaults or {}),
            tuple(records_empty),
            emulation=dict(emulation or {}),
        )

    # --- What the whole rests on -------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Seed of the first replication."""
        return self.records[0].seed

    @property
    def replications(self) -> int:
        """Number of replications."""
        return len(self.records)

    @cached_property
    def measured(self) -> Measured:
        """The part of the records after warm-up, in independent groups."""
        return Measured(self.catalog, self.records)

    @cached_property
    def verdict(self) -> Verdict:
        """Stable, unstable or metastable; ``str(result.verdict)`` is the word."""
        return judge(self.measured, self.records_empty)

    @property
    def engine(self) -> dict[str, float]:
        """Requests and events of all replications, and the time they took [s]."""
        return {
            "requests": sum(record.counters.get("requests", 0) for record in self.records),
            "events": sum(record.counters.get("events", 0) for record in self.records),
            "wall_s": sum(record.wall_s for record in self.records),
        }

    @property
    def _withheld(self) -> str:
        return f"unstable: {self.verdict.reason}" if self.verdict.name == UNSTABLE else ""

    # --- Estimates ---------------------------------------------------------------------------

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Success [1] and latencies [ms] by traffic class and metric."""
        return {
            name: tables.traffic_estimates(self.measured, index, self._withheld)
            for index, name in enumerate(self.catalog.traffic)
        }

    def estimate(self, traffic: str, metric: str) -> Estimate:
        """Return one estimate of a traffic class.

        Parameters
        ----------
        traffic : str
            Name of the class.
        metric : str
            ``success`` [1], or ``mean``, ``p50``, ``p90``, ``p99``, ``p99.9`` [ms].

        Raises
        ------
        ConfigError
            If there is no such class or metric.
        """
        for kind, found, allowed in (
            ("traffic class", traffic, self.catalog.traffic),
            ("metric", metric, ("success", *METRICS)),
        ):
            if found not in allowed:
                problem = Problem(f"no such {kind}", found=found, allowed=", ".join(allowed))
                raise ConfigError([problem])
        return self.estimates[traffic][metric]

    def difference(self, other: Result, metric: str = "mean") -> pd.DataFrame:
        """Compare with another result of the same seeds, replication by replication.

        Parameters
        ----------
        other : Result
            With the same traffic classes and as many replications (at least two).
        metric : str
            ``mean``, ``p50``, ``p90``, ``p99`` or ``p99.9``.

        Returns
        -------
        DataFrame
            One row a class: this minus other [ms] with its 95 % limits.

        Raises
        ------
        ConfigError
            If the two cannot be paired.

        Notes
        -----
        Common random numbers: the same requests meet the same draws in both, so that the
        difference is known better than either value.  A quantile is compared by the jackknife
        pseudo-values of its replications.  Each side has its own warm-up cut.
        """
        pairable = self.catalog.traffic == other.catalog.traffic
        seeds = [[(r.seed, r.replication) for r in side.records] for side in (self, other)]
        if not pairable or seeds[0] != seeds[1] or len(seeds[0]) < 2:
            raise ConfigError("a difference needs the same traffic classes, seeds and replications")
        rows = []
        for index, name in enumerate(self.catalog.traffic):
            interval = mean_interval(self._paired(index, metric) - other._paired(index, metric))
            columns = ("difference_ms", "low_ms", "high_ms")
            rows.append({"traffic": name} | dict(zip(columns, interval, strict=True)))
        return pd.DataFrame(rows).set_index("traffic")

    def _paired(self, traffic: int, metric: str) -> Any:
        """Return one value a replication [ms] of a class."""
        histograms = self.measured.by_replication(traffic)
        if metric in QUANTILES:
            return jackknife_values(histograms, QUANTILES[metric]) / _NS_PER_MS
        kept = slice(self.measured.window_start, self.measured.window_end)
        sums = self.measured.windows["latency_sum_ns"][:, kept, traffic].sum(axis=1)
        counts = histograms.sum(axis=1)
        values = np.full(len(counts), math.nan)
        np.divide(sums, counts * _NS_PER_MS, out=values, where=counts > 0)
        return values

    # --- Tables ------------------------------------------------------------------------------

    def summary(self) -> report.Summary:
        """Return the answer in a few lines: verdict, rates, latency, cost."""
        return report.Summary(self)

    @cached_property
    def _traffic(self) -> pd.DataFrame:
        return tables.traffic(self.measured, self._withheld)

    def traffic(self) -> pd.DataFrame:
        """Return rates, success and latency by traffic class, with 95 % intervals."""
        return self._traffic.copy()

    @cached_property
    def _edges(self) -> pd.DataFrame:
        return tables.edges(self.measured, self._withheld)

    def edges(self) -> pd.DataFrame:
        """Return rates, success and latency by (caller, service) pair."""
        return self._edges.copy()

    def services(self) -> pd.DataFrame:
        """Return rates, success, latency and load by called service."""
        return tables.services(self.measured, self._withheld)

    def endpoints(self) -> pd.DataFrame:
        """Return requests, share, utilisation, queue and losses by endpoint."""
        return tables.endpoints(self.measured)

    def proxies(self) -> pd.DataFrame:
        """Return requests, connections, CPU and memory by proxy.

        CPU and memory are the model's: an emulated run has neither, as many proxies share a
        process, whose CPU is in `emulation`.
        """
        return self._without_model(tables.proxies(self.measured))

    def data_plane(self) -> pd.DataFrame:
        """Return what all proxies cost together, by kind; as `proxies`."""
        return self._without_model(tables.data_plane(self.measured))

    def _without_model(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.drop(columns=["cpu_cores", "memory_mb"]) if self.emulation else table

    def hosts(self) -> pd.DataFrame:
        """Return requests, errors and latency by (proxy, endpoint) pair, whole run."""
        return tables.hosts(self.measured)

    def stats(self) -> pd.DataFrame:
        """Return Envoy's counters of limits, faults and health by proxy (whole run)."""
        return tables.stats(self.measured)

    def flags(self) -> pd.DataFrame:
        """Return the response flags that occurred, by class and by edge."""
        return tables.flags(self.measured)

    def breakdown(self) -> pd.DataFrame:
        """Return queueing, service, proxy and wire time, by class and by edge."""
        return breakdown(self.measured)

    def timeline(self) -> pd.DataFrame:
        """Return rates, latency and requests in flight by window and class."""
        return tables.timeline(self.measured)

    def replicas(self) -> pd.DataFrame:
        """Return every change of a workload's number of replicas, by time; empty if none."""
        return scaling.table(self.records)

    def traces(self) -> tuple[Trace, ...]:
        """Return the sampled requests as span trees; print one to see it."""
        return traces(self.catalog, self.records)

    # --- Views -------------------------------------------------------------------------------

    @property
    def plot(self) -> Any:
        """Figures: ``plot.latency()``, ``plot.timeline()``, ``plot.graph()``.

        matplotlib and `meshsim.plots`, a higher layer, are loaded here on first use.
        """
        return importlib.import_module("meshsim.plots").Plots(self)

    def report(self) -> str:
        """Return the report for a terminal."""
        return report.text(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `to_json` writes it."""
        return report.to_dict(self)

    def to_json(self) -> str:
        """Return scenario, verdict, engine, traffic, edges, endpoints and proxies as JSON."""
        return report.to_json(self)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        return f"<Result {self.catalog.scenario} on {self.catalog.mesh}: {self.verdict}>"

    def _repr_html_(self) -> str:
        return report.html(self)

    # --- Storage -----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Store everything in the folder `path` (Parquet and JSON), whole or not at all.

        Raises
        ------
        ConfigError
            If `path` exists and is not a stored result.
        """
        extra = {
            "notices": list(self.notices),
            "defaults": dict(self.defaults),
            "records_empty": len(self.records_empty),
            "version": self.version,
            "emulation": dict(self.emulation),
        }
        storage.save(path, self.catalog, (*self.records, *self.records_empty), extra)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read a stored result.

        Raises
        ------
        ConfigError
            If the folder holds no result, or a damaged one.
        """
        catalog, records, extra = storage.load(path)
        split = len(records) - extra["records_empty"]
        return cls(
            catalog,
            records[:split],
            tuple(extra["notices"]),
            extra["defaults"],
            records[split:],
            extra["version"],
            extra.get("emulation", {}),
        )
