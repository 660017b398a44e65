"""Small scenarios that touch most of the kernel, and a digest of everything a run leaves.

    python tests/parity/parity_scenarios.py NAME...

prints a digest for each name; the test compares those of compiled and of plain Python.
"""

import hashlib
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np

import meshsim as ms
from meshsim.topology.model import Topology

ROOT = Path(__file__).resolve().parents[2]
RETRY = {
    "num_retries": 2,
    "retry_on": ["5xx", "connect-failure"],
    "per_try_timeout": "6ms",
    "base_interval": "2ms",
    "previous_hosts": True,
}


def body(*steps, **fields):
    return {"workloads": {"v1": {"replicas": 2, "concurrency": 2, "steps": list(steps), **fields}}}


def compute(time):
    return {"compute": {"exponential": time}}


def services() -> dict:
    calls = [[{"call": name, "optional": True}] for name in ("sharing", "preempting", "hashed")]
    phases = [{"probability": 0.9, "mean": "1ms"}, {"probability": 0.1, "mean": "8ms"}]
    return {
        "front": body(compute("500us"), {"parallel": calls}, hold_worker=False),
        "sharing": body(
            {"compute": {"lognormal": {"mean": "2ms", "p99": "9ms"}}},
            discipline="PROCESSOR_SHARING",
            on_timeout="cancel_work",
        ),
        "preempting": body(
            compute("3ms"),
            {"call": "last", "probability": 0.5},
            discipline="PREEMPTIVE_PRIORITY",
            on_timeout="continue",
            nodes=["n0"],
        ),
        "hashed": body(
            {"compute": {"gamma": {"mean": "1ms", "shape": 0.5}}},
            concurrency=1,
            queue_limit=1,
            patience={"exponential": "5ms"},
            error_rate=0.1,
        ),
        "last": body({"sleep": {"hyperexponential": {"phases": phases}}}, concurrency_penalty=0.1),
    }


def policy(name, **fields) -> dict:
    return {
        "load_balancing": {"policy": name, "table_size": 97, "minimum_ring_size": 32, **fields},
        "circuit_breakers": {"max_connections": 3, "max_pending_requests": 4, "max_retries": 2},
        "connection_pool": {"idle_timeout": "4ms", "max_requests_per_connection": 9},
        "routes": [{"timeout": "15ms", "retry": RETRY}],
    }


TRAFFIC = {
    "fast": {"to": "front", "priority": 0, "arrivals": {"poisson": 150}},
    "slow": {
        "to": "front",
        "priority": 2,
        "headers": {"user": "u"},
        "users": 20,
        "arrivals": {"batch": {"rate": 60, "size": 3, "size_distribution": "geometric"}},
    },
    "users": {
        "to": "preempting",
        "priority": 1,
        "closed_loop": {"users": 3, "think_time": {"exponential": "20ms"}},
    },
}
LAST = {"service": "last", "workload": "v1", "replica": 0}
FAULTS = [
    {"kind": "kill", **LAST, "at": "100ms", "duration": "100ms"},
    {"kind": "slow", "service": "sharing", "factor": 0.5, "at": "150ms", "duration": "100ms"},
    {"kind": "rate", "traffic": "fast", "factor": 2.0, "at": "200ms", "duration": "100ms"},
    {"kind": "errors", "service": "last", "factor": 0.5, "at": "300ms"},
]


def everything() -> Topology:
    """Retries, timeouts, breakers, shared cores, priorities, branches, faults, every balancer."""
    return Topology.model_validate(
        {
            "name": "everything",
            "nodes": {"n0": {"zone": "a"}, "n1": {"zone": "b", "cores": 3.0}},
            "network": {"latency": {"same_region": {"exponential": "200us"}}},
            "services": services(),
            "traffic": TRAFFIC,
            "policies": {
                "front": policy("LEAST_REQUEST"),
                "sharing": policy("PEAK_EWMA"),
                "preempting": policy("ROUND_ROBIN", weights={"v1": 2}),
                "hashed": policy("RING_HASH", hash_header="user"),
                "last": policy("MAGLEV", hash_source_ip=True),
            },
            "faults": FAULTS,
        }
    )


