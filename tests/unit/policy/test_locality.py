"""Priorities, localities and zones, by hand and by the tables of Envoy's documentation."""

import numpy as np
import pytest

from meshsim.policy.hashing import NO_HASH_KEY
from meshsim.policy.locality import choose_lane, pick_degraded, weigh_localities
from meshsim.policy.priority import choose_priority, distribute_load
from meshsim.policy.zone_aware import weigh_zones
from meshsim.rng import PURPOSE_PICK, make_streams
from meshsim.state.codes import NO_HOST, NO_INDEX, RANDOM, RING_HASH
from meshsim.state.health import (
    BY_DISCOVERY,
    HEALTHY,
    PANICKING,
    UNHEALTHY,
    WITHDRAWN,
    blank_cluster_health,
)
from meshsim.state.locality import (
    GROUPING_DTYPE,
    LOCALITY_CONFIG_DTYPE,
    LOCALITY_DTYPE,
    PRIORITY_DTYPE,
    ROUTING_DIRECT,
    ROUTING_NONE,
    ROUTING_RESIDUAL,
)
from meshsim.state.upstream import CLUSTER_CONFIG_DTYPE, CLUSTER_DTYPE, HOST_DTYPE

FACTOR = 140


def loads(healthy, degraded=None, hosts=100, threshold=50, factor=FACTOR):
    """Return the PRIORITY rows of priorities of `hosts` hosts each (or a list)."""
    rows = np.zeros(1 + len(healthy), PRIORITY_DTYPE)  # one before them, which is another's
    rows["hosts"][1:] = hosts
    rows["healthy"][1:] = healthy
    rows["degraded"][1:] = 0 if degraded is None else degraded
    distribute_load(rows, 1, len(healthy), factor, threshold)
    assert rows["load"][0] == 0
    return rows[1:]


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [
        # Envoy, docs/root/intro/arch_overview/upstream/load_balancing/priority.rst
        ([100, 100], [100, 0]),
        ([72, 72], [100, 0]),
        ([71, 71], [99, 1]),
        ([50, 50], [70, 30]),
        ([25, 100], [35, 65]),
        ([100, 100, 100], [100, 0, 0]),
        ([72, 72, 0], [100, 0, 0]),
        ([71, 71, 0], [99, 1, 0]),
        ([50, 50, 50], [70, 30, 0]),
        ([25, 100, 100], [35, 65, 0]),
        ([25, 25, 100], [35, 35, 30]),
        ([71, 71, 100], [99, 1, 0]),
    ],
)
def test_load_spills_over_as_documented(healthy, expected):
    rows = loads(healthy, threshold=0)
    assert rows["load"].tolist() == expected
    assert not rows["panic"].any()


def test_rounding_goes_to_the_first_priority():
    # 35 + 35 + 28 = 98: 35 * 100 // 98 = 35, 35, 28; the 2 left go to the first.
    assert loads([25, 25, 20], threshold=0)["load"].tolist() == [37, 35, 28]
    # The documentation prints 7/93; 7 * 100 // 98 = 7, 91 * 100 // 98 = 92.
    assert loads([5, 65])["load"].tolist() == [8, 92]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((71, 29), (99, 1)), ((25, 65), (35, 65)), ((71, 0), (100, 0)), ((0, 100), (0, 100))],
)
def test_degraded_hosts_take_what_healthy_ones_cannot(counts, expected):
    rows = loads([counts[0]], [counts[1]])
    assert (rows["load"][0], rows["degraded_load"][0]) == expected


def test_healthy_hosts_of_a_later_priority_come_before_degraded_ones():
    rows = loads([25, 25], [75, 0])
    assert rows["load"].tolist() == [35, 35]
    assert rows["degraded_load"].tolist() == [30, 0]


@pytest.mark.parametrize(
    ("healthy", "panic", "load"),
    [
        # Envoy, docs/root/intro/arch_overview/upstream/load_balancing/panic_threshold.rst
        ([72, 72], [0, 0], [100, 0]),
        ([25, 100], [0, 0], [35, 65]),
        ([25, 25], [1, 1], [50, 50]),
        ([5, 65], [1, 0], [8, 92]),
        ([0, 0], [1, 1], [50, 50]),
        ([0, 25], [1, 1], [50, 50]),
    ],
)
def test_panic_by_priority(healthy, panic, load):
    rows = loads(healthy)
    assert rows["panic"].tolist() == panic
    assert rows["load"].tolist() == load


def test_in_total_panic_the_load_goes_by_hosts():
    rows = loads([0, 0, 0], hosts=[1, 0, 2])
    assert rows["load"].tolist() == [34, 0, 66]  # 33 + 66, the rest to the first with hosts
    rows = loads([0, 0], hosts=[0, 3])
    assert rows["load"].tolist() == [0, 100]
    rows = loads([0, 0], hosts=[0, 0])
    assert rows["load"].tolist() == [100, 0]


