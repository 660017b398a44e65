"""One scenario on two planes: real Envoy on sockets, and our policy engine in virtual time.

Rule: both are told the same policy (`Scenario`), meet endpoints that follow the same script,
and get the same schedule of requests.  What they counted carries Envoy's names on both sides.
"""

import asyncio
import dataclasses
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import envoy_resources
import numpy as np
from engine_mesh import NOBODY, Mesh, Request
from engine_rows import cluster, configuration, endpoints, route
from envoy_process import Envoy
from wire import Answer, Ask, Endpoints, Reply, Visit, drive

from emulator.decisions.engine import ProxyEngine, run_seed_of
from meshsim.meshes.defaults import (
    ENVOY_HEALTH_CHECK,
    ENVOY_LOCALITY,
    ENVOY_OUTLIER_DETECTION,
    ENVOY_ZONE_AWARE,
)
from meshsim.policy.transitions import ACTION_RESPOND, STIMULUS_RESET, STIMULUS_RESPONSE
from meshsim.rng import mix, mix_in
from meshsim.state.codes import (
    FLAG_NAMES,
    RESET_CONNECT_FAILURE,
    RESET_NONE,
    RESET_RATELIMITED,
    RESET_REMOTE,
)
from meshsim.state.health import (
    CHECK_FAILED,
    CHECK_NETWORK_FAILURE,
    CHECK_PASSED,
    CHECK_TIMEOUT,
)
from meshsim.topology.model import ClusterPolicy, Route
from meshsim.topology.releases import as_counted

#: The service that is called; its cluster has the same name.
SERVICE = "b"
_EJECTION_TIME_MAX_NS = 300_000_000_000
_S = 1_000_000_000
_PLAYS_MAX = 5


def answers_well(endpoint, number, tries):
    """Answer 200 at once: the script of endpoints that have none."""
    return Reply()


def is_well(endpoint, before):
    """Pass every health check: the script of endpoints that have none."""
    return Reply()


def weighted(*weights):
    """Return endpoints of these weights."""
    return tuple(
        item
        for row, weight in enumerate(weights)
        for item in endpoints(f"{SERVICE}-v1-{row}", weight=weight)
    )


@dataclass(frozen=True)
class Scenario:
    """A policy, the endpoints under it, and a schedule.

    Parameters
    ----------
    asks : sequence of Ask
    callers : int
        0: an open loop; else how many ask one after the other.
    policies : mapping of str to ClusterPolicy
        Of the clusters by name.
    members : mapping of str to tuple of EndpointAddress
    table : tuple of Route
    script : callable
        (endpoint, number of the request, tries before) -> Reply.
    checks : callable
        (endpoint, health checks before) -> Reply.
    workers : int
        Of Envoy.
    seed : int
        Of our engine.
    refusing : tuple of str
        Endpoints that nobody can connect to.
    late_s : float
        How late a request or an answer of an open loop may be: less than lies between two whose
        order matters.
    merge_window : str or None
        Envoy's `update_merge_window`; at 0 it believes at once what it has found out.
    filters : tuple
        HTTP filters of Envoy's listener, before all others.
    """

    asks: Sequence[Ask]
    callers: int = 1
    policies: Mapping[str, ClusterPolicy] = field(default_factory=lambda: {SERVICE: cluster()})
    members: Mapping[str, tuple] = field(default_factory=dict)
    table: tuple[Route, ...] = field(default_factory=lambda: (route(),))
    script: Callable[[str, int, int], Reply] = answers_well
    checks: Callable[[str, int], Reply] = is_well
    workers: int = 1
    seed: int = 1
    refusing: tuple[str, ...] = ()
    late_s: float = 0.008
    merge_window: str | None = "0s"
    filters: tuple = ()

    def endpoints_of(self, name):
        """Return the members of a cluster; by default three of equal weight."""
        return self.members.get(name) or endpoints(*(f"{name}-v1-{i}" for i in range(3)))


