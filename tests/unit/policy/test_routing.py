import re
from collections import Counter

import numpy as np
import pytest

from meshsim.policy.routing import (
    NO_ROUTE,
    RequestAttributes,
    choose_split,
    is_mirrored,
    match_route,
    mirror_key,
)
from meshsim.rng import mix
from meshsim.state.filters import MIRROR_DTYPE
from meshsim.state.upstream import SPLIT_DTYPE
from meshsim.topology.model import Route


def routes(*matches):
    return [Route.model_validate({"match": match}) for match in matches]


def matches(match, source_labels=None, **request):
    return match_route(routes([match]), RequestAttributes(**request), source_labels or {}) == 0


def test_the_first_match_wins_and_no_match_is_no_route():
    table = routes([{"path": {"prefix": "/a"}}], [{"path": {"exact": "/ab"}}])
    assert match_route(table, RequestAttributes(path="/ab")) == 0
    assert match_route(table[1:], RequestAttributes(path="/ab")) == 0
    assert match_route(table, RequestAttributes(path="/b")) == NO_ROUTE
    assert match_route([], RequestAttributes()) == NO_ROUTE


def test_a_route_without_matches_takes_everything_and_alternatives_are_or():
    assert match_route(routes([]), RequestAttributes(path="/x")) == 0
    table = routes([{"path": "/a"}, {"method": "POST"}])
    assert match_route(table, RequestAttributes(method="POST", path="/b")) == 0
    assert match_route(table, RequestAttributes(path="/b")) == NO_ROUTE


def test_all_conditions_of_a_match_must_hold():
    match = {"path": {"prefix": "/api"}, "method": "GET", "authority": "shop"}
    assert matches(match, path="/api/1", authority="shop")
    assert not matches(match, path="/api/1", authority="shop", method="PUT")
    assert not matches(match, path="/api/1", authority="other")


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        ({"prefix": "/api"}, "/apis", True),  # a prefix of characters, not of segments
        ({"prefix": "/api"}, "/API", False),
        ({"exact": "/api"}, "/api?x=1", True),  # the query is no part of the path
        ({"exact": "/api"}, "/api/", False),
        ({"regex": "/v[0-9]"}, "/v1", True),
        ({"regex": "/v[0-9]"}, "/v12", False),  # the whole string, not a part
        ({"regex": "/v.*", "invert": True}, "/v1", False),
        ({"prefix": "/v", "invert": True}, "/w", True),
        ({"exact": "", "invert": True}, "/", True),
    ],
)
def test_strings(rule, path, expected):
    assert matches({"path": rule}, path=path) is expected


def test_ignore_case_bears_on_exact_and_prefix_of_the_path_only():
    assert matches({"path": {"prefix": "/API"}, "ignore_case": True}, path="/api/1")
    assert matches({"path": {"exact": "/Api"}, "ignore_case": True}, path="/aPI")
    assert not matches({"path": {"regex": "/API"}, "ignore_case": True}, path="/api")
    assert not matches({"method": "get", "ignore_case": True}, method="GET")


def test_header_names_ignore_case_and_values_do_not():
    match = {"headers": {"X-User": "Jason"}}
    assert matches(match, headers={"x-USER": "Jason"})
    assert not matches(match, headers={"x-user": "jason"})
    assert not matches(match)


def test_presence_and_absence_of_headers():
    there, absent = {"headers": {"a": {"present": True}}}, {"headers": {"a": {"present": False}}}
    assert matches(there, headers={"A": ""})
    assert not matches(there)
    assert matches(absent)
    assert not matches(absent, headers={"a": "1"})
    negated = {"headers": {"a": {"exact": "1", "invert": True}}}
    assert matches(negated)
    assert matches(negated, headers={"a": "2"})
    assert not matches(negated, headers={"a": "1"})


def test_source_labels_are_those_of_the_caller():
    match = {"source_labels": {"app": "web"}}
    assert matches(match, source_labels={"app": "web", "version": "v1"})
    assert not matches(match, source_labels={"app": "cart"})
    assert not matches(match)


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        ({"exact": "1"}, "/x?a=1", True),
        ({"exact": "1"}, "/x?b=2&a=1", True),
        ({"exact": "1"}, "/x?a=2&a=1", False),  # the first counts
        ({"exact": "1"}, "/x?A=1", False),
        ({"exact": "1"}, "/x", False),
        ({"regex": "[0-9]+"}, "/x?a=12", True),
        ({"prefix": "b"}, "/x?a=beta", True),
        ({"present": True}, "/x?a", True),
        ({"present": True}, "/x?ab=1", False),
        ({"present": False}, "/x", True),
        ({"exact": ""}, "/x?a=", True),
        ({"exact": "1=2"}, "/x?a=1=2", True),
        ({"exact": "1", "invert": True}, "/x", True),
    ],
)
def test_query_parameters(rule, path, expected):
    assert matches({"query": {"a": rule}}, path=path) is expected


def test_a_bad_pattern_says_so():
    with pytest.raises(re.error):
        matches({"path": {"regex": "("}}, path="/")


def splits(*weights):
    rows = np.zeros(2 + len(weights), SPLIT_DTYPE)
    rows["weight"] = 1000
    rows["weight"][2:] = weights
    return rows


@pytest.mark.parametrize(
    ("uniform", "chosen"), [(0.0, 2), (0.899, 2), (0.9, 3), (0.999, 3), (1 - 2**-53, 3)]
)
def test_a_split_walks_the_cumulative_weights(uniform, chosen):
    assert choose_split(splits(90, 10), 2, 2, 100, uniform) == chosen


def test_every_value_of_a_split_and_no_weight_zero():
    rows = splits(0, 3, 0, 2, 0)
    chosen = Counter(int(choose_split(rows, 2, 5, 5, (value + 0.5) / 5)) for value in range(5))
    assert chosen == {3: 3, 5: 2}


def test_a_mirror_takes_its_share_and_mirrors_are_independent():
    mirrors = np.array([(0.25, 0, 0), (1.0, 0, 0), (0.0, 0, 0)], MIRROR_DTYPE)
    keys = [np.uint64(mix(np.uint64(number))) for number in range(4000)]
    taken = [
        [bool(is_mirrored(mirrors, row, np.uint64(mirror_key(key, number)))) for key in keys]
        for row, number in ((0, 0), (0, 1), (1, 0), (2, 0))
    ]
    counts = [sum(item) for item in taken]
    assert counts[2:] == [4000, 0]
    both = sum(one and other for one, other in zip(taken[0], taken[1], strict=True))
    # Four standard deviations: sqrt(4000 p (1 - p)) is 27.4 at 1/4 and 15.3 at 1/16.
    assert all(abs(count - 1000) < 4 * 27.4 for count in counts[:2])
    assert abs(both - 250) < 4 * 15.3
