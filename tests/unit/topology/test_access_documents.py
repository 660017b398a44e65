"""Objects of Istio, Kubernetes and Cilium: what they say, decided by the evaluator."""

from access_shop import EVERYONE, Mesh, remarks

from meshsim.policy.authorization import DROPPED, FORBIDDEN, RESET
from meshsim.topology.access import read_documents

# --- Istio ----------------------------------------------------------------------------------


def istio(spec, namespace="back", kind="AuthorizationPolicy", name="p", metadata=""):
    return (
        f"apiVersion: security.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}{metadata}}}\nspec: {spec}\n---\n"
    )


def test_istio_policies_hold_for_their_namespace_or_for_the_mesh():
    nothing = istio("{}")
    assert Mesh(nothing).allowed(*EVERYONE) == []
    assert Mesh(nothing).allowed("api", target="web") == ["api"]
    root = istio("{}", namespace="istio-system")
    assert Mesh(root).allowed("api", target="web") == []
    assert Mesh(root, root_namespace="other").allowed("api", target="web") == ["api"]
    selected = istio("{selector: {matchLabels: {app: db}}}")
    assert Mesh(selected).allowed("web", target="api") == ["web"]


def test_istio_sources():
    def allowed(source):
        return Mesh(istio(f"{{rules: [{{from: [{{source: {source}}}]}}]}}")).allowed(*EVERYONE)

    assert allowed("{principals: [cluster.local/ns/front/sa/web]}") == ["web"]
    assert allowed('{principals: ["*"]}') == ["web", "api", "db"]
    assert allowed("{namespaces: [back]}") == ["api", "db"]
    assert allowed("{notNamespaces: [back]}") == ["web", "plain"]
    assert allowed("{serviceAccounts: [api, front/web]}") == ["web", "api"]
    assert allowed('{requestPrincipals: ["*"]}') == []
    assert allowed('{notRequestPrincipals: ["*"]}') == list(EVERYONE)
    assert allowed("{namespaces: [back], notPrincipals: ['*/sa/db']}") == ["api"]


def test_istio_operations_and_conditions():
    mesh = Mesh(
        istio(
            "{rules: [{to: [{operation: {paths: ['/books/*'], notPaths: ['/books/secret'],"
            " methods: [GET]}}], when: [{key: 'request.headers[x-tier]', notValues: [free]}]}]}"
        )
    )
    assert mesh.ask("web", "db", path="/books/1").allowed
    assert mesh.ask("web", "db", path="/books/1", headers={"x-tier": "gold"}).allowed
    assert not mesh.ask("web", "db", path="/books/1", headers={"x-tier": "free"}).allowed
    assert not mesh.ask("web", "db", path="/books/secret").allowed
    assert not mesh.ask("web", "db", path="/books/1", method="PUT").allowed
    # Every rule is on HTTP: nothing of it holds for another protocol.
    assert mesh.ask("web", "db", http=False).outcome == RESET


def test_istio_policies_that_do_not_enforce():
    annotation = ', annotations: {istio.io/dry-run: "true"}'
    for text in (
        istio("{}", metadata=annotation),
        istio("{action: AUDIT, rules: [{}]}"),
        istio("{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: x}]}"),
    ):
        assert Mesh(text).allowed(*EVERYONE) == list(EVERYONE)
        assert remarks(text)


def test_istio_unknown_keys_and_values_are_told():
    assert remarks(istio("{rules: [{form: []}]}")) == [
        "spec.rules[0].form is not read; did you mean from?"
    ]
    assert remarks(istio("{action: REFUSE}"), notice=False) == ["wrong value"]
    assert remarks(istio("{rules: {}}"), notice=False) == ["wrong value"]


