"""Probes of servers (PREQUAL) of one live proxy: what it knows, whom it asks, what it hears.

Rule: `meshsim.policy.load_balancing.prequal` decides, over rows of this proxy.  A cluster that
balances by probes has a pool, by its name: a configuration that keeps the cluster keeps the pool
with the probes of the hosts that are still members.  Each first pick of a try says which hosts to
probe; whoever owns the sockets takes that (`take_probes`), and tells what came of each probe.  An
answer for a host that has gone meanwhile is nobody's, and changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meshsim.errors import InvariantError
from meshsim.policy.load_balancing.prequal import count_probes, draw_target, pick, take_probe
from meshsim.state.codes import NO_INDEX
from meshsim.state.prequal import (
    FLIGHTS,
    POOL_MAX,
    PREQUAL_POOL_DTYPE,
    PREQUAL_RULE_DTYPE,
    PREQUAL_STATS,
    PROBE_DTYPE,
    PROBE_FLIGHT_DTYPE,
    RIF_SAMPLES,
)
from meshsim.topology.compiled.prequal import prequal_rule

if TYPE_CHECKING:
    from emulator.decisions.holdings import Holdings
    from meshsim.controlplane.configuration import ProxyConfiguration
    from meshsim.topology.compiled.layout import Rows

__all__ = ["Pools", "Probe", "ProbeDecisions"]


class Probe(NamedTuple):
    """A probe to be sent.

    Parameters
    ----------
    pool, slot, number : int
        What its answer is told with: where it is noted, and which of the pool's probes it is.
    host : int
        HOST row that is asked.
    """

    pool: int
    slot: int
    number: int
    host: int


class Pools:
    """The pools of all clusters of one proxy that balance by probes.

    Parameters
    ----------
    holdings : Holdings
        Whose clusters they are.

    Attributes
    ----------
    of : dict of int to int
        Pool by CLUSTER row, of the clusters that probe.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self.of: dict[int, int] = {}
        self._names: dict[str, int] = {}
        self._rules: Rows = np.zeros(0, PREQUAL_RULE_DTYPE)
        self._pools: Rows = np.zeros(0, PREQUAL_POOL_DTYPE)
        self._probes: Rows = np.zeros((0, POOL_MAX), PROBE_DTYPE)
        self._rifs: Rows = np.zeros((0, RIF_SAMPLES), np.int32)
        self._flights: Rows = np.zeros((0, FLIGHTS), PROBE_FLIGHT_DTYPE)
        self._due: list[Probe] = []

    def apply(self, configuration: ProxyConfiguration) -> None:
        """Give each cluster that probes its pool, and forget what is of others."""
        holdings = self._holdings
        probing = {
            name: policy.load_balancing
            for name, policy in configuration.clusters.items()
            if policy.load_balancing is not None and policy.load_balancing.policy == "PREQUAL"
        }
        self.of.clear()
        for name, settings in probing.items():
            pool = self._names.get(name, NO_INDEX)
            if pool == NO_INDEX:
                pool = self._names[name] = len(self._names)
                self._grow()
            cluster = holdings.cluster_rows[name]
            self._rules[pool] = prequal_rule(settings)[0]
            self._pools["cluster"][pool] = cluster
            self.of[cluster] = pool
            self._forget(pool, holdings.members_of(cluster))
        for name, pool in self._names.items():
            if name not in probing:
                self._forget(pool, ())

    def _grow(self) -> None:
        rows = (self._rules, self._pools, self._probes, self._rifs, self._flights)
        longer = (np.concatenate([item, np.zeros_like(item, shape=(1, *item.shape[1:]))])
                  for item in rows)  # fmt: skip
        self._rules, self._pools, self._probes, self._rifs, self._flights = longer

    def _forget(self, pool: int, members: Any) -> None:
        """Keep of a pool what is of `members`."""
        count = int(self._pools["count"][pool])
        kept = np.flatnonzero(np.isin(self._probes["host"][pool, :count], members))
        self._probes[pool, : len(kept)] = self._probes[pool, kept]
        self._pools["count"][pool] = len(kept)
        self._flights["under_way"][pool] *= np.isin(self._flights["host"][pool], members)

    def pick(self, cluster: int, pick_number: int, now_ns: int, rng: Any) -> int:
        """Return the HOST of the next pick, or `NO_HOST`; the first of a try sends probes."""
        holdings = self._holdings
        pool = self.of[cluster]
        start = holdings.clusters["member_start"][cluster]
        count = holdings.clusters["member_count"][cluster]
        host = pick(
            holdings.hosts,
            holdings.members,
            start,
            count,
            self._pools,
            pool,
            self._probes,
            self._rifs,
            self._rules,
            pool,
            now_ns,
            rng,
        )
        if pick_number == 0:
            self._send(pool, start, count, rng)
        return int(host)

    def _send(self, pool: int, start: int, count: int, rng: Any) -> None:
        """Note the probes that go with one request, as `meshsim.kernel.probing` does."""
        holdings, pools, flights = self._holdings, self._pools, self._flights
        sent = 0
        for _ in range(int(count_probes(pools, pool, self._rules, pool))):
            slot = int(pools["flight_next"][pool])
            if flights["under_way"][pool, slot] != 0:
                pools["probes_skipped"][pool] += 1
                continue
            host = int(
                draw_target(
                    holdings.hosts, holdings.members, start, count, pools, pool, flights, sent, rng
                )
            )
            if host < 0:
                return
            pools["probes_total"][pool] += 1
            number = int(pools["probes_total"][pool])
            flights["host"][pool, slot] = host
            flights["under_way"][pool, slot] = 1
            flights["key"][pool, slot] = number
            pools["flight_next"][pool] = (slot + 1) % FLIGHTS
            sent += 1
            self._due.append(Probe(pool, slot, number, host))

    def take_due(self) -> list[Probe]:
        """Return the probes that are to be sent, once."""
        due, self._due = self._due, []
        return due

    def max_age_ns(self, pool: int) -> int:
        """Return after how long an answer is worth nothing any more [ns]."""
        return int(self._rules["max_age_ns"][pool])

    def end(self, pool: int, slot: int, number: int) -> bool:
        """Note that a probe is over; return whether it was still under way.

        Raises
        ------
        InvariantError
            If there is no such place for a probe.
        """
        if not (0 <= pool < len(self._pools) and 0 <= slot < FLIGHTS):
            raise InvariantError(f"there is no probe {slot} of pool {pool}")
        flights = self._flights
        known = flights["under_way"][pool, slot] != 0
        known = known and int(flights["key"][pool, slot]) == number
        if known:
            flights["under_way"][pool, slot] = 0
        return bool(known)

    def take(self, pool: int, slot: int, rif: int, latency_ns: int, now_ns: int, rng: Any) -> None:
        """Put the answer to a probe that was under way into its pool."""
        flights = self._flights
        flights["rif"][pool, slot] = rif
        flights["latency_ns"][pool, slot] = latency_ns
        take_probe(
            self._pools,
            pool,
            self._probes,
            self._rifs,
            self._rules,
            pool,
            int(flights["host"][pool, slot]),
            rif,
            latency_ns,
            int(self._holdings.clusters["member_count"][self._pools["cluster"][pool]]),
            now_ns,
            rng,
        )

    def counters(self) -> dict[str, int]:
        """Return what was counted of probes that is not 0."""
        counts = {name: int(self._pools[field].sum()) for name, field in PREQUAL_STATS.items()}
        return {name: count for name, count in counts.items() if count}

    def state(self) -> Iterator[bytes]:
        """Yield the bytes of everything that changes."""
        for rows in (self._pools, self._probes, self._rifs, self._flights):
            for field in rows.dtype.names or ("",):
                yield (rows[field] if field else rows).tobytes()


