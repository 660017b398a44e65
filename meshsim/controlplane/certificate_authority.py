"""The certificate authority of a mesh: who gets which certificate, and for how long.

Rule: a workload makes its key pair itself and sends a certificate signing request (CSR).  The
authority signs it if the request proves possession of its key, the key is strong enough, and the
one name it asks for is the principal that the requester's enrolment allows.  Nothing else of the
request enters the certificate, and a request for anything else is refused.

===================== =======================================================================
part of a certificate value
===================== =======================================================================
subject               empty; the name is the URI (critical, RFC 5280 section 4.2.1.6)
validity              from `backdate_s` (at most 60 s, for clocks that differ) before the issue
                      to `ttl_s` after it, never past the root's end
key usage             digital signature (critical); extended: server and client authentication
basic constraints     not an authority (critical)
serial number         159 random bits (RFC 5280 section 4.1.2.2 allows 20 octets)
===================== =======================================================================

All times are *unix seconds of the machine's clock*, also where the mesh's time is dilated: those
who verify are TLS libraries, and they ask the machine.  The time is passed in; nothing here reads
a clock or a socket.  The root's private key is never written, not even to this process's files.

References
----------
SPIFFE, standards/X509-SVID.md (sections 2 to 4).  Istio, security/pkg/pki/util/generate_cert.go
and security/pkg/pki/ca/ca.go (self-signed root of 10 years);
pilot/cmd/pilot-agent/options/options.go (24 h, renewed at half).  RFC 5280; CA/Browser
Forum baseline requirements, section 6.1.5 (RSA of 2048 bits, P-256 and P-384).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshsim.errors import ConfigError
from meshsim.policy.authentication import is_trust_domain, principal_of, trust_domain_of

__all__ = [
    "BACKDATE_MAX_S",
    "CERTIFICATE_TTL_S",
    "KEY_TYPES",
    "ROOT_TTL_S",
    "ROTATION_FRACTION",
    "CertificateAuthority",
    "CertificateRefused",
    "PrivateKey",
    "certificate_principal",
    "generate_key",
    "load_chain",
    "sign_data",
]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_RSA_EXPONENT = 65537
#: How to make a key of each type.  Istio's agents default to RSA-2048, ztunnel to P-256.
KEY_TYPES: dict[str, Callable[[], PrivateKey]] = {
    "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa-2048": lambda: rsa.generate_private_key(_RSA_EXPONENT, 2048),
}
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS_MIN = 2048
#: Verifying a longer key costs more than a refusal; nobody needs it for an hour.
_RSA_BITS_MAX = 4096
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
#: A request of RSA-4096 with one name has about 1.7 KB.
_CSR_BYTES_MAX = 16_384

BACKDATE_MAX_S = 60.0
#: How long a workload's certificate is valid [s]: SECRET_TTL of Istio's agent is 24 h.
CERTIFICATE_TTL_S = 86_400.0
#: Share of a certificate's lifetime after which the next one is due [1]: Istio's
#: SECRET_GRACE_PERIOD_RATIO, half.
ROTATION_FRACTION = 0.5
#: Lifetime of the root [s]: Istio's self-signed root has 10 years.
ROOT_TTL_S = 10 * 365 * 86400.0
#: A certificate made expired ended this long ago: longer than any difference of clocks [s].
_EXPIRED_FOR_S = 3600.0

#: What the parser raises on a stranger's bytes.
_PARSE_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class CertificateRefused(ConfigError):
    """The authority does not sign this request.

    Parameters
    ----------
    reason : str
        What the refusal is counted by: ``malformed``, ``bad_signature``, ``weak_key``,
        ``extra_extension``, ``wrong_name``, ``wrong_trust_domain`` or ``root_expired``.
    message : str
        The same as a sentence; nothing secret.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"certificate refused: {message}")
        self.reason = reason


def generate_key(key_type: str) -> PrivateKey:
    """Return a new private key of one of `KEY_TYPES`.

    Raises
    ------
    ConfigError
        If there is no such type.
    """
    if key_type not in KEY_TYPES:
        raise ConfigError(f"key type {key_type!r}; allowed: {', '.join(KEY_TYPES)}")
    return KEY_TYPES[key_type]()


def sign_data(key: PrivateKey, data: bytes) -> bytes:
    """Sign `data`: ECDSA or RSA PKCS #1 v1.5, with SHA-256."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def load_chain(chain_pem: bytes) -> list[x509.Certificate]:
    """Parse a chain of certificates, the workload's own first.

    Raises
    ------
    CertificateRefused
        If it is not PEM, is empty or is longer than 64 KiB.
    """
    if len(chain_pem) > 4 * _CSR_BYTES_MAX:
        raise CertificateRefused("malformed", "the chain is too long")
    try:
        return x509.load_pem_x509_certificates(chain_pem)
    except _PARSE_ERRORS as error:
        raise CertificateRefused("malformed", "the chain is not PEM") from error


def certificate_principal(certificate: x509.Certificate) -> str | None:
    """Return the SPIFFE id that `certificate` carries as its one URI name, or None."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_PARSE_ERRORS):
        return None
    return principal_of(names.get_values_for_type(x509.UniformResourceIdentifier))


