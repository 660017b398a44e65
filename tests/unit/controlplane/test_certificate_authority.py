import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.controlplane.certificate_authority import (
    CertificateAuthority,
    CertificateRefused,
    certificate_principal,
    generate_key,
    load_chain,
    sign_data,
)
from meshsim.errors import ConfigError

NOW = 1_700_000_000.0
DOMAIN = "cluster.local"
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews-v1"
RATINGS = "spiffe://cluster.local/ns/default/sa/ratings-v1"
AUTHORITY = CertificateAuthority.create(DOMAIN, NOW, ttl_s=3600.0)
KEY = generate_key("ecdsa-p256")


def request(key=KEY, names=(REVIEWS,), extensions=(), algorithm=hashes.SHA256):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(key, algorithm() if algorithm else None)
    return signed.public_bytes(Encoding.PEM)


def refusal(csr_pem, principal=REVIEWS, now=NOW, authority=AUTHORITY):
    issued, before = authority.issued, authority.refused.total()
    with pytest.raises(CertificateRefused) as caught:
        authority.issue(csr_pem, principal, now)
    assert (authority.issued, authority.refused.total()) == (issued, before + 1)
    return caught.value.reason


def test_a_certificate_is_what_the_mesh_needs_and_no_more():
    (certificate,) = load_chain(AUTHORITY.issue(request(), REVIEWS, NOW))
    assert certificate_principal(certificate) == REVIEWS
    assert certificate.not_valid_before_utc.timestamp() == NOW - 60
    assert certificate.not_valid_after_utc.timestamp() == NOW + 3600
    assert certificate.version is x509.Version.v3
    assert certificate.subject == x509.Name([])
    find = certificate.extensions.get_extension_for_class
    assert find(x509.SubjectAlternativeName).critical
    assert list(find(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    usage = find(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert find(x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
    root = x509.load_pem_x509_certificate(AUTHORITY.root_pem)
    certificate.verify_directly_issued_by(root)
    assert certificate.public_key() == KEY.public_key()


def test_the_root_is_an_authority_of_its_trust_domain_alone():
    root = x509.load_pem_x509_certificate(AUTHORITY.root_pem)
    find = root.extensions.get_extension_for_class
    assert find(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert find(x509.KeyUsage).value.key_cert_sign
    assert not find(x509.KeyUsage).value.digital_signature
    assert certificate_principal(root) is None  # a trust domain is not a workload
    root.verify_directly_issued_by(root)


def test_serial_numbers_are_random():
    serials = {
        load_chain(AUTHORITY.issue(request(), REVIEWS, NOW))[0].serial_number for _ in range(20)
    }
    assert len(serials) == 20
    assert max(serials) > 2**140  # all 20 below that: probability 2**-360


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048"])
def test_both_key_types_for_root_and_workload(key_type):
    authority = CertificateAuthority.create(DOMAIN, NOW, key_type=key_type, ttl_s=90.5)
    key = generate_key(key_type)
    chain = authority.issue(request(key), REVIEWS, NOW)
    assert load_chain(chain)[0].not_valid_after_utc.timestamp() == NOW + 90
    assert authority.verify_signature(chain, REVIEWS, b"data", sign_data(key, b"data"), NOW)
    assert not authority.verify_signature(chain, REVIEWS, b"Data", sign_data(key, b"data"), NOW)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 1024), hashes.SHA256),
        (rsa.generate_private_key(3, 2048), hashes.SHA256),
        (ec.generate_private_key(ec.SECP224R1()), hashes.SHA256),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256),
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA256),
        (ed25519.Ed25519PrivateKey.generate(), None),
        (dsa.generate_private_key(1024), hashes.SHA256),
    ],
)
def test_weak_and_odd_keys_are_refused(key, algorithm):
    assert refusal(request(key, algorithm=algorithm)) == "weak_key"


def test_p384_is_strong_enough():
    assert AUTHORITY.issue(request(ec.generate_private_key(ec.SECP384R1())), REVIEWS, NOW)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (RATINGS,),
        (REVIEWS, RATINGS),
        (REVIEWS, REVIEWS),
        (REVIEWS + "/",),
        (REVIEWS.upper(),),
    ],
)
def test_the_one_name_is_the_enrolled_principal(names):
    assert refusal(request(names=names)) == "wrong_name"


def test_a_name_of_another_kind_is_refused():
    names = [x509.UniformResourceIdentifier(REVIEWS), x509.DNSName("reviews")]
    extension = x509.SubjectAlternativeName(names)
    assert refusal(request(names=(), extensions=[extension])) == "wrong_name"


