"""VirtualService: order, splits, timeouts, retries."""

from collections.abc import Callable

import pytest

from meshsim.errors import ConfigError
from meshsim.topology.model import Route, Topology

Load = Callable[..., Topology]

SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""


def virtual_service(rules: str, hosts: str = "[web]", name: str = "web", head: str = "") -> str:
    lines = "\n".join(f"  {line}" for line in rules.splitlines())
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n"
        f"spec:\n  hosts: {hosts}\n{head}  http:\n{lines}\n"
    )


def routes(topology: Topology) -> tuple[Route, ...]:
    return topology.policies["web"].routes


def told(topology: Topology, text: str) -> bool:
    return any(text in notice for notice in topology.notices)


def test_a_weighted_split_between_subsets(load: Load) -> None:
    topology = load(
        SUBSETS,
        virtual_service(
            "- route:\n"
            "  - {destination: {host: web, subset: v1}, weight: 80}\n"
            "  - {destination: {host: web, subset: v2}, weight: 20}\n"
        ),
    )
    (route,) = routes(topology)
    assert [(item.service, item.subset, item.weight) for item in route.split] == [
        ("web", "v1", 80),
        ("web", "v2", 20),
    ]
    assert route.timeout is None
    assert route.retry is None
    assert topology.policies["web"].subsets["v1"].labels == {"version": "v1"}
    assert topology.policy_origin == "istio"
    place = topology.provenance["policies.web.routes[0].split[1].weight"]
    assert (place.line, place.field) == (9, "spec.http[0].route[1].weight")


def test_rules_keep_their_order_and_alternatives(load: Load) -> None:
    topology = load(
        virtual_service(
            "- name: first\n"
            "  match:\n"
            "  - {uri: {prefix: /a}, headers: {End-User: {exact: jason}}}\n"
            "  - {method: {exact: POST}}\n"
            "  route: [{destination: {host: web}}]\n"
            "- route: [{destination: {host: web}}]\n"
        )
    )
    first, second = routes(topology)
    assert first.name == "first"
    assert len(first.match) == 2
    assert first.match[0].path
    assert first.match[0].path.prefix == "/a"
    assert first.match[0].headers["end-user"].exact == "jason"
    assert first.match[1].method
    assert second.match == ()


def test_timeout_and_retries(load: Load) -> None:
    topology = load(
        virtual_service(
            "- timeout: 1.5s\n"
            "  retries: {attempts: 3, perTryTimeout: 250ms, backoff: 10ms,\n"
            "    retryOn: 'connect-failure, 503,unavailable,429',\n"
            "    retryIgnorePreviousHosts: false}\n"
            "  route: [{destination: {host: web}}]\n"
        )
    )
    (route,) = routes(topology)
    assert route.timeout == 1_500_000_000
    retry = route.retry
    assert retry
    assert (retry.num_retries, retry.per_try_timeout, retry.base_interval) == (
        3,
        250_000_000,
        10_000_000,
    )
    assert retry.retry_on == ("connect-failure", "unavailable", "retriable-status-codes")
    assert retry.retriable_status_codes == (503, 429)
    assert retry.previous_hosts is False
    place = topology.provenance["policies.web.routes[0].retry.num_retries"]
    assert place.field == "spec.http[0].retries.attempts"


@pytest.mark.parametrize("retries", ["{attempts: 0}", "{retryOn: 5xx}"])
def test_retries_without_attempts_disables_retries(load: Load, retries: str) -> None:
    topology = load(
        virtual_service(f"- retries: {retries}\n  route: [{{destination: {{host: web}}}}]\n")
    )
    retry = routes(topology)[0].retry
    assert retry
    assert retry.num_retries == 0


@pytest.mark.parametrize(
    ("retry_on", "is_told"),
    [("", True), (", retryOn: 'connect-failure,503'", True), (", retryOn: reset", False)],
)
def test_a_per_try_timeout_that_is_not_retried_is_told(
    load: Load, retry_on: str, is_told: bool
) -> None:
    rule = f"- retries: {{attempts: 2, perTryTimeout: 1s{retry_on}}}\n"
    topology = load(virtual_service(rule))
    assert told(topology, "an expired perTryTimeout is answered 504") is is_told


def test_a_typo_is_told_with_the_key_that_was_meant(load: Load) -> None:
    topology = load(
        virtual_service("- retires: {attempts: 9}\n  route: [{destination: {host: web}}]\n")
    )
    assert routes(topology)[0].retry is None
    assert told(topology, "b0.yaml:7: VirtualService default/web: spec.http[0].retires is not read")
    assert told(topology, "did you mean retries?")