def test_without_panic_and_without_hosts_the_first_priority_fails():
    rows = loads([0, 0], threshold=0)
    assert rows["load"].tolist() == [100, 0]
    assert not rows["panic"].any()


def test_percentiles_fall_into_priorities_in_order():
    rows = loads([25, 25], [75, 0])
    found = [choose_priority(rows, 0, 2, percentile) for percentile in range(100)]
    assert found == [(0, False)] * 35 + [(1, False)] * 35 + [(0, True)] * 30


class Grouped:
    """One grouped cluster in CLUSTER row 1; its lanes are the rows from 2 on.

    `groups`: (priority, hosts, weight of the locality, local, clients), sorted by priority.
    """

    def __init__(self, groups, *, balancing=RANDOM, threshold=50, seed=1, **config):
        count = sum(group[1] for group in groups)
        self.hosts = np.zeros(count, HOST_DTYPE)
        self.hosts["healthy"] = HEALTHY
        self.members = np.arange(count, dtype=np.int32)
        priorities = sorted({group[0] for group in groups})
        self.clusters = np.zeros(2 + len(priorities) + len(groups), CLUSTER_DTYPE)
        self.clusters["config"][1] = 1
        self.clusters["member_count"][1] = count
        self.configs = np.zeros(2, CLUSTER_CONFIG_DTYPE)
        self.configs["locality"][0] = NO_INDEX
        self.configs["balancing"] = balancing
        self.configs["panic_threshold"] = threshold
        self.locality_configs = np.zeros(1, LOCALITY_CONFIG_DTYPE)
        self.locality_configs["overprovisioning_factor"] = FACTOR
        for name, value in config.items():
            self.locality_configs[name] = value
        self.groups = blank_cluster_health(1)
        self.groupings = np.zeros(1, GROUPING_DTYPE)
        self.groupings["version"] = -1
        self.groupings["priority_count"] = len(priorities)
        self.priorities = np.zeros(len(priorities), PRIORITY_DTYPE)
        self.localities = np.zeros(len(groups), LOCALITY_DTYPE)
        first = 0
        for row, (priority, size, weight, local, clients) in enumerate(groups):
            level = priorities.index(priority)
            lane, part = 2 + level, 2 + len(priorities) + row
            if self.priorities["locality_count"][level] == 0:
                self.priorities["locality_start"][level] = row
                self.priorities["lane"][level] = lane
                self.clusters["member_start"][lane] = first
            self.priorities["locality_count"][level] += 1
            self.clusters["member_count"][lane] += size
            self.clusters["member_start"][part] = first
            self.clusters["member_count"][part] = size
            for name, value in zip(
                ("lane", "weight", "local", "clients"), (part, weight, local, clients), strict=True
            ):
                self.localities[name][row] = value
            first += size
        self.rng = make_streams(seed, PURPOSE_PICK, 1)[0]

    def withdraw(self, *hosts):
        self.hosts["unhealthy"] = 0
        self.hosts["unhealthy"][list(hosts)] = BY_DISCOVERY
        self.groups["version"] += 1

    def lane(self, key=NO_HASH_KEY):
        return int(
            choose_lane(
                self.hosts,
                self.members,
                self.clusters,
                1,
                self.configs,
                self.groups,
                self.locality_configs,
                self.groupings,
                0,
                self.priorities,
                self.localities,
                np.uint64(key),
                self.rng,
            )
        )

    def lanes(self, count):
        return [self.lane() for _ in range(count)]

    def priority_of(self, lane):
        return lane - 2

    def locality_of(self, lane):
        return lane - 2 - len(self.priorities)


def test_a_healthy_first_priority_draws_nothing():
    made = Grouped([(0, 10, 1, 0, -1), (1, 10, 1, 0, -1)])
    before = made.rng.copy()
    assert made.lanes(10) == [2] * 10
    assert (made.rng == before).all()


def test_spill_over_is_drawn_by_percent():
    made = Grouped([(0, 10, 1, 0, -1), (1, 10, 1, 0, -1)], threshold=0)
    made.withdraw(*range(5))
    lanes = made.lanes(20_000)
    # 70 % and 30 %; 4 standard deviations of a binomial are 4 * sqrt(.7 * .3 / 20000) = 0.013.
    assert lanes.count(2) / 20_000 == pytest.approx(0.7, abs=0.013)
    assert set(lanes) == {2, 3}


def test_the_hash_of_a_request_decides_its_priority():
    made = Grouped([(0, 10, 1, 0, -1), (1, 10, 1, 0, -1)], balancing=RING_HASH, threshold=0)
    made.withdraw(*range(5))
    before = made.rng.copy()
    assert [made.lane(key) for key in (100, 169, 170, 199)] == [2, 2, 3, 3]
    assert (made.rng == before).all()


