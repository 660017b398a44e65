"""The evaluator of access rules: every answer by hand, with its reason."""

from dataclasses import replace

import pytest

from meshsim.policy.authorization import (
    ALLOWED,
    DROPPED,
    FORBIDDEN,
    NOT_FOUND,
    RESET,
    Authorizer,
    Condition,
    EffectiveMode,
    LabelRule,
    Party,
    Policy,
    Request,
    Rule,
    Selector,
    labels_of,
)
from meshsim.policy.authorization.matching import (
    in_block,
    literal,
    matches_host,
    matches_path,
    matches_port,
    matches_text,
)

TARGET = Party("store/v1", service="store")
WEB = Party(
    "web/v1",
    service="web",
    namespace="shop",
    labels=labels_of({"app": "web"}),
    namespace_labels=labels_of({"kubernetes.io/metadata.name": "shop"}),
    principal="spiffe://cluster.local/ns/shop/sa/web",
    address="10.0.0.7",
)
PLAIN = replace(WEB, principal=None)
GET, PUT = Request(path="/books?page=2"), Request(method="PUT", path="/books")
TCP = Request(http=False)
PERMISSIVE = EffectiveMode("PERMISSIVE", "test")

METHOD_GET = Condition("request.method", ("GET",))
FROM_SHOP = Condition("source.namespace", ("shop",))


def rule(*operation, source=(), when=(), action="ALLOW"):
    return Rule((source,) if source else (), (operation,) if operation else (), when, action)


def ask(policies, peer=WEB, request=GET, mode=PERMISSIVE):
    return Authorizer(TARGET, policies, mode).decide(peer, request)


# --- How values are compared ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value", "found"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("/api/*", "/api/x", True),
        ("/api/*", "/api", False),
        ("*.json", "/a.json", True),
        ("*", "x", True),
        ("*", "", False),
        ("~/v[12]", "/v2", True),
        ("~/v[12]", "/v2/x", False),
        (literal("a*"), "a*", True),
        (literal("a*"), "abc", False),
        (literal("~x"), "~x", True),
        (literal("/{*}", prefix=True), "/{*}/y", True),
        (literal("/v2", prefix=True), "/v2example", True),
        (literal("", prefix=True), "anything", True),
    ],
)
def test_text_patterns(pattern, value, found):
    assert matches_text(pattern, value) is found


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("/path/template/{*}", "/path/template/a", True),
        ("/path/template/{*}", "/path/template/a/b", False),
        ("/path/template/{*}", "/path/template/", False),
        ("/{**}/path/template", "/a/b/path/template", True),
        ("/{**}/path/template", "/path/other", False),
        ("/exact", "/exact?x=1", True),
        ("*/suffix", "/a/suffix?x=/no", True),
    ],
)
def test_path_patterns_and_templates(pattern, path, found):
    assert matches_path(pattern, path) is found


def test_hosts_ports_and_addresses():
    assert matches_host("Store.example", "store.EXAMPLE")
    assert matches_host("*.Example", "a.example")
    assert matches_host("~st.re", "STORE")
    assert matches_port("8000-8080", 8080, "")
    assert not matches_port("8000-8080", 8081, "")
    assert matches_port("http", 1, "http")
    assert not matches_port("http", 1, "")
    assert in_block("10.0.0.0/8", "10.9.9.9")
    assert not in_block("10.0.0.0/8", "not-an-address")
    assert not in_block("10.0.0.0/8", "::1")


# --- Attributes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (Condition("source.principal", ("cluster.local/ns/shop/sa/web",)), True),
        (Condition("source.principal", ("spiffe://cluster.local/ns/shop/sa/web",)), True),
        (Condition("source.principal", ("*/sa/web",)), True),
        (Condition("source.principal", ("*/sa/we",)), False),
        (Condition("source.namespace", ("shop",)), True),
        (Condition("source.serviceAccount", ("shop/web",)), True),
        (Condition("source.serviceAccount", ("other/web",)), False),
        (Condition("source.service", ("web",)), True),
        (Condition("source.ip", ("10.0.0.0/24",)), True),
        (Condition("remote.ip", ("10.0.0.0/24",)), True),
        (Condition("destination.port", ("80",)), True),
        (Condition("request.path", ("/books",)), True),
        (Condition("request.headers[X-Tier]", ("gold",)), True),
        (Condition("request.headers[x-other]", ("*",)), False),
        (Condition("request.auth.principal", ("*",)), False),
        (Condition("connection.sni", ("*",)), False),
        (Condition("source.workload", selectors=(Selector(services=("web",)),)), True),
        (Condition("source.workload", selectors=(Selector(services=("cart",)),)), False),
    ],
)
def test_conditions_on_each_attribute(condition, found):
    request = replace(GET, headers=labels_of({"x-tier": "gold"}))
    assert condition.holds(WEB, request, TARGET) is found
    # Negated, also where the attribute is absent.
    assert replace(condition, negated=True).holds(WEB, request, TARGET) is not found