def test_what_is_not_simulated_is_told(load: Load) -> None:
    topology = load(
        virtual_service(
            "- corsPolicy: {}\n"
            "  headers: {request: {set: {a: b}}}\n"
            "  retries: {attempts: 1, retryOn: 'gateway-error,no-such-condition'}\n"
            "  route: [{destination: {host: web}}]\n"
        )
    )
    assert told(topology, "spec.http[0].corsPolicy is not simulated yet")
    assert told(topology, "spec.http[0].headers is not simulated yet")
    assert told(topology, "retryOn 'no-such-condition' is not simulated")


def test_direct_replies(load: Load) -> None:
    topology = load(
        virtual_service(
            "- match: [{uri: {prefix: /old}}]\n  redirect: {uri: /new}\n"
            "- match: [{uri: {prefix: /gone}}]\n  redirect: {uri: /x, redirectCode: 308}\n"
            "- directResponse: {status: 503}\n"
        )
    )
    assert [route.answer for route in routes(topology)] == [301, 308, 503]
    paths = [route.redirect and route.redirect.path for route in routes(topology)]
    assert paths == ["/new", "/x", None]


def test_unreachable_rules_are_told(load: Load) -> None:
    rule = "- route: [{destination: {host: web}}]\n"
    topology = load(virtual_service(rule + rule))
    assert told(topology, "b0.yaml:8: VirtualService default/web: unreachable: the rule at")
    prefixed = "- match: [{uri: {prefix: /}}]\n  route: [{destination: {host: web}}]\n"
    assert told(load(virtual_service(prefixed + rule)), "unreachable")


def test_an_undefined_subset_has_no_endpoints(load: Load) -> None:
    topology = load(SUBSETS, virtual_service("- route: [{destination: {host: web, subset: v9}}]\n"))
    assert told(topology, "subset 'v9' of web is not defined: requests to it get 503")
    labels = topology.policies["web"].subsets["v9"].labels
    workloads = topology.services["web"].workloads.values()
    assert not any(labels.items() <= item.labels.items() for item in workloads)


def test_an_unknown_host_has_no_endpoints(load: Load) -> None:
    topology = load(virtual_service("- route: [{destination: {host: wbe}}]\n"))
    assert routes(topology)[0].split[0].service == "wbe"
    assert [item.replicas for item in topology.services["wbe"].workloads.values()] == [0]
    assert told(topology, "host 'wbe' not found: requests to it get 503")


def test_short_names_are_of_the_rules_own_namespace(load: Load) -> None:
    other = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        "metadata: {name: web, namespace: prod}\n"
        "spec: {hosts: [%s], http: [{timeout: 1s}]}\n"
    )
    assert "web" not in load(other % "web").policies
    assert routes(load(other % "web.default.svc.cluster.local"))[0].timeout == 1_000_000_000
    topology = load(other % "web.default")
    assert "web" not in topology.policies
    assert told(topology, "no service has host web.default")


def test_the_most_specific_host_governs_and_of_equals_the_oldest(load: Load) -> None:
    wildcard = virtual_service("- timeout: 1s\n", "['*.svc.cluster.local']", "any")
    exact = virtual_service("- timeout: 2s\n", name="exact")
    assert routes(load(wildcard, exact))[0].timeout == 2_000_000_000
    older = virtual_service("- timeout: 3s\n", name="a-exact")
    topology = load(wildcard, exact, older)
    assert routes(topology)[0].timeout == 3_000_000_000
    assert told(topology, "VirtualService default/exact: not used for web")


def test_rules_at_gateways_are_not_seen_by_sidecars(load: Load) -> None:
    only = virtual_service("- timeout: 1s\n", head="  gateways: [ingress]\n")
    topology = load(only)
    assert topology.policies == {}
    assert topology.policy_origin == "istio"
    assert told(topology, "holds at gateways only")
    both = virtual_service("- timeout: 1s\n", head="  gateways: [ingress, mesh]\n")
    assert routes(load(both))[0].timeout == 1_000_000_000


def test_weights_that_do_not_sum_to_a_hundred_are_told_and_zero_refused(load: Load) -> None:
    destination = "{destination: {host: web}, weight: %d}"
    rule = f"- route: [{destination}, {destination}]\n"
    assert told(load(virtual_service(rule % (1, 3))), "the weights sum to 4, not 100")
    with pytest.raises(ConfigError, match="sum to zero"):
        load(virtual_service(rule % (0, 0)))


def test_wrong_values_are_reported_together_with_their_places(load: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load(
            virtual_service(
                "- timeout: 5\n"
                "  retries: {attempts: -1, perTryTimeout: 3 seconds}\n"
                "  route: [{weight: 1}]\n"
                "- match: [{uri: {regex: '('}}]\n"
            )
        )
    text = str(raised.value)
    assert "b0.yaml:7:5: spec.http[0].timeout: wrong value" in text
    assert "spec.http[0].retries.attempts: wrong value; found -1" in text
    assert "spec.http[0].retries.perTryTimeout: wrong value; found '3 seconds'" in text
    assert "a destination needs a host" in text
    assert "not a regular expression" in text
    assert len(raised.value.problems) == 5