def test_panic_makes_all_hosts_of_its_priority_selectable():
    made = Grouped([(0, 4, 1, 0, -1), (1, 4, 1, 0, -1)])
    made.withdraw(0, 1, 2, 4, 5, 6)
    made.lane()
    assert made.priorities["panic"].tolist() == [1, 1]
    assert made.hosts["healthy"].tolist() == [PANICKING] * 3 + [HEALTHY] + [PANICKING] * 3 + [
        HEALTHY
    ]
    made.withdraw(0)
    made.lane()
    assert made.hosts["healthy"].tolist() == [UNHEALTHY] + [HEALTHY] * 7


def test_picks_in_panic_are_counted_also_if_they_fail():
    for fails in (0, 1):
        made = Grouped([(0, 4, 1, 0, -1)], fail_traffic_on_panic=fails)
        made.lanes(5)
        assert made.groups["panic_picks"] == 0
        made.withdraw(0, 1, 2)
        made.lanes(5)
        assert made.groups["panic_picks"] == 5


def test_who_is_not_named_by_discovery_is_none_of_the_hosts():
    made = Grouped([(0, 4, 2, 0, -1), (0, 4, 1, 0, -1), (1, 4, 1, 0, -1)], locality_weighted=1)
    made.hosts["unhealthy"][:2] = WITHDRAWN
    made.groups["version"] += 1
    lanes = made.lanes(30)
    assert made.priorities["availability"].tolist() == [100, 100]
    assert [made.locality_of(lane) for lane in lanes].count(0) == 20
    made.hosts["unhealthy"][:8] = WITHDRAWN
    made.groups["version"] += 1
    assert made.lane() == 3
    assert made.hosts["healthy"].tolist() == [UNHEALTHY] * 8 + [HEALTHY] * 4


def test_traffic_fails_on_panic_if_so_configured():
    made = Grouped([(0, 4, 1, 0, -1)], fail_traffic_on_panic=1)
    assert made.lane() == 2
    made.withdraw(0, 1, 2)
    assert made.lane() == NO_HOST


def test_degraded_hosts_are_picked_uniformly():
    made = Grouped([(0, 4, 1, 0, -1)])
    made.withdraw(0, 1)
    made.hosts["degraded"][2:] = 1
    chosen = made.lane()
    assert chosen < NO_HOST
    assert made.hosts["healthy"].tolist() == [UNHEALTHY] * 4
    picks = [
        pick_degraded(made.hosts, made.members, made.clusters, chosen, made.rng)
        for _ in range(4000)
    ]
    assert set(picks) == {2, 3}
    assert picks.count(2) / 4000 == pytest.approx(0.5, abs=0.032)  # 4 * sqrt(.25 / 4000)


# --- Localities by weight --------------------------------------------------------------------


def shares(made, count):
    lanes = made.lanes(count)
    return [lanes.count(lane) / count for lane in sorted(set(made.localities["lane"].tolist()))]


@pytest.mark.parametrize(
    ("healthy", "percent"), [(100, 100 / 3), (70, 32.885906), (69, 32.57), (50, 25.93), (25, 14.89)]
)
def test_weighted_localities_by_availability(healthy, percent):
    # Envoy, docs/.../locality_weight.rst: weights 1 and 2, the second fully healthy.
    made = Grouped([(0, 100, 1, 0, -1), (0, 100, 2, 0, -1)], locality_weighted=1, threshold=0)
    made.withdraw(*range(100 - healthy))
    # A schedule is within one pick of its share after any number of picks.
    assert shares(made, 3000)[0] * 100 == pytest.approx(percent, abs=0.1)


def test_equal_localities_take_turns():
    made = Grouped([(0, 1, 1, 0, -1), (0, 3, 1, 0, -1)], locality_weighted=1)
    assert made.lanes(6) in ([3, 4] * 3, [4, 3] * 3)


def test_the_first_of_weighted_localities_is_drawn_by_weight():
    firsts = []
    for seed in range(400):
        made = Grouped([(0, 1, 1, 0, -1), (0, 1, 3, 0, -1)], seed=seed, locality_weighted=1)
        firsts.append(made.locality_of(made.lane()))
    # A quarter of 400 draws: a standard deviation is 8.7, and 4 of them are 35.
    assert firsts.count(0) == pytest.approx(100, abs=35)


def test_a_schedule_of_localities_begins_as_many_picks_ahead():
    weights = [5, 3, 2, 1, 1]
    rows = [(0, 1, weight, 0, -1) for weight in weights]
    made = Grouped(rows, locality_weighted=1)
    made.lane()

    def picks(ahead, count):
        weigh_localities(made.priorities, 0, made.localities, FACTOR, ahead)
        return [made.locality_of(lane) for lane in made.lanes(count)]

    cycle = picks(0, 40)
    assert cycle[:12] == [0, 1, 0, 2, 0, 1, 0, 3, 4, 2, 1, 0]
    for ahead in range(28):
        assert picks(ahead, 12) == cycle[ahead : ahead + 12]


