"""Routing: matches, splits, mirrors, redirects and direct responses."""

from collections import Counter

import pytest
from engine_rows import cluster, route
from planes import Scenario, play_envoy, play_meshsim
from wire import Ask, Reply

VERSIONS = {f"b|v{number}": cluster() for number in (1, 2, 3)}


def split(**weights):
    return [{"subset": name, "weight": weight} for name, weight in weights.items()]


def both(referee, scenario):
    return play_envoy(referee.binary, scenario), play_meshsim(scenario)


def versions(played):
    """Count the answers by the cluster of the endpoint, e.g. v2."""
    return Counter(name.split("-")[0].removeprefix("b|") for name in played.picks())


# --- Splits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [{"v1": 90, "v2": 10}, {"v1": 5, "v2": 3, "v3": 2}, {"v1": 1, "v2": 0}], ids=str
)
def test_split(referee, weights):
    table = (route(split=split(**weights)),)
    scenario = Scenario([Ask()] * 2000, callers=8, policies=VERSIONS, table=table)
    counts = map(versions, both(referee, scenario))
    total = sum(weights.values())
    law = {name: weight / total for name, weight in weights.items()}
    referee.law(f"split {':'.join(map(str, weights.values()))}", *counts, law)


def test_a_split_is_decided_once_for_all_tries(referee):
    """No retry is answered by another version than the first try."""

    def script(endpoint, number, tries):
        return Reply(503 if tries < 2 else 200)

    retry = {"retry_on": ["5xx"], "num_retries": 2, "base_interval": "1ms", "max_interval": "1ms"}
    table = (route(split=split(v1=1, v2=1), retry=retry),)
    scenario = Scenario([Ask()] * 200, 8, VERSIONS, table=table, script=script)
    strays = []
    for played in both(referee, scenario):
        tries = [{v.endpoint.split("-")[0] for v in item} for item in played.visits.values()]
        strays.append(sum(len(names) > 1 for names in tries))
    referee.equal("split with retries: requests that saw two versions", *strays)


# --- Mirrors --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [25, 100])
def test_mirror(referee, share):
    mirrors = [{"subset": "v3", "percentage": share}]
    table = (route(split=split(v1=1), mirrors=mirrors),)
    scenario = Scenario([Ask()] * 1000, callers=8, policies=VERSIONS, table=table)
    counts = []
    for played in both(referee, scenario):
        assert versions(played) == {"v1": 1000}
        copies = played.counters["b|v3.upstream_rq_total"]
        counts.append({"copied": copies, "not": 1000 - copies})
    law = {"copied": share / 100, "not": 1 - share / 100}
    referee.law(f"mirror {share} %", *counts, law)


# --- Matches --------------------------------------------------------------------------------

#: Every route answers with a status of its own, so the status says which one was taken.
MATCHES = (
    {"path": {"exact": "/exact"}},
    {"path": {"prefix": "/pre"}, "ignore_case": True},
    {"path": {"regex": "/v[0-9]+/x"}},
    {"method": "DELETE"},
    {"headers": {"user": {"exact": "alice"}}},
    {"headers": {"user": {"prefix": "bo"}, "tier": {"present": True}}},
    {"headers": {"flag": {"regex": "a+b"}}},
    {"query": {"page": {"exact": "2"}}},
    {"authority": {"exact": "b"}, "path": {"prefix": "/"}, "headers": {"x": {"present": True}}},
    {"headers": {"skip": {"present": True, "invert": True}}, "path": {"exact": "/last"}},
)
ASKS = (
    *map(lambda path: Ask(path=path), (
        "/", "/exact", "/exact/", "/EXACT", "/exact?a=1", "/pre", "/PREfix", "/p", "/v1/x",
        "/v1/x/", "/v/x", "/v12/x?y", "/?page=2", "/?page=22", "/?a=1&page=2", "/?Page=2", "/last",
    )),
    *map(lambda method: Ask(method=method), ("DELETE", "PUT", "HEAD")),
    *map(lambda headers: Ask(headers=headers), (
        {"user": "alice"}, {"user": "Alice"}, {"user": "bob"}, {"user": "bob", "tier": "1"},
        {"flag": "aab"}, {"flag": "aabb"}, {"flag": "b"}, {"x": "1"}, {"USER": "alice"},
    )),
    Ask(path="/last", headers={"skip": "1"}),
    Ask(path="/exact", method="DELETE"),
)  # fmt: skip


def test_matches(referee):
    table = tuple(
        route(match=[match], direct_response=210 + number) for number, match in enumerate(MATCHES)
    )
    envoy, ours = both(referee, Scenario(ASKS, table=table))
    pairs = zip(ASKS, envoy.answers, ours.answers, strict=True)
    differing = [(ask, a.status, b.status) for ask, a, b in pairs if a.status != b.status]
    assert differing == []
    taken = [len(played.outcomes()) for played in (envoy, ours)]
    referee.equal(f"matches: {len(ASKS)} requests take the same routes, this many", *taken)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(referee, status):
    table = (route(split=[], redirect={"response_code": status, "path": "/new"}),)
    envoy, ours = both(referee, Scenario([Ask()] * 3, table=table))
    referee.equal(f"redirect {status}", envoy.outcomes(), ours.outcomes())