def test_istio_peer_authentication():
    text = (
        istio("{mtls: {mode: STRICT}}", "istio-system", "PeerAuthentication", "mesh")
        + istio("{mtls: {mode: PERMISSIVE}}", "back", "PeerAuthentication", "back")
        + istio(
            "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT},"
            " portLevelMtls: {8080: {mode: DISABLE}}}",
            "back", "PeerAuthentication", "db",
        )
        + istio("{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}",
                "istio-system", "PeerAuthentication", "ignored")
    )  # fmt: skip
    mesh = Mesh(text)
    assert mesh.map.mode("web", "v1") == ("STRICT", "PeerAuthentication istio-system/mesh")
    assert mesh.map.mode("api", "v1").mode == "PERMISSIVE"
    assert mesh.map.mode("db", "v1").mode == "STRICT"
    assert mesh.ask("plain", "db").outcome == RESET
    assert mesh.ask("plain", "api").allowed
    assert any("is ignored" in message for message in remarks(text))


def test_the_older_of_two_modes_counts():
    old = ", creationTimestamp: '2024-01-01T00:00:00Z'"
    new = ", creationTimestamp: '2025-01-01T00:00:00Z'"
    kind = "PeerAuthentication"
    text = istio("{mtls: {mode: STRICT}}", "back", kind, "a", new)
    text += istio("{mtls: {mode: DISABLE}}", "back", kind, "b", old)
    assert Mesh(text).map.mode("db", "v1").reason == "PeerAuthentication back/b"


# --- Kubernetes -----------------------------------------------------------------------------


def network(spec, namespace="back"):
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )


def test_kubernetes_ingress():
    def allowed(ingress, **request):
        return Mesh(network(f"{{podSelector: {{}}, ingress: {ingress}}}")).allowed(
            *EVERYONE, **request
        )

    assert allowed("[]") == []
    assert allowed("[{}]") == list(EVERYONE)
    # A pod selector is of the policy's namespace, whatever the caller presents.
    assert allowed("[{from: [{podSelector: {}}]}]") == ["api", "db"]
    assert allowed("[{from: [{podSelector: {matchLabels: {app: api}}}]}]") == ["api"]
    front = "matchLabels: {kubernetes.io/metadata.name: front}"
    assert allowed(f"[{{from: [{{namespaceSelector: {{{front}}}}}]}}]") == ["web", "plain"]
    both = f"{{namespaceSelector: {{{front}}}, podSelector: {{matchLabels: {{app: plain}}}}}}"
    assert allowed(f"[{{from: [{both}]}}]") == ["plain"]
    expression = "{matchExpressions: [{key: app, operator: NotIn, values: [api]}]}"
    assert allowed(f"[{{from: [{{podSelector: {expression}}}]}}]") == ["db"]
    assert allowed("[{ports: [{port: 80}]}]") == list(EVERYONE)
    assert allowed("[{ports: [{port: 79, endPort: 81}]}]") == list(EVERYONE)
    assert allowed("[{ports: [{port: 81}]}]") == []
    assert allowed("[{ports: [{port: 80, protocol: UDP}]}]") == []
    assert Mesh(network("{podSelector: {}}")).ask("web", "db").outcome == DROPPED


def test_kubernetes_address_blocks():
    block = "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}"
    text = network(f"{{podSelector: {{}}, ingress: [{{from: [{block}]}}]}}")
    mesh = Mesh(text)
    services = dict(mesh.map.access.services)
    for name, address in (("web", "10.2.0.1"), ("api", "10.1.0.1"), ("plain", "11.0.0.1")):
        services[name] = services[name].model_copy(update={"address": address})
    assert Mesh(text, services=services).allowed(*EVERYONE) == ["web"]


def test_kubernetes_directions():
    egress = network(
        "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress],"
        " egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: api}}}]}]}",
        "front",
    )
    mesh = Mesh(egress)
    assert mesh.ask("web", "api").allowed
    assert mesh.ask("web", "db").outcome == DROPPED
    assert mesh.ask("api", "db").allowed
    assert mesh.ask("api", "web").allowed
    # Without policyTypes the ingress is closed too.
    implied = egress.replace(" policyTypes: [Egress],", "")
    assert Mesh(implied).ask("api", "web").outcome == DROPPED


# --- Cilium ---------------------------------------------------------------------------------


