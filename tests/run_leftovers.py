"""What a run could leave behind, and waiting for it."""

import tempfile
import threading
import time
from pathlib import Path

import psutil


def leftovers():
    """Return this process' children, sockets and threads, and the temporary folders of runs."""
    me = psutil.Process()
    return (
        {child.pid for child in me.children(recursive=True)},
        {item.laddr for item in me.net_connections(kind="all") if item.laddr},
        {thread.name for thread in threading.enumerate()},
        set(Path(tempfile.gettempdir()).glob(f"meshsim-run-{me.pid}-*")),
    )


def wait_for(condition, patience_s=120.0):
    """Wait until `condition()` holds; fail if it does not in time."""
    for _ in range(round(patience_s / 0.01)):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")
