"""Topics and grants: each proxy its own, and nothing else."""

import pytest

from meshsim.controlplane.topics import CONTROL_PLANE, Topics, encoded, grants_of, is_within

TOPICS = Topics("my/shop")


@pytest.mark.parametrize("proxy", ["front-v1-0", "gateway-a/b", "+", "#", "ü b", "../x"])
def test_names_are_single_levels_and_come_back(proxy):
    assert TOPICS.read(TOPICS.config(proxy, "routes")) == ("config", proxy, "routes")
    for family in ("state", "ack", "csr", "certificate"):
        assert TOPICS.read(TOPICS.of(family, proxy)) == (family, proxy, "")
    assert not set(encoded(proxy)) & set("/+#")


def test_what_is_not_of_this_mesh_is_not_read():
    for topic in ("x", Topics("other").of("state", "a"), "meshsim/my%2Fshop/state/a/b", ""):
        assert TOPICS.read(topic) is None


@pytest.mark.parametrize(
    ("topic", "allowed", "answer"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a/+", True),
        ("a/+", "a/b", False),
        ("a/#", "a/+", False),
        ("#", "a/b", False),
        ("+/b", "a/b", False),
        ("a/b/c", "a/+", False),
        ("a", "a/+", False),
        ("a/b/c", "a/#", True),
        ("a/+/c", "a/+/+", True),
    ],
)
def test_a_filter_asks_for_no_more_than_is_granted(topic, allowed, answer):
    assert is_within(topic, allowed) is answer


def test_a_proxy_is_granted_its_own_topics_only():
    grants = grants_of("shop", ["a", "b", CONTROL_PLANE])
    topics = Topics("shop")
    own, other, plane = grants["a"], grants["b"], grants[CONTROL_PLANE]
    for family in ("state", "ack", "csr"):
        assert any(is_within(topics.of(family, "a"), item) for item in own.publish)
        assert not any(is_within(topics.of(family, "a"), item) for item in other.publish)
        assert any(is_within(topics.of(family, "a"), item) for item in plane.subscribe)
    secret = topics.config("a", "routes")
    assert any(is_within(secret, item) for item in own.subscribe)
    assert not any(is_within(secret, item) for item in (*other.subscribe, *own.publish))
    assert any(is_within(secret, item) for item in plane.publish)