def cilium(spec, kind="CiliumNetworkPolicy"):
    return (
        f"apiVersion: cilium.io/v2\nkind: {kind}\n"
        f"metadata: {{name: p, namespace: back}}\nspec: {spec}\n---\n"
    )


def test_cilium_selectors_and_entities():
    def allowed(ingress, kind="CiliumNetworkPolicy"):
        text = cilium(f"{{endpointSelector: {{}}, ingress: {ingress}}}", kind)
        return Mesh(text).allowed(*EVERYONE)

    assert allowed("[]") == list(EVERYONE)
    assert allowed("[{}]") == []
    assert allowed("[{fromEndpoints: []}]") == []
    assert allowed("[{fromEndpoints: [{}]}]") == ["api", "db"]
    assert allowed("[{fromEndpoints: [{}]}]", "CiliumClusterwideNetworkPolicy") == list(EVERYONE)
    other = "{matchLabels: {'k8s:io.kubernetes.pod.namespace': front, 'any:app': web}}"
    assert allowed(f"[{{fromEndpoints: [{other}]}}]") == ["web"]
    assert allowed("[{fromEntities: [cluster]}]") == list(EVERYONE)
    assert allowed("[{fromEntities: [world]}]") == []
    assert allowed("[{fromEntities: [host]}]") == []
    assert allowed("[{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]") == list(EVERYONE)
    assert allowed("[{toPorts: [{ports: [{port: '81'}]}]}]") == []


def test_cilium_deny_wins():
    deny = "ingressDeny: [{fromEndpoints: [{matchLabels: {app: api}}]}]"
    mesh = Mesh(cilium(f"{{endpointSelector: {{}}, ingress: [{{fromEntities: [all]}}], {deny}}}"))
    assert mesh.allowed(*EVERYONE) == ["web", "db", "plain"]
    assert mesh.ask("api", "db").reason == "dropped by DENY rule 1 of CiliumNetworkPolicy back/p"


def test_cilium_http_is_anchored_and_answers_403():
    mesh = Mesh(
        cilium(
            "{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {app: api}}],"
            " toPorts: [{ports: [{port: '80'}], rules: {http: [{method: GET, path: '/path1$'},"
            " {method: PUT, headers: ['X-My-Header: true']}]}}]}]}"
        )
    )
    assert mesh.ask("api", "db", path="/path1").allowed
    assert mesh.ask("api", "db", path="/path11").outcome == FORBIDDEN
    assert mesh.ask("api", "db", method="PUT").outcome == FORBIDDEN
    assert mesh.ask("api", "db", method="PUT", headers={"x-my-header": "true"}).allowed
    assert mesh.ask("web", "db", path="/path1").outcome == DROPPED


# --- All of them ----------------------------------------------------------------------------


def test_what_is_no_object_of_access_is_a_mistake():
    assert remarks("{apiVersion: v1, kind: Service}", notice=False) == ["not an object of access"]
    nameless = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, spec: {}}"
    assert remarks(nameless, notice=False) == ["a name is needed"]


def test_no_reader_stumbles_over_wrong_types():
    for kind, group in (
        ("AuthorizationPolicy", "security.istio.io/v1"),
        ("PeerAuthentication", "security.istio.io/v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
        ("CiliumNetworkPolicy", "cilium.io/v2"),
        ("ServiceIntentions", "consul.hashicorp.com/v1alpha1"),
        ("MeshTrafficPermission", "kuma.io/v1alpha1"),
        ("Server", "policy.linkerd.io/v1beta3"),
    ):
        for spec in (
            7, [], "x", {"rules": 7, "sources": 7, "from": "x", "ingress": [7], "selector": 7},
            {"rules": [{"from": [{"source": 1}], "to": 2, "when": ["x"]}], "podSelector": "x",
             "endpointSelector": [], "mtls": 1, "portLevelMtls": {80: 1}, "port": [], "ingress": 7},
        ):  # fmt: skip
            document = {"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
            assert read_documents([document]).remarks
