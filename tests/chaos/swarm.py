"""A random small mesh under random faults, from one seed: everything may meet everything.

Replay one seed, with every check after every event:

    python tests/chaos/swarm.py SEED
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos_faults import Shaker
from kernel_runs import NS_PER_MS, Run
from probes import oracle, probed
from rules import bulkhead, falls_back, limited_by_connection, told_to_wait

from meshsim.kernel.invariants import validate
from meshsim.kernel.prefetching import LARGE_HOSTS

SLICES = 12
SLICE_MS = 20
#: Looks at whether all has ended [s].  A dropped connect hangs for two minutes, is tried again five
#: times, and so does whoever waits for it, four services deep.
DRAIN_S = (1, 10, 60, 1000, 10_000, 200_000, 2_000_000)
#: While nothing but health checks is left, so many times fewer checks.
DRAIN_SPARSER = 100


class Swarm:
    """Draws one scenario and its faults from `seed`."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        # Draws of their own, so that the older part of a scenario stays what it was.
        self.filter_rng = np.random.default_rng([seed, 1])
        self.health_rng = np.random.default_rng([seed, 2])
        self.spread_rng = np.random.default_rng([seed, 4])
        self.fault_rng = np.random.default_rng([seed, 7])
        self.admission_rng = np.random.default_rng([seed, 5])
        self.hedge_rng = np.random.default_rng([seed, 8])
        self.probe_rng = np.random.default_rng([seed, 9])
        self.rule_rng = np.random.default_rng([seed, 20])
        self.connection_rng = np.random.default_rng([seed, 33])
        self.seed = seed
        self.shaker = Shaker(self.fault_rng)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def time(self):
        """A distribution around a millisecond; constants make events coincide."""
        return self.one("1ms", "1ms", "2ms", "500us", "0s", {"exponential": "1ms"})

    def step(self, callees: list[str], depth: int = 0) -> dict:
        kind = self.one("compute", "sleep", "call", "call", "parallel")
        if kind == "call" and callees:
            step = {"call": self.one(*callees), "optional": self.chance(0.3)}
        elif kind == "parallel" and depth < 2:
            branches = [
                [self.step(callees, depth + 1) for _ in range(self.rng.integers(0, 3))]
                for _ in range(self.rng.integers(1, 4))
            ]
            step = {"parallel": branches, "optional": self.chance(0.3)}
        elif kind == "sleep":
            step = {"sleep": self.time()}
        else:
            step = {"compute": self.time()}
        if self.chance(0.2):
            step["probability"] = 0.5
        return step

    def workload(self, callees: list[str], nodes: list[str]) -> dict:
        body = {
            "replicas": int(self.rng.integers(1, 4)),
            "concurrency": int(self.one(1, 1, 2, 4)),
            "hold_worker": self.chance(0.5),
            "on_timeout": self.one("continue", "cancel_queued", "cancel_work"),
            "discipline": self.one("FCFS", "FCFS", "PRIORITY", "PROCESSOR_SHARING"),
            "steps": [self.step(callees) for _ in range(self.rng.integers(1, 4))],
            "meshed": self.chance(0.85),
        }
        if self.chance(0.3):
            body["queue_limit"] = int(self.one(0, 1, 5))
        if self.chance(0.3):
            body["patience"] = self.time()
        if self.chance(0.2):
            body["error_rate"] = 0.3
        if self.chance(0.2):
            body["concurrency_penalty"] = 0.2
        elif not nodes and self.chance(0.3):
            body["discipline"] = "PREEMPTIVE_PRIORITY"
        if self.rule_rng.random() < 0.3:
            body["retry_after"] = str(self.rule_rng.choice(["0s", "1s"]))
        body["deadline"] = {"propagate": bool(self.rule_rng.random() < 0.4)}
        if callees and self.rule_rng.random() < 0.4:
            body["bulkheads"] = {callees[0]: bulkhead(self.rule_rng)}
        body["steps"] = [falls_back(step, callees, self.rule_rng) for step in body["steps"]]
        return self.caching(body, callees)

    def caching(self, body: dict, callees: list[str]) -> dict:
        """Add a cache in front of a call, from draws of their own."""
        random = self.fault_rng
        if random.random() < 0.25:
            miss = [{"call": str(random.choice(callees))}] if callees else [{"compute": "1ms"}]
            cache = {
                "keys": int(random.integers(1, 20)),
                "cacheable": float(random.choice([0.5, 1.0])),
                "zipf": float(random.choice([0.0, 1.0])),
                "miss": miss,
            }
            if random.random() < 0.5:
                cache["ttl"] = "20ms"
            if random.random() < 0.3:
                body["cold_start"] = {"duration": "15ms", "initial_speed": 0.3}
            body["steps"].append({"cache": cache, "optional": bool(random.random() < 0.5)})
        return body

    def policy(self, others: list[str]) -> dict:
        balancing = {
            "policy": self.one(
                "ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "PEAK_EWMA"
            ),
            "table_size": 97,
            "minimum_ring_size": 16,
        }
        if self.chance(0.3):
            balancing["weights"] = {"v1": int(self.rng.integers(1, 5))}
        breakers = {}
        for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
            if self.chance(0.25):
                breakers[name] = int(self.one(0, 1, 2, 8))
        if self.chance(0.2):
            breakers["retry_budget"] = {"budget_percent": 20.0, "min_retry_concurrency": 1}
        pool = {}
        if self.chance(0.3):
            pool["max_requests_per_connection"] = int(self.one(1, 2))
        if self.chance(0.3):
            pool["idle_timeout"] = self.one("1ms", "5ms")
        policy = {"load_balancing": balancing, "circuit_breakers": breakers}
        if self.filter_chance(0.2):
            policy["rate_limit"] = self.rate_limit()
        route = told_to_wait(
            self.hedged({**self.route(), **self.filters(others)}), policy, self.rule_rng
        )
        policy = {**policy, "connection_pool": pool, "routes": [route]}
        limited_by_connection(policy, self.connection_rng)
        return self.admitted(self.spread(self.watched(policy)))

    def filter_chance(self, probability: float) -> bool:
        return bool(self.filter_rng.random() < probability)

    def share(self) -> float:
        return float(self.filter_rng.choice([5.0, 50.0, 100.0]))

    def rate_limit(self) -> dict:
        bucket = {
            "max_tokens": int(self.filter_rng.choice([1, 5, 50])),
            "tokens_per_fill": int(self.filter_rng.choice([1, 10])),
            "fill_interval": str(self.filter_rng.choice(["1ms", "10ms", "50ms"])),
        }
        refill = str(self.filter_rng.choice(["TICKS", "CONTINUOUS"]))
        return {"token_bucket": bucket, "refill": refill, "filter_enforced": self.share()}

    def filters(self, others: list[str]) -> dict:
        """Faults, a limit and mirrors of a route; mirrors go to services that call no one back."""
        found: dict = {}
        if self.filter_chance(0.25):
            fault = {"delay": {"fixed_delay": "1ms", "percentage": self.share()}}
            if self.filter_chance(0.5):
                fault["abort"] = {"http_status": 503, "percentage": self.share()}
            if self.filter_chance(0.5):
                fault["response_rate_limit"] = {"limit_kbps": 40, "percentage": self.share()}
            if self.filter_chance(0.5):
                fault["max_active_faults"] = int(self.filter_rng.choice([0, 1, 3]))
            found["fault"] = fault
        if self.filter_chance(0.2):
            found["rate_limit"] = self.rate_limit()
        if others and self.filter_chance(0.3):
            found["mirrors"] = [
                {"service": str(self.filter_rng.choice(others)), "percentage": self.share()}
                for _ in range(self.filter_rng.integers(1, 3))
            ]
        return found

    def hedged(self, route: dict) -> dict:
        """Let tries of a route go side by side."""
        random = self.hedge_rng
        if random.random() < 0.15:
            route["hedge_policy"] = {"hedge_on_per_try_timeout": True}
            retry = {"num_retries": 2, "retry_on": ["5xx"], "base_interval": "1ms"}
            limit = str(random.choice(["500us", "2ms"]))
            route["retry"] = {**retry, **route.get("retry", {}), "per_try_timeout": limit}
        elif random.random() < 0.15:
            route["hedge_policy"] = {  # few: every service on the way multiplies the load
                "max_attempts": int(random.integers(2, 4)),
                "hedging_delay": str(random.choice(["0s", "300us", "2ms"])),
                "non_fatal_status_codes": [500, 503] if random.random() < 0.5 else [],
            }
        return route

    def watched(self, policy: dict) -> dict:
        """Add health policies, from draws of their own."""
        random = self.health_rng
        if random.random() < 0.3:
            policy["outlier_detection"] = {
                "consecutive_5xx": int(random.integers(0, 4)),
                "consecutive_gateway_failure": 2,
                "enforcing_consecutive_gateway_failure": int(random.integers(0, 101)),
                "consecutive_local_origin_failure": 2,
                "split_external_local_origin_errors": bool(random.random() < 0.5),
                "interval": str(random.choice(["3ms", "10ms"])),
                "base_ejection_time": "5ms",
                "max_ejection_time": "40ms",
                "max_ejection_time_jitter": str(random.choice(["0s", "3ms"])),
                "max_ejection_percent": int(random.choice([10, 50, 100])),
                "success_rate_minimum_hosts": 2,
                "success_rate_request_volume": 3,
                "enforcing_failure_percentage": 50,
                "failure_percentage_minimum_hosts": 1,
                "failure_percentage_request_volume": 3,
            }
        if random.random() < 0.2:
            policy["failure_accrual"] = {
                "consecutive_max_failures": int(random.integers(1, 4)),
                "consecutive_min_penalty": "4ms",
                "consecutive_max_penalty": "30ms",
            }
        if random.random() < 0.2:
            policy["health_check"] = {
                "interval": "1s",
                "unhealthy_interval": "5ms",
                "unhealthy_threshold": int(random.integers(1, 3)),
                "initial_jitter": "150ms",
                "timeout": "2ms",
                "no_traffic_interval": "7ms",
                "no_traffic_healthy_interval": "1s",
            }
        if random.random() < 0.5:
            policy["load_balancing"]["healthy_panic_threshold"] = int(random.choice([0, 50, 100]))
        if random.random() < 0.2:
            policy["load_balancing"]["slow_start"] = {"slow_start_window": "30ms"}
        return policy

    def admitted(self, policy: dict) -> dict:
        """Add an adaptive limit, HIGH priority and a quota, from draws of their own."""
        random = self.admission_rng
        if random.random() < 0.25:
            policy["adaptive_concurrency"] = {
                "concurrency_limit_params": {
                    "concurrency_update_interval": str(random.choice(["2ms", "20ms"])),
                    "max_concurrency_limit": int(random.choice([3, 50])),
                },
                "min_rtt_calc_params": {
                    "interval": str(random.choice(["5ms", "50ms"])),
                    "request_count": int(random.choice([1, 20])),
                    "min_concurrency": int(random.choice([1, 3])),
                },
            }
        if random.random() < 0.3:
            high = {**policy["routes"][0], "priority": "HIGH"}
            if random.random() < 0.5:  # of one class only
                high["match"] = [{"headers": {"x-class": "class0"}}]
                policy["routes"].insert(0, high)
            else:
                policy["routes"] = [high]
            limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
            policy["circuit_breakers"]["high"] = {
                name: int(random.choice([0, 1, 2, 8])) for name in limits if random.random() < 0.3
            }
        if random.random() < 0.2:
            policy["routes"][-1]["global_rate_limit"] = {
                "descriptors": [{"requests_per_unit": 30, "unit": "SECOND"}],
                "latency": {"exponential": str(random.choice(["100us", "2ms"]))},
                "timeout": "3ms",
                "failure_mode_deny": bool(random.random() < 0.5),
            }
        return policy

    def spread(self, policy: dict) -> dict:
        """Add priorities and localities, subsets, or an oracle, from draws of their own."""
        random = self.spread_rng
        kind = random.random()
        if kind < 0.3:
            policy["locality"] = random.choice(
                [
                    {"failover": {}},
                    {"locality_weighted": True},
                    {"zone_aware": {"min_cluster_size": 1, "routing_enabled": 80}},
                    {"endpoints": [{"locality": "*/z1", "priority": 3}]},
                    {"distribute": {"*": {"*/z1": 20, "*": 80}}},
                ]
            )
        elif kind < 0.5:
            policy["subset_config"] = {
                "subset_selectors": [{"keys": ["version"]}],
                "fallback_policy": str(random.choice(["NO_FALLBACK", "ANY_ENDPOINT"])),
                "metadata_fallback_policy": "FALLBACK_LIST",
            }
            policy["routes"][0]["split"] = [
                {"metadata_match": {"version": "v1"}, "weight": 3},
                {"fallback_list": [{"version": "v9"}, {"version": "v1"}]},
                {"metadata_match": {"version": "v9"}},
            ]
        elif kind < 0.65:
            policy["load_balancing"] |= oracle(random)
        return probed(policy, self.probe_rng)

    def route(self) -> dict:
        route = {}
        if self.chance(0.5):
            route["timeout"] = self.one("1ms", "3ms", "10ms")
        if self.chance(0.6):
            retry = {
                "num_retries": int(self.one(1, 2, 5)),
                "retry_on": ["5xx", "connect-failure", "reset"],
                "base_interval": "1ms",
                "previous_hosts": self.chance(0.5),
            }
            if self.chance(0.5):
                retry["per_try_timeout"] = self.one("1ms", "2ms")
            route["retry"] = retry
        return route

    def arrivals(self) -> dict:
        rate = float(self.one(200, 1000, 3000))
        return self.one(
            {"poisson": rate},
            {"batch": {"rate": rate, "size": 4}},
            {"renewal": {"interval": self.one("1ms", "500us")}},
        )

    def run(self, events: int, check) -> Run:
        names = [f"s{i}" for i in range(self.rng.integers(1, 5))]
        nodes = {"n0": {"cores": 2.0}, "n1": {"zone": "z1"}} if self.chance(0.4) else {}
        services = {
            name: {"workloads": {"v1": self.workload(names[i + 1 :], list(nodes))}}
            for i, name in enumerate(names)
        }
        traffic = {
            f"class{i}": {
                "to": self.one(*names),
                "headers": {"x-class": f"class{i}"},
                "priority": int(self.rng.integers(0, 4)),
                "arrivals": self.arrivals(),
            }
            for i in range(self.rng.integers(1, 3))
        }
        return Run(
            services,
            traffic=traffic,
            seed=self.seed,
            events_a_slice=events,
            on_slice=check,
            hosts_large=1 if self.seed % 2 else LARGE_HOSTS,  # no draw: results do not depend on it
            mesh=self.one("none", "istio-sidecar"),
            network={
                "latency": {
                    "same_node": "0s",
                    "same_zone": self.one("0s", "1ms", {"exponential": "200us"}),
                    "same_region": "500us",
                }
            },
            nodes=nodes,
            policies={name: self.policy(names[i + 1 :]) for i, name in enumerate(names)},
            access=self.access(names),
        )

    def access(self, names: list[str]) -> dict:
        """Rules that refuse, reset and drop; drawn apart, so that all other draws stay."""
        rng = np.random.default_rng([self.seed, 1])
        policies = []
        for name in names:
            kind = int(rng.integers(0, 8))
            selector = {"services": [name]}
            if kind == 0:
                policies.append({"name": name, "selector": selector, "network": True})
            elif kind == 1:
                rules = [{"sources": [{"services": names[:1]}]}]
                policies.append({"name": name, "selector": selector, "rules": rules})
        strict = [{"mode": "STRICT"}] if rng.random() < 0.1 else []
        return {"policies": policies, "peer_authentication": strict}

    def disturb(self, run: Run) -> str:
        """Do something to the mesh, between two slices; return what."""
        service = self.one(*run.topology.services)
        control = run.control
        verb = self.one(
            "kill", "kill", "restore", "slow", "pause", "fail", "add", "withdraw", "rate"
        )
        if verb == "kill":
            replicas = run.topology.services[service].workloads["v1"].replicas
            control.kill(service, replica=int(self.rng.integers(replicas)))
        elif verb == "restore":
            control.restore(service)
            control.withdraw(service, healthy=True)
        elif verb == "slow":
            control.slow(service, self.one(0.1, 0.5, 2.0))
        elif verb == "pause":
            control.slow(service, 0.0)
        elif verb == "fail":
            control.fail(service, 0.5)
        elif verb == "add":
            control.add_replicas(service, "v1")
        elif verb == "withdraw":
            control.withdraw(service, replica=0)
        else:
            control.set_rate(self.one(*run.topology.traffic), self.one(0.0, 0.5, 3.0))
        if self.spread_rng.random() < 0.3:
            status = str(self.spread_rng.choice(["HEALTHY", "DEGRADED", "UNHEALTHY"]))
            control.set_health(service, status, replica=0)
            verb = f"{status} and {verb}"
        return f"{self.shaker.shake(control, run.topology)}{verb} {service}"


