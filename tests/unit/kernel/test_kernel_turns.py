"""Where round robins begin in running meshes."""

from collections import Counter

from kernel_runs import Run, recorded

from meshsim.policy.load_balancing.round_robin import draw_cursors, subset_name

CLIENTS = 40
ROUND_ROBIN = {"load_balancing": {"policy": "ROUND_ROBIN"}}


def mesh(**policies):
    """`CLIENTS` replicas of a, each of which sends the one request that it gets on to b."""
    sleeping = {"replicas": 2, "concurrency": 10, "steps": [{"sleep": "1ms"}]}
    return Run(
        {
            "a": {"workloads": {"v1": {"replicas": CLIENTS, "steps": [{"call": "b"}]}}},
            "b": {"workloads": {name: {**sleeping, "nodes": [name]} for name in ("v1", "v2")}},
        },
        recorded(*(f"{number}00ms" for number in range(1, CLIENTS + 1))),
        policies={"a": ROUND_ROBIN, "b": {**ROUND_ROBIN, **policies}},
        nodes={name: {"zone": name, "region": "east"} for name in ("v1", "v2")},
    )


def lanes_of(run, proxy):
    """Return (members, cursor) of the CLUSTER rows of a proxy."""
    state = run.state
    found = []
    for row in state.clusters[state.clusters["proxy"] == proxy]:
        members = state.members[row["member_start"] :][: row["member_count"]]
        names = [run.kernel.endpoint_names[host] for host in state.hosts["endpoint"][members]]
        found.append((names, int(row["cursor"])))
    return found


def drawn(run, proxy, name="b"):
    return int(draw_cursors(run.kernel.stream_seed, [proxy], [name])[0])


def test_clients_do_not_go_round_in_step():
    run = mesh()
    members = ["b-v1-0", "b-v1-1", "b-v2-0", "b-v2-1"]
    expected = [members[drawn(run, proxy) % 4] for proxy in range(CLIENTS)]
    assert len(set(expected)) == 4
    spans = run.to(100 * CLIENTS + 50).spans("a>b")
    assert Counter(span.endpoint for span in spans) == Counter(expected)


def test_a_client_that_comes_draws_where_it_begins():
    run = mesh().to(50)
    run.control.add_replicas("a", "v1", 2)
    run.to(60)
    proxies = sorted(set(run.state.clusters["proxy"].tolist()))[-2:]
    for proxy in proxies:
        assert [cursor for _, cursor in lanes_of(run, proxy)] == [drawn(run, proxy)]
    assert proxies[0] > CLIENTS


def test_localities_begin_where_their_cluster_does():
    run = mesh(locality={"failover": {}}).to(50)
    run.control.add_replicas("a", "v1")
    run.to(60)
    for proxy in (0, 1, int(run.state.clusters["proxy"].max())):
        lanes = lanes_of(run, proxy)
        assert len(lanes) > 1
        assert {cursor for _, cursor in lanes} == {drawn(run, proxy)}


def test_a_subset_begins_by_itself():
    run = mesh(
        subset_config={"subset_selectors": [{"keys": ["version"]}]},
        routes=[{"split": [{"metadata_match": {"version": "v2"}}]}],
    ).to(50)
    run.control.add_replicas("a", "v1")
    run.to(60)
    for proxy in (0, 1, int(run.state.clusters["proxy"].max())):
        own = subset_name("b", ["b-v2-0", "b-v2-1"])
        assert (["b-v2-0", "b-v2-1"], drawn(run, proxy, own)) in lanes_of(run, proxy)


def test_a_cluster_that_hashes_has_no_turns():
    run = mesh(load_balancing={"policy": "MAGLEV", "hash_header": "user", "table_size": 101})
    assert [cursor for _, cursor in lanes_of(run, 0)] == [0]
