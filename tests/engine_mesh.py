"""A mesh of one client proxy around a ProxyEngine: virtual time, sleeping servers, no sockets.

It does what the kernel does around the policy engine, in the shortest way: an event heap, FIFO
at equal times, a pool of connections a host that open at once.
"""

import heapq
from collections import Counter, defaultdict, deque
from itertools import count
from typing import NamedTuple

import numpy as np

from emulator.decisions.exchanges import ASK
from emulator.decisions.rate_limit_service import RateLimitService
from emulator.workload.estimates import LoadEstimates
from meshsim.policy.global_rate_limit import SERVICE_FAILED
from meshsim.policy.transitions import (
    ACTION_BACK_OFF,
    ACTION_DELAY,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_EARLIER_RESET,
    STIMULUS_EARLIER_RESPONSE,
    STIMULUS_HEDGE_DUE,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESET,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
    STIMULUS_SOFT_PER_TRY_TIMEOUT,
)
from meshsim.rng import PURPOSE_FAULT, key_uniform, mix_in
from meshsim.state.codes import (
    HEDGE_AFTER_DELAY,
    HEDGE_ON_PER_TRY_TIMEOUT,
    NEVER_NS,
    NO_HOST,
    RESET_NONE,
    RESET_OVERFLOW,
)

#: Number of a request that is a mirror's copy.
NOBODY = -1
#: What is said of a try that another has followed, in Envoy's hedging.
EARLIER = {
    STIMULUS_RESPONSE: STIMULUS_EARLIER_RESPONSE,
    STIMULUS_RESET: STIMULUS_EARLIER_RESET,
}


class Outcome(NamedTuple):
    number: int
    end_ns: int
    status: int
    flag: int
    tries: int
    endpoint: str


class Try:
    """One try of a request."""

    def __init__(self, request, number, host, endpoint):
        self.request = request
        self.number = number
        self.host = host
        self.endpoint = endpoint
        self.sent_ns = None  # None if it has no connection
        self.rif = 0  # requests in flight that it met
        self.pending = False


