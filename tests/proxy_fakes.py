"""An engine with literal answers and upstreams with literal bytes, for tests of the proxy's IO."""

import asyncio
import contextlib
from collections import Counter
from typing import NamedTuple

from emulator.proxy import OutboundProxy
from meshsim.policy.transitions import (
    ACTION_ABANDON,
    ACTION_BACK_OFF,
    ACTION_RESPOND,
    ACTION_SEND,
    STIMULUS_BACK_OFF_EXPIRED,
    STIMULUS_DOWNSTREAM_RESET,
    STIMULUS_NO_HOST,
    STIMULUS_OVERFLOW,
    STIMULUS_PER_TRY_TIMEOUT,
    STIMULUS_RESPONSE,
    STIMULUS_ROUTE_TIMEOUT,
)
from meshsim.state.codes import (
    FLAG_NONE,
    FLAG_NR,
    FLAG_UC,
    FLAG_UF,
    FLAG_UH,
    FLAG_UO,
    FLAG_URX,
    FLAG_UT,
    HEDGE_NEVER,
    NEVER_NS,
    NO_HOST,
    RESET_CONNECT_FAILURE,
    RESET_OVERFLOW,
)

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class FakeDecision(NamedTuple):
    action: int
    deadline_ns: int = NEVER_NS
    status: int = 0
    response_flag: int = FLAG_NONE


class FakeAddress(NamedTuple):
    name: str
    host: str
    port: int
    principal: str = ""


class RealClock:
    """Model time is real time."""

    def now_ns(self):
        return int(asyncio.get_running_loop().time() * SECOND)

    def real_s(self, model_ns):
        return model_ns / SECOND

    def call_at(self, loop, model_ns, callback, *args):
        return loop.call_at(model_ns / SECOND, callback, *args)


class FakeEngine:
    """Round robin over `ports`; retries 503s and resets; every count is checked."""

    name = "caller-0"

    def __init__(self, *ports, retries=0, per_try_ns=NEVER_NS, route_ns=NEVER_NS, back_off_ns=0):
        self.addresses = [FakeAddress(f"host-{n}", "127.0.0.1", p) for n, p in enumerate(ports)]
        self.retries = retries
        self.per_try_ns = per_try_ns
        self.route_ns = route_ns
        self.back_off_ns = back_off_ns
        self.settings = (SECOND, 60 * SECOND, 0)
        self.limits = {"connections": 1024, "pending": 1024, "requests": 1024}
        self.active = Counter()
        self.overflow = Counter()
        self.exchanges = {}
        self.log = []
        self.next_host = 0
        self.next_exchange = 0

    # Requests

    def start(self, service, method, path, headers, traffic_key, now_ns):
        self.next_exchange += 1
        self.exchanges[self.next_exchange] = {
            "service": service, "left": self.retries, "retries": 0, "now_ns": now_ns, "tries": 0,
        }  # fmt: skip
        self.log.append(("start", service, method, path, dict(headers), traffic_key))
        return self.next_exchange

    def route(self, exchange, now_ns):
        if self.exchanges[exchange]["service"] == "nowhere":
            return FakeDecision(ACTION_RESPOND, NEVER_NS, 404, FLAG_NR)
        return FakeDecision(ACTION_SEND)

    def tell(self, exchange, stimulus, status, reset, now_ns):
        self.log.append(("tell", stimulus, status, reset))
        row = self.exchanges[exchange]
        if stimulus == STIMULUS_BACK_OFF_EXPIRED:
            return FakeDecision(ACTION_SEND)
        if stimulus == STIMULUS_DOWNSTREAM_RESET:
            return FakeDecision(ACTION_ABANDON)
        flag, retriable = FLAG_UC, True
        if stimulus == STIMULUS_RESPONSE:
            flag, retriable = FLAG_NONE, status == 503
        elif stimulus in (STIMULUS_PER_TRY_TIMEOUT, STIMULUS_ROUTE_TIMEOUT):
            status, flag, retriable = 504, FLAG_UT, stimulus == STIMULUS_PER_TRY_TIMEOUT
        elif stimulus == STIMULUS_NO_HOST:
            status, flag, retriable = 503, FLAG_UH, False
        elif stimulus == STIMULUS_OVERFLOW or reset == RESET_OVERFLOW:
            status, flag, retriable = 503, FLAG_UO, False
        else:
            status, flag = 503, FLAG_UF if reset == RESET_CONNECT_FAILURE else FLAG_UC
        if retriable and row["left"] > 0:
            row["left"] -= 1
            row["retries"] += 1
            return FakeDecision(ACTION_BACK_OFF, now_ns + self.back_off_ns)
        if retriable and self.retries and flag == FLAG_NONE:
            flag = FLAG_URX
        return FakeDecision(ACTION_RESPOND, NEVER_NS, status, flag)

    def pick(self, exchange, now_ns):
        if not self.addresses:
            return NO_HOST
        self.next_host += 1
        return (self.next_host - 1) % len(self.addresses)

    def take_probes(self):
        return []

    def probe_counters(self):
        return {}

    def sent(self, exchange, host, now_ns):
        self._add("requests", 1)
        self.exchanges[exchange]["tries"] += 1
        return NEVER_NS if self.per_try_ns == NEVER_NS else now_ns + self.per_try_ns

    def ended(self, exchange, host, outcome, failed, rtt_ns, now_ns):
        assert exchange in self.exchanges
        assert rtt_ns >= 0
        self.exchanges[exchange]["tries"] -= 1
        self.log.append(("ended", outcome, failed))
        self._add("requests", -1)

    def finish(self, exchange):
        assert self.exchanges.pop(exchange)["tries"] == 0

    def exchange_deadline_ns(self, exchange):
        if self.route_ns == NEVER_NS:
            return NEVER_NS
        return self.exchanges[exchange]["now_ns"] + self.route_ns

    def is_paced(self, exchange):
        return False

    def mirror_count(self, exchange):
        return 0

    def bound(self, exchange, deadline_ns):
        self.log.append(("bound", deadline_ns))

    def reset_headers(self, exchange):
        return ()

    def hedging(self, exchange):
        return HEDGE_NEVER

    def location(self, exchange):
        return None

    def refusal_headers(self, exchange):
        return []

    def totals(self):
        return {}

    def filter_counters(self, inbound=False):
        return {}

    def invalid_picks(self):
        return 0

    def retry_count(self, exchange):
        return self.exchanges[exchange]["retries"]

    def retries_remaining(self, exchange):
        return self.exchanges[exchange]["left"]

    # Connections

    def can_wait(self, host):
        return self._may("pending")

    def wants_connection(self, host, connecting):
        return self.active[f"pending-{host}"] > connecting

    def can_open(self, host):
        return self._may("connections") or self.active[f"open-{host}"] == 0

    def can_send(self, host):
        return self._may("requests")

    def _may(self, kind):
        allowed = self.active[kind] < self.limits[kind]
        self.overflow[kind] += not allowed
        return allowed

    def _add(self, kind, change):
        self.active[kind] += change
        assert self.active[kind] >= 0, kind

    def opened(self, host):
        self._add("connections", 1)
        self._add(f"open-{host}", 1)

    def closed(self, host):
        self._add("connections", -1)
        self._add(f"open-{host}", -1)

    def pending_added(self, host):
        self._add("pending", 1)
        self._add(f"pending-{host}", 1)

    def pending_removed(self, host):
        self._add("pending", -1)
        self._add(f"pending-{host}", -1)

    def is_member(self, host):
        return True

    def address(self, host):
        return self.addresses[host]

    def pool_settings(self, host):
        return self.settings

    def checked_hosts(self):
        return set()

    def health_counters(self):
        return {}

    def assert_quiet(self):
        assert not self.exchanges
        assert self.active["requests"] == self.active["pending"] == 0

    def stimuli(self):
        return [row[1] for row in self.log if row[0] == "tell"]


