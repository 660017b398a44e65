"""The process around a node: it serves the harness until that is gone or says stop.

Rule: Ctrl-C is the harness' business, a crash prints where it was, and nothing is left open when
the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import importlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from emulator.running.members import leave_signals
from emulator.running.messages import Peer, SocketCarrier
from emulator.running.node import Node

__all__ = ["node_main", "run_loop"]


async def _serve(end: socket.socket, name: str) -> None:
    """Serve the harness at the other end of a socket until told to stop."""
    node = Node(name)
    peer = Peer("the harness", node.verbs)
    carrier = await SocketCarrier.connect(end, peer)
    waits = [asyncio.ensure_future(event.wait()) for event in (peer.lost, node.stopped)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await node.close()
    peer.close()
    await carrier.wait_closed()


def run_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in a new event loop, uvloop's if it is installed."""
    factory = None
    with contextlib.suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(_on_loose_exception)
        return runner.run(work())


def _on_loose_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say what nobody waited for, but not that a connection broke: that is counted elsewhere.

    A connect that is given up in the middle of its handshake leaves one such behind in uvloop.
    """
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def node_main(end: socket.socket, name: str) -> None:
    """Be a node process: what the forkserver calls in its child."""
    leave_signals()
    faulthandler.enable()
    run_loop(functools.partial(_serve, end, name))
