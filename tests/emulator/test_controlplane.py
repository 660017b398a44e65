"""Control plane, bus and agents together, on both brokers."""

import asyncio
from dataclasses import replace

import pytest
from bus_fakes import (
    BROKERS,
    MOSQUITTO,
    broker,
    configuration,
    make_agent,
    make_control_plane,
    port_of,
    run_clean,
    running,
    until,
)

from meshsim.controlplane.debounce import Debounce
from meshsim.controlplane.push_queue import PushQueue

PROXIES = ("front-v1-0", "front-v1-1", "gateway-browse")


def all_of(port, proxies=PROXIES):
    return {proxy: configuration(proxy, port) for proxy in proxies}


@pytest.mark.parametrize("kind", BROKERS)
def test_every_proxy_is_configured_and_follows_each_change(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, PROXIES) as bus:
            control = make_control_plane(bus.url, all_of(9000), retain=bus.retains)
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES]
            async with running(control, *agents), asyncio.timeout(20):
                await asyncio.gather(*(agent.ready() for agent in agents))
                assert [port_of(agent) for agent in agents] == [9000] * 3
                version = control.update(all_of(9001))
                await until(lambda: {port_of(agent) for agent in agents} == {9001})
                await control.settled()
                for agent in agents:
                    assert agent.configuration.versions["endpoints"] == version
                    assert agent.configuration.versions["routes"] == 1
                rows = [row for row in control.propagation() if row["version"] == version]
                assert sorted(row["proxy"] for row in rows) == sorted(PROXIES)
                for row in rows:
                    assert row["type"] == "endpoints"
                    assert row["changed_ns"] <= row["published_ns"] <= row["effective_ns"]
                    # Debounced for 10 ms at least.
                    assert row["published_ns"] - row["changed_ns"] >= 10_000_000

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_broker_that_dies_is_waited_for(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, PROXIES) as bus:
            control = make_control_plane(bus.url, all_of(9000), retain=bus.retains)
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES]
            async with running(control, *agents), asyncio.timeout(30):
                await asyncio.gather(*(agent.ready() for agent in agents))
                for port in (9001, 9002):
                    await bus.kill()
                    await until(lambda: not any(agent.bus.is_connected for agent in agents))
                    assert all(port_of(agent) == port - 1 for agent in agents)
                    control.update(all_of(port))
                    await bus.start()
                    await until(lambda port=port: all(port_of(a) == port for a in agents))
                assert all(agent.bus.counters["failed"] >= 2 for agent in agents)
                await control.settled()

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_proxy_that_lost_its_state_gets_everything_again(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, PROXIES) as bus:
            control = make_control_plane(bus.url, all_of(9000), retain=bus.retains)
            async with running(control), asyncio.timeout(20):
                for _ in range(2):
                    agent = make_agent(bus.url, PROXIES[0])
                    async with running(agent):
                        await agent.ready()

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_control_plane_that_lost_its_state_counts_on(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, PROXIES) as bus, asyncio.timeout(30):
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES]
            async with running(*agents):
                first = make_control_plane(bus.url, all_of(9000), retain=bus.retains)
                async with running(first):
                    await asyncio.gather(*(agent.ready() for agent in agents))
                    for port in (9001, 9002):
                        first.update(all_of(port))
                        await until(lambda port=port: all(port_of(a) == port for a in agents))
                held = agents[0].configuration.versions
                assert held["endpoints"] == 3
                second = make_control_plane(bus.url, all_of(9100), retain=bus.retains)
                async with running(second):
                    await until(lambda: all(port_of(agent) == 9100 for agent in agents))
                    await second.settled()
                now = agents[0].configuration.versions
                assert now["endpoints"] == 4
                assert now["routes"] == held["routes"]

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_refused_configuration_is_reported_and_the_old_one_serves(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, PROXIES) as bus:
            control = make_control_plane(bus.url, all_of(9000), retain=bus.retains)
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES]
            async with running(control, *agents), asyncio.timeout(20):
                await asyncio.gather(*(agent.ready() for agent in agents))
                poisoned = all_of(9001)
                bad = replace(poisoned[PROXIES[0]].endpoints["cart"][0], port=70_000)
                poisoned[PROXIES[0]] = replace(poisoned[PROXIES[0]], endpoints={"cart": (bad,)})
                control.update(poisoned)
                await until(lambda: [port_of(agent) for agent in agents] == [9000, 9001, 9001])
                await control.settled()
                assert control.ledger.counters["nack"] >= 1
                proxy, answer = control.ledger.refusals[-1]
                assert proxy == PROXIES[0]
                assert "port" in answer.reason
                control.update(all_of(9002))
                await until(lambda: all(port_of(agent) == 9002 for agent in agents))

    run_clean(work())