def cause(flags):
    """Return the flag of Envoy's that ours keep: what ended the request, not what came of it.

    Beside the cause Envoy says that no retry was left (URX), that the retry's breaker refused
    (UO), or that an aborted request had been delayed (DI).
    """
    found = flags.split(",")
    causes = [flag for flag in found if flag not in ("URX", "UO", "DI")]
    return (causes or found)[0]


@dataclass(frozen=True)
class Played:
    """What came of a scenario on one plane.

    `counters` are Envoy's, of clusters as ``CLUSTER.NAME``, of filters as ``NAME``; a counter
    that is missing is 0.  `visits` are by number of the request, times as those of `answers`.
    """

    answers: list[Answer]
    visits: dict[int, list[Visit]]
    counters: Counter

    def outcomes(self):
        """Count the pairs (status, flag)."""
        return Counter((answer.status, cause(answer.flags)) for answer in self.answers)

    def picks(self):
        """Return which endpoint answered, in the order of the requests."""
        return [answer.endpoint for answer in self.answers]

    def shares(self):
        """Count the answers by endpoint."""
        return Counter(self.picks())

    def of(self, *names):
        """Return counters of the service's cluster."""
        return {name: self.counters[f"{SERVICE}.{name}"] for name in names}


# --- Envoy ----------------------------------------------------------------------------------


def _listening(scenario):
    """Return the scenario with its endpoints on ports of this machine, and their sockets."""
    sockets, members = {}, {}
    for name in scenario.policies:
        placed = []
        for item in scenario.endpoints_of(name):
            sockets[item.name] = socket.socket()
            sockets[item.name].bind(("127.0.0.1", 0))
            port = sockets[item.name].getsockname()[1]
            placed.append(dataclasses.replace(item, port=port))
        members[name] = tuple(placed)
    return dataclasses.replace(scenario, members=members), sockets


def _static_resources(scenario):
    """Return listeners and clusters, and what else the bootstrap says."""
    table = envoy_resources.routes(SERVICE, scenario.table, scenario.policies)
    clusters = [
        envoy_resources.cluster(name, policy, scenario.members[name], scenario.merge_window)
        for name, policy in scenario.policies.items()
    ]
    own = {}
    for name, policy in scenario.policies.items():
        if policy.locality is not None and policy.locality.zone_aware is not None:
            clusters.append(envoy_resources.own_kind(scenario.members[name]))
            own = envoy_resources.own_zone(scenario.members[name])
    listeners = [envoy_resources.listener(table, scenario.workers, scenario.filters)]
    return {"listeners": listeners, "clusters": clusters}, own


def play_envoy(binary, scenario):
    """Play on real Envoy; again if the machine was too busy to keep the schedule.

    Raises
    ------
    RuntimeError
        If it never was.
    """
    for _ in range(_PLAYS_MAX):
        played, late_s = _play_envoy_once(binary, scenario)
        if scenario.callers or late_s <= scenario.late_s:
            return played
    raise RuntimeError(f"this machine is too busy: {1e3 * late_s:.0f} ms late in the last play")


def _play_envoy_once(binary, scenario):
    """Return what came of it, and by how much a request or an answer was late [s]."""
    scenario, sockets = _listening(scenario)
    try:
        return asyncio.run(_play_on_sockets(binary, scenario, sockets))
    finally:
        for item in sockets.values():
            item.close()


