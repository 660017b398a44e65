"""A live workload's bulkhead: what it lets through, and what it refuses."""

from kernel_runs import Run, recorded, worker
from proxy_fakes import run, until
from test_workload import Client, FakeProxy, serving


def workload(**bulkhead):
    a = worker({"call": "b"}, concurrency=9, bulkheads={"b": bulkhead}, on_timeout="cancel_work")
    services = {"a": a, "b": worker()}
    return Run(services, traffic={"load": {"to": "a", "arrivals": recorded("0s")}}).compiled


def test_calls_beyond_the_bulkhead_are_not_sent_and_those_that_may_wait():
    async def scenario():
        proxy = FakeProxy(status=0)
        compiled = workload(max_concurrent_calls=1, max_wait_duration="60s", max_waiting_calls=1)
        async with serving(compiled, proxy) as (server, port):
            clients = [await Client.connect(port) for _ in range(3)]
            for number, client in enumerate(clients):
                client.send()
                await until(lambda count=number + 1: server.station.requests == count)
            assert (await clients[2].receive())[0] == 500
            await until(lambda: len(proxy.heads) == 1)
            for number in range(2):
                await until(lambda count=number + 1: len(proxy.heads) == count)
                proxy.connections[number].respond(200, ())
                assert (await clients[number].receive())[0] == 200
            counters = server.station.bulkheads.counters()
            for client in clients:
                await client.close()
        assert counters == {
            "bulkhead_permitted": 2,
            "bulkhead_rejected": 1,
            "bulkhead_waited": 1,
        }

    run(scenario)


def test_a_caller_that_goes_gives_its_permit_back():
    async def scenario():
        proxy = FakeProxy(status=0)
        async with serving(workload(max_concurrent_calls=1), proxy) as (server, port):
            gone = await Client.connect(port)
            gone.send()
            await until(lambda: len(proxy.heads) == 1)
            await gone.close()
            await until(lambda: server.station.bulkheads._rows["active"][0] == 0)

    run(scenario)
