"""The workload of one replica: an HTTP/1.1 server that does what its program says.

Rule: a workload knows no policy.  It serves requests as its `Station` decides, sleeps its service
times, makes its calls through the loopback port that it is given, with the called service as
``Host``, and passes the context of a request on to its calls.  Its answer says how long the
request queued, was served, and stayed (``x-meshsim-queue-ns``, ``-service-ns``, ``-server-ns``,
model time).

Context: ``x-request-id``, ``traceparent``, the class, number, arrival and deadline of the root
request, and the headers of its traffic class, in which routing and hashing may read.  Each
call has a draw key of its own (``x-meshsim-key``), derived as the simulator does.
"""

from __future__ import annotations

import asyncio
import math

import numpy as np

from emulator.alarm import Alarm
from emulator.clock import ModelClock
from emulator.http.heads import CHECK_AGENT, PROBE_AGENT, RequestHead, ResponseHead
from emulator.proxy.downstream import Downstream
from emulator.proxy.downstream_connection import DownstreamConnection
from emulator.workload.caller import Caller, PendingRequest, Reply
from emulator.workload.gray import GrayFailure
from emulator.workload.requests import DEADLINE, call_templates, decimal, hexadecimal
from emulator.workload.station import REFUSED, Station
from emulator.workload.tasks import Action, ActionKind, Task
from meshsim.rng import PURPOSE_HEALTH, key_uniform, mix_in
from meshsim.state.codes import FLAG_DC, FLAG_NONE, NEVER_NS, NO_INDEX
from meshsim.topology.compiled import CompiledTopology

__all__ = ["WorkloadServer"]

#: A response is written in pieces of this size [bytes].
_PIECE = b"x" * (64 * 1024)
#: Connections to its outbound proxy; a process has a thousand files at least.
_CONNECTIONS_MAX = 4096
#: What a call without any response counts as: the local proxy is gone.
_NO_RESPONSE = 503


class _Service:
    """One request at the server, and the caller who waits for its answer."""

    __slots__ = (
        "_connection",
        "_left",
        "_server",
        "received_ns",
        "silent",
        "task",
        "values",
    )

    def __init__(
        self, server: WorkloadServer, head: RequestHead, connection: DownstreamConnection
    ) -> None:
        self.values = dict(head.headers)
        self.received_ns = 0
        self.task: Task | None = None
        self.silent = False  # a health check or a probe that is not answered
        self._server = server
        self._connection = connection
        self._left = 0  # of the response's body [bytes]

    # --- Exchange ---

    def on_request_body(self, piece: bytes) -> None:
        """Drop the body."""

    def on_request_end(self) -> None:
        """Be served, now that the request is complete."""
        self._server.admit(self)

    def on_downstream_lost(self) -> None:
        """Do as the workload does when its caller gives up."""
        self._left = 0
        if self.task is not None:
            self._server.caller_gone(self.task)
        elif self.silent:
            self._server.check_gone()

    def on_downstream_writable(self, writable: bool) -> None:
        """Send more of the response."""
        if writable and self._left:
            self._write()

    # --- The answer ---

    def answer(self, status: int, timings: bytes) -> None:
        """Send the response, of the size that the caller asked for."""
        length = max(decimal(self.values.get(b"x-meshsim-response-bytes")), 0)
        length = length if status == 200 else 0
        head = ResponseHead(status, length, length, True, [])
        self._connection.start_response(head, timings)
        self._left = length
        self._write()

    def _write(self) -> None:
        connection = self._connection
        while self._left and connection.writable:
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            connection.write_body(piece)
            if self._left:
                connection.flush()
        if not self._left:
            connection.end_response()


