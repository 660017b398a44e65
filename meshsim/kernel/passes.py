"""Passes through proxies, and the wire between machines.

Rule: a proxy worker serves passes first come, first served.  A pass costs `pass_ns`, plus
`byte_ns` a byte, plus `wakeup_ns` if its worker was idle (see `ProxyCost`).  On dedicated
cores its end is known when it arrives, so a pass is one event and keeps no queue; on shared
cores it is a task of the proxy's container.  A proxy that costs nothing (a client library) is
no event at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.jit import kernel_jit, kernel_jit_inline
from meshsim.kernel.cores import add_to_container
from meshsim.kernel.draws import draw_ns
from meshsim.kernel.events import IMPAIRED_WIRE, schedule
from meshsim.kernel.memory import invoke
from meshsim.kernel.pools import take_task
from meshsim.rng import PURPOSE_WIRE, mix_in
from meshsim.state.codes import NO_INDEX
from meshsim.state.server import TASK_PASSING
from meshsim.state.workload import CONSTANT, IMPAIRED

__all__ = ["charge_handshake", "charge_pass", "enter_proxy", "wire_between", "wire_ns"]


@kernel_jit_inline
def _next_worker(state: Any, proxy: int) -> int:
    """Return the place in `worker_free_ns` of the worker that is free first."""
    free_ns = state.worker_free_ns
    first = state.proxies["worker_start"][proxy]
    worker = first
    for other in range(first + 1, first + state.proxies["workers"][proxy]):
        if free_ns[other] < free_ns[worker]:
            worker = other
    return worker


@kernel_jit
def charge_handshake(state: Any, proxy: int) -> int:
    """Let `proxy` compute one TLS handshake; return when it ends [ns].

    On shared cores the handshake takes its CPU time, as if there were no contention.
    """
    cost_ns = state.proxies["handshake_ns"][proxy]
    now_ns = state.counters["now_ns"][0]
    state.proxies["cpu_ns"][proxy] += cost_ns
    if state.proxies["container"][proxy] != NO_INDEX:
        return now_ns + cost_ns
    worker = _next_worker(state, proxy)
    state.worker_free_ns[worker] = max(state.worker_free_ns[worker], now_ns) + cost_ns
    return state.worker_free_ns[worker]


@kernel_jit
def charge_pass(state: Any, proxy: int, size_bytes: int) -> int:
    """Serve one pass on dedicated cores; return when it ends [ns]."""
    proxies = state.proxies
    free_ns = state.worker_free_ns
    now_ns = state.counters["now_ns"][0]
    worker = _next_worker(state, proxy)
    cost_ns = proxies["pass_ns"][proxy] + int(proxies["byte_ns"][proxy] * size_bytes)
    begin_ns = free_ns[worker]
    if begin_ns <= now_ns:
        begin_ns = now_ns
        cost_ns += proxies["wakeup_ns"][proxy]
    free_ns[worker] = begin_ns + cost_ns
    proxies["cpu_ns"][proxy] += cost_ns
    return begin_ns + cost_ns


@kernel_jit
def _share_pass(state: Any, proxy: int, size_bytes: int, what: int) -> None:
    """Serve one pass on shared cores; run event `what` at its end."""
    proxies = state.proxies
    container = proxies["container"][proxy]
    cost_ns = proxies["pass_ns"][proxy] + int(proxies["byte_ns"][proxy] * size_bytes)
    if state.containers["running"][container] == 0:
        cost_ns += proxies["wakeup_ns"][proxy]
    proxies["cpu_ns"][proxy] += cost_ns
    task = take_task(state)
    state.tasks["state"][task] = TASK_PASSING
    state.tasks["continuation"][task] = what
    add_to_container(state, container, task, float(cost_ns))


@kernel_jit
def enter_proxy(state: Any, proxy: int, size_bytes: int, what: int) -> None:
    """Send `size_bytes` through `proxy`, and run event `what` when they have passed."""
    if state.proxies["container"][proxy] == NO_INDEX:
        schedule(state, charge_pass(state, proxy, size_bytes), what)
    else:
        _share_pass(state, proxy, size_bytes, what)


@kernel_jit
def wire_ns(state: Any, proxy: int, endpoint: int, key: np.uint64, leg: int) -> int:
    """Return the one-way wire latency between a client proxy and an endpoint [ns].

    `leg` tells the draws of one exchange apart (request, response, handshake of each try).
    """
    distribution = wire_between(state, proxy, endpoint)
    kind = state.distributions["kind"][distribution]
    if kind == CONSTANT:
        return int(state.distributions["mean_ns"][distribution])
    draw_key = mix_in(key, (PURPOSE_WIRE << 24) + leg)
    if kind == IMPAIRED:
        row = 4 * int(distribution) + (leg & 3)
        return int(invoke(state, IMPAIRED_WIRE, row, np.int64(draw_key)))
    return draw_ns(state, distribution, draw_key)


@kernel_jit_inline
def wire_between(state: Any, proxy: int, endpoint: int) -> int:
    """Return the DISTRIBUTION of the wire between a client proxy and an endpoint."""
    node = state.endpoints["node"][endpoint]
    if node != NO_INDEX and node == state.proxies["node"][proxy]:
        return state.wire[state.wire.shape[0] - 1, 0]
    return state.wire[state.proxies["zone"][proxy], state.endpoints["zone"][endpoint]]
