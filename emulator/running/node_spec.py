"""What a node is told at its start: its share of the scenario, and whom to believe.

Rule: everything a node process knows of the run came in one message, so that a node on another
machine needs no more than one here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from meshsim.meshes import profile
from meshsim.topology.compiled import compile_topology
from meshsim.topology.model import Topology

__all__ = ["NodeSpec", "compiled_of"]


@dataclass(frozen=True)
class NodeSpec:
    """What a node is told at its start; JSON-able.

    Parameters
    ----------
    topology : str
        Resolved, as JSON.
    endpoints, classes : tuple of str
        Replicas and gateways it hosts.
    mesh, bus_url, control_plane_key : str
        Name on the bus, where that is, and the public key to believe (hexadecimal).
    enrolments : mapping
        By proxy, the fields of `Enrolment`.
    seed, duration_ns, dilation, draws
        Of the run.
    key_type, host : str
    record : str
        File for the log of stimuli; empty for none.
    """

    topology: str
    endpoints: tuple[str, ...]
    classes: tuple[str, ...]
    mesh: str
    bus_url: str
    control_plane_key: str
    enrolments: Mapping[str, Mapping[str, str]]
    seed: int
    duration_ns: int
    dilation: float
    draws: str = "same"
    #: Of the measured requests, to be traced.
    sample_share: float = 0.0
    key_type: str = "ecdsa-p256"
    host: str = "127.0.0.1"
    record: str = ""
    #: Custom policies by name, as `emulator.running.definitions` packs them.
    policies: Mapping[str, str] = field(default_factory=dict)
    #: Where the rate limit service listens.
    rate_limit_service: tuple[str, int] | None = None
    #: Ports of endpoints that listened before their process was killed.
    ports: Mapping[str, int] = field(default_factory=dict)

    def to_values(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> NodeSpec:
        """Read what `to_values` wrote.

        Raises
        ------
        TypeError
            If a field is missing or unknown.
        """
        plain = dict(values)
        for name in ("endpoints", "classes"):
            plain[name] = tuple(plain[name])
        if (address := plain.get("rate_limit_service")) is not None:
            plain["rate_limit_service"] = (str(address[0]), int(address[1]))
        return NodeSpec(**plain)


def compiled_of(topology: Topology) -> Any:
    """Return the compiled form of a resolved topology."""
    return compile_topology(topology, profile(topology.mesh))
