"""The wind tunnel for service meshes.

Load a mesh, simulate it, look at the result:

>>> import meshsim as ms                                      # doctest: +SKIP
>>> mesh = ms.load("topologies/bookinfo.yaml")                # doctest: +SKIP
>>> result = ms.simulate(mesh, duration="60s", seed=1)        # doctest: +SKIP
>>> result.summary()                                          # doctest: +SKIP

Everything named in `__all__` is the public API; anything else may change.  Names are imported
when they are first used, because numba and pandas take a second to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsim import policy as policy
    from meshsim.errors import ConfigError as ConfigError
    from meshsim.errors import MeshsimError as MeshsimError
    from meshsim.explanation import explain as explain
    from meshsim.loading import load as load
    from meshsim.permission import can_i as can_i
    from meshsim.results import Result as Result
    from meshsim.simulation import simulate as simulate
    from meshsim.topology import Topology as Topology
    from meshsim.topology import generate as generate
    from meshsim.topology import with_values as with_values
    from meshsim.validation import validate as validate

_HOME = {
    "ConfigError": "meshsim.errors",
    "MeshsimError": "meshsim.errors",
    "Result": "meshsim.results",
    "Topology": "meshsim.topology",
    "can_i": "meshsim.permission",
    "emulate": "emulator",
    "explain": "meshsim.explanation",
    "generate": "meshsim.topology",
    "load": "meshsim.loading",
    "simulate": "meshsim.simulation",
    "validate": "meshsim.validation",
    "with_values": "meshsim.topology",
}

__all__ = sorted([*_HOME, "policy"])


def __getattr__(name: str) -> Any:
    if name == "policy":
        return import_module("meshsim.policy")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