class ProbeDecisions(ABC):
    """What a `ProxyEngine` decides of probes."""

    _holdings: Holdings
    _rng: Rows

    @abstractmethod
    def _note(self, stimulus: str, *values: Any) -> None:
        """Write a stimulus: its arguments, then its result."""

    def take_probes(self) -> list[Probe]:
        """Return the probes that the last picks ask for, once (no stimulus)."""
        return self._holdings.pools.take_due()

    def probe_timeout_ns(self, pool: int) -> int:
        """Return how long an answer to a probe is waited for [ns] (no stimulus)."""
        return self._holdings.pools.max_age_ns(pool)

    def probe_counters(self) -> dict[str, int]:
        """Return what was counted of probes that is not 0 (no stimulus)."""
        return self._holdings.pools.counters()

    def probed(
        self, pool: int, slot: int, number: int, rif: int, latency_ns: int, now_ns: int
    ) -> bool:
        """Take the answer to a probe; return whether it was waited for.

        Parameters
        ----------
        pool, slot, number : int
            Of the `Probe`.
        rif : int
            Requests in flight at the server, 0 to 2**31 - 1.
        latency_ns : int
            Its estimate of the latency [ns], >= 0.
        now_ns : int
        """
        pools = self._holdings.pools
        known = pools.end(pool, slot, number)
        if known:
            pools.take(pool, slot, rif, latency_ns, now_ns, self._rng)
        self._note("probed", pool, slot, number, rif, latency_ns, now_ns, known)
        return known

    def probe_lost(self, pool: int, slot: int, number: int) -> bool:
        """Take note that a probe is not answered; return whether it was waited for."""
        known = self._holdings.pools.end(pool, slot, number)
        self._note("probe_lost", pool, slot, number, known)
        return known
