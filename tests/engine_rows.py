"""Configurations for engines, made by hand: one service or two, all policies said."""

from dataclasses import replace

from emulator.decisions.engine import ProxyEngine, run_seed_of
from meshsim.controlplane.configuration import (
    EndpointAddress,
    ListenerPolicy,
    ProxyConfiguration,
)
from meshsim.topology.model import ClusterPolicy, Route

POOL = {"connect_timeout": "1s", "idle_timeout": "1h", "max_requests_per_connection": 0}


def cluster(policy="ROUND_ROBIN", *, breakers=None, pool=None, **balancing):
    return ClusterPolicy.model_validate(
        {
            "load_balancing": {"policy": policy, **balancing},
            "circuit_breakers": breakers or {},
            "connection_pool": {**POOL, **(pool or {})},
        }
    )


def endpoints(*names, port=9000, weight=1):
    """Addresses of endpoints called e.g. "b-v1-0"."""
    return tuple(
        EndpointAddress(name, name.split("-")[1], "127.0.0.1", port + row, weight)
        for row, name in enumerate(names)
    )


def route(**fields):
    split = [{"service": "b"}] if "direct_response" not in fields else []
    return Route.model_validate({"split": split, **fields})


def configuration(clusters=None, members=None, routes=None, version=1, labels=None):
    """What the proxy "a-v1-0" is told; by default: b with three endpoints, one route."""
    clusters = clusters if clusters is not None else {"b": cluster()}
    members = members or {}
    return ProxyConfiguration(
        "a-v1-0",
        labels or {},
        clusters,
        {name: members.get(name, endpoints("b-v1-0", "b-v1-1", "b-v1-2")) for name in clusters},
        routes if routes is not None else {"b": (route(),)},
        versions={"clusters": version, "endpoints": version, "routes": version},
    )


def new_engine(*args, log=None, **fields):
    """An engine under `configuration(...)`."""
    engine = ProxyEngine("a-v1-0", 0, run_seed_of(1), log)
    engine.apply(configuration(*args, **fields), 0)
    return engine


def listening_engine(limit, log=None):
    """An engine whose listener has a local rate limit."""
    engine = ProxyEngine("b-v1-0", 0, run_seed_of(1), log)
    listener = ListenerPolicy(rate_limit=limit)
    told = replace(configuration(), listener=listener)
    engine.apply(told, 0)
    return engine