def _time(unix_s: float) -> datetime:
    """Return a time as certificates carry it: whole seconds, rounded down."""
    return datetime.fromtimestamp(int(unix_s), UTC)


def _strong_key(key: object) -> _PublicKey:
    """Return `key` if the authority signs keys of its type and strength."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, _CURVES):
            return key
        raise CertificateRefused("weak_key", f"curve {key.curve.name}; allowed: P-256, P-384")
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX and exponent >= _RSA_EXPONENT:
            return key
        raise CertificateRefused(
            "weak_key",
            f"RSA of {key.key_size} bits, exponent {exponent}; "
            f"allowed: {_RSA_BITS_MIN} to {_RSA_BITS_MAX} bits, exponent from {_RSA_EXPONENT}",
        )
    raise CertificateRefused("weak_key", "neither an elliptic curve nor an RSA key")


def _requested_names(csr: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """Return every name that `csr` asks for; it may ask for nothing else."""
    names: list[x509.GeneralName] = []
    for extension in csr.extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            raise CertificateRefused(
                "extra_extension", f"asks for extension {extension.oid.dotted_string}"
            )
        names += extension.value
    return names


def _load_request(csr_pem: bytes, principal: str) -> _PublicKey:
    """Return the public key of a request that may have a certificate for `principal`."""
    if len(csr_pem) > _CSR_BYTES_MAX:
        raise CertificateRefused("malformed", f"longer than {_CSR_BYTES_MAX} bytes")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        # The key first: an odd one must not even be used to verify a signature.
        key = _strong_key(csr.public_key())
        names = _requested_names(csr)
        signed = isinstance(csr.signature_hash_algorithm, _HASHES) and csr.is_signature_valid
    except _PARSE_ERRORS as error:
        raise CertificateRefused("malformed", "not a PEM certificate request") from error
    if not signed:
        raise CertificateRefused("bad_signature", "it is not signed by its own key with SHA-2")
    if names != [x509.UniformResourceIdentifier(principal)]:
        raise CertificateRefused("wrong_name", f"it must ask for the one name {principal!r}")
    return key


def _usage(*, authority: bool) -> x509.KeyUsage:
    """Return the key usage of an authority or of a workload."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _make_root(
    key: PrivateKey, trust_domain: str, start_s: float, end_s: float
) -> x509.Certificate:
    """Return the self-signed certificate of an authority."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(start_s))
        .not_valid_after(_time(end_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(subject_key, critical=False)
        .sign(key, hashes.SHA256())
    )


class CertificateAuthority:
    """Sign the certificates of one trust domain.  Make it by `create`.

    Parameters
    ----------
    key : PrivateKey
        Private key of the root.  Stays in memory.
    root : x509.Certificate
        Its certificate.
    trust_domain : str
        Trust domain of every principal that gets a certificate.
    ttl_s : float
        Lifetime of the certificates [s of the machine's clock], at least 1.
    backdate_s : float
        How far their validity begins before their issue [s], 0 to 60.

    Attributes
    ----------
    issued : int
        Certificates signed so far.
    refused : collections.Counter
        Requests refused so far, by reason.
    """

    def __init__(
        self,
        key: PrivateKey,
        root: x509.Certificate,
        trust_domain: str,
        *,
        ttl_s: float = CERTIFICATE_TTL_S,
        backdate_s: float = BACKDATE_MAX_S,
    ) -> None:
        if not ttl_s >= 1.0:
            raise ConfigError(f"a certificate's lifetime is at least 1 s, not {ttl_s:g} s")
        if not 0.0 <= backdate_s <= BACKDATE_MAX_S:
            raise ConfigError(f"backdate_s is 0 to {BACKDATE_MAX_S:g} s, not {backdate_s:g} s")
        self._key = key
        self._root = root
        self._ttl_s = ttl_s
        self._backdate_s = backdate_s
        self.trust_domain = trust_domain
        self.root_pem = root.public_bytes(Encoding.PEM)
        self.issued = 0
        self.refused: Counter[str] = Counter()

    @classmethod
    def create(
        cls,
        trust_domain: str,
        now_unix_s: float,
        *,
        key_type: str = "ecdsa-p256",
        ttl_s: float = CERTIFICATE_TTL_S,
        root_ttl_s: float = ROOT_TTL_S,
        backdate_s: float = BACKDATE_MAX_S,
    ) -> CertificateAuthority:
        """Return a new authority with a new root.

        Parameters
        ----------
        trust_domain : str
            For example ``cluster.local``.
        now_unix_s : float
            The machine's time [s since 1970].
        key_type : str
            Of the root, one of `KEY_TYPES`.
        ttl_s, root_ttl_s : float
            Lifetime of the certificates and of the root [s of the machine's clock].
        backdate_s : float
            How far validity begins before issue [s], 0 to 60.

        Raises
        ------
        ConfigError
            If a value is out of its range.
        """
        if not is_trust_domain(trust_domain):
            raise ConfigError(f"{trust_domain!r} is not a trust domain; allowed: a-z 0-9 . _ -")
        if not root_ttl_s >= 1.0:
            raise ConfigError(f"the root's lifetime is at least 1 s, not {root_ttl_s:g} s")
        key = generate_key(key_type)
        root = _make_root(key, trust_domain, now_unix_s - backdate_s, now_unix_s + root_ttl_s)
        return cls(key, root, trust_domain, ttl_s=ttl_s, backdate_s=backdate_s)

    def issue(self, csr_pem: bytes, principal: str, now_unix_s: float) -> bytes:
        """Return a certificate for the key of a request.

        Parameters
        ----------
        csr_pem : bytes
            The request (PKCS #10, PEM), at most 16 KiB.
        principal : str
            The name that the requester's enrolment allows.  Who it is has been established
            before: by an enrolment token, or by `verify_signature` with its last certificate.
        now_unix_s : float
            The machine's time [s since 1970].

        Returns
        -------
        bytes
            Chain of the certificate without the root (PEM).

        Raises
        ------
        CertificateRefused
            For every reason that class lists.
        """
        try:
            if trust_domain_of(principal) != self.trust_domain:
                raise CertificateRefused(
                    "wrong_trust_domain", f"{principal!r} is not of {self.trust_domain}"
                )
            if now_unix_s >= self._root.not_valid_after_utc.timestamp():
                raise CertificateRefused("root_expired", "the authority itself has expired")
            key = _load_request(csr_pem, principal)
        except CertificateRefused as refusal:
            self.refused[refusal.reason] += 1
            raise
        self.issued += 1
        return self._sign(key, principal, now_unix_s - self._backdate_s, now_unix_s + self._ttl_s)

    def expired(self, certificate_pem: bytes, now_unix_s: float) -> bytes:
        """Return a copy of a certificate of this authority that ended an hour ago.

        It is what a workload would present that had failed to rotate: signed by the right
        authority, for the right key and name, and expired.

        Parameters
        ----------
        certificate_pem : bytes
            Chain as `issue` returned it.
        now_unix_s : float
            The machine's time [s since 1970].

        Raises
        ------
        CertificateRefused
            If this authority did not sign it.
        """
        certificate = load_chain(certificate_pem)[0]
        principal = certificate_principal(certificate)
        if principal is None or not self._signed(certificate):
            raise CertificateRefused("bad_signature", "this authority did not sign it")
        end_s = now_unix_s - _EXPIRED_FOR_S
        return self._sign(
            _strong_key(certificate.public_key()), principal, end_s - self._ttl_s, end_s
        )

    def verify_signature(
        self,
        certificate_pem: bytes,
        principal: str,
        data: bytes,
        signature: bytes,
        now_unix_s: float,
    ) -> bool:
        """Say whether the holder of a certificate that is good now signed `data`.

        A workload proves by this who it is when it asks for its next certificate.

        Parameters
        ----------
        certificate_pem : bytes
            Its chain, as `issue` returned it.
        principal : str
            Whom it claims to be.
        data, signature : bytes
            What was signed, and the signature (`sign_data`).
        now_unix_s : float
            The machine's time [s since 1970].

        Returns
        -------
        bool
            False for whatever is wrong: the input is a stranger's.
        """
        try:
            certificate = load_chain(certificate_pem)[0]
            key = certificate.public_key()
            if (
                not self._signed(certificate)
                or certificate_principal(certificate) != principal
                or now_unix_s < certificate.not_valid_before_utc.timestamp()
                or now_unix_s > certificate.not_valid_after_utc.timestamp()
            ):
                return False
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            else:
                return False
        except (CertificateRefused, InvalidSignature, *_PARSE_ERRORS):
            return False
        return True

    def _signed(self, certificate: x509.Certificate) -> bool:
        """Say whether this authority's root signed `certificate`."""
        try:
            certificate.verify_directly_issued_by(self._root)
        except (InvalidSignature, *_PARSE_ERRORS):
            return False
        return True

    def _sign(self, key: _PublicKey, principal: str, start_s: float, end_s: float) -> bytes:
        """Return the certificate of `key` for `principal`, valid from `start_s` to `end_s`."""
        end_s = min(end_s, self._root.not_valid_after_utc.timestamp())
        uri = x509.UniformResourceIdentifier(principal)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer_key = self._root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            issuer_key.value
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(start_s))
            .not_valid_after(_time(end_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)
