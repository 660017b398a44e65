"""One process of the data plane's benchmark: the server behind everything, or one of our proxies.

Reads its orders as one line of JSON, says its port in another, and ends when its input closes.
"""

import asyncio
import json
import sys
from dataclasses import replace

import uvloop

from emulator.access.identity import Identity
from emulator.access.listener import Listener
from emulator.clock import Clock, unix_s
from emulator.decisions.engine import ProxyEngine, run_seed_of
from emulator.proxy import InboundProxy, OutboundProxy
from meshsim.controlplane.configuration import ListenerPolicy, configurations_of
from meshsim.meshes import resolve
from meshsim.topology.compiled.layout import lay_out
from meshsim.topology.load import loads_topology

SCENARIO = """
name: one hop
services: {cart: {workloads: {v1: {}}}}
traffic: {browse: {to: cart, arrivals: {poisson: 1}}}
"""
GATEWAY, ENDPOINT = "gateway-browse", "cart-v1-0"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Backend(asyncio.Protocol):
    """Answers whatever ends a head."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(ANSWER)


def say(message):
    print(json.dumps(message), flush=True)


def hear():
    return json.loads(sys.stdin.readline())


def enrolled(principal):
    """Return an identity that the parent process has certified."""
    identity = Identity(principal)
    say({"csr": identity.csr_pem().decode(), "principal": principal})
    answer = hear()
    identity.install(answer["chain"].encode(), answer["root"].encode(), unix_s())
    return identity


def configuration(port, secured):
    """Return what the gateway is told of the one endpoint."""
    topology = resolve(loads_topology(SCENARIO))
    told = configurations_of(topology, lay_out(topology), {ENDPOINT: ("127.0.0.1", port)})[GATEWAY]
    if secured:
        return told
    plain = {
        name: tuple(replace(address, principal="") for address in addresses)
        for name, addresses in told.endpoints.items()
    }
    return replace(told, endpoints=plain)


async def start(order):
    clock = Clock()
    if order["role"] == "backend":
        server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]
    if order["role"] == "inbound":
        policy, identity = ListenerPolicy("STRICT"), enrolled(order["principal"])
        proxy = InboundProxy(
            ENDPOINT,
            order["upstream"],
            lambda factory: Listener(policy, identity, factory, clock),
        )
        return proxy, (await proxy.start())[1]
    engine = ProxyEngine(GATEWAY, 1, run_seed_of(1))
    engine.apply(configuration(order["upstream"], order["secured"]), clock.now_ns())
    contexts = enrolled(order["principal"]) if order["secured"] else None
    proxy = OutboundProxy(engine, clock, contexts)
    return proxy, (await proxy.start())[1]


async def main():
    kept, port = await start(hear())
    say({"port": port})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    del kept


if __name__ == "__main__":
    uvloop.run(main())
