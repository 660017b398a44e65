"""Access objects of real repositories: each file is read, and says what its source says."""

import pytest
import yaml

from meshsim.topology.access import read_documents
from meshsim.topology.access.model import AccessPolicy

#: File -> number of policies and of modes that it makes.
FILES = {
    "apps/sock-shop/policy/netpol-cart-access.yaml": (1, 0),
    "apps/sock-shop/policy/netpol-frontend-access.yaml": (1, 0),
    "apps/sock-shop/policy/netpol-rabbitmq-access.yaml": (1, 0),
    "cilium/kubernetes-dns__dns-matchname.yaml": (1, 0),
    "cilium/kubernetes__servicemesh__cnp-without-mutual-auth.yaml": (1, 0),
    "cilium/kubernetes__servicemesh__policy__allow-ingress-cluster.yaml": (1, 0),
    "cilium/minikube__sw_l3_l4_policy.yaml": (1, 0),
    "cilium/policies__l3__simple__l3.yaml": (1, 0),
    "cilium/policies__l4__l4.yaml": (1, 0),
    "cilium/policies__l7__http__http.yaml": (1, 0),
    "cilium/policies__l7__http__simple__l7.yaml": (1, 0),
    # One for each source, and the default policy.
    "consul/k8s/bases__intention__intention.yaml": (2, 0),
    "consul/k8s/bases__crds-oss__serviceintentions.yaml": (3, 0),
    "istio/authz/http__allow-empty-rule-in.yaml": (1, 0),
    "istio/authz/http__allow-nil-rule-in.yaml": (1, 0),
    "istio/authz/http__allow-path-in.yaml": (1, 0),
    "istio/authz/http__deny-and-allow-in.yaml": (2, 0),
    "istio/authz/http__simple-policy-td-aliases-in.yaml": (1, 0),
    "istio/authz/tcp__allow-only-http-in.yaml": (1, 0),
    "istio/docs-tasks/authn-policy__snip_enable_mutual_tls_per_workload_1.yaml": (0, 1),
    "istio/docs-tasks/"
    "authn-policy__snip_globally_enabling_istio_mutual_tls_in_strict_mode_1.yaml": (0, 1),
    "istio/docs-tasks/authz-deny__snip_explicitly_deny_a_request_1.yaml": (1, 0),
    "istio/docs-tasks/authz-ingress__snip_ipbased_allow_list_and_deny_list_1.yaml": (1, 0),
    "istio/docs-tasks/authz-jwt__snip_allow_requests_with_valid_jwt_and_listtyped_claims_4.yaml": (
        1,
        0,
    ),
    "istio/redhat-tutorial/istiofiles__authorization-policy-allow-customer.yaml": (1, 0),
    "istio/redhat-tutorial/istiofiles__authorization-policy-deny-all.yaml": (1, 0),
    "istio/redhat-tutorial/istiofiles__enable-mtls.yml": (0, 1),
    "istio/testdata-config/peer-authn-strict.yaml": (0, 1),
    # One policy, and Kuma's default.
    "kuma/docs/meshtrafficpermission-13.yaml": (2, 0),
    "kuma/docs/meshtrafficpermission-5.yaml": (2, 0),
    # A shadow policy is none.
    "kuma/e2e/meshtrafficpermission__inbound-rules.input.yaml": (0, 0),
    "linkerd/docs/authorization-policy-1-server.yaml": (1, 0),
    # Grants without their Server.
    "linkerd/docs/authorization-policy-4.yaml": (0, 0),
    "linkerd/docs/authorization-policy-7.yaml": (0, 0),
    "linkerd/docs/per-route-9.yaml": (0, 0),
    "linkerd/test/install__testdata__smoke_test.yaml": (2, 0),
}
#: Kinds that stand beside access objects in these files.
OTHERS = ("Service", "Deployment", "ServiceDefaults")


def documents(samples, *names):
    texts = ((samples / name).read_text() for name in names)
    found = [item for text in texts for item in yaml.safe_load_all(text) if item]
    return [item for item in found if item.get("kind") not in OTHERS]


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_read_without_a_mistake(samples, name):
    reading = read_documents(documents(samples, name))
    assert [remark for remark in reading.remarks if not remark.notice] == []
    assert not [remark for remark in reading.remarks if "not read" in remark.message]
    assert (len(reading.policies), len(reading.peer_authentication)) == FILES[name]
    for policy in reading.policies:
        assert AccessPolicy.model_validate(policy.model_dump()) == policy


def test_istio_paths_are_taken_over_with_their_negations(samples):
    (policy,) = read_documents(documents(samples, "istio/authz/http__allow-path-in.yaml")).policies
    (operation,) = policy.rules[0].operations
    assert operation.paths[-2:] == ("/path/template/{*}", "/{**}/path/template")
    assert operation.not_paths[0] == "/not-exact"
    assert policy.selector.namespaces == ("foo",)
    assert policy.selector.labels == {"app": "httpbin", "version": "v1"}


def test_linkerd_route_grants_of_the_books_application(samples):
    names = ("per-route-6.yaml", "per-route-8.yaml", "per-route-9.yaml")
    reading = read_documents(documents(samples, *(f"linkerd/docs/{name}" for name in names)))
    routes, server = reading.policies
    assert (routes.status, routes.ports) == (404, ("service",))
    (rule,) = server.rules
    accounts = [source.service_accounts for source in rule.sources]
    assert accounts == [("booksapp/books",), ("booksapp/webapp",)]
    assert [item.methods for item in rule.operations] == [("GET",), ("GET",)]


def test_the_smoke_test_of_linkerd_admits_three_accounts(samples):
    name = "linkerd/test/install__testdata__smoke_test.yaml"
    terminus, admin = read_documents(documents(samples, name)).policies
    assert len(terminus.rules[0].sources) == 3
    assert admin.rules[0].sources == ()
    assert admin.selector.expressions[0].values == ("smoke-test-terminus", "smoke-test-gateway")
