"""Load whatever describes a mesh: a scenario file, or a folder of manifests."""

from __future__ import annotations

from pathlib import Path

from meshsim.errors import ConfigError, Problem
from meshsim.importers import load_manifests
from meshsim.importers.documents import read_manifests
from meshsim.topology import Topology, load_topology

__all__ = ["load"]


def load(path: str | Path, traffic: str | Path | None = None) -> Topology:
    """Load a scenario.

    Parameters
    ----------
    path : str or Path
        A topology file, or a folder of Kubernetes and Istio manifests.
    traffic : str or Path, optional
        Traffic and behaviour of the services, which manifests do not state; needed with a
        folder, and only there.

    Returns
    -------
    Topology

    Raises
    ------
    ConfigError
        With every problem of the input.
    """
    place = Path(path)
    if place.is_file() and traffic is None:
        return load_topology(place)
    if place.is_file():
        raise ConfigError(
            [Problem("a scenario states its own traffic", file=str(path), found=str(traffic))]
        )
    if traffic is not None:
        return load_manifests(place, traffic)
    if not place.is_dir():
        return load_topology(place)
    # An empty folder or a template is told first: traffic would not mend it.
    read_manifests(place)
    problem = Problem(
        "manifests state no traffic",
        file=str(path),
        allowed="a traffic file beside them (traffic=..., --traffic FILE)",
    )
    raise ConfigError([problem])
