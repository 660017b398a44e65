"""Rows that policies read, made by hand: one cluster, its hosts, one route, one exchange."""

from typing import NamedTuple

import numpy as np

from meshsim.policy.load_balancing import pick_host
from meshsim.rng import PURPOSE_PICK, make_streams
from meshsim.state.codes import NEVER_NS, NO_HOST
from meshsim.state.exchange import EXCHANGE_DTYPE, EXCHANGE_ROUTING
from meshsim.state.upstream import (
    CLUSTER_CONFIG_DTYPE,
    CLUSTER_DTYPE,
    HOST_DTYPE,
    ROUTE_DTYPE,
    TABLE_DTYPE,
)

#: HOST rows before the cluster's, and members of another cluster: a position is not a row.
OFFSET = 3
#: What custom policies remember where there are none.
NO_MEMORY = np.zeros(1)


class Cluster(NamedTuple):
    """One cluster in row 1 with config row 1; its members are the HOST rows from OFFSET on."""

    hosts: np.ndarray
    members: np.ndarray
    clusters: np.ndarray
    configs: np.ndarray
    table: np.ndarray
    rng: np.ndarray
    memory: np.ndarray = NO_MEMORY

    def pick(self, hash_key=0, attempt_number=0, now_ns=0):
        """Pick once and return the position."""
        key = np.uint64(hash_key)
        position = pick_host(
            self.hosts,
            self.members,
            self.clusters,
            1,
            self.configs,
            self.table,
            self.memory,
            key,
            attempt_number,
            now_ns,
            self.rng,
        )
        return int(position)

    def picks(self, count):
        """Pick `count` times without sending anything."""
        return [self.pick() for _ in range(count)]

    def row(self, position):
        """Return the HOST row of a position."""
        assert position != NO_HOST
        return int(self.members[OFFSET + position])


def make_cluster(balancing, weights=(1, 1, 1), healthy=None, table=None, seed=1, **config):
    """Return a cluster of len(`weights`) hosts that balances by `balancing`."""
    count = len(weights)
    hosts = np.zeros(OFFSET + count, HOST_DTYPE)
    hosts["weight"] = 1
    hosts["weight"][OFFSET:] = weights
    hosts["healthy"] = 1
    if healthy is not None:
        hosts["healthy"][OFFSET:] = healthy
    hosts["table_index"][OFFSET:] = np.arange(count)
    members = np.arange(OFFSET + count, dtype=np.int32)
    clusters = np.zeros(2, CLUSTER_DTYPE)
    clusters["config"][1] = 1
    clusters["member_start"][1] = OFFSET
    clusters["member_count"][1] = count
    configs = np.zeros(2, CLUSTER_CONFIG_DTYPE)
    configs["balancing"][1] = balancing
    configs["choice_count"][1] = 2
    configs["weights_equal"][1] = len(set(weights)) <= 1
    configs["active_request_bias"][1] = 1.0
    configs["decay_ns"][1] = 10e9
    configs["default_rtt_ns"][1] = 30e6
    if table is None:
        table = np.zeros(0, TABLE_DTYPE)
    configs["table_count"][1] = len(table)
    for name, value in config.items():
        configs[name][1] = value
    return Cluster(hosts, members, clusters, configs, table, make_streams(seed, PURPOSE_PICK, 1)[0])


def make_route(**fields):
    """Return one ROUTE row without timeouts and retries, but with `fields`."""
    routes = np.zeros(1, ROUTE_DTYPE)
    routes["timeout_ns"] = NEVER_NS
    routes["per_try_timeout_ns"] = NEVER_NS
    routes["base_interval_ns"] = 25_000_000
    routes["max_interval_ns"] = 250_000_000
    for name, value in fields.items():
        routes[name] = value
    return routes


def make_limits(**config):
    """Return one CLUSTER row and its config with Envoy's default circuit breakers."""
    clusters = np.zeros(1, CLUSTER_DTYPE)
    configs = np.zeros(1, CLUSTER_CONFIG_DTYPE)
    configs["max_connections"] = 1024
    configs["max_pending_requests"] = 1024
    configs["max_requests"] = 1024
    configs["max_retries"] = 3
    configs["budget_percent"] = -1.0
    configs["min_retry_concurrency"] = 3
    for name, value in config.items():
        configs[name] = value
    return clusters, configs


def make_exchange(route=0, cluster=0):
    """Return one EXCHANGE row that waits for STIMULUS_REQUEST."""
    exchanges = np.zeros(1, EXCHANGE_DTYPE)
    exchanges["state"] = EXCHANGE_ROUTING
    exchanges["route"] = route
    exchanges["cluster"] = cluster
    exchanges["deadline_ns"] = NEVER_NS
    return exchanges
