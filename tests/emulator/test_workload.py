"""A workload on sockets: what it answers, whom it calls, and with which words."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from kernel_runs import NS_PER_MS, Run, recorded, worker

from emulator.clock import Clock
from emulator.proxy.downstream import Downstream
from emulator.workload.server import WorkloadServer
from meshsim.rng import PURPOSE_SERVICE, mix_in
from meshsim.topology.compiled import CompiledTopology
from meshsim.workload.distributions import sample_ns

DEADLINE_S = 10
ROOT = {
    "x-request-id": "abc",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-meshsim-traffic": "load",
    "x-meshsim-number": "7",
    "x-meshsim-arrival": "1234",
    "x-meshsim-deadline": "99999",
    "x-meshsim-key": "00000000000000ff",
    "x-meshsim-parent": "0",
    "x-envoy-attempt-count": "2",
    "x-tenant": "blue",
    "x-secret": "not of the class",
}


class FakeProxy:
    """An outbound proxy that notes requests and answers `status`, or holds them back."""

    def __init__(self, status=200):
        self.status = status
        self.heads = []
        self.bodies = []
        self.connections = []
        self.lost = 0
        self.downstream = Downstream(self.begin)

    def begin(self, head, connection):
        self.heads.append(head)
        self.bodies.append(0)
        self.connections.append(connection)
        return self

    def on_request_body(self, piece):
        self.bodies[-1] += len(piece)

    def on_request_end(self):
        if self.status:
            self.connections[-1].respond(self.status, ())

    def on_downstream_lost(self):
        self.lost += 1

    def on_downstream_writable(self, writable):
        pass

    def values(self, number):
        head = self.heads[number]
        return {name.decode(): value.decode() for name, value in head.headers}


@asynccontextmanager
async def serving(compiled: CompiledTopology, proxy=None, clock=None):
    """Run the workload of endpoint 0 before `proxy`."""
    proxy = proxy or FakeProxy()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(proxy.downstream.protocol, "127.0.0.1", 0)
    address = listener.sockets[0].getsockname()
    server = WorkloadServer(compiled, 0, clock or Clock(), address)
    port = await server.start()
    try:
        yield server, port
    finally:
        await server.drain(0.01)
        listener.close()
        proxy.downstream.abort()
        await proxy.downstream.emptied()


class Client:
    """One connection to the workload."""

    @classmethod
    async def connect(cls, port):
        client = cls()
        client.reader, client.writer = await asyncio.open_connection("127.0.0.1", port)
        return client

    def send(self, body=0, **headers):
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = ["POST / HTTP/1.1", "host: a", f"content-length: {body}", *lines, "", ""]
        self.writer.write("\r\n".join(head).encode() + b"y" * body)

    async def receive(self):
        """Return status, headers and length of the body of one response."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            length = int(headers["content-length"])
            await self.reader.readexactly(length)
        return int(head[0].split()[1]), headers, length

    async def close(self):
        self.writer.close()
        await self.writer.wait_closed()


