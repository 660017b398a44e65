"""The suite: what is calibrated on (A), and what is predicted before it is run (B).

Rule: seeds, lengths and bands are fixed here, before anything is measured.  A is a single
service with one worker: without work (the null run), at loads of 0.2 and 0.6, and at 0.2 with
a new connection for each request.  B is everything else.  Service times are 20 ms and more, so
that what a machine's timers and its scheduler add (about 1 ms) is a small share of them; the
rates keep two cores below 60 %.

Lengths: one sixth of each run is warm-up.  ``full``: five repeats of 60 s measured after 12 s;
``quick``: three of 16.7 s after 3.3 s, so that the suite ends within 45 minutes.  Repeats are
interleaved: each round runs the anchors of A and every scenario of B once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.topology.model import Topology
from meshsim.topology.validate import validated
from meshsim.yamlfile import did_you_mean

__all__ = [
    "LENGTHS",
    "SEED_FRESH",
    "SEED_SAME",
    "TRAFFIC",
    "Change",
    "Lengths",
    "Scenario",
    "calibration_scenarios",
    "lengths",
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
class Lengths:
    """How long and how often the emulator runs.

    Parameters
    ----------
    calibration_s, duration_s : float
        Length of a run of A and of B, warm-up included [s of the machine's clock].
    calibration_repeats, same, fresh : int
        Runs of each scenario of A; of each of B with the draws of the prediction, and with
        fresh ones.
    wall_max_s : float
        No round is begun that would not end by then [s]; infinite without a limit.
    """

    calibration_s: float
    calibration_repeats: int
    duration_s: float
    same: int
    fresh: int
    wall_max_s: float = float("inf")


LENGTHS = {
    # 4 x 2 x 30 s + 13 x 5 x 20 s = 26 minutes of load, and the start of 73 processes.
    "quick": Lengths(30.0, 2, 20.0, 3, 2, wall_max_s=44 * 60.0),
    "full": Lengths(72.0, 3, 72.0, 5, 5),
}


def lengths(name: str) -> Lengths:
    """Return the lengths called `name`.

    Raises
    ------
    ConfigError
        If there are none.
    """
    if name not in LENGTHS:
        problem = Problem(
            "unknown suite",
            found=name,
            allowed=", ".join(LENGTHS),
            suggestion=did_you_mean(name, LENGTHS),
        )
        raise ConfigError([problem])
    return LENGTHS[name]


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
            "traffic": {TRAFFIC: {"to": self.to, "arrivals": {"poisson": self.rate}}},
        }
        return validated(Topology.model_validate(plain))


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
    return (*_loads(), *_graphs(), *_balancers(), *_policies())


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
        *_splits(),
    ]


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