class Upstream:
    """A server of literal bytes: `answer(request number, head, body)` returns what to send.

    None: say nothing; b"": close the connection.  Reads one request at a time by its
    Content-Length or chunks, with its own few lines of code.
    """

    def __init__(self, answer):
        self.answer = answer
        self.heads = []
        self.bodies = []
        self.connections = 0
        self.open = 0
        self._writers = set()

    async def start(self, port=0):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        self.server.close()
        for writer in list(self._writers):
            writer.close()
        await until(lambda: not self._writers)

    async def _serve(self, reader, writer):
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        number = len(self.heads)
        self.heads.append(head)
        self.bodies.append(await self._body(reader, head.lower()))
        data = self.answer(number, head, self.bodies[-1])
        if hasattr(data, "__await__"):
            data = await data
        if data == b"":
            return False
        if data is not None:
            writer.write(data)
            await writer.drain()
        return True

    async def _body(self, reader, head):
        if "transfer-encoding: chunked" in head:
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return body
        if "content-length:" in head:
            return await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
        return b""


async def until(condition, timeout_s=5.0):
    """Wait until `condition()` is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


def ok(body=b"ok", status=200, extra=b""):
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


class Caller:
    """A client that sends literal bytes and reads whole responses."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *error):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, host="a", path="/", extra="", method="GET"):
        await self.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode())
        return await self.response(method)

    async def response(self, method="GET"):
        """Return status, headers and body of the next response."""
        async with asyncio.timeout(5):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = b""
            if method != "HEAD" and status >= 200 and status not in (204, 304):
                if headers.get("transfer-encoding") == "chunked":
                    while size := int(await self.reader.readline(), 16):
                        body += (await self.reader.readexactly(size + 2))[:-2]
                    await self.reader.readline()
                elif "content-length" in headers:
                    body = await self.reader.readexactly(int(headers["content-length"]))
                else:
                    body = await self.reader.read()
            return status, headers, body

    async def closed(self):
        """Return whether the proxy closed the connection."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


class Outcomes(list):
    def exchange(self, outcome):
        self.append(outcome)


@contextlib.asynccontextmanager
async def outbound(answer=lambda number, head, body: ok(), n_upstreams=1, **settings):
    """Run one outbound proxy in front of upstreams that `answer`."""
    upstreams = [await Upstream(answer).start() for _ in range(n_upstreams)]
    engine = FakeEngine(*[upstream.port for upstream in upstreams], **settings)
    outcomes = Outcomes()
    proxy = OutboundProxy(engine, RealClock(), recorder=outcomes)
    _, port = await proxy.start()
    try:
        yield proxy, engine, upstreams, port, outcomes
    finally:
        await proxy.drain(2)
        for upstream in upstreams:
            await upstream.stop()
    engine.assert_quiet()
    assert engine.active["connections"] == 0
    counters = proxy.counters()
    assert counters["downstream_rq_active"] == 0
    assert counters["downstream_cx_active"] == counters["upstream_cx_active"] == 0
    assert counters.get("downstream_rq_total", 0) == len(outcomes)


def run(scenario):
    async def limited():
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(limited())
