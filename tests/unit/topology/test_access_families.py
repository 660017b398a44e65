"""Objects of Consul, Kuma and Linkerd: what they say, decided by the evaluator."""

from access_shop import EVERYONE, Mesh, remarks

from meshsim.policy.authorization import FORBIDDEN, NOT_FOUND

# --- Consul ---------------------------------------------------------------------------------

INTENTIONS = """
Kind: service-intentions
Name: db
Sources:
  - {Name: api, Action: allow}
  - {Name: "*", Action: deny}
---
apiVersion: consul.hashicorp.com/v1alpha1
kind: ServiceIntentions
metadata: {name: everything}
spec:
  destination: {name: "*"}
  sources: [{name: web, action: deny}, {name: "*", action: allow}]
"""


def test_consul_precedence():
    mesh = Mesh(INTENTIONS)
    assert mesh.ask("api", "db").reason == (
        "allowed by ALLOW rule 1 of intention api -> db of service-intentions default/db"
    )
    # Any to exact comes before exact to any.
    assert "intention * -> db" in mesh.ask("web", "db").reason
    assert "intention web -> *" in mesh.ask("web", "api").reason
    assert mesh.ask("db", "api").allowed
    # Whoever has no certificate is no service at all.
    assert "default policy" in mesh.ask("plain", "db").reason


def test_consul_default_policy():
    only = "{Kind: service-intentions, Name: db, Sources: [{Name: api, Action: deny}]}"
    assert Mesh(only).allowed(*EVERYONE) == ["web", "db", "plain"]
    assert Mesh(only, default_intention="DENY").allowed(*EVERYONE) == []


PERMISSIONS = """
Kind: service-intentions
Name: db
Sources:
  - Name: api
    Permissions:
      - {Action: deny, HTTP: {PathExact: /v2/secret}}
      - {Action: allow, HTTP: {PathPrefix: /v2, Methods: [GET, PUT]}}
      - {Action: allow, HTTP: {PathRegex: "/v[34]", Header: [{Name: x-a, Suffix: z, Invert: true}]}}
  - {Name: "*", Action: allow}
"""


def test_consul_permissions_are_tried_in_order_and_fall_back_on_the_default():
    mesh = Mesh(PERMISSIONS, default_intention="DENY")
    assert mesh.ask("api", "db", path="/v2/books").allowed
    # A prefix is one of characters.
    assert mesh.ask("api", "db", path="/v2example").allowed
    assert mesh.ask("api", "db", path="/v2/secret").reason.startswith("denied by DENY rule 1")
    assert mesh.ask("api", "db", path="/v3").allowed
    assert mesh.ask("api", "db", path="/v3", headers={"x-a": "yz"}).outcome == FORBIDDEN
    # The intention of lower precedence does not count for this caller.
    missed = mesh.ask("api", "db", path="/v2", method="POST")
    assert "no permission matches; the default policy" in missed.reason
    assert not missed.allowed
    assert mesh.ask("web", "db", method="POST").allowed


def test_consul_keys_are_the_same_in_every_spelling():
    snake = """
{kind: service-intentions, name: db,
 sources: [{name: api, permissions: [{action: deny, http: {path_exact: /x}}]}]}
"""
    assert not Mesh(snake).ask("api", "db", path="/x").allowed
    assert Mesh(snake).ask("api", "db", path="/y").allowed


# --- Kuma -----------------------------------------------------------------------------------


def kuma(name, spec, labels="{}"):
    kind = "type: MeshTrafficPermission\nmesh: default"
    return f"{kind}\nname: {name}\nlabels: {labels}\nspec: {spec}\n---\n"


def entry(action, target="{kind: Mesh}"):
    return f"{{targetRef: {target}, default: {{action: {action}}}}}"


API = "{kind: MeshSubset, tags: {'kuma.io/service': api}}"
DB = "{kind: MeshService, name: db_back_svc_80}"


