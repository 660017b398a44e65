"""What a mesh profile states: where proxies sit, and what they cost.

The instances live in `meshsim.meshes`, one module a mesh; `meshsim.topology.compile` reads one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MeshProfile", "ProxyCost"]


@dataclass(frozen=True)
class ProxyCost:
    """CPU and memory of one proxy.

    Notes
    -----
    A proxy's CPU per request falls with load because wake-ups and system calls are shared by
    the requests that are ready at once.  The model: each pass through the proxy (a request or
    a response) costs `pass_ns`, plus `wakeup_ns` if its worker was idle, plus
    `byte_ns` per byte.  At utilisation rho a worker is idle with probability 1 - rho, so a
    request costs 2 * (pass_ns + wakeup_ns * (1 - rho)).

    A new connection between two proxies costs `handshake_ns` on each of the two: one full
    mutual TLS handshake (no resumption).  In TLS 1.3 with client certificates the two sides
    compute one after the other, so both add to the time until the connection is ready.

    `memory_bytes` is that of an idle proxy and `connection_memory_bytes` what each open
    connection adds; 0 says that it is not known, and results leave it out.
    """

    pass_ns: int = 0
    wakeup_ns: int = 0
    byte_ns: float = 0.0
    handshake_ns: int = 0
    workers: int = 1
    memory_bytes: float = 0.0
    connection_memory_bytes: float = 0.0


@dataclass(frozen=True)
class MeshProfile:
    """One mesh as the compiler sees it.

    Parameters
    ----------
    name : str
        As in ``mesh: istio-sidecar``.
    sidecars : bool
        A proxy at both ends of every hop, and one at each traffic source (the gateway).
    cost : ProxyCost
        Of each of these proxies.
    references : tuple of str
        Where the numbers come from.
    request_ns : int
        CPU that an application's server spends on each request beside the steps of its
        operation [ns]: it occupies the worker.
    envoy_release : str, optional
        Of its proxies, if they are Envoys (`meshsim.topology.releases`).
    """

    name: str
    sidecars: bool
    cost: ProxyCost
    references: tuple[str, ...] = ()
    request_ns: int = 0
    envoy_release: str | None = None