@pytest.mark.parametrize("name", ["principal", "namespace", "serviceAccount", "service"])
def test_a_caller_in_plaintext_has_no_identity(name):
    condition = Condition(f"source.{name}", ("*",))
    assert not condition.holds(PLAIN, GET, TARGET)
    assert replace(condition, negated=True).holds(PLAIN, GET, TARGET)


def test_the_remote_address_is_the_last_of_x_forwarded_for():
    request = replace(GET, headers=labels_of({"x-forwarded-for": "1.1.1.1, 2.2.2.2"}))
    assert Condition("remote.ip", ("2.2.2.2",)).holds(WEB, request, TARGET)
    assert not Condition("remote.ip", ("1.1.1.1",)).holds(WEB, request, TARGET)
    assert Condition("source.ip", ("10.0.0.7",)).holds(WEB, request, TARGET)


def test_label_rules_are_those_of_kubernetes():
    labels = {"tier": "web"}
    assert LabelRule("tier", "In", ("web", "api")).holds(labels)
    assert not LabelRule("tier", "NotIn", ("web",)).holds(labels)
    assert LabelRule("absent", "NotIn", ("web",)).holds(labels)
    assert not LabelRule("absent", "In", ("web",)).holds(labels)
    assert LabelRule("tier").holds(labels)
    assert LabelRule("absent", "DoesNotExist").holds(labels)


# --- ALLOW, DENY, CUSTOM --------------------------------------------------------------------


def test_without_policies_everybody_is_allowed():
    decision = ask([])
    assert decision.allowed
    assert decision.reason == "allowed: no policy restricts port 80 of store/v1"


def test_an_allow_policy_admits_what_it_matches_and_nothing_else():
    policy = Policy(
        "viewers", rules=(rule(Condition("request.method", ("HEAD",))), rule(METHOD_GET))
    )
    assert ask([policy]).reason == "allowed by ALLOW rule 2 of viewers"
    refused = ask([policy], request=PUT)
    assert (refused.outcome, refused.policy, refused.rule) == (FORBIDDEN, "viewers", 0)
    assert refused.reason == "denied: no ALLOW rule of viewers matches"


def test_allow_policies_add_up():
    policies = [Policy("one", rules=(rule(METHOD_GET),)), Policy("two", rules=(Rule(),))]
    assert ask(policies, request=PUT).reason == "allowed by ALLOW rule 1 of two"


def test_allow_without_rules_allows_nothing_and_an_empty_rule_everything():
    assert ask([Policy("nothing")]).outcome == FORBIDDEN
    assert ask([Policy("all", rules=(Rule(),))]).outcome == ALLOWED


def test_deny_comes_before_allow_and_names_its_rule():
    deny = Policy("no-writes", "DENY", (rule(Condition("request.path", ("/admin",))),
                                        rule(Condition("request.method", ("PUT",)))))  # fmt: skip
    decision = ask([Policy("all", rules=(Rule(),)), deny], request=PUT)
    assert decision.reason == "denied by DENY rule 2 of no-writes"
    assert (decision.policy, decision.rule) == ("no-writes", 2)
    assert ask([deny]).allowed


def test_custom_comes_first_and_answers_as_declared():
    refuse = Policy("ext", "CUSTOM", (Rule(),))
    deny = Policy("deny", "DENY", (Rule(),))
    assert ask([deny, refuse]).policy == "ext"
    assert ask([deny, replace(refuse, default="ALLOW")]).policy == "deny"


def test_conditions_are_joined_by_and_alternatives_by_or():
    both = rule(METHOD_GET, Condition("request.path", ("/books",)), source=(FROM_SHOP,))
    assert ask([Policy("p", rules=(both,))]).allowed
    assert not ask([Policy("p", rules=(both,))], request=PUT).allowed
    assert not ask([Policy("p", rules=(both,))], peer=PLAIN).allowed
    either = Rule(operations=((METHOD_GET,), (Condition("request.method", ("PUT",)),)))
    assert ask([Policy("p", rules=(either,))], request=PUT).allowed
    narrowed = rule(METHOD_GET, when=(Condition("source.ip", ("9.9.9.9",)),))
    assert not ask([Policy("p", rules=(narrowed,))]).allowed


def test_a_negated_deny_hits_a_missing_header():
    only_gold = Condition("request.headers[x-tier]", ("gold",), negated=True)
    deny = Policy("gold-only", "DENY", (Rule(when=(only_gold,)),))
    assert not ask([deny]).allowed
    assert ask([deny], request=replace(GET, headers=(("x-tier", "gold"),))).allowed


def test_a_refusal_tells_who_speaks_plaintext():
    decision = ask([Policy("shop", rules=(rule(source=(FROM_SHOP,)),))], peer=PLAIN)
    assert "web/v1 speaks plaintext and has no identity" in decision.reason


def test_a_policy_bears_on_its_ports_only():
    policy = Policy("p", ports=("8080", "grpc"))
    assert ask([policy]).allowed
    assert not ask([policy], request=replace(GET, port=8080)).allowed
    assert not ask([policy], request=replace(GET, port_name="grpc")).allowed