def test_kuma_denies_what_no_permission_allows():
    allow = kuma("allow", f"{{targetRef: {DB}, from: [{entry('Allow', API)}]}}")
    mesh = Mesh(allow)
    assert mesh.allowed(*EVERYONE) == ["api"]
    assert "Kuma's default" in mesh.ask("web", "api").reason
    assert Mesh(kuma("x", "{}")).allowed(*EVERYONE) == []


def test_kuma_without_mutual_tls_enforces_nothing():
    deny = kuma("deny", f"{{targetRef: {{kind: Mesh}}, from: [{entry('Deny')}]}}")
    assert Mesh(deny + "{type: Mesh, name: default}").allowed(*EVERYONE) == list(EVERYONE)
    secured = "{type: Mesh, name: default, mtls: {enabledBackend: ca}}"
    assert Mesh(secured).allowed(*EVERYONE) == []


def test_kuma_later_entries_and_narrower_targets_override():
    both = f"[{entry('Allow')}, {entry('Deny', API)}]"
    assert Mesh(kuma("p", f"{{from: {both}}}")).allowed("web", "api") == ["web"]
    wide = kuma("wide", f"{{targetRef: {{kind: Mesh}}, from: [{entry('Deny')}]}}")
    narrow = kuma("narrow", f"{{targetRef: {DB}, from: [{entry('Allow')}]}}")
    assert Mesh(wide + narrow).allowed("web", "api") == ["web", "api"]
    # Of equal targets the first name counts.
    first = kuma("a", f"{{from: [{entry('Deny')}]}}")
    second = kuma("b", f"{{from: [{entry('Allow')}]}}")
    assert Mesh(second + first).allowed("web", "api") == []


def test_kuma_rules_deny_before_they_allow():
    identity = "[{{spiffeID: {{type: {}, value: 'spiffe://cluster.local/{}'}}}}]"
    rules = (
        f"{{rules: [{{default: {{deny: {identity.format('Exact', 'ns/back/sa/api')},"
        f" allow: {identity.format('Prefix', 'ns/back')},"
        f" allowWithShadowDeny: {identity.format('Exact', 'ns/front/sa/web')}}}}}]}}"
    )
    mesh = Mesh(kuma("p", rules))
    assert mesh.allowed(*EVERYONE) == ["web", "db"]
    assert "(deny[0])" in mesh.ask("api", "db").reason


def test_kuma_shadow_policies_are_not_enforced():
    text = kuma("p", f"{{from: [{entry('Allow')}]}}", "{kuma.io/effect: shadow}")
    secured = "{type: Mesh, name: default, mtls: {enabledBackend: ca}}"
    assert Mesh(text + secured).allowed(*EVERYONE) == []
    assert any("shadow" in message for message in remarks(text))


def test_kuma_older_permissions():
    text = """
type: TrafficPermission
name: old
sources: [{match: {'kuma.io/service': '*', tier: back}}]
destinations: [{match: {'kuma.io/service': db}}]
"""
    assert Mesh(text).allowed(*EVERYONE) == ["api", "db"]


# --- Linkerd --------------------------------------------------------------------------------


def linkerd(kind, name, spec, labels="{}"):
    return (
        f"apiVersion: policy.linkerd.io/v1beta3\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: back, labels: {labels}}}\nspec: {spec}\n---\n"
    )


SERVER = linkerd("Server", "db", "{podSelector: {matchLabels: {app: db}}, port: 80}", "{of: db}")
TO_SERVER = "targetRef: {group: policy.linkerd.io, kind: Server, name: db}"


def grant(references, target=TO_SERVER, name="p"):
    spec = f"{{{target}, requiredAuthenticationRefs: {references}}}"
    return linkerd("AuthorizationPolicy", name, spec)


def test_a_linkerd_server_denies_its_port_by_default():
    mesh = Mesh(SERVER)
    assert mesh.allowed(*EVERYONE) == []
    assert mesh.ask("web", "db", port=81).allowed
    assert mesh.ask("web", "api").allowed
    opened = SERVER.replace("port: 80", "port: 80, accessPolicy: all-authenticated")
    assert Mesh(opened).allowed(*EVERYONE) == ["web", "api", "db"]