def test_a_proxy_that_is_gone_is_awaited_no_longer(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, PROXIES) as bus:
            control = make_control_plane(bus.url, all_of(9000))
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES[:2]]
            async with running(control, *agents), asyncio.timeout(20):
                await asyncio.gather(*(agent.ready() for agent in agents))
                control.update(all_of(9001))
                await until(lambda: all(port_of(agent) == 9001 for agent in agents))
                assert not control.is_settled  # the third never answers
                control.update(all_of(9002, PROXIES[:2]))
                await control.settled()
                assert all(port_of(agent) == 9002 for agent in agents)

    run_clean(work())


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_what_mosquitto_retains_configures_a_proxy_while_the_control_plane_is_away(tmp_path):
    async def work():
        async with broker("mosquitto", tmp_path, PROXIES) as bus, asyncio.timeout(20):
            first, late, gone = (make_agent(bus.url, proxy) for proxy in PROXIES)
            control = make_control_plane(bus.url, all_of(9000), retain=True)
            async with running(first, control):
                await first.ready()
                # The third is of the mesh no longer: nothing of it stays on the broker.
                control.update(all_of(9001, PROXIES[:2]))
                await until(lambda: port_of(first) == 9001)
                await until(lambda: not control._tasks)
            async with running(gone):
                await gone.bus.wait_connected()
                async with running(late):
                    await late.ready()
                    assert port_of(late) == 9001
                assert gone.configuration.versions == {}
                assert gone.counters["taken"] == 0

    run_clean(work())


def test_pushes_are_as_many_at_once_as_the_throttle_allows(tmp_path):
    names = [f"proxy-{number}" for number in range(12)]

    async def work():
        async with broker("embedded", tmp_path, names) as bus:
            queue = PushQueue(throttle=2)
            control = make_control_plane(bus.url, all_of(9000, names), push_queue=queue)
            most = []
            publish = control.bus.publish

            async def watched(*arguments):
                most.append(queue.running)
                await publish(*arguments)

            control.bus.publish = watched
            agents = [make_agent(bus.url, name) for name in names]
            async with running(control, *agents), asyncio.timeout(20):
                await asyncio.gather(*(agent.ready() for agent in agents))
                most.clear()
                control.update(all_of(9001, names))
                await control.settled()
                assert max(most) == 2
                assert all(port_of(agent) == 9001 for agent in agents)

    run_clean(work())


def test_changes_close_together_are_one_snapshot(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, PROXIES) as bus:
            control = make_control_plane(
                bus.url, all_of(9000), debounce=Debounce(quiet_ns=100_000_000)
            )
            agents = [make_agent(bus.url, proxy) for proxy in PROXIES]
            async with running(control, *agents), asyncio.timeout(20):
                await asyncio.gather(*(agent.ready() for agent in agents))
                versions = [control.update(all_of(9001 + number)) for number in range(50)]
                assert versions == [2] * 50
                await control.settled()
                assert control.version == 2
                assert all(port_of(agent) == 9050 for agent in agents)

    run_clean(work())