class WorkloadServer:
    """The server of one replica.

    Parameters
    ----------
    compiled : CompiledTopology
        Read only.
    endpoint : int
        Row of the replica.
    clock : ModelClock
    outbound : (str, int)
        Address of the replica's outbound proxy, for its calls.
    """

    def __init__(
        self,
        compiled: CompiledTopology,
        endpoint: int,
        clock: ModelClock,
        outbound: tuple[str, int],
    ) -> None:
        self.station = Station(compiled, endpoint)
        self._clock = clock
        self._operations = compiled.operations
        rows = compiled.arrays["traffic"]["priority"]
        self._priorities = {
            name.encode(): int(rows[index]) for index, name in enumerate(compiled.topology.traffic)
        }
        self._templates = call_templates(compiled)
        after_s = int(compiled.arrays["endpoints"]["retry_after_s"][endpoint])
        self._retry_after = b"" if after_s == NO_INDEX else b"retry-after: %d\r\n" % after_s
        self._downstream = Downstream(self._begin)
        self._caller = Caller(*outbound, _CONNECTIONS_MAX)
        self._calls: dict[Task, PendingRequest] = {}
        self._alarm = Alarm(clock, self._on_alarm)
        self._server: asyncio.Server | None = None
        self._speed_before = self.station.speed_nominal
        #: Of its nominal speed: a fault, a squeeze of cores of its own, how warm it is.
        self._factors = {"slow": 1.0, "squeeze": 1.0, "warmth": 1.0}
        self._shares = 1.0, 1.0
        self._aborted = False
        self._checks = 0
        self._check_key = np.uint64(mix_in(np.uint64(PURPOSE_HEALTH), endpoint))

    # --- Life --------------------------------------------------------------------------------

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._downstream.protocol, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, finish what is running, close; return whether all ended in time [s]."""
        self._stop_accepting()
        ended = await self._downstream.drain(timeout_s)
        self.abort()
        await self._downstream.emptied()
        await self._caller.close()
        return ended

    def abort(self) -> None:
        """Reset every socket and forget everything, as if the process were killed."""
        self._aborted = True
        self._stop_accepting()
        self.station.reset(self._clock.now_ns())
        self._calls.clear()
        self._downstream.abort()
        self._caller.abort()
        self._alarm.close()

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # --- Verbs -------------------------------------------------------------------------------

    def set_speed(self, factor: float) -> None:
        """Compute at `factor` times the nominal speed from now on; 0 pauses, sleeps go on."""
        self._set_factor("slow", factor)

    def warm(self, factor: float) -> None:
        """Compute at `factor` of its speed because it has just started."""
        self._set_factor("warmth", factor)

    def squeeze(self, share: float, node_share: float) -> None:
        """Have a share of its own cores, and of those of its node."""
        if self.station.cores is None:
            self._factors["squeeze"] = share
        else:
            self._shares = share, node_share
        self._apply()

    def _set_factor(self, name: str, factor: float) -> None:
        self._factors[name] = factor
        self._apply()

    def _apply(self) -> None:
        speed = math.prod(self._factors.values()) * self.station.speed_nominal
        self._do(self.station.set_speed(speed, self._clock.now_ns(), self._shares))

    def pause(self) -> None:
        """Compute nothing until `resume`."""
        if self.station.speed > 0.0:
            self._speed_before = self.station.speed
        self._do(self.station.set_speed(0.0, self._clock.now_ns(), self._shares))

    def resume(self) -> None:
        """Go on at the speed before `pause`."""
        speed = self._speed_before
        self._do(self.station.set_speed(speed, self._clock.now_ns(), self._shares))

    def set_error_rate(self, share: float | None) -> None:
        """Answer `share` of the requests with 500; None: as the scenario says."""
        nominal = self.station.error_rate_nominal
        self.station.error_rate = nominal if share is None else share

    def set_gray(self, gray: GrayFailure | None) -> None:
        """Let requests, but no health checks, be hit by a gray failure; or by none."""
        self.station.gray = gray

    def flush(self) -> None:
        """Forget what is cached."""
        self.station.cache.flush()

    # --- Facts -------------------------------------------------------------------------------

    def record(self, now_ns: int) -> tuple[int, ...]:
        """Return the station's counters in the order of `ENDPOINT_RECORD_DTYPE`."""
        return self.station.record(now_ns)

    def counters(self) -> dict[str, int]:
        """Return what happened on its sockets, by name."""
        return self._downstream.counters() | {
            "outbound_cx_active": self._caller.connections,
            "outbound_cx_overflow": self._caller.overflows,
        }

    # --- Requests ----------------------------------------------------------------------------

    def _begin(self, head: RequestHead, connection: DownstreamConnection) -> _Service:
        return _Service(self, head, connection)

    def admit(self, service: _Service) -> None:
        """Let the station serve a complete request; those of proxies are answered at once."""
        values = service.values
        agent = values.get(b"user-agent")
        if agent in (CHECK_AGENT, PROBE_AGENT):
            self._answer_proxy(service, agent == PROBE_AGENT)
            return
        now_ns = self._clock.now_ns()
        service.received_ns = now_ns
        tries = max(decimal(values.get(b"x-envoy-attempt-count")), 1)
        key = mix_in(np.uint64(hexadecimal(values.get(b"x-meshsim-key"))), tries - 1)
        priority = self._priorities.get(values.get(b"x-meshsim-traffic", b""), 0)
        name = values.get(b"x-meshsim-operation", b"").decode("latin-1")
        task = Task(int(key), priority, self._operations.get(name, 0), service)
        service.task = task
        if self.station.minds_deadlines and (until_ns := decimal(values.get(DEADLINE))) >= 0:
            task.deadline_ns = until_ns
        self._do(self.station.submit(task, now_ns))

    def _answer_proxy(self, service: _Service, probe: bool) -> None:
        """Answer a health check or a probe; a server that stands still is silent.

        The share of checks that fails is that of requests.
        """
        if self.station.speed == 0.0:
            service.silent = True
            return
        if probe:
            self._downstream.ended(FLAG_NONE)
            told = self.station.load(self._clock.now_ns())
            service.answer(200, b"x-meshsim-rif: %d\r\nx-meshsim-latency-ns: %d\r\n" % told)
            return
        self._checks += 1
        coin = key_uniform(np.uint64(mix_in(self._check_key, self._checks)))
        self._downstream.ended(FLAG_NONE)
        service.answer(500 if coin < self.station.error_rate else 200, b"")

    def check_gone(self) -> None:
        """Count a health check that nobody answered and nobody waits for."""
        if not self._aborted:
            self._downstream.ended(FLAG_DC)

    def caller_gone(self, task: Task) -> None:
        """Tell the station that nobody waits for `task`."""
        if self._aborted:
            return
        self._downstream.ended(FLAG_DC)
        self._do(self.station.cancel(task, self._clock.now_ns()))

    def _on_alarm(self) -> None:
        self._do(self.station.advance(self._clock.now_ns()))

    def _do(self, actions: list[Action]) -> None:
        """Carry out what the station decided, and wake up for its next step."""
        for action in actions:
            if action.kind is ActionKind.ANSWER:
                self._answer(action.task)
            elif action.kind is ActionKind.CALL:
                self._call(action)
            else:
                self._calls.pop(action.task).cancel()
        next_ns = self.station.next_ns()
        if next_ns != NEVER_NS:
            self._alarm.set(next_ns)

    def _answer(self, task: Task) -> None:
        service: _Service = task.owner
        stayed_ns = self._clock.now_ns() - service.received_ns
        service.task = None
        self._downstream.ended(FLAG_NONE)
        told = self._retry_after if task.status == REFUSED else b""
        service.answer(
            task.status,
            b"x-meshsim-queue-ns: %d\r\nx-meshsim-service-ns: %d\r\nx-meshsim-server-ns: %d\r\n%b"
            % (task.queue_ns, task.service_ns, stayed_ns, told),
        )

    def _call(self, action: Action) -> None:
        task = action.task
        service: _Service = task.owner
        template = self._templates[action.site]
        assert template is not None

        def done(reply: Reply) -> None:
            del self._calls[task]
            status = reply.status or _NO_RESPONSE
            self._do(self.station.returned(task, status, self._clock.now_ns()))

        data = template.request(service.values, action.key)
        self._calls[task] = self._caller.request(data, template.method, done)
