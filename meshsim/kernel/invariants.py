"""What must hold of a kernel's memory between two events.

Rule: everything that is counted is counted a second time here, from the rows themselves, and
every list is walked.  A difference is a bug of the kernel, told in one sentence.  This is plain
Python, about a millisecond for a thousand rows: tests and chaos runs call it, runs do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from meshsim.kernel.bulkhead_invariants import check_bulkheads
from meshsim.kernel.lane_invariants import check_lanes, check_probes
from meshsim.kernel.memory import KernelState, Rows
from meshsim.kernel.pools import clear_chain
from meshsim.state.codes import NEVER_NS, NO_INDEX, PICK_GROUPED, PICK_SUBSET
from meshsim.state.exchange import (
    ATTEMPT_ABANDONED,
    ATTEMPT_ENDED,
    ATTEMPT_FREE,
    ATTEMPT_PENDING,
    ATTEMPT_SENT,
    EXCHANGE_FREE,
    HOLDS_FAULT,
    MEASURED,
)
from meshsim.state.filters import REFILL_CONTINUOUS
from meshsim.state.health import (
    ACCRUAL_PROBING,
    ACCRUAL_UNAVAILABLE,
    BY_ACCRUAL,
    BY_OUTLIER,
    EJECTION_COUNT,
    HEALTHY,
    PANICKING,
    WITHDRAWN,
)
from meshsim.state.kernel import POOLS
from meshsim.state.server import (
    TASK_ENDED,
    TASK_FREE,
    TASK_PASSING,
    TASK_QUEUED,
    WORKER_OWN,
)

__all__ = ["validate"]

Story = Iterator[str]


def validate(state: KernelState) -> list[str]:
    """Return what is wrong with the memory of a kernel, empty if nothing is.

    Parameters
    ----------
    state : KernelState
        Between two events; read only.
    """
    checks: tuple[Callable[[KernelState], Iterable[str]], ...] = (
        _counters,
        _heap,
        _calendar,
        _pools,
        _exchanges,
        _attempts,
        _concurrency,
        _timers,
        _hosts,
        _health,
        _connections,
        _filters,
        check_lanes,
        _subsets,
        check_probes,
        _tasks,
        _queues,
        check_bulkheads,
        _containers,
    )
    return [problem for check in checks for problem in check(state)]


def _walk(first: int, following: Rows, limit: int) -> list[int]:
    """Return the rows of a chain; one that does not end is cut at `limit` + 1."""
    rows: list[int] = []
    row = int(first)
    while row != NO_INDEX and len(rows) <= limit:
        rows.append(row)
        row = int(following[row])
    return rows


def _used(state: KernelState, pool: str) -> Rows:
    """Return which rows of a pool are not on its free list."""
    rows = getattr(state, f"{pool}s")
    used = np.ones(len(rows), bool)
    clear_chain(used, rows["next"], int(state.counters[f"{pool}_free"][0]))
    return used


def _differs(what: str, counted: Rows, found: Rows) -> Story:
    for row in np.flatnonzero(counted != found)[:5]:
        yield f"{what} of row {row} is {counted[row]}, found {found[row]}"


def _tally(rows: Rows, length: int) -> Rows:
    return np.bincount(rows[rows >= 0], minlength=length)


# --- Counters, events, pools ----------------------------------------------------------------


def _counters(state: KernelState) -> Story:
    counters = state.counters
    for name in counters.dtype.names or ():
        is_link = name.endswith("_free") or name == "follow_up"
        if not is_link and int(counters[name][0]) < 0:
            yield f"counter {name} is {counters[name][0]}"
    if counters["invalid"][0]:
        yield f"{counters['invalid'][0]} transitions that the request machine does not have"
    used = _used(state, "exchange")
    roots = used & (state.exchanges["parent"] == NO_INDEX)
    classes = len(state.traffic)
    in_flight = _tally(state.exchanges["traffic"][roots], classes)
    yield from _differs("in_flight of traffic", state.traffic["in_flight"], in_flight)
    if counters["in_flight"][0] != roots.sum():
        yield f"in_flight is {counters['in_flight'][0]}, found {roots.sum()}"
    measured = int((state.exchanges["flags"][roots] & MEASURED).sum())
    if counters["measured_in_flight"][0] != measured:
        yield f"measured_in_flight is {counters['measured_in_flight'][0]}, found {measured}"
    for name in ("clusters", "hosts", "endpoints"):
        rows = getattr(state, name)
        for field in rows.dtype.names:
            counts = field.endswith(("_active", "_total", "_open", "_connecting", "busy", "queued"))
            if counts and (rows[field] < 0).any():
                yield f"{name}: {field} is negative in row {int(np.argmin(rows[field]))}"


def _heap(state: KernelState) -> Story:
    count = int(state.counters["event_count"][0])
    time_ns = state.events["time_ns"][:count]
    order = state.events["order"][:count]
    child = np.arange(1, count)
    parent = (child - 1) >> 2
    late = _later(time_ns[parent], order[parent], time_ns[child], order[child])
    if late.any():
        yield f"event {child[late][0]} precedes its parent in the heap"
    if count and time_ns.min() < state.counters["now_ns"][0]:
        yield f"an event is {state.counters['now_ns'][0] - time_ns.min()} ns in the past"


def _later(one_ns: Rows, one_order: Rows, other_ns: Rows, other_order: Rows) -> Rows:
    """Return where the one event comes after the other."""
    return (one_ns > other_ns) | ((one_ns == other_ns) & (one_order > other_order))


def _calendar(state: KernelState) -> Story:
    """Events beside the heap: upcoming ones before all others, in order; buckets by time."""
    counters = state.counters
    upcoming = state.upcoming[counters["upcoming_first"][0] : counters["upcoming_end"][0]]
    heap = state.events[: counters["event_count"][0]]
    line = np.concatenate([upcoming, heap[:1]])
    time_ns, order = line["time_ns"], line["order"]
    if _later(time_ns[:-1], order[:-1], time_ns[1:], order[1:]).any():
        yield "upcoming events are not in order"
    held = np.arange(state.buckets.shape[1]) < state.bucket_counts[:, np.newaxis]
    waiting = state.buckets[held]
    if len(waiting) != counters["bucket_events"][0]:
        yield f"bucket_events is {counters['bucket_events'][0]}, found {len(waiting)}"
    if len(waiting) and waiting["time_ns"].min() < counters["bucket_until_ns"][0]:
        yield "a bucket holds an event that should be on the heap"
    place = (waiting["time_ns"] >> counters["bucket_shift"][0]) & (len(state.bucket_counts) - 1)
    if (place != np.nonzero(held)[0]).any():
        yield "an event is in a bucket of another time"
    orders = np.concatenate([upcoming["order"], heap["order"], waiting["order"]])
    if len(np.unique(orders)) != len(orders):
        yield "two events have one order"


def _pools(state: KernelState) -> Story:
    free_states = {"exchange": EXCHANGE_FREE, "attempt": ATTEMPT_FREE, "task": TASK_FREE}
    for pool in POOLS:
        rows = getattr(state, f"{pool}s")
        used = _used(state, pool)
        free_count = int(state.counters[f"{pool}_free_count"][0])
        if free_count != len(rows) - used.sum():
            yield f"{pool}s: {free_count} rows are free, {len(rows) - used.sum()} on the list"
        if pool in free_states:
            taken = rows["state"] != free_states[pool]
            yield from _differs(f"{pool}s: use", taken, used)


# --- Requests -------------------------------------------------------------------------------


def _exchanges(state: KernelState) -> Story:
    exchanges, attempts = state.exchanges, state.attempts
    listed = np.full(len(attempts), NO_INDEX)
    for exchange in np.flatnonzero(_used(state, "exchange")):
        chain = _walk(exchanges["attempt"][exchange], attempts["previous"], len(attempts))
        if len(chain) > len(attempts):
            yield f"exchange {exchange}: its attempts form a circle"
            continue
        listed[chain] = exchange
        states = attempts["state"][chain]
        live = ((states == ATTEMPT_PENDING) | (states == ATTEMPT_SENT)).sum()
        if live != exchanges["attempts_active"][exchange]:
            active = exchanges["attempts_active"][exchange]
            yield f"exchange {exchange}: attempts_active is {active}, found {live}"
    used = _used(state, "attempt")
    owner = np.where(used, attempts["exchange"], NO_INDEX)
    yield from _differs("owner of attempt", owner, listed)
    held = _used(state, "exchange") & (exchanges["retry_held"] == 1)
    retries = _tally(exchanges["cluster"][held], len(state.clusters))
    yield from _differs("retries_active of cluster", state.clusters["retries_active"], retries)


def _attempts(state: KernelState) -> Story:
    attempts, tasks = state.attempts, state.tasks
    for attempt in np.flatnonzero(_used(state, "attempt")):
        now_state = attempts["state"][attempt]
        orphan = attempts["exchange"][attempt] == NO_INDEX
        if orphan and now_state != ATTEMPT_ABANDONED:
            yield f"attempt {attempt} has no exchange but is in state {now_state}"
        task = attempts["task"][attempt]
        if task != NO_INDEX and tasks["attempt"][task] != attempt:
            yield f"attempt {attempt}: its task {task} answers {tasks['attempt'][task]}"
        if task != NO_INDEX and now_state in (ATTEMPT_PENDING, ATTEMPT_ENDED):
            yield f"attempt {attempt} in state {now_state} has a task"
        if attempts["connection"][attempt] != NO_INDEX and now_state != ATTEMPT_SENT:
            yield f"attempt {attempt} in state {now_state} has a connection"


def _concurrency(state: KernelState) -> Story:
    attempts, controllers = state.attempts, state.gradients
    gated = _used(state, "attempt") & (attempts["gated"] != 0)
    found = np.bincount(attempts["endpoint"][gated], minlength=len(controllers))
    yield from _differs("outstanding of controller", controllers["outstanding"], found)
    yield from _differs("samples", controllers["samples"], state.gradient_bins.sum(axis=1))


def _timers(state: KernelState) -> Story:
    routes = state.routes
    for kind, rows, field in (
        ("exchange", state.exchanges, "timeout_timer"),
        ("attempt", state.attempts, "per_try_timer"),
    ):
        used = _used(state, kind)
        for timer in set(routes[field].tolist()) - {NO_INDEX}:
            chain = _walk(state.timers["head"][timer], rows["timer_next"], len(rows))
            running = np.flatnonzero(used & (rows["timer"] == timer))
            if sorted(chain) != running.tolist():
                yield f"timer {timer}: {len(chain)} {kind}s listed, {len(running)} running"
                continue
            deadlines = rows["deadline_ns"][chain]
            if (np.diff(deadlines) < 0).any():
                yield f"timer {timer}: deadlines are not in order"
            if state.timers["tail"][timer] != (chain[-1] if chain else NO_INDEX):
                yield f"timer {timer}: its tail is not the last row"
            if chain and not state.timers["scheduled"][timer]:
                yield f"timer {timer} runs but no event is scheduled"
            if chain and deadlines[0] < state.counters["now_ns"][0]:
                yield f"timer {timer}: row {chain[0]} is overdue"


# --- Hosts and connections ------------------------------------------------------------------


def _hosts(state: KernelState) -> Story:
    hosts, clusters, attempts = state.hosts, state.clusters, state.attempts
    used = _used(state, "attempt")
    active = used & (attempts["connection"] != NO_INDEX)
    found = _tally(attempts["host"][active], len(hosts))
    yield from _differs("requests_active of host", hosts["requests_active"], found)
    waiting = np.zeros(len(hosts), np.int64)
    pending_of = _tally(attempts["pool"][used & (attempts["state"] == ATTEMPT_PENDING)], len(hosts))
    active_of = _tally(attempts["pool"][active], len(hosts))
    for host in np.flatnonzero((hosts["pending_head"] != NO_INDEX) | (pending_of > 0)):
        chain = _walk(hosts["pending_head"][host], attempts["next"], len(attempts))
        waiting[host] = len(chain)
        if chain and hosts["pending_tail"][host] != chain[-1]:
            yield f"host {host}: its last pending attempt is not the tail"
        if hosts["connections_open"][host] == 0:
            yield f"host {host}: {len(chain)} requests wait for a connection that nobody opens"
    yield from _differs("pending attempts of host", waiting, pending_of)
    yield from _differs("requests_pending of host", hosts["requests_pending"], pending_of)
    member = hosts["cluster"]
    for field, per_host in (
        ("requests_active", active_of),
        ("connections_active", hosts["connections_open"]),
        ("pending_active", pending_of),
    ):
        total = np.bincount(member, weights=per_host, minlength=len(clusters)).astype(np.int64)
        yield from _differs(f"{field} of cluster", clusters[field], total)


def _health(state: KernelState) -> Story:
    hosts, clusters, healths = state.hosts, state.clusters, state.host_health
    groups = state.cluster_health
    reasons = hosts["unhealthy"]
    selectable = hosts["healthy"]
    grouped = state.configs["picking"][clusters["config"]] == PICK_GROUPED
    known = (hosts["endpoint"] != NO_INDEX) & (hosts["degraded"] == 0)
    known &= ~np.isin(hosts["cluster"], groups["cluster"][groups["merge_due_ns"] != NEVER_NS])
    for host in np.flatnonzero(known & ((reasons == 0) != (selectable == HEALTHY)))[:5]:
        yield f"host {host}: healthy is {selectable[host]}, unhealthy is {reasons[host]}"
    in_panic = np.zeros(len(clusters), bool)
    in_panic[groups["cluster"]] = groups["panic"] == 1
    # Some priorities of a grouped cluster may be; of others that nobody watches nobody knows.
    in_panic |= grouped | (clusters["health"] == NO_INDEX)
    for host in np.flatnonzero((selectable == PANICKING) & ~in_panic[hosts["cluster"]])[:5]:
        yield f"host {host} is used in panic, but its cluster is not in panic"
    for host in np.flatnonzero((selectable == PANICKING) & (reasons & WITHDRAWN != 0))[:5]:
        yield f"host {host} is no member, but is used in panic"
    watched = np.flatnonzero(hosts["health"] != NO_INDEX)
    yield from _differs("host of health", healths["host"], watched)
    yield from _differs(
        "cluster of health", groups["cluster"], np.flatnonzero(clusters["health"] != NO_INDEX)
    )
    ejected = reasons[watched] & BY_OUTLIER != 0
    for host in watched[ejected & (healths["back_off"] < 1)][:5]:
        yield f"host {host} is ejected without an ejection that counts"
    due_ns = groups["due_ns"][clusters["health"][hosts["cluster"][watched]]]
    ejected &= reasons[watched] & WITHDRAWN == 0  # who is gone for good needs no sweep
    for host in watched[ejected & (due_ns == NEVER_NS)][:5]:
        yield f"host {host} is ejected, and no sweep takes it back"
    accrued = np.isin(healths["accrual_state"], (ACCRUAL_UNAVAILABLE, ACCRUAL_PROBING))
    yield from _differs("accrual of health", accrued, reasons[watched] & BY_ACCRUAL != 0)
    detected = state.ejections[:, :EJECTION_COUNT]
    enforced = state.ejections[:, EJECTION_COUNT:]
    for group in np.flatnonzero((enforced > detected).any(axis=1))[:5]:
        yield f"cluster {groups['cluster'][group]}: more ejections than detections"
    yield from _differs("ejections of health", groups["ejections_enforced"], enforced.sum(axis=1))


def _connections(state: KernelState) -> Story:
    hosts, connections = state.hosts, state.connections
    used = _used(state, "connection")
    found = _tally(connections["host"][used], len(hosts))
    yield from _differs("connections_open of host", hosts["connections_open"], found)
    connecting = used & (connections["connecting"] != 0)
    found = _tally(connections["host"][connecting], len(hosts))
    yield from _differs("connections_connecting of host", hosts["connections_connecting"], found)
    places = connecting.astype(np.int64)
    for host in np.flatnonzero(hosts["idle_newest"] != NO_INDEX):
        stack = _walk(hosts["idle_newest"][host], connections["next"], len(connections))
        np.add.at(places, stack, 1)
        if hosts["idle_oldest"][host] != stack[-1]:
            yield f"host {host}: its oldest idle connection is not the last of the stack"
        if (np.diff(connections["idle_since_ns"][stack]) > 0).any():
            yield f"host {host}: its idle connections are not in order"
        if hosts["pending_head"][host] != NO_INDEX:
            yield f"host {host}: requests wait beside an idle connection"
    attempts = state.attempts
    carried = _used(state, "attempt") & (attempts["connection"] != NO_INDEX)
    np.add.at(places, attempts["connection"][carried], 1)
    yield from _differs("places of connection", places, used.astype(np.int64))


# --- Filters --------------------------------------------------------------------------------


def _filters(state: KernelState) -> Story:
    counts = state.limit_counts
    yield from _buckets("bucket", state.token_buckets, state)
    yield from _buckets("connection's bucket", state.connection_buckets, state)
    known = len(state.connections) if len(state.connection_buckets) else 0
    if len(state.buckets_begun) != known:
        yield f"{len(state.buckets_begun)} of {known} connections have room for buckets"
    yield from _differs("requests looked at by limit", counts["enabled"], _looked_at(counts))
    if (counts["enforced"] > counts["rate_limited"]).any():
        yield "a limit refused more than were over it"
    holding = _used(state, "exchange") & (state.exchanges["flags"] & HOLDS_FAULT != 0)
    held = _tally(state.exchanges["proxy"][holding], len(state.fault_counts))
    yield from _differs("active faults of proxy", state.fault_counts["active"], held)


def _buckets(name: str, buckets: Rows, state: KernelState) -> Story:
    """Buckets hold what they can, and none is filled ahead of its time."""
    continuous = buckets["refill"] == REFILL_CONTINUOUS
    unit = np.where(continuous, buckets["fill_interval_ns"], 1)
    wrong = (buckets["level"] < 0) | (buckets["level"] > buckets["max_tokens"] * unit)
    yield from (f"{name} {row} holds {buckets['level'][row]}" for row in np.flatnonzero(wrong))
    if (buckets["updated_ns"] > state.counters["now_ns"][0]).any():
        yield f"a {name} was filled in the future"


def _looked_at(counts: Rows) -> Rows:
    looked_at: Rows = counts["ok"] + counts["rate_limited"]
    return looked_at


def _subsets(state: KernelState) -> Story:
    """Lanes that an exchange may pick from hold hosts of its cluster."""
    clusters, exchanges, splits = state.clusters, state.exchanges, state.splits
    picking = np.flatnonzero(_used(state, "exchange") & (exchanges["attempts_active"] > 0))
    pairs = exchanges[["cluster", "route"]][picking]
    for exchange in picking[np.unique(pairs, return_index=True)[1]]:  # equal ones look alike
        cluster = int(exchanges["cluster"][exchange])
        if state.configs["picking"][clusters["config"][cluster]] != PICK_SUBSET:
            continue
        local = cluster - state.proxies["cluster_start"][exchanges["proxy"][exchange]]
        route = state.routes[exchanges["route"][exchange]]
        rows = splits[route["split_start"] : route["split_start"] + route["split_count"]]
        for chain in rows["chain"][rows["cluster"] == local]:
            for number in state.chains[chain + 1 : chain + 1 + state.chains[chain]]:
                lane = int(state.lane_links[cluster]) + int(number)
                start = clusters["member_start"][lane]
                members = state.members[start : start + clusters["member_count"][lane]]
                if (state.hosts["cluster"][members] != cluster).any():
                    yield f"cluster {cluster}: lane {lane} holds another's hosts"


# --- Servers --------------------------------------------------------------------------------


def _tasks(state: KernelState) -> Story:
    tasks, endpoints = state.tasks, state.endpoints
    in_use = ~np.isin(tasks["state"], (TASK_FREE, TASK_PASSING))
    own = in_use & (tasks["worker"] == WORKER_OWN)
    found = _tally(tasks["endpoint"][own], len(endpoints))
    yield from _differs("busy workers of endpoint", endpoints["busy"], found)
    over = np.flatnonzero(endpoints["busy"] > endpoints["concurrency"])
    yield from (f"endpoint {row} has more busy workers than workers" for row in over)
    children: dict[int, list[int]] = {}
    for task in np.flatnonzero(in_use):
        parent = int(tasks["parent"][task])
        attempt = int(tasks["attempt"][task])
        if parent != NO_INDEX:
            children.setdefault(parent, []).append(int(task))
        elif attempt == NO_INDEX or state.attempts["task"][attempt] != task:
            yield f"task {task} answers attempt {attempt}, which does not know it"
    for task in np.flatnonzero(in_use):
        chain = _walk(tasks["first_branch"][task], tasks["sibling"], len(tasks))
        if sorted(chain) != sorted(children.get(int(task), [])):
            yield f"task {task}: its branches are not those that name it"
        running = int((tasks["state"][chain] != TASK_ENDED).sum())
        if running != tasks["branches"][task]:
            yield f"task {task}: {tasks['branches'][task]} branches run, found {running}"
    for parent in children:
        if not in_use[parent]:
            yield f"branches {children[parent]} have lost their task {parent}"


def _queues(state: KernelState) -> Story:
    tasks, endpoints = state.tasks, state.endpoints
    queued = tasks["state"] == TASK_QUEUED
    found = _tally(tasks["endpoint"][queued], len(endpoints))
    yield from _differs("queue length of endpoint", endpoints["queued"], found)
    walked = np.zeros(len(endpoints), np.int64)
    for endpoint, priority in np.argwhere(state.queue_heads != NO_INDEX):
        chain = _walk(state.queue_heads[endpoint, priority], tasks["next"], len(tasks))
        walked[endpoint] += len(chain)
        if state.queue_tails[endpoint, priority] != chain[-1]:
            yield f"endpoint {endpoint}: the tail of queue {priority} is not its last task"
        if (tasks["priority"][chain] != priority).any():
            yield f"endpoint {endpoint}: another class in queue {priority}"
    yield from _differs("queued tasks of endpoint", walked, found)
    idle = (endpoints["queued"] > 0) & (endpoints["busy"] < endpoints["concurrency"])
    yield from (f"endpoint {row}: a queue beside a free worker" for row in np.flatnonzero(idle))


def _containers(state: KernelState) -> Story:
    tasks, containers = state.tasks, state.containers
    for row in range(len(containers)):
        todo = [int(containers["root"][row])]
        count = 0
        while todo and count <= len(tasks):
            task = todo.pop()
            if task == NO_INDEX:
                continue
            count += 1
            below = [int(tasks["left"][task]), int(tasks["right"][task])]
            if any(tasks["tag"][child] < tasks["tag"][task] for child in below if child >= 0):
                yield f"container {row}: task {task} ends after one below it"
            todo += below
        if count != containers["running"][row]:
            yield f"container {row}: {containers['running'][row]} tasks run, found {count}"
    for node in range(len(state.nodes)):
        granted = 0.0
        for row in _walk(state.nodes["first"][node], containers["next"], len(containers)):
            granted += float(containers["share_cores"][row])
        if granted > float(state.nodes["cores"][node]) * (1 + 1e-9):
            yield f"node {node} grants {granted} of {state.nodes['cores'][node]} cores"
