"""The suite: what is calibrated on (A), and what is predicted before it is run (B).

Rule: seeds, lengths and bands are fixed here, before anything is measured.  A is a single
service with one worker: without work (the null run), at loads of 0.2 and 0.6, and at 0.2 with
a new connection for each request.  B is everything else.  Service times are 20 ms and more, so
that what a machine's timers and its scheduler add (about 1 ms) is a small share of them; the
rates keep two cores below 60 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshsim.policy.custom import load_balancer
from meshsim.rng import next_index
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated

__all__ = [
    "SEED_FRESH",
    "SEED_SAME",
    "TRAFFIC",
    "Change",
    "Scenario",
    "calibration_scenarios",
    "suite",
]

#: The one traffic class of the suite.
TRAFFIC = "load"
#: Seed of both planes when they meet the same draws.
SEED_SAME = 20_251
#: First seed of the emulator, one a repeat, when it meets draws that the prediction has not.
SEED_FRESH = 77_001
#: One exponential service of this mean [ms] is the unit of work of the suite.
_WORK_MS = 20


@dataclass(frozen=True)
class Change:
    """A configuration pushed while the load runs.

    Parameters
    ----------
    at : float
        When, as a share of the run.
    service : str
        Whose first route is changed.
    weights : mapping of str to int
        New weights of its subsets.
    """

    at: float
    service: str
    weights: Mapping[str, int]

    @property
    def path(self) -> str:
        """Field that is set, as `meshsim.topology.with_values` takes it."""
        return f"policies.{self.service}.routes[0].split"

    @property
    def value(self) -> list[dict[str, Any]]:
        """The new value of the field."""
        return [{"subset": name, "weight": weight} for name, weight in self.weights.items()]


@dataclass(frozen=True)
class Scenario:
    """One scenario of B.

    Parameters
    ----------
    name : str
    topology : Topology
    question : str
        What the prediction claims to know.
    load : float or None
        Nominal utilisation of the busiest server; None: as the prediction finds it.
    group : str
        Scenarios of one group are also put in order.
    change : Change, optional
    """

    name: str
    topology: Topology
    question: str = ""
    load: float | None = None
    group: str = ""
    change: Change | None = None


@dataclass(frozen=True)
class _Mesh:
    """The parts that differ from scenario to scenario."""

    services: dict[str, Any]
    rate: float
    to: str = "server"
    policies: dict[str, Any] = field(default_factory=dict)
    access: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)

    def topology(self, name: str, question: str) -> Topology:
        plain = {
            "name": name,
            "question": question,
            "mesh": "istio-sidecar",
            "services": {
                service: body if "workloads" in body else {"workloads": {"v1": body}}
                for service, body in self.services.items()
            },
            "policies": self.policies,
            "access": self.access,
            "nodes": self.nodes,
            "traffic": {TRAFFIC: {"to": self.to, "arrivals": {"poisson": self.rate}}},
        }
        return validated(Topology.model_validate(plain))


@load_balancer
def _fewest_active(
    hosts: Any, members: Any, request: Any, memory: Any, now_ns: int, rng: Any
) -> int:
    """Pick a host with the fewest active requests, from a random one on."""
    count = len(members)
    first = next_index(rng, count)
    best = first
    for step in range(1, count):
        position = (first + step) % count
        if hosts["requests_active"][members[position]] < hosts["requests_active"][members[best]]:
            best = position
    return best


def _work(mean_ms: float = _WORK_MS) -> dict[str, Any]:
    return {"compute": {"exponential": f"{mean_ms}ms"}}


def _worker(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"concurrency": 1, "steps": list(steps), **fields}


def _caller(*steps: dict[str, Any]) -> dict[str, Any]:
    """Return a server of enough workers that nobody waits for one."""
    return {"concurrency": 64, "steps": list(steps)}


def _single(load: float, **policies: Any) -> _Mesh:
    return _Mesh({"server": _worker(_work())}, load * 1000 / _WORK_MS, policies=policies)


def calibration_scenarios() -> dict[str, Topology]:
    """Return the scenarios of A by name: null, light, busy, handshake."""
    null = _Mesh({"server": _worker()}, 0.6 * 1000 / _WORK_MS)
    each = {"server": {"connection_pool": {"max_requests_per_connection": 1}}}
    meshes = {
        "null": (null, "What does the harness add to a request without work?"),
        "light": (_single(0.2), "What does a request cost at a load of 0.2?"),
        "busy": (_single(0.6), "What does it cost at a load of 0.6?"),
        "handshake": (_single(0.2, **each), "What does a new connection cost?"),
    }
    return {name: mesh.topology(name, question) for name, (mesh, question) in meshes.items()}


def suite() -> tuple[Scenario, ...]:
    """Return the scenarios of B, in the order in which a round runs them."""
    return (*_loads(), *_graphs(), *_balancers(), *_policies(), *_limits(), *_health(), *_own())


def _scenario(name: str, question: str, mesh: _Mesh, **fields: Any) -> Scenario:
    return Scenario(name, mesh.topology(name, question), question, **fields)


def _loads() -> list[Scenario]:
    return [
        _scenario(
            f"load-{round(100 * load)}",
            f"Latency at a load of {load}, from loads of 0.2 and 0.6?",
            _single(load),
            load=load,
        )
        for load in (0.8, 0.9)
    ]


def _graphs() -> list[Scenario]:
    chain = {
        "server": _caller({"compute": "5ms"}, {"call": "middle"}),
        "middle": _caller({"compute": "5ms"}, {"call": "last"}),
        "last": {"concurrency": 2, "steps": [_work()]},
    }
    leaves = {f"leaf-{letter}": {"concurrency": 2, "steps": [_work()]} for letter in "abc"}
    calls = {"parallel": [[{"call": name}] for name in leaves]}
    return [
        _scenario(
            "chain-3",
            "Do the costs of one hop add up over three?",
            _Mesh(chain, 60.0),
            load=0.6,
        ),
        _scenario(
            "fan-out",
            "How long does the slowest of three parallel calls take?",
            _Mesh({"server": _caller({"compute": "5ms"}, calls), **leaves}, 40.0),
            load=0.4,
        ),
    ]


def _balancers() -> list[Scenario]:
    workloads = {
        "fast": _worker(_work(), replicas=3),
        "slow": _worker(_work(), speed=0.5),
    }
    scenarios = []
    for policy in ("RANDOM", "ROUND_ROBIN", "LEAST_REQUEST", "PEAK_EWMA"):
        mesh = _Mesh(
            {"server": {"workloads": workloads}},
            80.0,
            policies={"server": {"load_balancing": {"policy": policy}}},
        )
        name = f"slow-host-{policy.lower().replace('_', '-')}"
        question = f"What does {policy} do with one host of four at half speed?"
        scenarios.append(_scenario(name, question, mesh, group="slow-host"))
    return scenarios


def _policies() -> list[Scenario]:
    retry = {
        "num_retries": 2,
        "retry_on": ["5xx", "reset", "connect-failure"],
        "per_try_timeout": "80ms",
    }
    flaky = {
        "server": _caller({"call": "flaky"}),
        "flaky": {"concurrency": 2, "steps": [_work()], "error_rate": 0.05},
    }
    breaker = {
        "circuit_breakers": {"max_requests": 4, "max_pending_requests": 4},
        "routes": [{"retry": {"num_retries": 0}}],
    }
    return [
        _scenario(
            "retries-timeout",
            "Latency and errors with 5 % failures, two retries and a timeout a try?",
            _Mesh(
                flaky, 50.0, policies={"flaky": {"routes": [{"timeout": "200ms", "retry": retry}]}}
            ),
            load=0.55,
        ),
        _scenario(
            "breaker-overload",
            "What is refused, and how long do the others wait, at 1.2 times the capacity?",
            _Mesh({"server": _worker(_work())}, 60.0, policies={"server": breaker}),
        ),
        _scenario(
            "mtls-reconnect",
            "What does a full handshake every second request cost?",
            _Mesh(
                {"server": {"concurrency": 2, "steps": [_work()]}},
                60.0,
                policies={"server": {"connection_pool": {"max_requests_per_connection": 2}}},
            ),
            load=0.6,
        ),
        _hedging(),
        *_splits(),
    ]


def _hedging() -> Scenario:
    """Return a service whose slow tries get a second one beside them, as Envoy hedges."""
    retry = {
        "num_retries": 1,
        "retry_on": ["5xx"],
        "per_try_timeout": "40ms",
        "base_interval": "1ms",
    }
    hedged = {"retry": retry, "hedge_policy": {"hedge_on_per_try_timeout": True}}
    slow = {"concurrency": 4, "steps": [_work()], "replicas": 2}
    return _scenario(
        "hedging",
        "Latency where whoever has waited for 40 ms asks another replica besides?",
        _Mesh(
            {"server": _caller({"call": "slow"}), "slow": slow},
            50.0,
            policies={"slow": {"routes": [hedged]}},
        ),
        load=0.15,
    )


def _splits() -> list[Scenario]:
    server = {
        "workloads": {
            "v1": {"labels": {"version": "v1"}, "concurrency": 2, "steps": [_work()]},
            "v2": {"labels": {"version": "v2"}, "concurrency": 2, "steps": [_work(30)]},
        }
    }

    def split(first: int, second: int) -> dict[str, Any]:
        weights = [{"subset": "v1", "weight": first}, {"subset": "v2", "weight": second}]
        subsets = {name: {"labels": {"version": name}} for name in ("v1", "v2")}
        return {"server": {"subsets": subsets, "routes": [{"split": weights}]}}

    return [
        _scenario(
            "weighted-split",
            "Latency of two versions that share the requests 80 to 20?",
            _Mesh({"server": server}, 50.0, policies=split(80, 20)),
            load=0.4,
        ),
        _scenario(
            "configuration-push",
            "Latency when the split is turned around under load?",
            _Mesh({"server": server}, 50.0, policies=split(80, 20)),
            load=0.6,
            change=Change(0.5, "server", {"v1": 20, "v2": 80}),
        ),
    ]


_ONCE = {"num_retries": 0}


def _limits() -> list[Scenario]:
    """Return what refuses or disturbs requests by a rule, without regard to how the server is."""
    flaky = {"concurrency": 4, "steps": [_work()], "error_rate": 0.3}
    budget = {
        "circuit_breakers": {"retry_budget": {"budget_percent": 20.0, "min_retry_concurrency": 1}},
        "routes": [{"retry": {"num_retries": 3, "retry_on": ["5xx"], "base_interval": "40ms"}}],
    }
    # Filled by ticks, whose times both planes know: a bucket that is filled evenly and nearly empty
    # decides by fractions of a millisecond, so that even the same arrivals meet other answers.
    bucket = {"max_tokens": 20, "tokens_per_fill": 20, "fill_interval": "500ms"}
    # Refused with 503, because a 429 does not count as a failure.
    enforced = {"refill": "TICKS", "status": 503, "filter_enabled": 100, "filter_enforced": 100}
    limit = {
        "rate_limit": {"token_bucket": bucket, **enforced},
        "routes": [{"retry": _ONCE}],
    }
    fault = {
        "delay": {"fixed_delay": "60ms", "percentage": 20},
        "abort": {"http_status": 503, "percentage": 10},
    }
    server = {"concurrency": 4, "steps": [_work()]}
    return [
        _scenario(
            "retry-budget",
            "Errors with 30 % failures and a budget of one retry at a time?",
            _Mesh(
                {"server": _caller({"call": "flaky"}), "flaky": flaky},
                60.0,
                policies={"flaky": budget},
            ),
            load=0.4,
        ),
        _scenario(
            "rate-limit",
            "What is refused of 60 requests a second by a bucket of 20 filled twice a second?",
            _Mesh({"server": server}, 60.0, policies={"server": limit}),
            load=0.2,
        ),
        _scenario(
            "faults",
            "Latency and errors with a tenth aborted and a fifth delayed?",
            _Mesh(
                {"server": server},
                50.0,
                policies={"server": {"routes": [{"fault": fault, "retry": _ONCE}]}},
            ),
            load=0.25,
        ),
        _authorization(),
    ]


def _authorization() -> Scenario:
    """Return a mesh where a quarter of the requests ask for what they may not."""
    forbidden = {"service": "guarded", "path": "/admin"}
    server = _caller(
        {"compute": "5ms"},
        {"call": forbidden, "probability": 0.25},
        {"call": {"service": "guarded", "path": "/public"}},
    )
    rule = {"operations": [{"paths": ["/admin"]}]}
    deny = {
        "name": "no-admin",
        "action": "DENY",
        "selector": {"services": ["guarded"]},
        "rules": [rule],
    }
    mesh = _Mesh(
        {"server": server, "guarded": {"concurrency": 4, "steps": [_work()]}},
        50.0,
        policies={name: {"routes": [{"retry": _ONCE}]} for name in ("server", "guarded")},
        access={"policies": [deny]},
    )
    return _scenario(
        "authorization",
        "Latency and refusals where a quarter of the requests begin with a call that is denied?",
        mesh,
        load=0.2,
    )


def _health() -> list[Scenario]:
    """Return what takes hosts out of rotation by what they answer."""
    outliers = {
        "consecutive_5xx": 3,
        "interval": "1s",
        "base_ejection_time": "3s",
        "max_ejection_percent": 50,
    }
    broken = _worker(_work(), error_rate=0.9)
    return [
        _scenario(
            "outlier-ejection",
            "Errors with one broken host of four that is ejected, and comes back?",
            _Mesh(
                {"server": {"workloads": {"good": _worker(_work(), replicas=3), "broken": broken}}},
                60.0,
                policies={
                    "server": {
                        "outlier_detection": outliers,
                        "load_balancing": {"policy": "ROUND_ROBIN"},
                        "routes": [{"retry": _ONCE}],
                    }
                },
            ),
            load=0.4,
        ),
        _failover(outliers),
    ]


def _failover(outliers: dict[str, Any]) -> Scenario:
    """Return two zones, the near one of which has a broken host."""
    near, far = {"nodes": ["near"]}, {"nodes": ["far"]}
    target = {
        "workloads": {
            "near": _worker(_work(), **near),
            "broken": _worker(_work(), error_rate=1.0, **near),
            "far": _worker(_work(40), replicas=2, **far),
        }
    }
    policy = {
        "locality": {"failover": {}},
        "outlier_detection": {**outliers, "base_ejection_time": "60s"},
        "load_balancing": {"policy": "ROUND_ROBIN"},
        "routes": [{"retry": _ONCE}],
    }
    mesh = _Mesh(
        {
            "server": {"workloads": {"v1": {**_caller({"call": "target"}), **near}}},
            "target": target,
        },
        40.0,
        policies={"target": policy},
        nodes={"near": {"zone": "near"}, "far": {"zone": "far"}},
    )
    question = "Who serves, and how fast, when half of the near zone is ejected?"
    return _scenario("locality-failover", question, mesh, load=0.5)


def _own() -> list[Scenario]:
    workloads = {"fast": _worker(_work(), replicas=3), "slow": _worker(_work(), speed=0.5)}
    mesh = _Mesh(
        {"server": {"workloads": workloads}},
        80.0,
        policies={"server": {"load_balancing": _fewest_active}},
    )
    question = "What does a load balancer of a user's own do with one host of four at half speed?"
    return [_scenario("own-load-balancer", question, mesh)]