async def _play_on_sockets(binary, scenario, sockets):
    """Play while the endpoints listen, which Envoy may check before the first request."""
    resources, own = _static_resources(scenario)
    servers = Endpoints(scenario.script, scenario.checks)
    # A socket that is bound and does not listen refuses.
    heard = {name: item for name, item in sockets.items() if name not in scenario.refusing}
    await servers.serve(heard)
    envoy = Envoy(binary, resources, scenario.workers, **own)
    try:
        await asyncio.to_thread(envoy.__enter__)
        try:
            port = envoy.port(envoy_resources.OUTBOUND)
            answers, origin_s = await drive(port, scenario.asks, scenario.callers)
            lines = await asyncio.to_thread(envoy.lines, envoy_resources.ACCESS_LOG, len(answers))
            counters = envoy.counters()
        finally:
            envoy.__exit__()
    finally:
        await servers.close()
    flags = dict(line.split() for line in lines)
    answers = [answer._replace(flags=flags[str(answer.number)]) for answer in answers]
    visits = {
        number: [visit._replace(at_s=visit.at_s - origin_s) for visit in tries]
        for number, tries in servers.visits.items()
    }
    asked = (answer.at_s - scenario.asks[answer.number].at_s for answer in answers)
    late_s = max(servers.late_s, *asked)
    return Played(answers, visits, _renamed(counters)), late_s


def _renamed(counters):
    """Return Envoy's counters by the names that ours have."""
    prefixes = ("cluster.", f"http.{envoy_resources.OUTBOUND}.", "limit.")
    found = Counter()
    for name, value in counters.items():
        for prefix in prefixes:
            if name.startswith(prefix) and isinstance(value, int):
                found[name.removeprefix(prefix)] += value
    return found


# --- Ours -----------------------------------------------------------------------------------


class ScriptedMesh(Mesh):
    """`Mesh` under a schedule, whose endpoints follow a script."""

    def __init__(self, engine, scenario):
        super().__init__(engine, SERVICE, None)
        self._script = scenario.script
        self._seed = scenario.seed
        self._refusing = scenario.refusing
        self._queue = enumerate(scenario.asks)
        self.answers = []
        self.visits = {}
        for number, ask in self._queue if scenario.callers == 0 else ():
            self.at(round(ask.at_s * _S), self.ask, number, ask)
        for _ in range(scenario.callers):
            self.at(0, self.ask_next)
        self._checks = scenario.checks
        self._asked = len(scenario.asks)
        for host in engine.checked_hosts():
            self.at(engine.first_check(host, 0), self.check, host, 0)

    def check(self, host, before):
        """Ask `host` how it is, until every request of the schedule is answered."""
        if len(self.answers) == self._asked:
            return
        reply = self._checks(self.engine.address(host).name, before)
        after_ns = round(reply.after_s * _S)
        timeout_ns, _ = self.engine.check_settings(host)
        result = CHECK_PASSED if reply.status == 200 else CHECK_FAILED
        result = CHECK_NETWORK_FAILURE if reply.reset else result
        if after_ns >= timeout_ns:
            after_ns, result = timeout_ns, CHECK_TIMEOUT
        self.at(self.now_ns + after_ns, self.on_checked, host, before, result)

    def on_checked(self, host, before, result):
        next_ns = self.engine.checked(host, result, self.now_ns)
        self.at(next_ns, self.check, host, before + 1)

    def ask(self, number, ask):
        key = int(mix_in(np.uint64(mix(np.uint64(self._seed))), number))
        headers = {name.lower(): value for name, value in ask.headers.items()}
        exchange = self.engine.start(SERVICE, ask.method, ask.path, headers, key, self.now_ns)
        request = Request(number, key, exchange)
        request.began_ns, request.last_stimulus = self.now_ns, None
        self.route(request)

    def ask_next(self):
        for number, ask in itertools.islice(self._queue, 1):
            self.ask(number, ask)

    def act(self, request, decision, endpoint=None):
        super().act(request, decision, endpoint)
        if decision.action == ACTION_RESPOND and request.number != NOBODY:
            by_endpoint = request.last_stimulus == STIMULUS_RESPONSE
            answer = Answer(
                request.number,
                request.began_ns / _S,
                (self.now_ns - request.began_ns) / _S,
                decision.status,
                (endpoint or "") if by_endpoint else "",
                FLAG_NAMES[decision.response_flag],
            )
            self.answers.append(answer)
            if self.now_ns == request.began_ns:  # not within itself, a hundred calls deep
                self.at(self.now_ns, self.ask_next)
            else:
                self.ask_next()

    def tell(self, request, stimulus, status=0, reset=RESET_NONE):
        request.last_stimulus = stimulus
        return super().tell(request, stimulus, status, reset)

    def tell_of(self, one, stimulus, status=0, reset=RESET_NONE):
        one.request.last_stimulus = stimulus
        return super().tell_of(one, stimulus, status, reset)

    def transmit(self, one):
        if one.endpoint not in self._refusing:
            super().transmit(one)
            return
        decision = self.tell_of(one, STIMULUS_RESET, 0, RESET_CONNECT_FAILURE)
        self.engine.closed(one.host)
        self.act(one.request, decision)

    def serve(self, one):
        request = one.request
        tries = self.visits.setdefault(request.number, [])
        reply = self._script(one.endpoint, request.number, len(tries))
        tries.append(Visit(self.now_ns / _S, one.endpoint, request.number))
        time_ns = self.now_ns + round(reply.after_s * _S)
        if reply.reset:
            self.at(time_ns, self.on_lost, one)
        else:
            if self.engine.reset_headers(request.exchange):
                self.at(time_ns, self.hear, one, reply.headers)
            limited = "x-envoy-ratelimited" in reply.headers
            mark = RESET_RATELIMITED if limited else RESET_NONE
            self.at(time_ns, self.done, one, reply.status, mark)

    def hear(self, one, headers):
        if one in one.request.tries:
            self.engine.hear_reset(one.request.exchange, headers, 0)

    def on_lost(self, one):
        if one in one.request.tries:
            decision = self.tell_of(one, STIMULUS_RESET, 0, RESET_REMOTE)
            self._settle(one, "abandoned", True)
            self.act(one.request, decision)


