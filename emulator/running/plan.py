"""What is to be run, checked and decided before anything starts.

Rule: whatever is wrong with a scenario or an argument is said here, with one `ConfigError`, and
nothing has started then.  A change while the mesh runs is a change of what the control plane
pushes, so it is one of policies, and one that some proxy is told of.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.control.broker_url import check_broker
from emulator.running.addresses import checked_host, is_loopback
from emulator.running.budget import ENDPOINTS_MAX, Dilation, Share, assign, choose_dilation
from emulator.running.faults import LiveControl
from emulator.running.node_spec import compiled_of
from meshsim.controlplane.access import check_enforceable
from meshsim.controlplane.certificate_authority import CERTIFICATE_TTL_S, ROOT_TTL_S
from meshsim.controlplane.configuration import Mode, configurations_of
from meshsim.errors import ConfigError, Problem
from meshsim.meshes import profile, resolve
from meshsim.state.record import WINDOW_COUNT
from meshsim.topology import with_values
from meshsim.topology.compiled import CompiledTopology
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated
from meshsim.units import NS_PER_S, to_ns

__all__ = ["Change", "Plan", "Script", "plan_run", "remote_names"]

#: A user's script: a coroutine function over the running mesh.
Script = Callable[[LiveControl], Awaitable[None]]

_SEED_MAX = 2**62
_MODES = ("STRICT", "PERMISSIVE", "DISABLE")
_PLANES = ("asyncio",)
#: Certificates state whole seconds, and a proxy looks twice a second whether the next is due.
_TTL_MIN_S = 2.0


@dataclass(frozen=True)
class Change:
    """A topology that the control plane is given at a model time [ns]."""

    at_ns: int
    topology: Topology


@dataclass(frozen=True)
class Plan:
    """What is to be run; all decided.

    Parameters
    ----------
    compiled : CompiledTopology
        Of the resolved scenario.
    duration_ns : int
    seed : int
    dilation : Dilation
    shares : tuple of Share
        What each process hosts; the first is the edge.
    mode : "STRICT", "PERMISSIVE" or "DISABLE"
        Mutual TLS between proxies; DISABLE in a mesh without proxies.
    broker_url : str
        Empty: embedded.
    draws : "same" or "fresh"
    key_type : str
    certificate_ttl_s : float
        Lifetime of certificates [s of the machine's clock].
    record : str
        Folder for the logs of stimuli, one a process; empty for none.
    changes : tuple of Change
    scripts : tuple of Script
    remote : tuple of str
        Processes that other machines host.
    host : str
        Address to listen on.
    """

    compiled: CompiledTopology
    duration_ns: int
    seed: int
    dilation: Dilation
    shares: tuple[Share, ...]
    mode: Mode = "STRICT"
    broker_url: str = ""
    draws: str = "same"
    key_type: str = "ecdsa-p256"
    certificate_ttl_s: float = CERTIFICATE_TTL_S
    record: str = ""
    changes: tuple[Change, ...] = ()
    scripts: tuple[Script, ...] = ()
    remote: tuple[str, ...] = ()
    host: str = "127.0.0.1"


def plan_run(
    topology: Topology,
    duration: str | float,
    seed: int,
    *,
    mesh: str | None = None,
    plane: str = "asyncio",
    broker: str | None = None,
    processes: int | str | None = None,
    dilation: float | None = None,
    mtls: str | None = None,
    draws: str = "same",
    changes: Sequence[tuple[str, str, Any]] = (),
    scripts: Sequence[Script] = (),
    key_type: str = "ecdsa-p256",
    certificate_ttl: str | float | None = None,
    remote: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Plan:
    """Check and decide everything about a run.

    Parameters
    ----------
    topology, duration, seed
        Of `emulate`.
    mesh : str, optional
        Mesh profile to use instead of the scenario's.
    plane : "asyncio"
        What carries requests.
    broker : str, optional
        ``mqtt://host:port`` or ``mqtts://...`` of a broker to use instead of the embedded one
        (`emulator.control.broker_url`).
    processes : int or "each", optional
        Node processes: one for each modelled node by default, "each" for one a replica.  The
        load and the gateways have one of their own.
    dilation : float, optional
        Real seconds of one model second, > 0; by default as `emulator.running.budget` decides.
    mtls : "STRICT", "PERMISSIVE" or "DISABLE", optional
        Mutual TLS between proxies; STRICT by default, DISABLE in a mesh without proxies.  Where
        the scenario has access rules, they state it, unless this is DISABLE.
    draws : "same" or "fresh"
        The simulator's own draws, or others.
    changes : sequence of (time, path, value)
        Fields of the scenario that change while it runs, pushed by the control plane.
    scripts : sequence of coroutine function
        ``async def script(mesh: LiveControl)``, run beside the load.
    key_type : "ecdsa-p256" or "rsa-2048"
        Of certificates.
    certificate_ttl : str or float, optional
        Lifetime of certificates in model time, e.g. ``"1h"`` or seconds, 24 h by default as in
        Istio; the next one is asked for at half of it.  At least 2 s of the machine's clock.
    remote : sequence of str
        Nodes of the scenario that other machines host: the run waits for them to join
        (`emulator.running.join`), and says how.
    host : str
        Address to listen on; beyond loopback only if you say so.

    Raises
    ------
    ConfigError
        If the scenario or an argument is wrong.
    """
    duration_ns = _checked_duration(duration)
    _check("seed", seed, 0 <= seed < _SEED_MAX, "0 to 2**62 - 1")
    _check("plane", plane, plane in _PLANES, ", ".join(_PLANES))
    _check("draws", draws, draws in ("same", "fresh"), "same, fresh")
    _check("key_type", key_type, key_type in ("ecdsa-p256", "rsa-2048"), "ecdsa-p256, rsa-2048")
    good = dilation is None or 0 < dilation < math.inf
    _check("dilation", dilation, good, "a number > 0")
    address = checked_host(host)
    if broker is not None:
        check_broker(broker)
    elif remote and not is_loopback(address):
        raise ConfigError([_LOOPBACK_BROKER])
    declared = topology if mesh is None else topology.model_copy(update={"mesh": mesh})
    resolved = resolve(validated(declared))
    _check_size(resolved)
    sidecars = profile(resolved.mesh).sidecars
    mode = mtls or ("STRICT" if sidecars else "DISABLE")
    _check("mtls", mode, mode in _MODES, ", ".join(_MODES))
    if mode != "DISABLE" and not sidecars:
        raise ConfigError(f"mtls: the mesh {resolved.mesh} has no proxies that could speak it")
    check_enforceable(resolved, sidecars)
    compiled = compiled_of(resolved)
    shares = assign(resolved, compiled.layout, processes)
    cores = os.cpu_count() or 1
    chosen = choose_dilation(resolved, compiled.layout, shares, cores, sidecars=sidecars)
    if dilation is not None:
        chosen = Dilation(float(dilation), "as asked for")
    return Plan(
        compiled=compiled,
        duration_ns=duration_ns,
        seed=seed,
        dilation=chosen,
        shares=shares,
        mode=mode,  # type: ignore[arg-type]  # checked above
        broker_url=broker or "",
        draws=draws,
        key_type=key_type,
        certificate_ttl_s=_checked_ttl_s(certificate_ttl, chosen),
        changes=_changes(declared, changes, compiled),
        scripts=tuple(scripts),
        remote=remote_names(remote, resolved, shares),
        host=address,
    )


_LOOPBACK_BROKER = Problem(
    "the embedded broker is for this machine alone",
    path="remote",
    allowed="a broker that the others reach, see --broker and --mosquitto-files",
)


def _checked_duration(duration: str | float) -> int:
    try:
        duration_ns = to_ns(duration)
    except ValueError as error:
        raise ConfigError(f"duration: {error}") from None
    _check("duration", duration, duration_ns >= WINDOW_COUNT, f"at least {WINDOW_COUNT} ns")
    return duration_ns


def _checked_ttl_s(ttl: str | float | None, dilation: Dilation) -> float:
    """Return a lifetime of certificates by the machine's clock [s]."""
    if ttl is None:
        return min(max(CERTIFICATE_TTL_S * dilation.factor, _TTL_MIN_S), ROOT_TTL_S)
    try:
        model_s = to_ns(ttl) / NS_PER_S
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"certificate_ttl: {error}") from None
    real_s = model_s * dilation.factor
    allowed = f"{_TTL_MIN_S:g} s of the machine's clock to {ROOT_TTL_S / 86_400:g} days"
    allowed += f", and a second of the mesh takes {dilation.factor:g} s"
    _check("certificate_ttl", ttl, _TTL_MIN_S <= real_s <= ROOT_TTL_S, allowed)
    return real_s


