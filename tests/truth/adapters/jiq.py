"""Join the idle queue, with several clients that do not see each other's queues of idle servers."""

import numpy as np
from theory_scenarios import exponential, poisson, topology, workload
from truth_cases import Case
from truth_runs import Values, compiled, side_by_side
from truth_scenarios import replications_within
from truth_study import Claims, NotYet, Replicated, key_of

from meshsim.kernel.owner import Kernel
from meshsim.topology.model import Topology

NS_PER_MS = 1_000_000
#: Mean services of a replication at least; the first third is deleted.
_DURATION_MIN = 600.0
#: Deleted are this many relaxation times, 1 / (1 - load)^2 mean services.
_RELAXATIONS = 2.0
#: The published comparison, where a case leaves its sizes to its text.
_COMPARED = {"n": 500, "m": 50, "lam": 0.9}


def study(case: Case) -> Replicated | Claims:
    if case.rule == "order":
        return Claims(_ordering)
    params = case.params
    count, clients, load = params["n"], params["m"], params["lam"]
    occupied = "I-queue" in case.metric
    if not (occupied or case.metric == "mean sojourn"):
        raise NotYet(f"no reader for {case.metric!r}")

    def run(seed: int, replications: int) -> Values:
        return _runs("ORACLE_IDLE_QUEUE", count, clients, load, seed, replications)

    return Replicated(
        key=key_of(case, "idle queues"),
        run=run,
        read=lambda runs: runs.values[:, int(occupied)],
        load=load,
        replications_max=replications_within(count * load * _duration(load)),
        about=f"{count} servers, {clients} clients, {_duration(load):.0f} services, a third away",
        cheap=False,
    )


def _duration(load: float) -> float:
    """Return how long a replication is [mean services]."""
    return max(_DURATION_MIN, 3 * _RELAXATIONS / (1 - load) ** 2)


def _scenario(policy: str, count: int, clients: int, load: float) -> Topology:
    rate = load * count / clients
    traffic = {
        f"client{number}": {"to": "station", "arrivals": poisson(rate)} for number in range(clients)
    }
    body = workload(exponential(), replicas=count)
    policies = {"station": {"load_balancing": {"policy": policy}}}
    return topology({"station": body}, traffic, policies)


def _runs(
    policy: str, count: int, clients: int, load: float, seed: int, replications: int
) -> Values:
    """Return the mean sojourn [ms] and the share of picks that found an idle server (R, 2)."""
    scenario = compiled(_scenario(policy, count, clients, load))
    end_ns = round(_duration(load) * NS_PER_MS)

    def totals(kernel: Kernel) -> np.ndarray:
        hosts = kernel.state.hosts
        sent = hosts["requests_total"].sum()
        answered = sent - hosts["requests_active"].sum()
        idle = kernel.state.oracle_clusters["idle_picks"].sum()
        return np.array([answered, hosts["latency_sum_ns"].sum(), sent, idle], float)

    def one(number: int) -> np.ndarray:
        kernel = Kernel(scenario, seed, number, end_ns)
        assert kernel.advance_to(end_ns // 3)
        before = totals(kernel)
        assert kernel.advance_to(end_ns)
        answered, latency_ns, sent, idle = totals(kernel) - before
        return np.array([latency_ns / answered / NS_PER_MS, idle / sent])

    return Values(np.array(side_by_side(one, replications)))


def _ordering() -> dict[str, bool]:
    means = {
        policy: float(_runs(policy, *_COMPARED.values(), 1, 5).values[:, 0].mean())
        for policy in ("ORACLE_IDLE_QUEUE", "ORACLE_SHORTEST_QUEUE", "RANDOM")
    }
    idle, shorter, random = means.values()
    return {
        f"JIQ {idle:.2f} < SQ(2) {shorter:.2f}": idle < shorter,
        f"SQ(2) {shorter:.2f} < random {random:.2f}": shorter < random,
    }