def test_linkerd_grants_by_account_identity_and_namespace():
    assert Mesh(SERVER + grant("[{kind: ServiceAccount, name: api}]")).allowed(*EVERYONE) == ["api"]
    reference = "[{kind: MeshTLSAuthentication, group: policy.linkerd.io, name: who}]"
    identities = (
        "{identities: ['web.front.serviceaccount.identity.linkerd.cluster.local',"
        " '*.back.serviceaccount.identity.linkerd.cluster.local']}"
    )
    who = linkerd("MeshTLSAuthentication", "who", identities)
    assert Mesh(SERVER + who + grant(reference)).allowed(*EVERYONE) == ["web", "api", "db"]
    everyone = linkerd("MeshTLSAuthentication", "who", "{identities: ['*']}")
    assert Mesh(SERVER + everyone + grant(reference)).allowed("web", "plain") == ["web"]
    by_reference = (
        "{identityRefs: [{kind: ServiceAccount, name: db}, {kind: Namespace, name: front}]}"
    )
    referred = linkerd("MeshTLSAuthentication", "who", by_reference)
    assert Mesh(SERVER + referred + grant(reference)).allowed(*EVERYONE) == ["web", "db"]
    namespace = "targetRef: {kind: Namespace, name: back}"
    assert Mesh(SERVER + grant("[]", namespace)).allowed(*EVERYONE) == list(EVERYONE)


def test_all_authentications_of_a_linkerd_policy_must_hold():
    networks = linkerd("NetworkAuthentication", "net", "{networks: [{cidr: 10.0.0.0/8}]}")
    both = grant("[{kind: ServiceAccount, name: api}, {kind: NetworkAuthentication, name: net}]")
    mesh = Mesh(SERVER + networks + both)
    assert mesh.allowed(*EVERYONE) == []
    services = dict(mesh.map.access.services)
    for name in ("web", "api"):
        services[name] = services[name].model_copy(update={"address": "10.0.0.1"})
    assert Mesh(SERVER + networks + both, services=services).allowed(*EVERYONE) == ["api"]
    missing = grant("[{kind: NetworkAuthentication, name: nowhere}]")
    assert Mesh(SERVER + missing).allowed(*EVERYONE) == []


def test_linkerd_routes_answer_404_and_have_grants_of_their_own():
    route = linkerd(
        "HTTPRoute", "read",
        "{parentRefs: [{kind: Server, name: db}], rules: [{matches: ["
        "{method: GET, path: {value: /a}}, {path: {type: Exact, value: /b}}]}]}",
    )  # fmt: skip
    to_route = "targetRef: {kind: HTTPRoute, name: read}"
    mesh = Mesh(
        SERVER
        + route
        + grant("[{kind: ServiceAccount, name: api}]", to_route)
        + grant("[{kind: ServiceAccount, name: db}]", name="whole")
    )
    assert mesh.ask("api", "db", path="/a/x").allowed
    assert mesh.ask("api", "db", path="/ax").outcome == NOT_FOUND
    assert mesh.ask("api", "db", path="/a", method="PUT").outcome == NOT_FOUND
    assert mesh.ask("db", "db", path="/b", method="PUT").allowed
    assert mesh.ask("db", "db", path="/b/c").outcome == NOT_FOUND
    refused = mesh.ask("web", "db", path="/b")
    assert (refused.outcome, refused.policy) == (FORBIDDEN, "Server back/db")


def test_linkerd_server_authorizations():
    def allowed(client, server="{name: db}"):
        spec = f"{{server: {server}, client: {client}}}"
        return Mesh(SERVER + linkerd("ServerAuthorization", "old", spec)).allowed(*EVERYONE)

    assert allowed("{unauthenticated: true}") == list(EVERYONE)
    assert allowed("{meshTLS: {serviceAccounts: [{name: web, namespace: front}]}}") == ["web"]
    assert allowed("{meshTLS: {identities: ['*']}}") == ["web", "api", "db"]
    assert allowed("{}") == []
    assert allowed("{unauthenticated: true}", "{selector: {matchLabels: {of: db}}}") != []
    assert allowed("{unauthenticated: true}", "{selector: {matchLabels: {of: x}}}") == []