def test_every_filter_must_let_a_request_pass():
    routes = Policy("routes", rules=(rule(METHOD_GET),), filter="routes", status=404)
    grants = Policy("grants", rules=(rule(source=(FROM_SHOP,)),), filter="grants")
    assert ask([routes, grants]).policy == "grants"
    assert ask([routes, grants], request=PUT).outcome == NOT_FOUND
    assert ask([routes, grants], peer=PLAIN).outcome == FORBIDDEN


# --- Connections that are not HTTP ----------------------------------------------------------


def test_an_allow_rule_on_http_never_matches_a_connection():
    http = Policy("p", rules=(rule(METHOD_GET, source=(FROM_SHOP,)),))
    assert ask([http], request=TCP).outcome == RESET
    assert ask([Policy("p", rules=(rule(source=(FROM_SHOP,)),))], request=TCP).allowed
    # Also where the condition is negated, and would hold for what is absent.
    negated = Policy("p", rules=(rule(replace(METHOD_GET, negated=True)),))
    assert ask([negated], request=TCP).outcome == RESET


def test_a_deny_rule_on_http_widens_on_a_connection():
    deny = Policy("p", "DENY", (rule(METHOD_GET, source=(FROM_SHOP,)),))
    assert ask([deny], request=TCP).outcome == RESET
    assert ask([deny], peer=PLAIN, request=TCP).allowed
    assert ask([Policy("p", "DENY", (rule(METHOD_GET),))], peer=PLAIN, request=TCP).outcome == RESET


# --- First match ----------------------------------------------------------------------------


def test_the_first_rule_that_matches_decides_across_policies():
    one = Policy("one", "FIRST_MATCH", (rule(METHOD_GET, action="DENY"),))
    two = Policy("two", "FIRST_MATCH", (rule(METHOD_GET), Rule()), default="ALLOW")
    assert ask([one, two]).reason == "denied by DENY rule 1 of one"
    assert ask([one, two], request=PUT).reason == "allowed by ALLOW rule 2 of two"


def test_the_last_default_holds_where_nothing_matches():
    one = Policy("one", "FIRST_MATCH", (rule(METHOD_GET),))
    assert ask([one], request=PUT).outcome == FORBIDDEN
    assert "by default (DENY) of one" in ask([one], request=PUT).reason
    open_end = Policy("end", "FIRST_MATCH", default="ALLOW")
    assert ask([one, open_end], request=PUT).reason.startswith("allowed by default (ALLOW) of end")


# --- Packets --------------------------------------------------------------------------------

FROM_WEB = (Condition("source.workload", selectors=(Selector(services=("web",)),)),)
FROM_CART = (Condition("source.workload", selectors=(Selector(services=("cart",)),)),)


def network(name, *rules, action="ALLOW"):
    return Policy(name, action, rules, network=True, filter="network")


def test_network_policies_add_up_and_drop():
    policies = [network("one", rule(source=FROM_CART)), network("two", rule(source=FROM_WEB))]
    assert ask(policies, peer=PLAIN).allowed
    refused = ask(policies[:1])
    assert (refused.outcome, refused.reason) == (DROPPED, "dropped: no ALLOW rule of one matches")


def test_a_network_deny_wins():
    policies = [network("allow", Rule()), network("deny", rule(source=FROM_WEB), action="DENY")]
    assert ask(policies).reason == "dropped by DENY rule 1 of deny"
    # Alone, it leaves everybody else alone.
    assert ask([network("deny", rule(source=FROM_CART), action="DENY")]).allowed


def test_a_network_rule_that_misses_on_http_answers_403():
    policy = network("l7", rule(METHOD_GET, source=FROM_WEB))
    assert ask([policy]).allowed
    assert ask([policy], request=PUT).outcome == FORBIDDEN
    assert ask([policy], peer=replace(WEB, service="other"), request=PUT).outcome == DROPPED
    # A rule on packets alone admits every request.
    assert ask([policy, network("l4", rule(source=FROM_WEB))], request=PUT).allowed


def test_packets_are_judged_before_the_proxy():
    policies = [Policy("all", rules=(Rule(),)), network("none")]
    assert ask(policies).outcome == DROPPED


# --- Mutual TLS -----------------------------------------------------------------------------


def test_strict_resets_plaintext_only():
    strict = EffectiveMode("STRICT", "PeerAuthentication shop/default")
    refused = ask([], peer=PLAIN, mode=strict)
    assert refused.outcome == RESET
    assert "STRICT" in refused.reason
    assert "PeerAuthentication shop/default" in refused.reason
    assert ask([], mode=strict).allowed


def test_without_mutual_tls_nobody_has_a_principal():
    policy = Policy("p", rules=(rule(source=(FROM_SHOP,)),))
    assert ask([policy]).allowed
    assert not ask([policy], mode=EffectiveMode("DISABLE", "x")).allowed


def test_answers_are_remembered_by_attributes():
    authorizer = Authorizer(TARGET, [Policy("p", rules=(rule(METHOD_GET),))], PERMISSIVE)
    first = authorizer.decide(WEB, GET)
    assert authorizer.decide(replace(WEB), replace(GET)) is first
    assert authorizer.decide(WEB, PUT) is not first
