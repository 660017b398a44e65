"""Access: every caller, method and path of a matrix, by mutual TLS, under sets of policies."""

import asyncio
import itertools
import ssl

import envoy_resources
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy_access import rbac_filters
from envoy_process import Envoy
from wire import Ask, drive

from emulator.clock import unix_s
from meshsim.controlplane.certificate_authority import CertificateAuthority, generate_key
from meshsim.policy.authorization import (
    ALLOWED,
    FORBIDDEN,
    Authorizer,
    Condition,
    EffectiveMode,
    Party,
    Policy,
    Request,
    Rule,
    labels_of,
)

DOMAIN = "cluster.local"
CALLERS = {"web": "shop", "cart": "shop", "spy": "street"}
METHODS = ("GET", "PUT", "DELETE")
PATHS = ("/", "/api", "/api/v1", "/apis", "/admin/x.json", "/api?q=/admin", "/API")
HEADERS = ({}, {"tier": "gold"}, {"tier": "golden"})
ASKS = [
    Ask(method=method, path=path, headers=headers)
    for method, path, headers in itertools.product(METHODS, PATHS, HEADERS)
]

GET = Condition("request.method", ("GET",))
API = Condition("request.path", ("/api", "/api/*"))
JSON = Condition("request.path", ("*.json",))
GOLD = Condition("request.headers[tier]", ("gold",))
TIERED = Condition("request.headers[tier]", ("*",))
IN_SHOP = Condition("source.namespace", ("shop",))
WEB = Condition("source.principal", (f"{DOMAIN}/ns/shop/sa/web",))
SHOPPERS = Condition("source.principal", (f"{DOMAIN}/ns/shop/*",))


def unless(condition):
    return Condition(condition.attribute, condition.values, negated=True)


def policy(action, *rules):
    return Policy(f"{action} by test", action, rules)


def rule(sources=(), operations=(), when=()):
    return Rule(tuple(sources), tuple(operations), tuple(when))


POLICIES = {
    "nobody is named": [policy("ALLOW")],
    "everybody": [policy("ALLOW", rule())],
    "a namespace": [policy("ALLOW", rule([(IN_SHOP,)]))],
    "a principal, a method": [policy("ALLOW", rule([(WEB,)], [(GET,)]))],
    "a prefix of principals": [policy("ALLOW", rule([(SHOPPERS,)], [(API,)]))],
    "alternatives": [policy("ALLOW", rule([(WEB,)], [(GET, API), (JSON,)]), rule(when=[GOLD]))],
    "not": [policy("ALLOW", rule([(unless(WEB),)], [(unless(API),)]))],
    "a header that is there": [policy("ALLOW", rule(operations=[(TIERED,)]))],
    "an absent header meets not": [policy("ALLOW", rule(when=[unless(TIERED), IN_SHOP]))],
    "deny alone": [policy("DENY", rule([(unless(IN_SHOP),)], [(API,)]))],
    "deny before allow": [
        policy("ALLOW", rule([(IN_SHOP,)])),
        policy("DENY", rule([(WEB,)], [(unless(GET),)]), rule(when=[GOLD])),
    ],
}


def principal_of(name):
    return f"spiffe://{DOMAIN}/ns/{CALLERS.get(name, 'shop')}/sa/{name}"


class Certificates:
    """Key, chain and root of each party, in files."""

    def __init__(self, folder):
        self._authority = CertificateAuthority.create(DOMAIN, unix_s())
        self._folder = folder

    def files(self, name):
        """Return the paths of the key, the chain and the root of `name`."""
        key, principal = generate_key("ecdsa-p256"), principal_of(name)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal)])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        signed = request.add_extension(names, critical=False).sign(key, hashes.SHA256())
        chain = self._authority.issue(signed.public_bytes(Encoding.PEM), principal, unix_s())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        contents = {"key": secret, "chain": chain, "root": self._authority.root_pem}
        paths = {}
        for role, content in contents.items():
            paths[role] = self._folder / f"{name}-{role}.pem"
            paths[role].touch(mode=0o600)
            paths[role].write_bytes(content)
        return paths

    def client(self, name):
        """Return the TLS context of a caller; who the server is does not matter here."""
        paths = self.files(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(paths["chain"], paths["key"])
        return context

    def server(self):
        """Return Envoy's transport socket, which wants a certificate of our root."""
        paths = {role: {"filename": str(path)} for role, path in self.files("store").items()}
        common = {
            "tls_certificates": [
                {"certificate_chain": paths["chain"], "private_key": paths["key"]}
            ],
            "validation_context": {"trusted_ca": paths["root"]},
        }
        return envoy_resources.extension(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=common,
            require_client_certificate=True,
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("case", POLICIES)
def test_matrix(referee, case, certificates):
    policies = POLICIES[case]
    store = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    listener = envoy_resources.listener(
        [store], filters=rbac_filters(policies), transport=certificates.server()
    )
    evaluator = Authorizer(
        Party("store", service="store"), policies, EffectiveMode("STRICT", "by test")
    )
    statuses = {ALLOWED: 200, FORBIDDEN: 403}
    envoys, ours = {}, {}
    with Envoy(referee.binary, {"listeners": [listener], "clusters": []}) as envoy:
        for name, namespace in CALLERS.items():
            context = certificates.client(name)
            answers, _ = asyncio.run(drive(envoy.port(envoy_resources.OUTBOUND), ASKS, 1, context))
            peer = Party(name, name, namespace, principal=principal_of(name))
            for ask, answer in zip(ASKS, answers, strict=True):
                request = Request(ask.method, ask.path, "b", labels_of(ask.headers))
                key = name, ask.method, ask.path, ask.headers.get("tier")
                envoys[key] = answer.status
                ours[key] = statuses[evaluator.decide(peer, request).outcome]
        counters = envoy.counters()
    differing = {key: (envoys[key], ours[key]) for key in envoys if envoys[key] != ours[key]}
    assert differing == {}
    denied = sum(status == 403 for status in ours.values())
    counted = counters[f"http.{envoy_resources.OUTBOUND}.rbac.denied"]
    referee.equal(f"RBAC, {case}: denied of {len(ours)}", counted, denied)