def _whole(rule, block, **more):
    """Return `rule` with our table of Envoy's defaults where it says nothing."""
    defaults = {name: item.value for name, item in block.items()} | more
    stated = {name: value for name, value in rule if value is not None}
    return rule.model_copy(update={**defaults, **stated})


def _filled(policy):
    """Return `policy` with our tables of Envoy's defaults in what is stated of it."""
    update = {}
    outliers, locality = policy.outlier_detection, policy.locality
    if policy.health_check is not None:
        update["health_check"] = _whole(policy.health_check, ENVOY_HEALTH_CHECK)
    if outliers is not None:
        longest = max(_EJECTION_TIME_MAX_NS, outliers.base_ejection_time or 0)
        update["outlier_detection"] = _whole(
            outliers, ENVOY_OUTLIER_DETECTION, max_ejection_time=longest
        )
    if locality is not None:
        zones = locality.zone_aware and _whole(locality.zone_aware, ENVOY_ZONE_AWARE)
        update["locality"] = _whole(locality, ENVOY_LOCALITY).model_copy(
            update={"zone_aware": zones}
        )
    return policy.model_copy(update=update)


def play_meshsim(scenario, release=(1, 40)):
    """Play on our engine, in virtual time; counters have the names of a release of Envoy."""
    members = {name: scenario.endpoints_of(name) for name in scenario.policies}
    policies = {name: _filled(policy) for name, policy in scenario.policies.items()}
    told = configuration(policies, members, {SERVICE: scenario.table})
    engine = ProxyEngine("a-v1-0", 0, run_seed_of(scenario.seed))
    engine.apply(told, 0)
    mesh = ScriptedMesh(engine, scenario)
    mesh.run()
    counters = Counter(engine.filter_counters())
    for name, counts in engine.counters().items():
        named = as_counted(counts, release[:2])
        counters.update({f"{name}.{key}": value for key, value in named.items()})
    return Played(sorted(mesh.answers), mesh.visits, counters)