CACHE = {"keys": 30, "cacheable": 0.9, "zipf": 1.0, "ttl": "150ms", "miss": [{"call": "store"}]}


def cached() -> Topology:
    """A cache in front of a store that is too slow for all, flushed under way."""
    return Topology.model_validate(
        {
            "name": "cached",
            "mesh": "istio-sidecar",
            "services": {
                "web": body({"cache": CACHE, "optional": True}, compute("200us"), cpu=1.0),
                "store": body(
                    compute("8ms"), on_timeout="continue", cold_start={"duration": "100ms"}
                ),
            },
            "traffic": {"users": {"to": "web", "arrivals": {"poisson": 400}}},
            "policies": {"store": {"routes": [{"timeout": "30ms"}]}},
            "faults": [
                {"kind": "flush", "service": "web", "at": "200ms"},
                {"kind": "rate", "traffic": "users", "at": "100ms", "factor": 2.0, "ramp": "80ms"},
                {"kind": "rollout", "service": "store", "at": "150ms", "grace": "50ms"},
                {"kind": "squeeze", "service": "web", "at": "250ms", "factor": 0.3},
            ],
        }
    )


ACCESS = {
    "peer_authentication": [{"mode": "STRICT"}],
    "policies": [
        {
            "name": "no slow",
            "action": "DENY",
            "selector": {"services": ["sharing"]},
            "rules": [{"when": [{"key": "request.headers[user]", "values": ["*"]}]}],
        },
        {
            "name": "closed",
            "network": True,
            "selector": {"services": ["last"]},
            "rules": [{"sources": [{"workloads": [{"services": ["hashed"]}]}]}],
        },
    ],
}


def guarded() -> Topology:
    """Everything, behind rules that refuse, and a network policy that drops."""
    return Topology.model_validate({**everything().model_dump(), "access": ACCESS})


def probed() -> Topology:
    """Everything, where some probe for load and some hash among hosts that are ejected."""
    watched = {
        "outlier_detection": {
            "consecutive_5xx": 1,
            "interval": "20ms",
            "base_ejection_time": "30ms",
            "max_ejection_percent": 50,
        }
    }
    balanced = {
        "preempting": policy("PREQUAL", r_probe=1.5),
        "hashed": policy("RING_HASH", hash_header="user") | watched,
        "last": policy("MAGLEV", hash_source_ip=True) | watched,
    }
    dumped = everything().model_dump()
    return Topology.model_validate({**dumped, "policies": dumped["policies"] | balanced})


def run(name: str, seed: int = 1, replications: int = 1) -> list:
    """Return the records of a scenario by name."""
    if name == "everything":
        topology, duration = everything().model_copy(update={"mesh": "istio-sidecar"}), "400ms"
    elif name == "everything-none":
        topology, duration = everything().model_copy(update={"mesh": "none"}), "400ms"
    elif name == "cached":
        topology, duration = cached(), "400ms"
    elif name == "probed":
        topology, duration = probed(), "300ms"
    elif name == "guarded":
        topology, duration = guarded(), "300ms"
    else:
        topology, duration = ms.load(ROOT / "topologies" / f"{name}.yaml"), "300ms"
    result = ms.simulate(
        topology, duration=duration, replications=replications, seed=seed, progress=False
    )
    return list(result.records)


def digest(record) -> str:
    """Return a digest of everything in `record` except how long it took."""
    total = hashlib.sha256()
    for part in parts(record):
        total.update(part)
    return total.hexdigest()


def parts(value):
    """Yield the bytes of everything in a record."""
    if is_dataclass(value):
        for field in fields(value):
            if field.name != "wall_s":
                yield from parts(getattr(value, field.name))
    elif isinstance(value, np.ndarray) and value.dtype.names:
        # Field by field: the bytes between fields are not part of the value.
        for name in value.dtype.names:
            yield from parts(value[name])
    elif isinstance(value, np.ndarray):
        yield str((value.dtype, value.shape)).encode()
        yield np.ascontiguousarray(value).tobytes()
    else:
        yield repr(value).encode()


if __name__ == "__main__":
    for scenario in sys.argv[1:]:
        records = run(scenario)
        print(scenario, *(digest(record) for record in records))
