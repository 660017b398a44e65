"""How long until every proxy knows: push latency, embedded broker and Mosquitto side by side.

One change of a cluster's endpoints (20 of them) is pushed to 10, 100 and 500 proxies.  Latency
is that of one proxy, from the change at the control plane to its effect in the proxy: snapshot,
queue, signature, broker, verification, parsing.  The debounce is off; Istio's would add 100 ms to
every row.  The control plane shares its process with the embedded broker, as in a run; Mosquitto
has its own; the proxies' agents share one more.  Changes alternate between the brokers, so that
both meet the same machine.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bus_fakes import KEY, MESH, MOSQUITTO, Mosquitto, configuration

from emulator.clock import Clock
from emulator.control.agent import Agent
from emulator.control.broker import Broker
from emulator.control.bus import BusSettings, Credential
from emulator.control.controlplane import ControlPlane
from meshsim.controlplane.debounce import Debounce
from meshsim.controlplane.topics import CONTROL_PLANE

__all__ = ["measure"]

SIZES = (10, 100, 500)
ENDPOINTS = 20
#: Monotonic time itself, which all processes of the machine share.
CLOCK = Clock(origin_ns=0)
PATIENCE_S = 60.0
#: Largest p50 with 100 proxies on the embedded broker [ms]; an idle machine of two cores needs
#: a fraction of it.
FLOOR_MS = 500.0


def names_of(count):
    return [f"proxy-{number}" for number in range(count)]


def configurations(count, port):
    """Return the configurations of `count` proxies; they share all but their names."""
    shared = configuration("", port)
    address = shared.endpoints["cart"][0]
    many = tuple(replace(address, name=f"cart-v1-{number}") for number in range(ENDPOINTS))
    shared = replace(shared, endpoints={"cart": many})
    return {name: replace(shared, proxy=name) for name in names_of(count)}


async def serve_agents(url, count):
    """Run `count` agents until the standard input ends."""
    key = KEY.public_key().public_bytes_raw()
    settings = BusSettings(timeout_s=30.0, keepalive_s=60)
    agents = [
        Agent(name, MESH, url, Credential(name, name), key, CLOCK, settings=settings)
        for name in names_of(count)
    ]
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    await asyncio.gather(*(agent.ready() for agent in agents))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(broker, count):
    """Run broker, control plane and agents; yield the control plane when all are configured."""
    await broker.start()
    control = ControlPlane(
        broker.url,
        Credential(CONTROL_PLANE, CONTROL_PLANE),
        MESH,
        configurations(count, 9000),
        KEY,
        CLOCK,
        debounce=Debounce(quiet_ns=0),
    )
    task = asyncio.create_task(control.run())
    agents = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, broker.url, str(count)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await agents.stdout.readline() == b"ready\n"
            await control.settled()
        yield control
    finally:
        agents.stdin.close()
        await agents.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await broker.stop()


async def latencies_ms(control, count, port):
    """Change every proxy's endpoints; return the latency of each [ms]."""
    version = control.update(configurations(count, port))
    async with asyncio.timeout(PATIENCE_S):
        await control.settled()
    rows = [row for row in control.propagation() if row["version"] == version]
    assert len(rows) == count
    return [(row["effective_ns"] - row["changed_ns"]) / 1e6 for row in rows]


async def compare(count, rounds):
    """Return latencies of `count` proxies by broker [ms], rounds by proxies."""
    passwords = {name: name for name in (CONTROL_PLANE, *names_of(count))}
    found = {}
    async with contextlib.AsyncExitStack() as stack:
        brokers = {"embedded": Broker.embedded(MESH, passwords)}
        if MOSQUITTO is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            brokers["mosquitto"] = Mosquitto(folder, passwords)
        controls = {
            name: await stack.enter_async_context(serving(broker, count))
            for name, broker in brokers.items()
        }
        for number in range(rounds):
            for name, control in controls.items():
                taken = await latencies_ms(control, count, 9001 + number)
                found.setdefault(name, []).append(taken)
    return found


def measure(rounds):
    """Return a row for each broker and number of proxies, and the floors."""
    rows = []
    for count in SIZES:
        for name, taken in asyncio.run(compare(count, rounds)).items():
            p50, p99 = np.percentile(taken, (50, 99))
            last = float(np.median(np.max(taken, axis=1)))
            rows.append(
                {
                    "broker": name,
                    "proxies": count,
                    "p50_ms": float(p50),
                    "p99_ms": float(p99),
                    "last_proxy_ms": last,
                    "pushes_per_s": count / last * 1e3,
                }
            )
    middle = next(row for row in rows if (row["broker"], row["proxies"]) == ("embedded", 100))
    sentence = f"100 proxies, embedded: p50 {middle['p50_ms']:.1f} ms, at most {FLOOR_MS:.0f} ms"
    return rows, [(sentence, middle["p50_ms"] <= FLOOR_MS)]


if __name__ == "__main__":
    asyncio.run(serve_agents(sys.argv[1], int(sys.argv[2])))
