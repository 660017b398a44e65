"""Timed faults: what can happen to part of a mesh, and by which verbs it begins and ends.

Rule: a fault is one or several verbs at its time, and after its duration those that undo it; one
without a duration stays.  The verbs are those of `meshsim.kernel.control.MeshControl` and
`emulator.running.faults.LiveControl`, so both planes do the same by the same table.

Each kind reads the fields that `fields_of` names, beside `kind`, `at`, `duration` and `trigger`;
to say another is an error.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from pydantic import Field

from meshsim.topology.base import (
    Boolean,
    Distribution,
    Duration,
    Integer,
    Model,
    Number,
    Probability,
)
from meshsim.units import NS_PER_S, seconds

__all__ = [
    "PERCENT",
    "TimedFault",
    "Verb",
    "fields_of",
    "is_limit",
    "is_momentary",
    "verbs_at_begin",
    "verbs_at_end",
]

#: A percentage of the replicas of a workload.
PERCENT = re.compile(r"(\d{1,4})%")

_WHERE = ("service", "workload", "replica", "zone")
#: What a kind of fault reads.
_FIELDS: dict[str, tuple[str, ...]] = {
    "kill": _WHERE,
    "flap": (*_WHERE, "times", "down", "up"),
    "drain": (*_WHERE, "grace", "pre_stop"),
    "slow": (*_WHERE, "factor"),
    "pause": _WHERE,
    "errors": (*_WHERE, "factor"),
    "gray": (*_WHERE, "share", "factor", "error_rate", "callers"),
    "squeeze": (*_WHERE, "node", "factor"),
    "partition": ("zone",),
    "zone_loss": ("zone",),
    "network": ("zones", "latency", "loss", "one_way"),
    "rate": ("traffic", "factor", "ramp"),
    "rollout": (
        *("service", "workload", "max_surge", "max_unavailable", "readiness"),
        *("grace", "pre_stop", "speed", "error_rate"),
    ),
    "flush": _WHERE,
}
#: Kinds that are over by themselves.
_MOMENTARY = ("flap", "rollout", "flush")

Kind = Literal[
    "kill",
    "flap",
    "drain",
    "slow",
    "pause",
    "errors",
    "gray",
    "squeeze",
    "partition",
    "zone_loss",
    "network",
    "rate",
    "rollout",
    "flush",
]
#: A number of replicas, or a percentage of them.
Limit = Integer | str


class TimedFault(Model):
    """Something that happens to part of the mesh at a stated time, and may end.

    kill: the endpoints reset their work and refuse connections; flap: they are killed for
    `down` and back for `up`, `times` times; drain: they are withdrawn from proxies, take no new
    work after `pre_stop`, finish what they have, and are killed after `grace`; slow: compute
    runs at `factor` times its speed; pause: nothing is served; errors: the workload's error
    rate becomes `factor`; gray: a `share` of the requests (of `callers`, services, or of
    everybody) fail by `error_rate` or are served at `factor` of the speed, and health checks do
    not notice; squeeze: the cores of a `node`, or of endpoints, are reduced to a share
    `factor`; partition: packets between a zone and the rest are lost; zone_loss: so they are,
    and all its replicas are dead; network: messages from the first of two `zones` to the
    second, and back unless it is `one_way`, are `latency` later, and a share `loss` of packets
    is lost; rate: a traffic class's rate is multiplied by `factor`, reached (and left) over
    `ramp`; rollout: the replicas of a workload are replaced as a Deployment does it, by others
    of `speed` and `error_rate`; flush: what replicas have cached is forgotten.
    `trigger` declares the disturbance whose after-effect the metastability verdict tests.
    """

    kind: Kind
    at: Duration
    duration: Duration | None = None
    service: str | None = None
    workload: str | None = None
    replica: Integer | None = Field(default=None, ge=0)
    zone: str | None = None
    zones: tuple[str, str] | None = None
    latency: Distribution | None = None
    loss: Probability = 0.0
    one_way: Boolean = False
    node: str | None = None
    traffic: str | None = None
    factor: Number = Field(default=1.0, ge=0, le=1e6)
    share: Probability = 1.0
    callers: tuple[str, ...] = ()
    ramp: Duration = 0
    times: Integer = Field(default=3, ge=1, le=1_000_000)
    down: Duration = NS_PER_S
    up: Duration = NS_PER_S
    #: Kubernetes' terminationGracePeriodSeconds, of which a preStop hook is part.
    grace: Duration = 30 * NS_PER_S
    pre_stop: Duration = 0
    max_surge: Limit = "25%"
    max_unavailable: Limit = "25%"
    readiness: Duration = 0
    speed: Number = Field(default=1.0, gt=0, le=1000)
    error_rate: Probability | None = None
    trigger: Boolean = False


class Verb(NamedTuple):
    """One verb of a control, and its arguments by name."""

    name: str
    values: dict[str, Any]


def fields_of(kind: str) -> tuple[str, ...]:
    """Return the fields that a kind of fault reads, beside those of all kinds."""
    return _FIELDS[kind]


def is_momentary(kind: str) -> bool:
    """Return whether a kind of fault is over by itself, so that it has no duration."""
    return kind in _MOMENTARY


def is_limit(limit: object) -> bool:
    """Return whether this is a number of replicas, or a percentage of them."""
    if isinstance(limit, str):
        return PERCENT.fullmatch(limit) is not None
    return isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0


def _where(fault: TimedFault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in _WHERE}


def verbs_at_begin(fault: TimedFault) -> list[Verb]:
    """Return what a control does at the time of a fault, in order."""
    where = _where(fault)
    stopping = {"grace_s": seconds(fault.grace), "pre_stop_s": seconds(fault.pre_stop)}
    match fault.kind:
        case "flap":
            spans = {"down_s": seconds(fault.down), "up_s": seconds(fault.up)}
            return [Verb("flap", {**where, "times": fault.times, **spans})]
        case "drain":
            return [Verb("drain", {**where, **stopping})]
        case "slow":
            return [Verb("slow", {**where, "factor": fault.factor})]
        case "pause":
            return [Verb("slow", {**where, "factor": 0.0})]
        case "errors":
            return [Verb("fail", {**where, "share": fault.factor})]
        case "gray":
            hit = {"share": fault.share, "callers": fault.callers, "factor": fault.factor}
            return [Verb("gray", {**where, **hit, "error_rate": fault.error_rate or 0.0})]
        case "squeeze":
            return [Verb("squeeze", {**where, "node": fault.node, "share": fault.factor})]
        case "partition":
            return [Verb("partition", {"zone": fault.zone})]
        case "zone_loss":
            return [Verb("lose_zone", {"zone": fault.zone})]
        case "network":
            wrong = {"latency": fault.latency, "loss": fault.loss, "one_way": fault.one_way}
            return [Verb("impair", {"zones": fault.zones, **wrong})]
        case "rate":
            return [_rate(fault, fault.factor)]
        case "rollout":
            limits = {"max_surge": fault.max_surge, "max_unavailable": fault.max_unavailable}
            version = {"speed": fault.speed, "error_rate": fault.error_rate}
            values = {"service": fault.service, "workload": fault.workload, **limits, **stopping}
            readiness = {"readiness_s": seconds(fault.readiness)}
            return [Verb("roll_out", {**values, **readiness, **version})]
    return [Verb(fault.kind, where)]


def verbs_at_end(fault: TimedFault) -> list[Verb]:
    """Return what a control does when a fault's duration is over, in order."""
    where = _where(fault)
    match fault.kind:
        case "rate":
            return [_rate(fault, 1.0)]
        case "squeeze":
            return [Verb("squeeze", {**where, "node": fault.node, "share": 1.0})]
        case "partition":
            return [Verb("heal", {"zone": fault.zone})]
        case "zone_loss":
            return [Verb("restore", {"zone": fault.zone}), Verb("heal", {"zone": fault.zone})]
        case "network":
            return [Verb("heal", {"zones": fault.zones})]
        case "drain":
            return [Verb("restore", where), Verb("withdraw", {**where, "healthy": True})]
    return [Verb("restore", where)]


def _rate(fault: TimedFault, factor: float) -> Verb:
    values = {"traffic": fault.traffic, "factor": factor, "ramp_s": seconds(fault.ramp)}
    return Verb("set_rate", values)