def _check(name: str, found: object, good: bool, allowed: str) -> None:
    if not good:
        raise ConfigError(f"{name}: found {found!r}, allowed: {allowed}")


def _check_size(resolved: Topology) -> None:
    """Refuse what has no load, or more replicas than a machine can start."""
    if not resolved.traffic:
        raise ConfigError("the scenario has no traffic: nothing would happen")
    replicas = sum(
        workload.replicas
        for service in resolved.services.values()
        for workload in service.workloads.values()
    )
    if replicas > ENDPOINTS_MAX:
        allowed = f"up to {ENDPOINTS_MAX}; meshsim run simulates more"
        message = "too many replicas for real sockets"
        raise ConfigError(
            [Problem(message, path="services", found=f"{replicas:,} replicas", allowed=allowed)]
        )


def remote_names(
    wanted: Sequence[str], topology: Topology, shares: Sequence[Share]
) -> tuple[str, ...]:
    """Return the processes of the nodes `wanted`.

    Parameters
    ----------
    wanted : sequence of str
        Nodes of the scenario.
    topology : Topology
    shares : sequence of Share
        What each process hosts.

    Raises
    ------
    ConfigError
        If the scenario has no such node, or no process hosts just its replicas.
    """
    hosted = {share.process for share in shares}
    problems = []
    for name in wanted:
        if name not in topology.nodes:
            known = ", ".join(topology.nodes) or "no node"
            problems.append(Problem("no such node", path="remote", found=name, allowed=known))
        elif f"node {name}" not in hosted:
            message = "no process of its own: the node has no replicas, or --processes deals them"
            problems.append(Problem(message, path="remote", found=name))
    if problems:
        raise ConfigError(problems)
    return tuple(f"node {name}" for name in wanted)