class Request:
    """One request and its live tries, the newest last."""

    def __init__(self, number, key, exchange):
        self.number = number
        self.key = number if key is None else key  # of its coins
        self.exchange = exchange
        self.sent = -1  # number of the try that was sent last
        self.tries = []
        self.endpoint = ""  # of the try that was picked last


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
        self.busy = Counter()  # requests in flight by endpoint
        self.estimates = defaultdict(LoadEstimates)
        self.service_of_limits = RateLimitService(0)

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
        self.routed(request, engine.route(exchange, self.now_ns))

    def ask(self, request, decision):
        """Ask the rate limit service, which answers when its latency has passed."""
        question = self.engine.question(request.exchange)
        answer = self.service_of_limits.count(question.domain, question.descriptors, self.now_ns)
        answered_ns = self.now_ns + question.latency_ns
        if answered_ns >= decision.deadline_ns:
            answer, answered_ns = SERVICE_FAILED, decision.deadline_ns
        self.at(answered_ns, self.heard, request, answer)

    def heard(self, request, answer):
        self.routed(request, self.engine.heard(request.exchange, answer, self.now_ns))

    def routed(self, request, decision):
        engine, exchange = self.engine, request.exchange
        if decision.action == ACTION_DELAY:
            self.at(decision.deadline_ns, self.route, request)
            return
        if decision.action == ASK:
            self.ask(request, decision)
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

    def act(self, request, decision, endpoint=None):
        """Do what was decided; `endpoint` answered, if it is the answer."""
        if decision.action == ACTION_SEND:
            self.send(request)
        elif decision.action == ACTION_BACK_OFF:
            self.at(decision.deadline_ns, self.on_back_off_expired, request)
        elif decision.action == ACTION_RESPOND:
            while request.tries:
                self.abandon(request.tries[-1], failed=decision.status >= 500)
            tries = self.engine.retry_count(request.exchange) + 1
            status, flag = decision.status, decision.response_flag
            if request.number != NOBODY:
                endpoint = endpoint or request.endpoint
                self.outcomes.append(
                    Outcome(request.number, self.now_ns, status, flag, tries, endpoint)
                )
            self.engine.finish(request.exchange)
            request.exchange = None

    def tell(self, request, stimulus, status=0, reset=RESET_NONE):
        return self.engine.tell(request.exchange, stimulus, status, reset, self.now_ns)

    def tell_of(self, one, stimulus, status=0, reset=RESET_NONE):
        """Tell what one try came to, which leaves the live ones."""
        request, engine = one.request, self.engine
        newest = request.tries[-1] is one
        request.tries.remove(one)
        if newest and one.number == engine.retry_count(request.exchange):
            return self.tell(request, stimulus, status, reset)
        if engine.hedging(request.exchange) == HEDGE_ON_PER_TRY_TIMEOUT:
            stimulus = EARLIER[stimulus]
        told = (request.exchange, one.host, stimulus, status, reset, self.now_ns)
        return engine.tell_of(*told)

    def plan_copy(self, request):
        due_ns = self.engine.hedge_due_ns(request.exchange)
        if due_ns != NEVER_NS:
            self.at(due_ns, self.on_copy_due, request, due_ns)

    def on_copy_due(self, request, due_ns):
        live = request.exchange is not None
        if live and self.engine.hedge_due_ns(request.exchange) == due_ns:
            decision = self.tell(request, STIMULUS_HEDGE_DUE)
            if decision.action == ACTION_SEND:
                self.send(request)
            else:
                self.plan_copy(request)

    def send(self, request):
        engine = self.engine
        if engine.hedging(request.exchange) == HEDGE_AFTER_DELAY:
            self.plan_copy(request)
        host = engine.pick(request.exchange, self.now_ns)
        for probe in engine.take_probes():
            self.at(self.now_ns, self.answer_probe, probe)
        if host == NO_HOST:
            self.act(request, self.tell(request, STIMULUS_NO_HOST))
            return
        if self._idle.get(host, 0) > 0:
            self._idle[host] -= 1
        elif not engine.can_wait(host):
            self.act(request, self.tell(request, STIMULUS_OVERFLOW))
            return
        elif not self._pending.get(host) and engine.can_open(host):
            engine.opened(host)
        else:
            self._wait(self._claim(request, host))
            return
        if engine.can_send(host):
            self.transmit(self._claim(request, host))
        else:
            self._idle[host] = self._idle.get(host, 0) + 1
            request.sent += 1
            request.endpoint = engine.address(host).name
            self.act(request, self.tell(request, STIMULUS_OVERFLOW))

    def _wait(self, one):
        """Let a try wait for a connection, which is opened for the first in line."""
        one.pending = True
        waiting = self._pending.setdefault(one.host, deque())
        first = not waiting
        waiting.append(one)
        self.engine.pending_added(one.host)
        while not first and waiting and self.engine.can_open(one.host):
            self.engine.opened(one.host)
            self._pass_on(one.host, waiting)

    def _claim(self, request, host):
        request.sent = self.engine.retry_count(request.exchange)
        request.endpoint = self.engine.address(host).name
        request.tries.append(Try(request, request.sent, host, request.endpoint))
        return request.tries[-1]

    def transmit(self, one):
        one.sent_ns = self.now_ns
        deadline_ns = self.engine.sent(one.request.exchange, one.host, self.now_ns)
        if deadline_ns != NEVER_NS:
            self.at(deadline_ns, self.on_per_try_timeout, one)
        self.serve(one)

    def answer_probe(self, probe):
        rif = self.busy[self.engine.address(probe.host).name]
        latency_ns = self.estimates[self.engine.address(probe.host).name].latency_ns(rif)
        self.at(self.now_ns, self.probed, probe, rif, latency_ns)

    def probed(self, probe, *told):
        assert self.engine.probed(*probe[:3], *told, self.now_ns)

    def serve(self, one):
        """Let the endpoint of a try work, or fail at once by the coin of the try."""
        task_key = mix_in(np.uint64(one.request.key), one.number)
        coin = key_uniform(np.uint64(mix_in(np.uint64(task_key), PURPOSE_FAULT << 24)))
        failed = coin < self.error_rate
        one.rif = self.busy[one.endpoint]
        self.busy[one.endpoint] += 1
        time_ns = self.now_ns + (0 if failed else self.sleep_ns(one.endpoint))
        self.at(time_ns, self.done, one, 500 if failed else 200)

    def done(self, one, status, reset=RESET_NONE):
        self.busy[one.endpoint] -= 1
        if one not in one.request.tries:
            return
        self.estimates[one.endpoint].remember(one.rif, self.now_ns - one.sent_ns)
        decision = self.tell_of(one, STIMULUS_RESPONSE, status, reset)
        self._settle(one, "response", status >= 500)
        self.act(one.request, decision, one.endpoint)

    def on_refused(self, one):
        if one in one.request.tries:
            decision = self.tell_of(one, STIMULUS_RESET, 0, RESET_OVERFLOW)
            self.act(one.request, decision)

    def on_back_off_expired(self, request):
        if request.exchange is not None:
            self.act(request, self.tell(request, STIMULUS_BACK_OFF_EXPIRED))

    def on_per_try_timeout(self, one):
        request = one.request
        if one not in request.tries:
            return
        if self.engine.hedging(request.exchange) == HEDGE_ON_PER_TRY_TIMEOUT:
            self.act(request, self.tell(request, STIMULUS_SOFT_PER_TRY_TIMEOUT))
            return
        self._settle(one, "abandoned", True)
        self.act(request, self.tell_of(one, STIMULUS_PER_TRY_TIMEOUT))

    def on_route_timeout(self, request):
        if request.exchange is not None:
            self.act(request, self.tell(request, STIMULUS_ROUTE_TIMEOUT))

    def abandon(self, one, failed=True):
        """Give a live try up: its connection is closed."""
        one.request.tries.remove(one)
        if one.pending:
            one.pending = False
            self._pending[one.host].remove(one)
            self.engine.pending_removed(one.host)
        elif one.sent_ns is not None:
            self._settle(one, "abandoned", failed)

    def _settle(self, one, outcome, failed):
        host, rtt_ns = one.host, self.now_ns - one.sent_ns
        self.engine.ended(one.request.exchange, host, outcome, failed, rtt_ns, self.now_ns)
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
            one = waiting.popleft()
            one.pending = False
            self.engine.pending_removed(host)
            if self.engine.can_send(host):
                self.transmit(one)
                return
            self.at(self.now_ns, self.on_refused, one)
        self._idle[host] = self._idle.get(host, 0) + 1
