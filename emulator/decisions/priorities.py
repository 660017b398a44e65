"""Requests of HIGH priority at one live proxy: limits, counts and connections of their own.

Rule: as `meshsim.topology.compiled.priorities`: a cluster that routes of HIGH priority lead to has
a second CLUSTER row, and each of its hosts a second HOST row, whose handle is the one that pools
of connections know.  Hosts are picked, and believed in, by the first rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from meshsim.controlplane.configuration import ProxyConfiguration, destinations
from meshsim.topology.compiled.priorities import high_config

if TYPE_CHECKING:
    from emulator.decisions.holdings import Holdings

__all__ = ["HighPriority"]

#: Follows the name of a cluster, which has no blank, in the names of its rows of HIGH priority.
_SUFFIX = " HIGH"


class HighPriority:
    """Rows of HIGH priority of one proxy.

    Parameters
    ----------
    holdings : Holdings
        Of the proxy; rows are added to it.

    Attributes
    ----------
    cluster_rows : dict of str to int
        CLUSTER row by the name of the cluster, of the configuration in force.
    pools : dict of int to int
        HOST row of HIGH priority by HOST row.
    picked : dict of int to int
        The same, the other way round.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self.cluster_rows: dict[str, int] = {}
        self.pools: dict[int, int] = {}
        self.picked: dict[int, int] = {}

    def apply(
        self,
        configuration: ProxyConfiguration,
        host_rows: dict[tuple[str, str], int],
        clusters_free: list[int],
        hosts_free: list[int],
    ) -> None:
        """Bring the rows to `configuration`, to which the rows of clusters and hosts have come.

        Parameters
        ----------
        configuration : ProxyConfiguration
        host_rows : dict of (str, str) to int
            By cluster and endpoint; rows of HIGH priority are added.
        clusters_free, hosts_free : list of int
            Rows to give out, the first to be taken last.
        """
        holdings = self._holdings
        rows = {}
        for name in _high_clusters(configuration):
            known = self.cluster_rows.get(name)
            row = known
            if row is None:
                row = holdings.new_cluster(name + _SUFFIX, clusters_free)
                holdings.clusters["cursor"][row] = 0  # the cluster's own row has the turns
            rows[name] = row
            cluster = holdings.cluster_rows[name]
            fields = holdings.configs[cluster : cluster + 1]
            holdings.configs[row] = high_config(fields, configuration.clusters[name])[0]
            for item in configuration.endpoints.get(name, ()):
                host = host_rows[name, item.name]
                key = (name + _SUFFIX, item.name)
                pool = holdings.host_row(key)
                if pool is None:
                    pool = holdings.new_host(row, 0, hosts_free)
                    self.pools[host], self.picked[pool] = pool, host
                host_rows[key] = pool
                holdings.addresses[pool] = item
        self.cluster_rows = rows

    def forget(self, hosts: Collection[int]) -> None:
        """Forget the links of HOST rows that are free."""
        for host in hosts:
            self.pools.pop(self.picked.pop(host, host), None)

    def remember(self) -> None:
        """Let requests of both priorities share the memory of their cluster."""
        clusters = self._holdings.clusters
        for name, row in self.cluster_rows.items():
            for field in ("memory_start", "memory_count"):
                clusters[field][row] = clusters[field][self._holdings.cluster_rows[name]]


def _high_clusters(configuration: ProxyConfiguration) -> list[str]:
    """Return the clusters of a configuration that its routes of priority HIGH lead to."""
    names = {
        name: None
        for service, table in configuration.routes.items()
        for route in table
        if route.priority == "HIGH"
        for name in destinations(service, route)
    }
    return [name for name in names if name in configuration.clusters]
