"""A Mosquitto made ready for the mesh `pair`, as its user would."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from bus_fakes import MOSQUITTO, Mosquitto
from mesh_scenarios import pair

from emulator.running.own_broker import prepare_mosquitto

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@contextlib.contextmanager
def mosquitto(folder, files=(), remote=(), password=""):
    """Run a Mosquitto that knows the users of `pair`; yield its URL for `emulate`.

    With the `files` (authority, certificate, key) of the broker it asks for those of clients.
    """
    broker = Mosquitto(folder, {})
    query = "?ca={}&cert={}&key={}".format(*files) if files else ""
    scheme, user = "mqtts" if files else "mqtt", f":{password}@" if password else ""
    url = f"{scheme}://{user}127.0.0.1:{broker.port}{query}"
    broker.file, stated = prepare_mosquitto(pair(), folder, broker=url, remote=remote)
    asyncio.run(broker.start())
    try:
        yield Path(stated).read_text().strip()
    finally:
        asyncio.run(broker.stop())
