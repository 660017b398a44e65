"""Clusters: who is in them, what holds for them, and their configuration rows.

Rule: a cluster is a (service, subset) pair and has one config row, whoever holds it; each lane of
a cluster (`meshsim.state.locality`) has another, because the weights of its hosts may be equal
where those of the cluster are not, and because hash tables are built over lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshsim.state.codes import (
    NO_INDEX,
    PICK_GROUPED,
    PICK_PLAIN,
    PICK_PROBED,
    PICK_REPORTED,
    PICK_SUBSET,
)
from meshsim.state.load_report import REPORT_RULE_DTYPE
from meshsim.state.prequal import PREQUAL_RULE_DTYPE
from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, TABLE_DTYPE
from meshsim.topology.compiled.layout import Layout, Rows
from meshsim.topology.compiled.localities import hash_weights, locality_configs
from meshsim.topology.compiled.placement import Group, is_grouped, workload_labels
from meshsim.topology.compiled.policies import (
    fill_cluster_config,
    hash_capacity,
    hash_table,
    weights_equal,
)
from meshsim.topology.compiled.prequal import prequal_rule
from meshsim.topology.compiled.priorities import high_config
from meshsim.topology.compiled.reports import report_rule
from meshsim.topology.compiled.subsetting import ClusterSubsets, table_of_subset
from meshsim.topology.locality import LocalityLoadBalancing
from meshsim.topology.model import (
    CircuitBreakers,
    ClusterPolicy,
    ConnectionPool,
    LoadBalancing,
    Topology,
    WeightedCluster,
)

__all__ = ["BARE", "ClusterConfigs", "ClusterName", "cluster_endpoints", "policy_of"]

#: A service, and a subset of it or None.
ClusterName = tuple[str, str | None]
#: In place of a subset: the whole service as a client without a proxy sees it.
BARE = ""
#: What such a client does: kube-proxy picks at random, and nothing else is set.
_BARE_POLICY = ClusterPolicy(
    load_balancing=LoadBalancing(policy="RANDOM"),
    circuit_breakers=CircuitBreakers(),
    connection_pool=ConnectionPool(),
)


def cluster_endpoints(topology: Topology, layout: Layout, name: ClusterName) -> Rows:
    """Return the endpoints of a cluster, in the order of the scenario."""
    service, subset = name
    labels: dict[str, str] = {}
    if subset:
        labels = topology.policies[service].subsets[subset].labels
    rows = [
        np.arange(at.first_endpoint, at.first_endpoint + at.replicas)
        for at in (layout.workloads[index] for index in layout.services[service])
        if labels.items() <= workload_labels(topology, at.service, at.workload).items()
    ]
    return np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int32)


def policy_of(topology: Topology, name: ClusterName) -> ClusterPolicy:
    """Return the policies of a cluster."""
    service, subset = name
    if subset == BARE:
        return _BARE_POLICY
    policy = topology.policies[service]
    return policy.subsets[subset] if subset is not None else policy


class ClusterConfigs:
    """The configuration rows and hash tables of all clusters and lanes.

    Attributes
    ----------
    numbers : dict of (str, str or None) to int
        Config row by cluster.
    config_names : list of (str, str or None)
        Cluster by config row, those of lanes included.
    subsets : dict of (str, str or None) to ClusterSubsets
        Of clusters that pick by subset.
    high : dict of (str, str or None) to int
        Of clusters that routes of HIGH priority lead to: the config row of that priority.
    """

    def __init__(self, topology: Topology, layout: Layout) -> None:
        self.topology = topology
        self.layout = layout
        self.numbers: dict[ClusterName, int] = {}
        self.config_names: list[ClusterName] = []
        self.subsets: dict[ClusterName, ClusterSubsets] = {}
        self.config_rows: list[Rows] = []
        self.tables = [np.zeros(1, TABLE_DTYPE)]
        self.table_size = 1
        self.locality_settings: list[LocalityLoadBalancing] = []
        self.chains: list[int] = []
        self.report_rules: list[Rows] = []
        self.prequal_rules: list[Rows] = []
        self.lane_configs: dict[object, int] = {}
        self.high: dict[ClusterName, int] = {}

    def add(self, name: ClusterName) -> None:
        """Take up a cluster that somebody can send to."""
        self.numbers.setdefault(name, len(self.numbers))

    def high_priority(self, clusters: Rows) -> dict[int, int]:
        """Return the config row of the HIGH priority of each CLUSTER row that has one."""
        by_config = {self.numbers[name]: config for name, config in self.high.items()}
        configs = clusters["config"].tolist()
        return {row: by_config[own] for row, own in enumerate(configs) if own in by_config}

    def row(self, name: ClusterName) -> Rows:
        """Return the config row of a cluster: ndarray[CLUSTER_CONFIG_DTYPE], shape (1,)."""
        return self.config_rows[self.numbers[name]]

    def arrays(self) -> dict[str, Rows]:
        """Return `configs`, `table`, `locality_configs`, `chains` and rules of balancers."""
        return {
            # The dtype is stated because joining drops what fills up a row.
            "configs": np.concatenate(
                self.config_rows or [np.zeros(1, CLUSTER_CONFIG_DTYPE)], dtype=CLUSTER_CONFIG_DTYPE
            ),
            "table": np.concatenate(self.tables),
            "locality_configs": locality_configs(self.locality_settings),
            "chains": np.array(self.chains, np.int32),
            "report_rules": np.concatenate([*self.report_rules, np.zeros(0, REPORT_RULE_DTYPE)]),
            "prequal_rules": np.concatenate(
                [*self.prequal_rules, np.zeros(0, PREQUAL_RULE_DTYPE)], dtype=PREQUAL_RULE_DTYPE
            ),
        }

    def chain(self, name: ClusterName, item: WeightedCluster) -> int:
        """Return where the chain of lanes of a destination begins, or NO_INDEX."""
        config = policy_of(self.topology, name).subset_config
        if config is None:
            return NO_INDEX
        if name not in self.subsets:
            places = [
                self.layout.workloads[self.layout.endpoint_workload[row]]
                for row in cluster_endpoints(self.topology, self.layout, name)
            ]
            labels = [workload_labels(self.topology, at.service, at.workload) for at in places]
            self.subsets[name] = ClusterSubsets(config.rule(), labels)
        return self.subsets[name].chain((item.metadata_match, item.fallback_list), self.chains)

    def build(self) -> None:
        """Make the config rows of all clusters; those of lanes come behind."""
        for name in self.numbers:
            policy = policy_of(self.topology, name)
            fields = np.zeros(1, CLUSTER_CONFIG_DTYPE)
            fill_cluster_config(fields, policy)
            endpoints = cluster_endpoints(self.topology, self.layout, name)
            weights = self.weights(name, endpoints)
            if policy.load_balancing and policy.load_balancing.policy == "PREQUAL":
                fields["picking"] = PICK_PROBED
                fields["prequal_rule"] = len(self.prequal_rules)
                self.prequal_rules.append(prequal_rule(policy.load_balancing))
            if policy.locality is not None and is_grouped(self.layout, policy.locality):
                # Its lanes have the tables.
                fields["locality"] = len(self.locality_settings)
                fields["picking"] = PICK_GROUPED
                self.locality_settings.append(policy.locality)
                endpoints, weights = endpoints[:0], []
            if policy.subset_config is not None:
                fields["picking"] = PICK_SUBSET
            balancing = policy.load_balancing
            if balancing and balancing.policy == "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN":
                fields["picking"] = PICK_REPORTED
                fields["report_rule"] = len(self.report_rules)
                self.report_rules.append(report_rule(balancing))
            self._add_config(name, fields, endpoints, weights)
        for name in self.high:
            self.high[name] = len(self.config_rows)
            self.config_rows.append(high_config(self.row(name), policy_of(self.topology, name)))
            self.config_names.append(name)

    def _add_config(
        self, name: ClusterName, fields: Rows, endpoints: Rows | list[int], weights: list[int]
    ) -> int:
        """Add a config row over hosts with these weights; return its number."""
        policy = policy_of(self.topology, name)
        fields["weights_equal"] = weights_equal(policy, weights)
        table = hash_table(self.layout.endpoint_names, policy, endpoints, weights)
        fields["table_start"], fields["table_count"] = self.table_size, len(table)
        fields["set_capacity"] = hash_capacity(policy, weights)
        self.tables.append(table)
        self.table_size += len(table)
        self.config_rows.append(fields)
        self.config_names.append(name)
        return len(self.config_rows) - 1

    def lane_config(self, name: ClusterName, groups: Sequence[Group]) -> int:
        """Return the config row of a lane with the hosts of `groups`."""
        policy = policy_of(self.topology, name)
        assert policy.locality is not None
        endpoints = [row for group in groups for row in group.endpoints]
        weights = self.weights(name, np.array(endpoints, np.int32))
        key: object = (name, len(set(weights)) <= 1)
        if (policy.load_balancing or LoadBalancing()).policy in ("RING_HASH", "MAGLEV"):
            weights = hash_weights(groups, weights, policy.locality)
            key = (name, tuple(endpoints), tuple(weights))
        if key not in self.lane_configs:
            fields = self.config_rows[self.numbers[name]].copy()
            fields["locality"] = NO_INDEX
            fields["picking"] = PICK_PLAIN
            self.lane_configs[key] = self._add_config(name, fields, endpoints, weights)
        return self.lane_configs[key]

    def weights(self, name: ClusterName, endpoints: Rows) -> list[int]:
        """Return the load-balancing weights of endpoints in a cluster."""
        policy = policy_of(self.topology, name)
        stated = (policy.load_balancing or LoadBalancing()).weights or {}
        workloads = [self.layout.workloads[self.layout.endpoint_workload[row]] for row in endpoints]
        return [stated.get(place.workload, 1) for place in workloads]

    def subset_lanes(self, name: ClusterName) -> list[tuple[int, tuple[int, ...]]]:
        """Return the config row and the hosts of each lane of a cluster that picks by subset."""
        endpoints = cluster_endpoints(self.topology, self.layout, name)
        found = []
        for lane in self.subsets[name].lanes:
            key = (name, lane)
            if key not in self.lane_configs:
                fields = self.config_rows[self.numbers[name]].copy()
                fields["picking"] = PICK_PLAIN
                members = endpoints[list(lane)]
                weights = self.weights(name, members)
                self.lane_configs[key] = self._add_config(name, fields, members, weights)
                table_of_subset(self.tables[-1], lane)
            found.append((self.lane_configs[key], lane))
        return found