def test_a_locality_without_healthy_hosts_gets_nothing():
    made = Grouped([(0, 2, 1, 0, -1), (0, 2, 9, 0, -1)], locality_weighted=1, threshold=0)
    made.withdraw(2, 3)
    assert set(made.lanes(20)) == {3}


def test_a_panicking_priority_knows_no_localities():
    made = Grouped([(0, 2, 1, 0, -1), (0, 2, 9, 0, -1)], locality_weighted=1)
    made.withdraw(1, 2, 3)
    assert set(made.lanes(20)) == {2}


# --- Localities by zone ----------------------------------------------------------------------


def zones(upstream, clients, local=True, healthy=None, **config):
    """Return a cluster of zones with `upstream` hosts each; `clients` in percent of 10,000."""
    groups = [
        (0, size, 1, int(local and row == 0), share)
        for row, (size, share) in enumerate(zip(upstream, clients, strict=True))
    ]
    fields = {"routing_enabled": 100, "min_cluster_size": 6, **config}
    made = Grouped(groups, threshold=0, **fields)
    made.withdraw(*(healthy or ()))
    made.lane()
    return made


def test_the_own_zone_takes_all_if_its_share_is_large_enough():
    made = zones([4, 4], [5000, 5000])
    assert made.groupings["routing"][0] == ROUTING_DIRECT
    assert set(made.lanes(20)) == {3}


def test_the_rest_goes_by_residual_capacity():
    # Envoy's example: clients 40/40/20 %, hosts 25/50/25 %: own 62.5 %, then 10 to 5.
    made = zones([25, 50, 25], [4000, 4000, 2000])
    assert made.groupings["routing"][0] == ROUTING_RESIDUAL
    assert made.groupings["local_share"][0] == 6250
    assert made.localities["residual"].tolist() == [0, 1000, 1500]
    found = shares(made, 20_000)
    # 4 standard deviations: 4 * sqrt(.25 / 20000) = 0.014.
    assert found == pytest.approx([0.625, 0.25, 0.125], abs=0.014)


def test_without_hosts_in_the_own_zone_all_goes_by_residual_capacity():
    made = zones([6, 6], [2500, 7500], local=False)
    assert made.groupings["local_share"][0] == 0
    assert made.localities["residual"].tolist() == [2500, 2500]
    assert set(made.lanes(20)) == {3}


def test_without_residual_capacity_any_zone_is_drawn():
    made = zones([5, 5, 5], [3334, 3334, 3332])
    assert made.localities["residual"].tolist() == [0, 0, 1]
    made.localities["residual"] = 0
    made.groupings["local_share"] = 0
    assert set(made.lanes(60)) == {3, 4, 5}


@pytest.mark.parametrize(
    ("upstream", "clients", "fields"),
    [
        ([2, 3], [5000, 5000], {}),  # fewer than min_cluster_size
        ([6], [10_000], {}),  # one zone
        ([3, 3], [-1, -1], {}),  # the client's service is in one zone
        ([3, 3], [5000, 5000], {"routing_enabled": 0}),
    ],
)
def test_no_routing_by_zone(upstream, clients, fields):
    made = zones(upstream, clients, **fields)
    assert made.groupings["routing"][0] == ROUTING_NONE
    assert set(made.lanes(20)) == {2}


def test_unhealthy_hosts_can_end_routing_by_zone():
    made = zones([3, 3], [5000, 5000])
    assert made.groupings["routing"][0] == ROUTING_DIRECT
    made.withdraw(0)
    assert made.lane() == 2


def test_a_forced_zone_takes_all():
    made = zones([2, 8], [9000, 1000], force_local_zone=2)
    assert made.groupings["routing"][0] == ROUTING_DIRECT
    made = zones([2, 8], [9000, 1000], force_local_zone=3)
    assert made.groupings["routing"][0] == ROUTING_RESIDUAL


def test_part_of_the_picks_can_go_by_zone():
    made = zones([4, 4], [5000, 5000], routing_enabled=30)
    lanes = made.lanes(20_000)
    assert lanes.count(3) / 20_000 == pytest.approx(0.3, abs=0.013)
    assert set(lanes) == {2, 3}


def test_weigh_zones_reads_only_the_first_priority():
    made = zones([4, 4], [5000, 5000])
    weigh_zones(made.groupings, 0, made.priorities, made.localities, made.locality_configs, 0)
    assert made.groupings["routing"][0] == ROUTING_DIRECT
