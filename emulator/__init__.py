"""Emulate a mesh on real sockets: the same scenario, the same policies, the same Result.

>>> import meshsim as ms                                           # doctest: +SKIP
>>> ms.emulate(ms.load("topologies/chain.yaml"), "10s").report()   # doctest: +SKIP

Everything named in `__all__` is public; anything else may change.  Names are imported when they
are first used.  Needs the extra ``meshsim[emulator]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.running.faults import LiveControl as LiveControl
    from emulator.running.harness import Emulation as Emulation
    from emulator.running.harness import emulate as emulate
    from emulator.running.join import join as join
    from emulator.running.own_broker import prepare_mosquitto as prepare_mosquitto

_HOME = {
    "Emulation": "emulator.running.harness",
    "LiveControl": "emulator.running.faults",
    "emulate": "emulator.running.harness",
    "join": "emulator.running.join",
    "prepare_mosquitto": "emulator.running.own_broker",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
