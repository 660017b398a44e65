"""The node processes of a run: started by forkserver, watched, ended.

Rule: a process is never forked from the user's (its threads and sockets would come along) but
from a server that imported and compiled the policies once; ten processes then start in less
than a second.  Processes end when the run ends, whatever happened: asked first, killed after
two seconds.  The server is stopped with the last run that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from typing import Any

from emulator.running.messages import Answer, Peer, PeerLost, SocketCarrier
from meshsim.errors import MeshsimError

__all__ = ["Member", "ProcessServer", "end_if_imported", "leave_signals"]

#: Loads the policies and calls each once, so that children find them compiled.
_PRELOADED = "emulator.running.preload"
_STOP_PATIENCE_S = 2.0
_KILL_AGAIN_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Exit status of a process that was importing a program which starts a run.
_UNGUARDED = 83


class Member:
    """One node of the run as the harness sees it: whom to ask.

    Parameters
    ----------
    name : str
        "edge", "node eu-1", "node replicas".
    process : ForkServerProcess, optional
        None for a node on another machine.
    end : socket, optional
        Connected to the process.

    Attributes
    ----------
    peer : Peer
        Whom to ask, once `connect` was called.
    """

    def __init__(
        self,
        name: str,
        process: ForkServerProcess | None = None,
        end: socket.socket | None = None,
    ) -> None:
        self.name = name
        self.process = process
        self.peer = Peer(name)
        self._end = end

    async def connect(self) -> None:
        """Let the running event loop hear what the process says."""
        if self._end is not None:
            await SocketCarrier.connect(self._end, self.peer)
            self._end = None

    async def start(self, patience_s: float, **spec: Any) -> Answer:
        """Ask the node to start as `spec` says; return its answer.

        Raises
        ------
        MeshsimError
            If it cannot, or has ended.
        """
        try:
            return await self.peer.ask("start", patience_s, **spec)
        except PeerLost:
            if self.process is not None:
                await asyncio.to_thread(self.process.join, _STOP_PATIENCE_S)
                if self.process.exitcode == _UNGUARDED:
                    raise MeshsimError(
                        "a program that starts an emulation needs `if __name__ == "
                        '"__main__":` around it: its processes import the program'
                    ) from None
            raise

    def kill(self) -> None:
        """Kill the process at once (SIGKILL); of another machine's node, forget it."""
        if self.process is not None:
            self.process.kill()
        self.peer.lose()

    async def stop(self) -> None:
        """Ask the node to end, and see that it does."""
        with contextlib.suppress(MeshsimError):  # gone already, or stuck: it is killed below
            await self.peer.ask("stop", _STOP_PATIENCE_S)
        await self.reap()

    async def reap(self) -> None:
        """Wait for the end of the process, by force after two seconds; close its socket."""
        process = self.process
        if process is not None:
            await asyncio.to_thread(process.join, _STOP_PATIENCE_S)
            if process.is_alive():
                process.kill()
                await asyncio.to_thread(process.join)
            process.close()
            self.process = None
        if self._end is not None:  # never connected
            self._end.close()
            self._end = None
        self.peer.close()


class ProcessServer:
    """Starts node processes; as a context it leaves no process behind."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._was_running = {helper: helper() is not None for helper in (_server, _tracker)}
        self._is_closing = False

    async def launch(self, name: str, main: Callable[[socket.socket, str], None]) -> Member:
        """Start a process that runs ``main(end, name)``; return it, connected.

        A cancellation ends what is being started, and the server if it came with it.
        """
        # In a thread: the first one waits for the server to load the policies.
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, name, main))
        try:
            member = await asyncio.shield(starting)
            await member.connect()
        except asyncio.CancelledError:
            self._is_closing = True
            while not starting.done():
                self._kill_server()
                await asyncio.wait({starting}, timeout=_KILL_AGAIN_S)
            if starting.exception() is None:
                starting.result().kill()
                await starting.result().reap()
            raise
        return member

    def _start(self, name: str, main: Callable[[socket.socket, str], None]) -> Member:
        if self._is_closing:
            raise MeshsimError("the run has ended")
        self._context.set_forkserver_preload([_PRELOADED])
        resource_tracker.ensure_running()  # or it would be started below, and unblock signals
        with _blocked_signals():
            _ensure_server()
        here, there = socket.socketpair()
        try:
            process = self._context.Process(target=main, args=(there, name), name=f"meshsim {name}")
            process.daemon = True
            process.start()
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        return Member(name, process, here)

    def _kill_server(self) -> None:
        """End the server at once if the first start had started it: it may be loading."""
        server = _server()
        if server is not None and not self._was_running[_server]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server._forkserver_pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop the helper processes that the first start had started with it."""
        for helper, was_running in self._was_running.items():
            running = helper()
            if running is not None and not was_running:
                running._stop()  # undocumented, but otherwise they live as long as this process


def _ensure_server() -> None:
    try:
        forkserver.ensure_running()
    except OSError as error:  # a socket of its own has no room, or a path too long
        message = f"no process can be started: {error} (TMPDIR is {tempfile.gettempdir()})"
        raise MeshsimError(message) from error


def _server() -> Any:
    """Return multiprocessing's server if it runs."""
    server: Any = getattr(forkserver, "_forkserver", None)
    return server if getattr(server, "_forkserver_pid", None) is not None else None


def _tracker() -> Any:
    """Return multiprocessing's tracker of resources if it runs."""
    tracker: Any = getattr(resource_tracker, "_resource_tracker", None)
    return tracker if getattr(tracker, "_pid", None) is not None else None


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block what a terminal sends to every process; what is started meanwhile inherits it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals() -> None:
    """Leave Ctrl-C, and signals to the process group, to the harness; in a node process."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_if_imported() -> None:
    """End this process if it is a node's that is importing the user's program."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED)
