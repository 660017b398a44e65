"""A mesh of one client proxy around a ProxyEngine: virtual time, sleeping servers, no sockets.

It does what the kernel does around the policy engine, in the shortest way: an event heap, FIFO
at equal times, a pool of connections a host that open at once.
"""

import heapq
from collections import deque
from itertools import count
from typing import NamedTuple

import numpy as np

from meshsim.policy.transitions import (
    ACTION_BACK_OFF,
    ACTION_DELAY,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.rng import PURPOSE_FAULT, key_uniform, mix_in
from meshsim.state.codes import NEVER_NS, NO_HOST, RESET_NONE, RESET_OVERFLOW

#: Number of a request that is a mirror's copy.
NOBODY = -1


class Outcome(NamedTuple):
    number: int
    end_ns: int
    status: int
    flag: int
    tries: int
    endpoint: str


class Request:
    """One request and its live try."""

    def __init__(self, number, key, exchange):
        self.number = number
        self.key = number if key is None else key  # of its coins
        self.exchange = exchange
        self.try_number = -1
        self.host = NO_HOST
        self.sent_ns = None  # of the live try, None if it has no connection
        self.pending = False
        self.endpoint = ""


class Mesh:
    """Requests to `service` through `engine`, to endpoints that sleep `sleep_ns(endpoint)`."""

    def __init__(self, engine, service, sleep_ns, error_rate=0.0):
        self.engine = engine
        self.service = service
        self.sleep_ns = sleep_ns
        self.error_rate = error_rate
        self.now_ns = 0
        self.outcomes = []
        self._heap = []
        self._order = count()
        self._idle = {}
        self._pending = {}

    def at(self, time_ns, action, *values):
        heapq.heappush(self._heap, (time_ns, next(self._order), action, values))

    def run(self):
        """Run until nothing is left to happen; return the outcomes by number."""
        while self._heap:
            self.now_ns, _, action, values = heapq.heappop(self._heap)
            action(*values)
        return sorted(self.outcomes)

    def arrive(self, number, key, headers):
        engine = self.engine
        exchange = engine.start(self.service, "GET", "/", headers, key, self.now_ns)
        self.route(Request(number, key, exchange))

    def route(self, request):
        engine, exchange = self.engine, request.exchange
        decision = engine.route(exchange, self.now_ns)
        if decision.action == ACTION_DELAY:
            self.at(decision.deadline_ns, self.route, request)
            return
        for number in range(engine.mirror_count(exchange) * (decision.action == ACTION_SEND)):
            copy, key = engine.mirror(exchange, number, self.now_ns)
            if copy:
                request_copy = Request(NOBODY, key, copy)
                self.at(self.now_ns, self.send, request_copy)
                deadline_ns = engine.exchange_deadline_ns(copy)
                if deadline_ns != NEVER_NS:
                    self.at(deadline_ns, self.on_route_timeout, request_copy)
        deadline_ns = engine.exchange_deadline_ns(exchange)
        if decision.action == ACTION_SEND and deadline_ns != NEVER_NS:
            self.at(deadline_ns, self.on_route_timeout, request)
        self.act(request, decision)

    def act(self, request, decision):
        if decision.action == ACTION_SEND:
            self.send(request)
        elif decision.action == ACTION_BACK_OFF:
            self.at(decision.deadline_ns, self.on_back_off_expired, request)
        elif decision.action == ACTION_RESPOND:
            if request.host != NO_HOST:
                self.abandon(request)
            tries = self.engine.retry_count(request.exchange) + 1
            status, flag = decision.status, decision.response_flag
            if request.number != NOBODY:
                self.outcomes.append(
                    Outcome(request.number, self.now_ns, status, flag, tries, request.endpoint)
                )
            self.engine.finish(request.exchange)
            request.exchange = None

    def tell(self, request, stimulus, status=0, reset=RESET_NONE):
        return self.engine.tell(request.exchange, stimulus, status, reset, self.now_ns)

    def send(self, request):
        engine = self.engine
        host = engine.pick(request.exchange, self.now_ns)
        if host == NO_HOST:
            self.act(request, self.tell(request, STIMULUS_NO_HOST))
            return
        if self._idle.get(host, 0) > 0:
            self._idle[host] -= 1
        elif not engine.can_wait(host):
            self.act(request, self.tell(request, STIMULUS_OVERFLOW))
            return
        elif engine.can_open(host):
            engine.opened(host)
        else:
            self._claim(request, host)
            request.pending = True
            self._pending.setdefault(host, deque()).append(request)
            engine.pending_added(host)
            return
        if engine.can_send(host):
            self._claim(request, host)
            self.transmit(request)
        else:
            self._idle[host] = self._idle.get(host, 0) + 1
            request.try_number += 1
            request.endpoint = engine.address(host).name
            self.act(request, self.tell(request, STIMULUS_OVERFLOW))

    def _claim(self, request, host):
        request.host = host
        request.endpoint = self.engine.address(host).name
        request.try_number += 1

    def transmit(self, request):
        host = request.host
        request.sent_ns = self.now_ns
        deadline_ns = self.engine.sent(request.exchange, host, self.now_ns)
        if deadline_ns != NEVER_NS:
            self.at(deadline_ns, self.on_per_try_timeout, request, request.try_number)
        self.serve(request)

    def serve(self, request):
        """Let the endpoint of the live try work, or fail at once by the coin of the try."""
        task_key = mix_in(np.uint64(request.key), request.try_number)
        coin = key_uniform(np.uint64(mix_in(np.uint64(task_key), PURPOSE_FAULT << 24)))
        failed = coin < self.error_rate
        time_ns = self.now_ns + (0 if failed else self.sleep_ns(request.endpoint))
        self.at(time_ns, self.done, request, request.try_number, 500 if failed else 200)

    def is_live(self, request, try_number):
        """Tell whether this try is still waited for."""
        live = request.exchange is not None and request.try_number == try_number
        return live and request.sent_ns is not None

    def done(self, request, try_number, status, reset=RESET_NONE):
        if not self.is_live(request, try_number):
            return
        decision = self.tell(request, STIMULUS_RESPONSE, status, reset)
        self._settle(request, "response", status >= 500)
        self.act(request, decision)

    def on_refused(self, request):
        self.act(request, self.tell(request, STIMULUS_RESET, 0, RESET_OVERFLOW))

    def on_back_off_expired(self, request):
        if request.exchange is not None:
            self.act(request, self.tell(request, STIMULUS_BACK_OFF_EXPIRED))

    def on_per_try_timeout(self, request, try_number):
        if not self.is_live(request, try_number):
            return
        self.abandon(request)
        self.act(request, self.tell(request, STIMULUS_PER_TRY_TIMEOUT))

    def on_route_timeout(self, request):
        if request.exchange is not None:
            self.act(request, self.tell(request, STIMULUS_ROUTE_TIMEOUT))

    def abandon(self, request):
        """Give the live try up: its connection is closed."""
        if request.pending:
            request.pending = False
            self._pending[request.host].remove(request)
            self.engine.pending_removed(request.host)
            request.host = NO_HOST
        else:
            self._settle(request, "abandoned", True)

    def _settle(self, request, outcome, failed):
        host, rtt_ns = request.host, self.now_ns - request.sent_ns
        self.engine.ended(request.exchange, host, outcome, failed, rtt_ns, self.now_ns)
        request.host, request.sent_ns = NO_HOST, None
        waiting = self._pending.get(host)
        if outcome == "abandoned":
            self.engine.closed(host)
            if not waiting or not self.engine.can_open(host):
                return
            self.engine.opened(host)
        self._pass_on(host, waiting)
        # Connections open at once here, so whoever still waits may have one more.
        while waiting and self.engine.can_open(host):
            self.engine.opened(host)
            self._pass_on(host, waiting)

    def _pass_on(self, host, waiting):
        """Give a free connection of `host` to who waits longest, or keep it."""
        while waiting:
            request = waiting.popleft()
            request.pending = False
            self.engine.pending_removed(host)
            if self.engine.can_send(host):
                self.transmit(request)
                return
            request.host = NO_HOST
            self.at(self.now_ns, self.on_refused, request)
        self._idle[host] = self._idle.get(host, 0) + 1
