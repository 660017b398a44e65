"""One proxy's policy state and every decision it takes, without sockets and without a clock.

Rule: decide, then do.  Whoever owns the sockets tells the engine what happened, with the model
time, and does what it answers; the engine decides nothing itself but calls `meshsim.policy`
(`DECISIONS`), the very functions that the simulator's kernel compiles in.  Every public method
that changes state or answers a question of policy is a *stimulus*: with a log it is written
down with its arguments and its result, and `emulator.decisions.replay` asks a new engine the same.

The way of a request::

    start -> route -> pick -> can_send -> sent -> tell -> ended -> finish
              |  a fault delays it: route again, when the delay has ended
              |  a rate limit service is to be asked: heard, when it has answered
                      |  no idle connection: can_wait, can_open, opened, pending_added, ...
                      |  the try failed: tell says BACK_OFF, later SEND: pick again

An ended try is told (`tell`) before it is discounted (`ended`), because a retry budget counts
it, as Envoy does; its per-try timeout runs from `sent`, when it has its connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from emulator.decisions.concurrency import ConcurrencyGate
from emulator.decisions.connections import ConnectionDecisions
from emulator.decisions.exchanges import Decision, Exchange, Exchanges
from emulator.decisions.filters import ProxyFilters
from emulator.decisions.health import Health
from emulator.decisions.hedging import ENDS_OF_TRIES, HedgeDecisions
from emulator.decisions.holdings import Holdings, HostReport
from emulator.decisions.inbound_access import InboundAccess
from emulator.decisions.picking import pick_once
from emulator.decisions.probing import ProbeDecisions
from emulator.decisions.quotas import ProxyQuotas
from emulator.decisions.resets import ResetDecisions
from emulator.decisions.route_table import RouteTable
from emulator.decisions.routing import RouteDecisions
from emulator.decisions.stimuli import StimulusLog, changed_parts
from emulator.decisions.streams import pick_stream, run_seed_of
from emulator.decisions.table import DECISIONS
from meshsim.controlplane.configuration import EndpointAddress, ProxyConfiguration
from meshsim.errors import InvariantError
from meshsim.policy.circuit_breakers import (
    on_request_ended,
    on_request_started,
)
from meshsim.policy.custom.decisions import learn
from meshsim.policy.load_balancing import (
    on_abandoned,
    on_error,
    on_request_sent,
    on_response,
)
from meshsim.policy.request import step
from meshsim.policy.timeout import per_try_deadline_ns
from meshsim.policy.transitions import ACTION_RESPOND
from meshsim.state.codes import HEDGE_NEVER, NEVER_NS, NO_HOST
from meshsim.state.exchange import (
    EXCHANGE_ATTEMPTING,
    EXCHANGE_BACKING_OFF,
    EXCHANGE_DELAYED,
)

__all__ = ["DECISIONS", "Decision", "ProxyEngine", "run_seed_of"]

#: Fields that mean something in one process only.
_ADDRESSES = {"custom_pick", "custom_learn", "custom_admit"}


class ProxyEngine(
    ConnectionDecisions, RouteDecisions, HedgeDecisions, ProbeDecisions, ResetDecisions
):
    """Policy state and decisions of one proxy.

    Parameters
    ----------
    name : str
        Of the endpoint it serves, or ``gateway-<traffic class>``.
    index : int
        Of the proxy, as in the compiled topology: endpoints first, then traffic classes.  It
        selects the stream of random picks, so that the simulator's proxy picks the same.
    run_seed : int
        `run_seed_of` the user's seed.
    log : StimulusLog, optional
        Where every stimulus is written.

    Notes
    -----
    All times are model time [ns].  A host is a handle that stays valid while the host is a
    member or anything of it is open.  An unknown exchange raises KeyError: a bug of the caller.
    """

    def __init__(
        self, name: str, index: int, run_seed: int, log: StimulusLog | None = None
    ) -> None:
        self.name = name
        self.index = index
        self.configuration = ProxyConfiguration(name)
        self._log = log
        self._holdings = Holdings(run_seed, index)
        self.inbound = InboundAccess(index, log)
        self.gate = ConcurrencyGate(run_seed, index, log)
        self._health = Health(self._holdings, run_seed, index, self._note)
        self.first_check, self.checked = self._health.first_check, self._health.checked
        self.checked_hosts, self.health_counters = self._health.checked_hosts, self._health.counters
        self._table = RouteTable(self.configuration, {})
        self._identity = run_seed, index
        self._rng = pick_stream(run_seed, index)
        self._filters = ProxyFilters()
        self._quotas = ProxyQuotas()
        self._exchanges = Exchanges()
        self._live = self._exchanges.live
        self._bind(0)
        self._note("open", name, run_seed, None)

    # --- Configuration ---

    def apply(self, configuration: ProxyConfiguration, now_ns: int) -> tuple[int, ...]:
        """Put `configuration` in force; return the hosts that are members no more.

        Hosts keep their state by cluster and endpoint name, clusters their counts by name.  A
        running exchange keeps its route; a later try of it picks among the new members.
        """
        hosts, clusters = self._exchanges.in_use()
        departed = self._holdings.apply(configuration, hosts, clusters, now_ns)
        rows = self._holdings.cluster_rows, self._holdings.high.cluster_rows
        self._table = RouteTable(configuration, *rows)
        self._filters.apply(configuration.listener.rate_limit)
        self.inbound.apply(configuration.listener)
        self.gate.apply(configuration.listener.adaptive_concurrency)
        self._bind(now_ns)
        if self._log is not None:
            parts = changed_parts(self.configuration, configuration)
            self._note("apply", parts, dict(configuration.versions), now_ns, departed)
        self.configuration = configuration
        return departed

    def is_member(self, host: int) -> bool:
        """Return whether the configuration in force names this host (no stimulus)."""
        return self._holdings.is_member(host)

    def knows(self, host: int) -> bool:
        """Return whether `host` is a handle of this engine (no stimulus)."""
        addresses = self._holdings.addresses
        return 0 <= host < len(addresses) and addresses[host] is not None

    def routed_to(self, exchange: int) -> tuple[int, int]:
        """Return ROUTE and CLUSTER row of an exchange, or `NO_INDEX` (no stimulus)."""
        item = self._live[exchange]
        return item.route, item.cluster

    def address(self, host: int) -> EndpointAddress:
        """Return where a host listens and who it must be (no stimulus)."""
        address = self._holdings.addresses[host]
        assert address is not None, f"{self.name}: host {host} is nobody"
        return address

    def pool_settings(self, host: int) -> tuple[int, int, int]:
        """Return (connect timeout [ns], idle timeout [ns], requests a connection; 0: no limit)."""
        return self._pool_settings[self._holdings.cluster_of[host]]

    def check_settings(self, host: int) -> tuple[int, str]:
        """Return (timeout [ns], path) of the health checks of a host (no stimulus)."""
        return self._holdings.check_settings(host)

    def _bind(self, now_ns: int) -> None:
        """Take hold of arrays that may have moved."""
        self._health.bind(now_ns)
        holdings = self._holdings
        self._hosts = holdings.hosts
        self._members = holdings.members
        self._clusters = holdings.clusters
        self._configs = holdings.configs
        self._memory = holdings.memory
        self._learning = set(np.flatnonzero(holdings.configs["custom_learn"]).tolist())
        self._cluster_of = holdings.cluster_of
        self._picked = holdings.high.picked
        self._connections_open = holdings.hosts["connections_open"]
        fields = ("connect_timeout_ns", "idle_timeout_ns", "max_requests_per_connection")
        columns = [holdings.configs[field].tolist() for field in fields]
        self._pool_settings = dict(enumerate(zip(*columns, strict=True)))

    # --- Requests ---

    def start(
        self,
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        traffic_key: int | None,
        now_ns: int,
    ) -> int:
        """Begin an exchange; return its number.

        Parameters
        ----------
        service : str
            The called service: the authority without port.
        method, path : str
        headers : mapping of str to str
            Names in lower case.
        traffic_key : int, optional
            Draw key of the request, 0 <= key < 2**64; by default one of the proxy's own.
        now_ns : int

        Raises
        ------
        LimitError
            If `EXCHANGES_MAX` are under way.
        """
        number = self._exchanges.begin(self._table, service, method, path, headers, traffic_key)
        if self._log is not None:
            seen = self._table.looked_at(service, headers)
            self._note("start", service, method, path, seen, traffic_key, now_ns, number)
        return number

    def tell(self, exchange: int, stimulus: int, status: int, reset: int, now_ns: int) -> Decision:
        """Tell the request machine what happened; return what to do.

        Parameters
        ----------
        exchange : int
        stimulus : int
            `STIMULUS_*` code of `meshsim.policy.request`.
        status : int
            Of the response, for STIMULUS_RESPONSE; else 0.
        reset : int
            `RESET_*` code, for STIMULUS_RESET; RESET_RATELIMITED with STIMULUS_RESPONSE if the
            response is marked ``x-envoy-ratelimited``; else `RESET_NONE`.
        now_ns : int
        """
        item = self._live[exchange]
        if self._health.watched[item.cluster]:
            self._health.told(item, stimulus, status, reset, now_ns)
        if stimulus in ENDS_OF_TRIES and item.table.hedging[item.route] != HEDGE_NEVER:
            self._exchanges.actives[item.row] -= 1
        decision = self._step(item, stimulus, status, reset, now_ns)
        if self._log is not None:
            self._log.write(
                f'[{self.index},"tell",{exchange},{stimulus},{status},{reset},{now_ns},'
                f"[{','.join(map(str, decision))}]]"
            )
        return decision

    def _step(
        self, item: Exchange, stimulus: int, status: int, reset: int, now_ns: int
    ) -> Decision:
        table = item.table
        action, deadline_ns = step(
            self._exchanges.rows,
            item.row,
            table.routes,
            table.codes,
            self._clusters,
            self._configs,
            self._memory,
            stimulus,
            status,
            reset,
            now_ns,
            self._rng,
        )
        if action != ACTION_RESPOND:
            return Decision(action, deadline_ns, 0, 0)
        row, exchanges = item.row, self._exchanges
        return Decision(
            action, deadline_ns, int(exchanges.statuses[row]), int(exchanges.flags[row])
        )

    def pick(self, exchange: int, now_ns: int) -> int:
        """Pick the host of the next try; return its handle, or `NO_HOST`.

        The handle is that of the host's connections for the priority of the request.

        A retry picks again while the host was tried before, as the route says
        (`host_selection_retry_max_attempts`); the last pick is accepted.
        """
        item = self._live[exchange]
        watched = self._health.watched[item.cluster]
        if watched:
            self._health.settle(item.cluster, now_ns)
        tries = 1
        if item.tried and self._exchanges.retry_counts[item.row] > 0:
            tries += item.table.selection_tries[item.route]
        host = NO_HOST
        for pick_number in range(tries):
            host = pick_once(self._holdings, item, pick_number, now_ns, self._rng)
            if host == NO_HOST or host not in item.tried:
                break
        if host != NO_HOST:
            item.tried.append(host)
            if item.table.hedging[item.route] != HEDGE_NEVER:
                self._exchanges.actives[item.row] += 1
            if watched:
                self._health.picked(item, host)
            if item.high:
                host = self._holdings.high.pools[host]
        if self._log is not None:
            self._log.write(f'[{self.index},"pick",{exchange},{now_ns},{host}]')
        return host

    def sent(self, exchange: int, host: int, now_ns: int) -> int:
        """Count a try that has got its connection; return when it times out [ns]."""
        item = self._live[exchange]
        picked = self._picked.get(host, host)
        on_request_started(self._clusters, self._cluster_of[host])
        on_request_sent(self._hosts, picked, now_ns)
        if self._health.watched[item.cluster]:
            self._health.connected(item, picked, now_ns)
        deadline_ns = NEVER_NS
        if item.table.has_per_try[item.route]:
            deadline_ns = per_try_deadline_ns(item.table.routes, item.route, now_ns)
        if self._log is not None:
            self._log.write(f'[{self.index},"sent",{exchange},{host},{now_ns},{deadline_ns}]')
        return deadline_ns

    def ended(
        self, exchange: int, host: int, outcome: str, failed: bool, rtt_ns: int, now_ns: int
    ) -> None:
        """Discount a try that had a connection, after the machine was told of its outcome.

        Parameters
        ----------
        exchange, host : int
        outcome : {"response", "abandoned"}
            Whether a response came.
        failed : bool
            Status >= 500, reset, or given up.
        rtt_ns : int
            Since `sent` [ns].
        now_ns : int
        """
        on_request_ended(self._clusters, self._cluster_of[host])
        picked = self._picked.get(host, host)
        cluster = self._cluster_of[picked]
        on_ended = on_response if outcome == "response" else on_abandoned
        on_ended(self._hosts, picked, self._configs, cluster, rtt_ns, now_ns)
        if failed:
            on_error(self._hosts, picked)
        if cluster in self._learning:
            clusters, configs = self._clusters, self._configs
            learn(self._hosts, picked, clusters, configs, self._memory, failed, rtt_ns, now_ns)
        if self._log is not None:
            self._log.write(
                f'[{self.index},"ended",{exchange},{host},"{outcome}",'
                f"{'true' if failed else 'false'},{rtt_ns},{now_ns},null]"
            )

    def finish(self, exchange: int) -> None:
        """Forget an exchange that was answered or that nobody waits for.

        Raises
        ------
        InvariantError
            If the machine was not told that it ended: its retry would count for ever.
        """
        item = self._live[exchange]
        running = (EXCHANGE_ATTEMPTING, EXCHANGE_BACKING_OFF, EXCHANGE_DELAYED)
        if self._exchanges.states[item.row] in running:
            raise InvariantError(f"{self.name}: exchange {exchange} is finished while it runs")
        self._filters.ended(item)
        if item.host != NO_HOST or item.earlier:
            self._health.dropped(item)
        self._exchanges.end(exchange)
        if self._log is not None:
            self._log.write(f'[{self.index},"finish",{exchange},null]')

    def exchange_deadline_ns(self, exchange: int) -> int:
        """Return when the route's timeout ends the exchange [ns] (no stimulus)."""
        return int(self._exchanges.deadlines[self._live[exchange].row])

    def status(self, exchange: int) -> int:
        """Return the status that was decided on, or 0 (no stimulus)."""
        return int(self._exchanges.statuses[self._live[exchange].row])

    def response_flag(self, exchange: int) -> int:
        """Return the `FLAG_*` code that was decided on (no stimulus)."""
        return int(self._exchanges.flags[self._live[exchange].row])

    def retry_count(self, exchange: int) -> int:
        """Return how many retries were decided on (no stimulus)."""
        return int(self._exchanges.retry_counts[self._live[exchange].row])

    def retries_remaining(self, exchange: int) -> int:
        """Return how many retries are left (no stimulus)."""
        return int(self._exchanges.retries_remaining[self._live[exchange].row])

    # --- Reports ---

    def counters(self) -> dict[str, dict[str, int]]:
        """Return Envoy's counters of each cluster of the configuration in force."""
        return self._holdings.counters()

    def totals(self) -> dict[str, int]:
        """Return Envoy's counters of overflows, timeouts and retries, of all clusters."""
        return self._holdings.totals()

    def invalid_picks(self) -> int:
        """Return how often custom load balancers returned what is no position of a member."""
        return int(self._clusters["invalid_picks"].sum())

    def host_rows(self) -> list[HostReport]:
        """Return what was counted of every host that still has a row, by its name."""
        return self._holdings.reports()

    def digest(self) -> str:
        """Return a digest of the whole state: equal states, equal digests (64 hex digits)."""
        digest = hashlib.sha256(f"{self.name},{self.index},{self._exchanges.count}".encode())
        held = (self._hosts, self._members, self._clusters, self._memory, self._rng)
        for array in (*held, *self._health.rows()):
            digest.update(array.tobytes())
        for field in sorted(set(self._configs.dtype.names or ()) - _ADDRESSES):
            digest.update(self._configs[field].tobytes())  # without what is between the fields
        limited = (*self._filters.state(), *self._quotas.state(), *self.gate.state())
        for part in (*limited, *self._holdings.pools.state()):
            digest.update(part)
        for rows in self._holdings.lanes.arrays.values():
            digest.update(rows.tobytes())
        for number, item in self._live.items():
            digest.update(f"{number},{item.tried}".encode())
            digest.update(self._exchanges.rows[item.row].tobytes())
        return digest.hexdigest()

    def close(self) -> str:
        """Write the digest as the last line of this proxy's log; return it."""
        digest = self.digest()
        self._note("close", digest)
        return digest

    def _note(self, stimulus: str, *values: Any) -> None:
        """Write a stimulus: its arguments, then its result."""
        if self._log is not None:
            line = json.dumps([self.index, stimulus, *values], separators=(",", ":"))
            self._log.write(line)