def _changes(
    topology: Topology,
    changes: Sequence[tuple[str, str, Any]],
    compiled: CompiledTopology,
) -> tuple[Change, ...]:
    """Return the resolved topology after each change, in the order of time.

    Raises
    ------
    ConfigError
        If a change is of something that no proxy is told.
    """
    layout = compiled.layout
    everywhere = dict.fromkeys(layout.endpoint_names, ("", 0))

    def told(resolved: Topology) -> Any:
        sidecars = compiled.profile.sidecars
        return configurations_of(resolved, layout, everywhere, sidecars=sidecars)

    made: list[Change] = []
    before = told(compiled.topology) if changes else None
    for at, path, value in sorted(changes, key=lambda change: to_ns(change[0])):
        topology = with_values(topology, {path: value})
        resolved = resolve(validated(topology))
        allowed = "policies.SERVICE..., which the control plane pushes; for rates, replicas and "
        allowed += "faults see the scenario's faults and the verbs of scripts"
        if not path.startswith("policies."):
            raise ConfigError([Problem("cannot change while it runs", path=path, allowed=allowed)])
        after = told(resolved)
        if after == before:
            message = "changes nothing that a proxy is told"
            raise ConfigError([Problem(message, path=path, found=str(value), allowed=allowed)])
        before = after
        made.append(Change(to_ns(at), resolved))
    return tuple(made)
