"""Brokers, proxies and a control plane for tests: on loopback, on free ports, gone afterwards."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emulator.clock import Clock, unix_s
from emulator.control.agent import Agent
from emulator.control.broker import Broker
from emulator.control.bus import BusSettings, Credential
from emulator.control.controlplane import ControlPlane
from emulator.control.mosquitto import mosquitto_files
from meshsim.controlplane.acknowledgement import Ledger
from meshsim.controlplane.configuration import EndpointAddress, ProxyConfiguration, principal_of
from meshsim.controlplane.debounce import Debounce
from meshsim.controlplane.topics import CONTROL_PLANE
from meshsim.topology.model import (
    CircuitBreakers,
    ClusterPolicy,
    ConnectionPool,
    LoadBalancing,
    Route,
    WeightedCluster,
)

MESH = "shop"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
#: Short, so that a broken connection is noticed and replaced within a test.
FAST = BusSettings(timeout_s=1.0, keepalive_s=1, backoff_base_s=0.02, backoff_max_s=0.2)
BROKERS = [
    "embedded",
    pytest.param(
        "mosquitto",
        marks=pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
    ),
]
PATIENCE_S = 15.0
#: One clock for all, as in one machine.
CLOCK = Clock()

FILLED = ClusterPolicy(
    load_balancing=LoadBalancing(policy="ROUND_ROBIN"),
    circuit_breakers=CircuitBreakers(),
    connection_pool=ConnectionPool(),
)


def configuration(proxy, port=9000, clusters=("cart",)):
    """Return a configuration whose endpoints listen on `port`."""
    address = EndpointAddress("cart-v1-0", "v1", "127.0.0.1", port)
    split = tuple(
        WeightedCluster(service=name.partition("|")[0], subset=name.partition("|")[2] or None)
        for name in clusters
    )
    return ProxyConfiguration(
        proxy,
        {"version": "v1"},
        dict.fromkeys(clusters, FILLED),
        dict.fromkeys(clusters, (address,)),
        {"cart": (Route(split=split),)},
    )


def port_of(agent):
    """Return the port by which `agent` tells versions apart, or None before the first."""
    endpoints = agent.configuration.endpoints.get("cart")
    return endpoints[0].port if endpoints else None


async def until(condition, what="", patience_s=PATIENCE_S):
    """Wait until `condition()` holds; fail if it does not in time."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what or "it did not come to pass"
        await asyncio.sleep(0.005)


class Mosquitto:
    """A Mosquitto of its own, with the interface of `Broker`."""

    def __init__(self, folder, passwords, tls=None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = Path(folder)
        self.tls = tls
        self.file = mosquitto_files(self.folder, self.port, passwords, tls=tls)
        self.url = f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{self.port}"
        self.retains = True
        self.process = None

    def _launch(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.file)], stderr=log)

    async def start(self):
        self._launch()
        await until(self._answers, f"mosquitto did not start: {self.folder / 'log'}")

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _end(self, number):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None

    async def stop(self):
        self._end(signal.SIGTERM)

    async def kill(self):
        self._end(signal.SIGKILL)

    def pause(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.process.pid, signal.SIGCONT)


def bus_certificates(folder, authority, name):
    """Write the certificates of `authority`, and of `name` with its key; return the paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.UniformResourceIdentifier(principal_of(name))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([identifier]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = request.public_bytes(serialization.Encoding.PEM)
    contents = (
        authority.root_pem,
        authority.issue(pem, principal_of(name), unix_s()),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    paths = tuple(Path(folder) / item for item in ("ca.pem", f"{name}.pem", f"{name}.key"))
    for path, content in zip(paths, contents, strict=True):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return paths


@contextlib.asynccontextmanager
async def broker(kind, folder, users=()):
    """Run a broker that knows the control plane and `users`; the password is the name."""
    passwords = {user: user for user in (CONTROL_PLANE, *users)}
    if kind == "embedded":
        running = Broker.embedded(MESH, passwords)
    else:
        running = Mosquitto(folder, passwords)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


def make_agent(url, proxy, **options):
    options.setdefault("settings", FAST)
    key = KEY.public_key().public_bytes_raw()
    return Agent(proxy, MESH, url, Credential(proxy, proxy), key, CLOCK, **options)


def make_control_plane(url, configurations, **options):
    options.setdefault("settings", FAST)
    options.setdefault("debounce", Debounce(quiet_ns=10_000_000))
    options.setdefault("ledger", Ledger(timeout_ns=1_000_000_000))
    credential = Credential(CONTROL_PLANE, CONTROL_PLANE)
    return ControlPlane(url, credential, MESH, configurations, KEY, CLOCK, **options)


@contextlib.asynccontextmanager
async def running(*parts):
    """Run parts that have `run`; cancel them at the end, and see their errors."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
        for task in tasks:
            assert not task.done(), f"{task} ended: {task.exception()}"
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            assert isinstance(outcome, asyncio.CancelledError | None), outcome


def run_clean(work):
    """Run `work` to its end; fail if it leaves a task or an unseen error behind."""
    complaints = []

    async def supervised():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await work
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set(), left

    asyncio.run(supervised())
    assert not complaints, complaints
