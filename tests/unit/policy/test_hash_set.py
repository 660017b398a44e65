"""Tables over the hosts that are selectable, as Envoy's thread_aware_lb_impl.cc builds them."""

import numpy as np
import pytest
from policy_rows import OFFSET, make_cluster

from meshsim.policy.hashing import xxh64
from meshsim.policy.load_balancing import build_maglev, build_ring
from meshsim.policy.load_balancing.hash_names import name_rows, share_out
from meshsim.policy.load_balancing.hash_set import renew_table
from meshsim.policy.panic import select_hosts
from meshsim.state.codes import MAGLEV, NO_HOST, RING_HASH
from meshsim.state.health import BY_OUTLIER, blank_cluster_health
from meshsim.state.locality import LOCALITY_DTYPE
from meshsim.state.rows import grown
from meshsim.topology.compiled.hash_sets import lay_out_sets

NAMES = ["pod-c", "pod-a", "pod-e", "pod-b", "pod-d"]
WEIGHTS = [3, 2, 1, 1, 5]
SIZE = 251
KEYS = np.array([xxh64(f"user {number}") for number in range(200)], np.uint64)


def table_over(balancing, hosts):
    names = [NAMES[host] for host in hosts]
    weights = [WEIGHTS[host] for host in hosts]
    if balancing == RING_HASH:
        return build_ring(names, weights, 64, 1000)
    return build_maglev(names, weights, SIZE)


class Hashed:
    """A cluster that hashes, whose hosts can be ejected."""

    def __init__(self, balancing, places=3):
        table = table_over(balancing, range(5))
        cluster = make_cluster(
            balancing,
            WEIGHTS,
            table=table,
            minimum_ring_size=64,
            maximum_ring_size=1000,
            set_capacity=SIZE if balancing == MAGLEV else 64 + 12 + 6,
        )
        self.sets = lay_out_sets(cluster.configs, cluster.clusters[1:], len(table))[:places]
        cluster.configs["set_count"][1] = len(self.sets)
        self.cluster = cluster._replace(table=grown(table, int(self.sets["capacity"].sum())))
        cluster.hosts["endpoint"][OFFSET:] = np.arange(5)
        self.names, self.letters = name_rows(NAMES)
        self.now_ns = 0

    def select(self, *out):
        hosts = self.cluster.hosts
        hosts["unhealthy"][OFFSET:] = [BY_OUTLIER * (host in out) for host in range(5)]
        arrays = self.cluster.members, self.cluster.clusters
        self.cluster.clusters["health"][1] = 0
        select_hosts(hosts, *arrays, 1, self.cluster.configs, blank_cluster_health(1))
        self.renew()

    def renew(self, row=1):
        self.now_ns += 1
        cluster = self.cluster
        renew_table(
            cluster.hosts,
            cluster.members,
            cluster.clusters,
            row,
            cluster.configs,
            cluster.table,
            self.sets,
            self.names,
            self.letters,
            np.zeros(0, LOCALITY_DTYPE),
            0,
            0,
            self.now_ns,
        )

    def picks(self):
        return [self.cluster.pick(key) for key in KEYS]


def owners(balancing, hosts):
    table = table_over(balancing, hosts)
    if balancing == MAGLEV:
        entries = KEYS % np.uint64(SIZE)
    else:
        entries = np.searchsorted(table["hash"], KEYS) % len(table)
    return [hosts[index] for index in table["table_index"][entries.astype(int)]]


@pytest.mark.parametrize("balancing", [RING_HASH, MAGLEV])
def test_keys_go_where_a_table_over_the_healthy_hosts_says(balancing):
    hashed = Hashed(balancing)
    for out in ((), (0,), (0, 4), (), (2,), (1, 3)):
        hashed.select(*out)
        left = [host for host in range(5) if host not in out]
        assert hashed.picks() == owners(balancing, left), out


@pytest.mark.parametrize("balancing", [RING_HASH, MAGLEV])
def test_nobody_selectable_is_no_host_and_a_panic_is_the_whole_table(balancing):
    hashed = Hashed(balancing)
    hashed.select(*range(5))
    assert set(hashed.picks()) == {NO_HOST}
    hashed.cluster.configs["panic_threshold"][1] = 50
    hashed.select(0, 1, 2)
    assert hashed.picks() == owners(balancing, list(range(5)))


def test_a_set_is_built_once_and_the_least_recently_used_gives_way():
    hashed = Hashed(MAGLEV, places=2)
    keys = []
    for out in ((0,), (1,), (0,), (2,)):
        hashed.select(*out)
        keys.append(sorted(hashed.sets["key"].tolist()))
    first, second, third, fourth = keys
    assert first != second == third  # (0,) is still at hand
    assert len(set(fourth) & set(second)) == 1  # (1,) gave way to (2,)
    assert hashed.picks() == owners(MAGLEV, [0, 1, 3, 4])


def test_a_cluster_whose_table_gave_way_looks_for_another():
    hashed = Hashed(MAGLEV, places=1)
    hashed.select(0)
    rows = hashed.cluster.clusters
    rows[0] = rows[1]  # another proxy's cluster over the same hosts
    hashed.select(3)
    assert rows["cursor"][0] == 0
    hashed.renew(0)
    assert rows["cursor"][0] == rows["cursor"][1] > 0


def test_unchanged_health_changes_nothing():
    hashed = Hashed(RING_HASH)
    hashed.select(1)
    before = hashed.cluster.clusters.copy(), hashed.sets.copy()
    hashed.select(1)
    assert np.array_equal(hashed.cluster.clusters, before[0])
    assert np.array_equal(hashed.sets, before[1])


def test_weighted_localities_keep_their_part_without_healthy_hosts():
    # Localities {0, 1}, {2, 3}, {4} weigh 2, 1 and 1; hosts 1 and 4 are out: by
    # normalizeLocalityWeights host 0 has 2/4, hosts 2 and 3 half of 1/4, and 1/4 is nobody's.
    cluster = make_cluster(RING_HASH, WEIGHTS, healthy=[1, 0, 1, 1, 0])
    cluster.hosts["endpoint"][OFFSET:] = np.arange(5)
    clusters = np.zeros(5, cluster.clusters.dtype)
    clusters["member_start"] = OFFSET + np.array([0, 0, 0, 2, 4])
    clusters["member_count"] = [0, 5, 2, 2, 1]
    localities = np.zeros(3, LOCALITY_DTYPE)
    localities["lane"], localities["weight"], localities["hosts"] = [2, 3, 4], [2, 1, 1], [2, 2, 1]
    names, _ = name_rows(NAMES)
    share_out(cluster.hosts, cluster.members, clusters, 1, names, localities, 0, 3)
    assert names["share"].tolist() == [0.5, 0.0, 0.125, 0.125, 0.0]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_places_are_bounded(count):
    # One a cluster and one to spare, at most 16, at most 2**24 entries, at least one a config.
    cluster = make_cluster(MAGLEV, set_capacity=65537)
    rows = np.repeat(cluster.clusters[1:], count)
    assert len(lay_out_sets(cluster.configs, rows, 1)) == count + 1
    assert len(lay_out_sets(cluster.configs, np.repeat(rows, 40), 1)) == 16
    cluster.configs["set_capacity"][1] = 5_000_011
    assert len(lay_out_sets(cluster.configs, np.repeat(rows, 40), 1)) == 3
