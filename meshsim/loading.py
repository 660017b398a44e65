"""Load whatever describes a mesh: a scenario file, or a folder of manifests."""

from __future__ import annotations

from pathlib import Path

from meshsim.errors import ConfigError, Problem
from meshsim.importers import load_manifests
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
    if place.is_dir():
        if traffic is None:
            raise ConfigError(
                [
                    Problem(
                        "manifests state no traffic",
                        file=str(path),
                        allowed="a traffic file beside them (traffic=..., --traffic FILE)",
                    )
                ]
            )
        return load_manifests(place, traffic)
    if traffic is not None:
        raise ConfigError(
            [Problem("a scenario states its own traffic", file=str(path), found=str(traffic))]
        )
    return load_topology(place)