def test_a_request_to_be_an_authority_is_refused():
    asks = [x509.BasicConstraints(ca=True, path_length=None)]
    assert refusal(request(extensions=asks)) == "extra_extension"


def test_a_principal_of_another_trust_domain_is_refused():
    stranger = "spiffe://evil.local/ns/default/sa/reviews-v1"
    assert refusal(request(names=(stranger,)), stranger) == "wrong_trust_domain"
    assert refusal(request(), "reviews") == "wrong_trust_domain"


def test_a_request_is_signed_by_its_own_key():
    der = bytearray(x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER))
    # The public key point is replaced: the signature, by the other key, no longer fits.
    other = generate_key("ecdsa-p256").public_key().public_numbers()
    mine = KEY.public_key().public_numbers()
    at = der.index(mine.x.to_bytes(32))
    der[at : at + 64] = other.x.to_bytes(32) + other.y.to_bytes(32)
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    assert refusal(forged) == "bad_signature"


@pytest.mark.parametrize("csr_pem", [b"", b"garbage", AUTHORITY.root_pem, b"-" * 20_000])
def test_what_is_no_request_is_refused(csr_pem):
    assert refusal(csr_pem) == "malformed"


CSR_DER = x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CSR_DER) - 1), st.integers(1, 255))
def test_a_damaged_request_is_refused_and_never_crashes(position, flip):
    damaged = bytearray(CSR_DER)
    damaged[position] ^= flip
    body = base64.encodebytes(bytes(damaged))
    head, tail = b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(CertificateRefused):
        AUTHORITY.issue(head + body + tail, REVIEWS, NOW)


def test_no_certificate_outlives_the_root():
    authority = CertificateAuthority.create(DOMAIN, NOW, root_ttl_s=100.0)
    chain = authority.issue(request(), REVIEWS, NOW + 50)
    assert load_chain(chain)[0].not_valid_after_utc.timestamp() == NOW + 100
    assert refusal(request(), now=NOW + 100, authority=authority) == "root_expired"


@pytest.mark.parametrize(
    "settings_",
    [
        {"ttl_s": 0.0},
        {"ttl_s": float("nan")},
        {"backdate_s": 61.0},
        {"backdate_s": -1.0},
        {"key_type": "rsa-1024"},
        {"root_ttl_s": 0.0},
    ],
)
def test_bad_settings(settings_):
    with pytest.raises(ConfigError):
        CertificateAuthority.create(DOMAIN, NOW, **settings_)


@pytest.mark.parametrize("domain", ["", "Cluster.local", "a/b", "spiffe://a"])
def test_bad_trust_domain(domain):
    with pytest.raises(ConfigError):
        CertificateAuthority.create(domain, NOW)


def test_a_signature_counts_only_with_a_good_certificate_of_that_name():
    chain = AUTHORITY.issue(request(), REVIEWS, NOW)
    signature = sign_data(KEY, b"data")

    def verify(chain=chain, principal=REVIEWS, signature=signature, now=NOW):
        return AUTHORITY.verify_signature(chain, principal, b"data", signature, now)

    assert verify()
    assert not verify(now=NOW + 3601)
    assert not verify(now=NOW - 61)
    assert not verify(principal=RATINGS)
    assert not verify(signature=sign_data(generate_key("ecdsa-p256"), b"data"))
    assert not verify(signature=b"")
    assert not verify(chain=b"garbage")
    foreign = CertificateAuthority.create(DOMAIN, NOW)
    assert not verify(chain=foreign.issue(request(), REVIEWS, NOW))
    # The root itself holds no workload's name.
    assert not verify(chain=AUTHORITY.root_pem)


def test_an_expired_copy_differs_in_its_dates_alone():
    chain = AUTHORITY.issue(request(), REVIEWS, NOW)
    (copy,) = load_chain(AUTHORITY.expired(chain, NOW))
    assert copy.public_key() == KEY.public_key()
    assert certificate_principal(copy) == REVIEWS
    assert copy.not_valid_after_utc == datetime.datetime.fromtimestamp(NOW - 3600, datetime.UTC)
    assert copy.not_valid_before_utc < copy.not_valid_after_utc
    copy.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.root_pem))
    foreign = CertificateAuthority.create(DOMAIN, NOW)
    with pytest.raises(CertificateRefused):
        foreign.expired(chain, NOW)