async def until(condition):
    """Wait until `condition` holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def compiled_of(*steps, traffic=None, others=None, **fields):
    services = {"a": worker(*steps, **fields), **(others or {"b": worker({"compute": "1ms"})})}
    return Run(services, recorded("1ms"), traffic=traffic).compiled


def exchange(compiled, proxy=None, body=0, **headers):
    """Send one request; return status, headers, length of the body."""

    async def main():
        async with serving(compiled, proxy) as (_, port):
            client = await Client.connect(port)
            client.send(body, **headers)
            found = await client.receive()
            await client.close()
            return found

    return asyncio.run(main())


def test_a_request_takes_its_drawn_service_time_and_says_so():
    compiled = compiled_of({"compute": {"exponential": "5ms"}})
    key = np.uint64(mix_in(np.uint64(0xFF), 1))  # the second try of exchange ff
    draw_key = np.uint64(mix_in(key, (PURPOSE_SERVICE << 24) + 1))
    arrays = compiled.arrays
    expected_ns = sample_ns(arrays["distributions"], arrays["values"], 0, draw_key)
    status, headers, _ = exchange(compiled, x_meshsim_key="ff", x_envoy_attempt_count="2")
    assert status == 200
    assert int(headers["x-meshsim-service-ns"]) == expected_ns
    assert int(headers["x-meshsim-queue-ns"]) == 0
    assert int(headers["x-meshsim-server-ns"]) >= expected_ns


@pytest.mark.parametrize("size", [0, 17, 3_000_000])
def test_a_response_has_the_size_that_the_caller_asked_for(size):
    compiled = compiled_of({"compute": "1us"})
    _, _, length = exchange(compiled, body=size, x_meshsim_response_bytes=size)
    assert length == size


def test_a_call_carries_the_context_and_a_key_of_its_own():
    call = {"service": "b", "path": "/x", "method": "PUT", "headers": {"X-Kind": "deep"}}
    call |= {"request_bytes": 33, "response_bytes": 44}
    traffic = {
        "load": {"to": "a", "headers": {"X-Tenant": "red"}, "arrivals": recorded("1ms")},
    }
    proxy = FakeProxy()
    compiled = compiled_of({"compute": "1us"}, {"call": call}, traffic=traffic)
    status, _, _ = exchange(compiled, proxy, **ROOT)
    assert status == 200
    (head,) = proxy.heads
    assert (head.method, head.target, head.host) == (b"PUT", b"/x", "b")
    assert proxy.bodies == [33]
    task_key = np.uint64(mix_in(np.uint64(0xFF), 1))
    assert proxy.values(0) == {
        "x-kind": "deep",
        "x-meshsim-operation": "default",
        "x-meshsim-response-bytes": "44",
        "x-request-id": "abc",
        "traceparent": ROOT["traceparent"],
        "x-meshsim-traffic": "load",
        "x-meshsim-number": "7",
        "x-meshsim-arrival": "1234",
        "x-tenant": "blue",
        "x-meshsim-parent": "00000000000000ff",
        "x-meshsim-key": f"{int(mix_in(task_key, 2)):016x}",
    }


def test_calls_in_parallel_are_under_way_at_once_and_a_failed_one_fails_the_request():
    async def main():
        proxy = FakeProxy(status=0)
        compiled = compiled_of({"parallel": [[{"call": "b"}], [{"call": "b"}]]})
        async with serving(compiled, proxy) as (_, port):
            client = await Client.connect(port)
            client.send()
            await until(lambda: len(proxy.heads) == 2)
            proxy.connections[1].respond(503, ())
            proxy.connections[0].respond(200, ())
            found = await client.receive()
            await client.close()
            return found

    assert asyncio.run(main())[0] == 500


def test_a_call_that_may_fail_does_not_fail_the_request():
    compiled = compiled_of({"call": "b", "optional": True}, {"compute": "1us"})
    assert exchange(compiled, FakeProxy(status=503))[0] == 200


def test_a_lost_proxy_fails_the_call():
    class Cutting(FakeProxy):
        def on_request_end(self):
            self.connections[-1].reset()

    assert exchange(compiled_of({"call": "b"}), Cutting())[0] == 500


def test_more_than_workers_and_queue_hold_is_refused():
    async def main():
        compiled = compiled_of({"compute": "50ms"}, queue_limit=1)
        async with serving(compiled) as (server, port):
            clients = [await Client.connect(port) for _ in range(3)]
            for client in clients:
                client.send()
            found = await asyncio.gather(*(client.receive() for client in clients))
            for client in clients:
                await client.close()
            return sorted(status for status, _, _ in found), server.record(0)[:2]

    assert asyncio.run(main()) == ([200, 200, 503], (3, 1))


def test_a_busy_worker_loses_no_time_between_requests():
    # 40 services of 1.3 ms: planned ends take 52 ms; timers that round up to 1 ms take 80.
    async def main():
        clock = Clock()
        compiled = compiled_of({"compute": "1300us"})
        async with serving(compiled, clock=clock) as (server, port):
            clients = [await Client.connect(port) for _ in range(40)]
            for client in clients:
                client.send()
            found = await asyncio.gather(*(client.receive() for client in clients))
            for client in clients:
                await client.close()
            busy_ns = server.record(clock.now_ns())[4]
            return sorted(int(headers["x-meshsim-queue-ns"]) for _, headers, _ in found), busy_ns

    queue_ns, busy_ns = asyncio.run(main())
    assert busy_ns == 40 * 1_300_000
    # The last waits for 39 services, less the spread of the arrivals.
    assert 39 * 1_300_000 - 40 * NS_PER_MS < queue_ns[-1] <= 39 * 1_300_000


@pytest.mark.parametrize(
    ("on_timeout", "completed"), [("continue", 2), ("cancel_queued", 1), ("cancel_work", 0)]
)
def test_a_caller_that_gives_up_ends_what_on_timeout_says(on_timeout, completed):
    async def main():
        compiled = compiled_of({"compute": "30ms"}, on_timeout=on_timeout)
        async with serving(compiled) as (server, port):
            clients = [await Client.connect(port) for _ in range(2)]
            for client in clients:
                client.send()
            await until(lambda: server.station.busy + server.station.queued == 2)
            for client in clients:
                await client.close()
            await until(lambda: server.station.busy + server.station.queued == 0)
            return server.station.completed

    assert asyncio.run(main()) == completed


def test_cancelled_work_closes_the_connection_of_its_call():
    async def main():
        proxy = FakeProxy(status=0)
        compiled = compiled_of({"call": "b"}, on_timeout="cancel_work")
        async with serving(compiled, proxy) as (_, port):
            client = await Client.connect(port)
            client.send()
            await until(lambda: proxy.heads)
            await client.close()
            await until(lambda: proxy.lost == 1)

    asyncio.run(main())


def test_verbs_change_speed_and_failures_while_requests_run():
    async def main():
        async with serving(compiled_of({"compute": "2ms"})) as (server, port):
            client = await Client.connect(port)
            server.set_speed(0.5)
            client.send()
            _, headers, _ = await client.receive()
            assert int(headers["x-meshsim-service-ns"]) == 4_000_000
            server.pause()
            client.send()
            await until(lambda: server.station.busy == 1)
            await asyncio.sleep(0.02)
            assert server.station.busy == 1
            server.resume()
            _, headers, _ = await client.receive()
            assert int(headers["x-meshsim-service-ns"]) > 20_000_000
            server.set_error_rate(1.0)
            client.send()
            assert (await client.receive())[0] == 500
            server.set_error_rate(None)
            client.send()
            assert (await client.receive())[0] == 200
            await client.close()

    asyncio.run(main())


def test_a_drain_answers_what_is_running():
    async def main():
        async with serving(compiled_of({"compute": "20ms"})) as (server, port):
            client = await Client.connect(port)
            client.send()
            await until(lambda: server.station.busy == 1)
            ended, (status, headers, _) = await asyncio.gather(
                server.drain(DEADLINE_S), client.receive()
            )
            await client.close()
            return ended, status, headers["connection"]

    assert asyncio.run(main()) == (True, 200, "close")


def test_a_killed_workload_resets_its_callers_and_can_come_back_on_its_port():
    async def main():
        compiled = compiled_of({"compute": "20ms"}, {"call": "b"})
        async with serving(compiled) as (server, port):
            client = await Client.connect(port)
            client.send()
            await until(lambda: server.station.busy == 1)
            server.abort()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.receive()
            client.writer.close()
            assert server.record(10**12)[0] == 1
            again = WorkloadServer(compiled, 0, Clock(), ("127.0.0.1", 1))
            assert await again.start(port=port) == port
            client = await Client.connect(port)
            client.send()
            assert (await client.receive())[0] == 500  # nobody listens at port 1
            await client.close()
            await again.drain(DEADLINE_S)

    asyncio.run(main())


def test_a_model_second_may_take_longer():
    async def main():
        clock = Clock(dilation=4.0)
        async with serving(compiled_of({"compute": "5ms"}), clock=clock) as (_, port):
            client = await Client.connect(port)
            begin_ns = Clock.real_ns()
            client.send()
            _, headers, _ = await client.receive()
            real_ns = Clock.real_ns() - begin_ns
            await client.close()
            return int(headers["x-meshsim-service-ns"]), real_ns

    service_ns, real_ns = asyncio.run(main())
    assert service_ns == 5_000_000
    assert real_ns >= 20_000_000


def test_a_health_check_is_answered_beside_the_queue():
    async def scenario():
        run = Run({"a": worker({"sleep": "60s"})}, recorded("1ms"))
        async with serving(run.compiled) as (server, port):
            busy = await Client.connect(port)
            busy.send()
            client = await Client.connect(port)
            client.send(user_agent="Envoy/HC")
            assert (await client.receive())[0] == 200
            server.set_error_rate(1.0)
            client.send(user_agent="Envoy/HC")
            assert (await client.receive())[0] == 500
            assert server.station.requests == 1
            server.pause()
            client.send(user_agent="Envoy/HC")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.reader.read(1)
            await client.close()
            await busy.close()
            await until(lambda: server.counters()["downstream_rq_active"] == 0)

    asyncio.run(scenario())
