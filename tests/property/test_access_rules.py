"""What holds for every set of access rules, whoever asks what."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.policy.authorization import (
    Authorizer,
    Condition,
    EffectiveMode,
    Party,
    Policy,
    Request,
    Rule,
)

TARGET = Party("store/v1", service="store")
ATTRIBUTES = ("source.namespace", "source.service", "request.method", "request.path", "source.ip")

values = st.sampled_from(("*", "a", "a*", "*b", "GET", "/x", "~a.*"))
blocks = st.sampled_from(("10.0.0.0/8", "10.1.2.3", "0.0.0.0/0"))


@st.composite
def conditions(draw):
    attribute = draw(st.sampled_from(ATTRIBUTES))
    chosen = blocks if attribute == "source.ip" else values
    return Condition(attribute, tuple(draw(st.lists(chosen, min_size=1, max_size=2))),
                     draw(st.booleans()))  # fmt: skip


groups = st.lists(conditions(), max_size=2).map(tuple)
rules = st.builds(
    Rule,
    st.lists(groups, max_size=2).map(tuple),
    st.lists(groups, max_size=2).map(tuple),
    groups,
    st.sampled_from(("ALLOW", "DENY")),
)
policies = st.builds(
    Policy,
    st.sampled_from("pqr"),
    st.sampled_from(("ALLOW", "DENY", "CUSTOM", "FIRST_MATCH")),
    st.lists(rules, max_size=3).map(tuple),
    filter=st.sampled_from(("", "other")),
    default=st.sampled_from(("ALLOW", "DENY")),
)
peers = st.builds(
    Party,
    st.just("web/v1"),
    service=st.sampled_from("ab"),
    principal=st.sampled_from((None, "spiffe://c/ns/a/sa/b", "spiffe://c/ns/b/sa/b")),
    address=st.sampled_from((None, "10.1.2.3", "11.0.0.1")),
)
requests = st.builds(
    Request,
    st.sampled_from(("GET", "PUT")),
    st.sampled_from(("/x", "/", "a")),
    http=st.booleans(),
)
modes = st.sampled_from((None, "STRICT", "PERMISSIVE", "DISABLE")).map(
    lambda mode: None if mode is None else EffectiveMode(mode, "here")
)


def allowed(chosen, peer, request, mode):
    return Authorizer(TARGET, chosen, mode).decide(peer, request).allowed


@settings(max_examples=300, deadline=None)
@given(st.lists(policies, max_size=4), policies, peers, requests, modes)
def test_a_denying_policy_never_opens_and_an_allow_rule_never_closes(
    chosen, added, peer, request, mode
):
    before = allowed(chosen, peer, request, mode)
    deny = Policy("d", "DENY", added.rules, filter=added.filter)
    assert not allowed([*chosen, deny], peer, request, mode) or before
    opening = [
        Policy(p.name, p.action, (*p.rules, *added.rules), filter=p.filter, default=p.default)
        if p.action == "ALLOW"
        else p
        for p in chosen
    ]
    assert allowed(opening, peer, request, mode) or not before


@settings(max_examples=300, deadline=None)
@given(st.lists(policies, max_size=4), peers, requests, modes, st.randoms(use_true_random=False))
def test_the_order_of_allow_and_deny_policies_does_not_matter(chosen, peer, request, mode, shuffle):
    unordered = [policy for policy in chosen if policy.action != "FIRST_MATCH"]
    before = allowed(unordered, peer, request, mode)
    shuffle.shuffle(unordered)
    assert allowed(unordered, peer, request, mode) == before


@settings(max_examples=300, deadline=None)
@given(st.lists(policies, max_size=4), peers, requests, modes)
def test_every_answer_names_a_policy_that_is_there_and_a_rule_that_it_has(
    chosen, peer, request, mode
):
    decision = Authorizer(TARGET, chosen, mode).decide(peer, request)
    assert decision.reason
    if decision.rule:
        named = [policy for policy in chosen if policy.name == decision.policy]
        assert any(len(policy.rules) >= decision.rule for policy in named)
