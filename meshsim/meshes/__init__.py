"""Mesh profiles by name, and the step that fills a topology with its mesh's defaults.

One module a mesh: where its proxies sit, what they cost, what an unset field means.
"""

from __future__ import annotations

from meshsim.errors import ConfigError, Problem
from meshsim.meshes import istio_sidecar, none
from meshsim.meshes.defaults import PolicyDefaults
from meshsim.meshes.resolving import fill
from meshsim.topology.model import Topology
from meshsim.topology.profile import MeshProfile
from meshsim.yamlfile import did_you_mean

__all__ = ["PROFILES", "profile", "resolve"]

_MESHES: dict[str, tuple[MeshProfile, PolicyDefaults]] = {
    module.PROFILE.name: (module.PROFILE, module.DEFAULTS) for module in (none, istio_sidecar)
}

#: Every mesh this version simulates, by name.
PROFILES: dict[str, MeshProfile] = {name: pair[0] for name, pair in _MESHES.items()}


def profile(name: str) -> MeshProfile:
    """Return the profile of the mesh called `name`.

    Raises
    ------
    ConfigError
        If there is none; the message lists the names and the nearest one.

    Examples
    --------
    >>> profile("none").sidecars
    False
    """
    if name not in PROFILES:
        raise ConfigError(
            [
                Problem(
                    "unknown mesh",
                    path="mesh",
                    found=repr(name),
                    allowed=", ".join(PROFILES),
                    suggestion=did_you_mean(name, PROFILES),
                )
            ]
        )
    return PROFILES[name]


def resolve(topology: Topology) -> Topology:
    """Return `topology` with every policy field filled by the defaults of its mesh.

    Resolving twice changes nothing.

    Raises
    ------
    ConfigError
        If `topology.mesh` is unknown.

    See Also
    --------
    meshsim.meshes.resolving : the rules, and the fields whose meaning is None.
    """
    mesh = profile(topology.mesh)
    return fill(topology, mesh, _MESHES[mesh.name][1])