@dataclass
class Story:
    """What became of one seed: the events handled, what was wrong, and the limit that ended it."""

    events: int
    problems: list[str]
    limit: str = ""


def story(seed: int, events: int = 37) -> Story:
    """Run the scenario of `seed`, checking every `events` events."""
    swarm = Swarm(seed)
    done: list[str] = []
    problems: list[str] = []
    step = events

    def check(now_ns: int) -> None:
        nonlocal due
        handled = int(run.state.counters["events"][0])
        if handled < due or problems:
            return
        due = handled + step
        for text in validate(run.state):
            at_ms = now_ns / NS_PER_MS
            problems.append(f"{at_ms} ms, event {handled}, after {done}: {text}")

    due = 0
    run = swarm.run(events, check)
    for number in range(1, SLICES + 1):
        run.advance(number * SLICE_MS)
        due = 0
        check(run.kernel.now_ns)
        if problems or run.kernel.limit:
            break
        done.append(swarm.disturb(run))
        due = 0
        check(run.kernel.now_ns)
    if not problems:
        step = events * DRAIN_SPARSER
        problems += drain(run)
    return Story(int(run.state.counters["events"][0]), problems, run.kernel.limit)


def drain(run: Run) -> list[str]:
    """Stop the traffic, heal the mesh, let everything end; return what is left."""
    for service in run.topology.services:
        run.control.restore(service)
        run.control.withdraw(service, healthy=True)
        run.control.set_health(service, "HEALTHY")
    run.control.heal()
    for traffic in run.topology.traffic:
        run.control.set_rate(traffic, 0.0)
    begin_ms = SLICES * SLICE_MS
    # What ends at all ends soon; health checks go on for good.
    for seconds in DRAIN_S:
        if run.kernel.limit:
            return []
        run.advance(begin_ms + 1000 * seconds)
        if not left_over(run):
            break
    return [f"after draining: {text}" for text in [*validate(run.state), *left_over(run)]]


def left_over(run: Run) -> list[str]:
    """Return which rows are in use."""
    problems = []
    for pool in ("exchange", "attempt", "task"):
        rows = getattr(run.state, f"{pool}s")
        used = len(rows) - int(run.state.counters[f"{pool}_free_count"][0])
        if used:
            stuck = rows[rows["state"] != 0][:1]
            problems.append(f"{used} {pool}s are left, e.g. {stuck}")
    return problems


if __name__ == "__main__":
    for number in sys.argv[1:]:
        found = story(int(number), 1)
        print(number, f"{found.events} events", *found.problems, sep="\n  ")
