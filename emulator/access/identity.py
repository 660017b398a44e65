"""The identity of one proxy: its key, its certificate, and the TLS contexts made of them.

Rule: a proxy makes a new key for every request (`csr_pem`) and keeps it pending until a
certificate for it arrives (`install`).  Then new connections use the new one; running
connections live on with the old, so rotation drops nothing.  Rotation is due when the mesh's
fraction of the lifetime has passed (Istio and ztunnel: half).

TLS: versions 1.2 and 1.3 (two of ours speak 1.3), both sides authenticated by the mesh's root
alone, with strict X.509 checks.  Host names are not checked, because a SPIFFE id is not a host
name: the caller asks `verify_server` after the handshake, a listener asks
`meshsim.policy.authentication`.  The server hands out no tickets and our clients offer no
session, so every connection between two of ours is a full handshake of both identities.  A
foreign client of TLS 1.2 may still resume by session id: that session carries the client's
certificate, so listeners ask the same questions of it, and its validity again (`peer_expired`).

Private keys stay in memory.  OpenSSL's bindings read keys from files only; while one loads, it
lies encrypted by a one-time password in a file of mode 0600 in a folder of mode 0700, which is
removed at once.  A process killed in that moment leaves nothing that can be read.

All times are unix seconds of the machine's clock, by which OpenSSL judges certificates.

References
----------
Istio, security/pkg/nodeagent/cache/secretcache.go (rotateTime) and
pkg/security/security.go (SECRET_GRACE_PERIOD_RATIO 0.5, ECC_SIGNATURE_ALGORITHM); ztunnel,
src/identity/manager.rs (half of the lifetime).  SPIFFE, standards/X509-SVID.md, section 5.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from emulator.clock import thread_cpu_ns, unix_s
from meshsim.controlplane.certificate_authority import (
    KEY_TYPES,
    ROTATION_FRACTION,
    CertificateAuthority,
    CertificateRefused,
    PrivateKey,
    certificate_principal,
    generate_key,
    load_chain,
    sign_data,
)
from meshsim.errors import ConfigError
from meshsim.policy.authentication import admit_server, principal_of, spiffe_id, trust_domain_of
from meshsim.units import NS_PER_S

__all__ = [
    "HandshakeCost",
    "Identity",
    "PeerRefused",
    "handshake_cost",
    "peer_expired",
    "peer_principal",
    "verify_server",
]

#: Suites of TLS 1.2; those of 1.3 are all good.  Forward secret and authenticated only.
_CIPHERS_TLS12 = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: Handshakes before those that are measured: the first ones fill caches.
_WARM_UP_HANDSHAKES = 5

_TlsConnection = ssl.SSLObject | ssl.SSLSocket


class PeerRefused(ssl.SSLError):
    """The server's certificate is good, but it is not the endpoint's.

    Parameters
    ----------
    reason : str
        A reason of `meshsim.policy.authentication.admit_server`.
    presented, expected : str or None
        Principals.
    """

    def __init__(self, reason: str, presented: str | None, expected: str) -> None:
        super().__init__(f"{reason}: server is {presented!r}, expected {expected!r}")
        self.reason = reason


class HandshakeCost(NamedTuple):
    """CPU time of one full mutual handshake, of each side [s]."""

    client_s: float
    server_s: float

    @property
    def total_s(self) -> float:
        """CPU time of both sides [s]."""
        return self.client_s + self.server_s


@dataclass(frozen=True)
class _Credentials:
    """What a TLS context is made of.  Not shown, because it holds the key."""

    key: PrivateKey
    chain_pem: bytes
    root_pem: bytes

    def __repr__(self) -> str:
        return "_Credentials(...)"


class Identity:
    """Key, certificate and TLS contexts of one proxy.

    Parameters
    ----------
    principal : str
        SPIFFE id of the workload.
    key_type : str
        ``ecdsa-p256`` or ``rsa-2048``.
    rotation_fraction : float
        Share of a certificate's lifetime after which the next is due [1], in (0, 1].

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    def __init__(
        self,
        principal: str,
        key_type: str = "ecdsa-p256",
        *,
        rotation_fraction: float = ROTATION_FRACTION,
    ) -> None:
        if trust_domain_of(principal) is None:
            raise ConfigError(f"{principal!r} is not a SPIFFE id of a workload")
        if key_type not in KEY_TYPES:
            raise ConfigError(f"key type {key_type!r}; allowed: {', '.join(KEY_TYPES)}")
        if not 0.0 < rotation_fraction <= 1.0:
            raise ConfigError(f"rotation_fraction is in (0, 1], not {rotation_fraction:g}")
        self.principal = principal
        self._key_type = key_type
        self._rotation_fraction = rotation_fraction
        self._pending: PrivateKey | None = None
        self._installed: _Credentials | None = None
        self._presented: _Credentials | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._rotation_at = 0.0
        #: When the installed certificate ends [unix s]; 0 without one.
        self.expires_at = 0.0

    @property
    def certificate_pem(self) -> bytes | None:
        """The installed chain, None before the first."""
        return None if self._installed is None else self._installed.chain_pem

    def csr_pem(self) -> bytes:
        """Return a request for the next certificate, for a new key.

        The key stays the same until a certificate for it is installed: a request that is
        repeated, or an answer that is late, still fits.  Making an RSA key takes long enough
        (0.05 to 0.3 s) to call this in a thread.
        """
        if self._pending is None:
            self._pending = generate_key(self._key_type)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.principal)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(names, critical=False).sign(self._pending, hashes.SHA256())
        return csr.public_bytes(Encoding.PEM)

    def install(self, chain_pem: bytes, root_pem: bytes, now_unix_s: float) -> None:
        """Use a new certificate for new connections.

        Parameters
        ----------
        chain_pem, root_pem : bytes
            The chain, own certificate first, and the roots to trust (PEM).
        now_unix_s : float
            The machine's time [s since 1970].

        Raises
        ------
        CertificateRefused
            If the chain is for another key or principal, is not signed by a root, is not valid
            now, or ends before the installed certificate of the same key (an old answer).  The
            installed one stays.
        """
        chain = load_chain(chain_pem)
        key = self._key_of(chain[0])
        end_s = chain[0].not_valid_after_utc.timestamp()
        if certificate_principal(chain[0]) != self.principal:
            raise CertificateRefused("wrong_name", f"it is not for {self.principal!r}")
        if not chain[0].not_valid_before_utc.timestamp() <= now_unix_s < end_s:
            raise CertificateRefused("not_valid_now", "it is expired or not yet valid")
        _check_chain(chain, load_chain(root_pem))
        if key is not self._pending and end_s < self.expires_at:
            raise CertificateRefused("stale", "it ends before the installed one")
        credentials = _Credentials(key, chain_pem, root_pem)
        contexts = _contexts_of(credentials)
        if key is self._pending:
            self._pending = None
        if self._presented is self._installed:
            self._presented, self._contexts = credentials, contexts
        self._installed = credentials
        self.expires_at = end_s
        self._rotation_at = now_unix_s + self._rotation_fraction * (end_s - now_unix_s)

    def needs_rotation(self, now_unix_s: float) -> bool:
        """Say whether to request the next certificate; never while `expire` is in force."""
        if self._presented is not self._installed:
            return False
        return self._installed is None or now_unix_s >= self._rotation_at

    def sign(self, data: bytes) -> bytes:
        """Sign `data` by the key of the installed certificate.

        Raises
        ------
        ConfigError
            If there is no certificate yet.
        """
        if self._installed is None:
            raise ConfigError(f"{self.principal} has no certificate to sign with")
        return sign_data(self._installed.key, data)

    def client_context(self) -> ssl.SSLContext:
        """Return the context for the next connection to an upstream.

        It verifies the server's chain; who the server is, the caller must ask `verify_server`.

        Raises
        ------
        ConfigError
            If there is no certificate yet.
        """
        return self._context("client")

    def server_context(self, require_client: bool = True) -> ssl.SSLContext:
        """Return the context for the next connection from a downstream.

        Parameters
        ----------
        require_client : bool
            Whether the client must present a certificate of the mesh's root.

        Raises
        ------
        ConfigError
            If there is no certificate yet.
        """
        return self._context("server" if require_client else "anonymous")

    def expire(self, expired_pem: bytes) -> None:
        """Present an expired certificate from the next connection on (fault injection).

        Rotation rests until `restore`; a certificate that arrives meanwhile is kept for then.

        Parameters
        ----------
        expired_pem : bytes
            Expired copy of the installed certificate, by `CertificateAuthority.expired`.

        Raises
        ------
        CertificateRefused
            If it is for another key or principal.
        ConfigError
            If there is no certificate yet.
        """
        if self._installed is None:
            raise ConfigError(f"{self.principal} has no certificate to expire")
        certificate = load_chain(expired_pem)[0]
        key = self._installed.key
        if certificate.public_key() != key.public_key():
            raise CertificateRefused("wrong_key", "it is not for the installed key")
        if certificate_principal(certificate) != self.principal:
            raise CertificateRefused("wrong_name", f"it is not for {self.principal!r}")
        credentials = _Credentials(key, expired_pem, self._installed.root_pem)
        self._contexts = _contexts_of(credentials)
        self._presented = credentials

    def restore(self) -> None:
        """Present the installed certificate again: the end of `expire`."""
        if self._presented is not self._installed and self._installed is not None:
            self._contexts = _contexts_of(self._installed)
            self._presented = self._installed

    def _key_of(self, certificate: x509.Certificate) -> PrivateKey:
        """Return the one of our keys that `certificate` is for."""
        public = certificate.public_key()
        installed = None if self._installed is None else self._installed.key
        for key in (self._pending, installed):
            if key is not None and key.public_key() == public:
                return key
        raise CertificateRefused("wrong_key", "it is for none of this proxy's keys")

    def _context(self, role: str) -> ssl.SSLContext:
        if not self._contexts:
            raise ConfigError(f"{self.principal} has no certificate yet")
        return self._contexts[role]


def _check_chain(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> None:
    """Check that each certificate of `chain` is signed by the next, the last by a root."""
    for certificate, issuers in zip(chain, [*([c] for c in chain[1:]), roots], strict=True):
        for issuer in issuers:
            try:
                certificate.verify_directly_issued_by(issuer)
                break
            except (ValueError, TypeError, InvalidSignature):
                continue
        else:
            raise CertificateRefused("bad_signature", "no trusted root signed it")


def _contexts_of(credentials: _Credentials) -> dict[str, ssl.SSLContext]:
    """Return the contexts of `credentials` by role."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    contexts = {"client": client, "server": server, "anonymous": anonymous}
    for context in contexts.values():
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS_TLS12)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.load_verify_locations(cadata=credentials.root_pem.decode("ascii"))
    server.num_tickets = anonymous.num_tickets = 0
    _load_key(list(contexts.values()), credentials)
    return contexts


def _load_key(contexts: list[ssl.SSLContext], credentials: _Credentials) -> None:
    """Give `contexts` the key and the chain of `credentials`."""
    password = os.urandom(16).hex().encode()
    sealed = credentials.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )
    with tempfile.TemporaryDirectory(prefix="meshsim-") as folder:
        path = Path(folder) / "credentials.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed + credentials.chain_pem)
        for context in contexts:
            context.load_cert_chain(path, password=password)


def peer_principal(connection: _TlsConnection) -> str | None:
    """Return the principal of the peer's verified certificate, or None.

    Parameters
    ----------
    connection : ssl.SSLObject or ssl.SSLSocket
        After the handshake.
    """
    certificate = connection.getpeercert()
    if not certificate:
        return None
    names = certificate.get("subjectAltName", ())
    return principal_of(str(name[1]) for name in names if name[0] == "URI")


def peer_expired(connection: _TlsConnection, now_unix_s: float) -> bool:
    """Say whether the peer's certificate has expired by now.

    A handshake checks that; a resumed session carries the certificate of an earlier one.
    """
    certificate = connection.getpeercert()
    end = certificate.get("notAfter") if certificate else None
    return not isinstance(end, str) or ssl.cert_time_to_seconds(end) < now_unix_s


def verify_server(connection: _TlsConnection, principal: str) -> None:
    """Check after a client's handshake that the server is the endpoint.

    Parameters
    ----------
    connection : ssl.SSLObject or ssl.SSLSocket
        Of a context of `Identity.client_context`, after the handshake.
    principal : str
        SPIFFE id of the endpoint that was picked.

    Raises
    ------
    PeerRefused
        If the server is anybody else.  Nothing must have been sent by then.
    """
    presented = peer_principal(connection)
    allowed, reason = admit_server(presented, principal)
    if not allowed:
        raise PeerRefused(reason, presented, principal)


def handshake_cost(key_type: str = "ecdsa-p256", *, repeats: int = 101) -> HandshakeCost:
    """Measure what a full mutual TLS 1.3 handshake costs this machine.

    Client and server are joined in memory, so no socket, loop or scheduler is in the numbers:
    CPU time of this thread alone, the median of `repeats`.

    Parameters
    ----------
    key_type : str
        Of root and workloads, ``ecdsa-p256`` or ``rsa-2048``.
    repeats : int
        Measured handshakes, at least 1.

    Returns
    -------
    HandshakeCost
        Medians of both sides [s of CPU time].
    """
    if repeats < 1:
        raise ConfigError(f"repeats is at least 1, not {repeats}")
    now_s = unix_s()
    authority = CertificateAuthority.create("cluster.local", now_s, key_type=key_type)
    identity = Identity(spiffe_id("cluster.local", "default", "measured"), key_type)
    chain = authority.issue(identity.csr_pem(), identity.principal, now_s)
    identity.install(chain, authority.root_pem, now_s)
    costs = [_measure_handshake(identity) for _ in range(_WARM_UP_HANDSHAKES + repeats)]
    client_ns, server_ns = (
        median(cost[side] for cost in costs[_WARM_UP_HANDSHAKES:]) for side in (0, 1)
    )
    return HandshakeCost(client_ns / NS_PER_S, server_ns / NS_PER_S)


def _measure_handshake(identity: Identity) -> tuple[int, int]:
    """Return the CPU time of client and server in one handshake of `identity` with itself [ns]."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        identity.client_context().wrap_bio(to_client, to_server),
        identity.server_context().wrap_bio(to_server, to_client, server_side=True),
    )
    spent_ns, finished = [0, 0], [False, False]
    while not all(finished):
        for side, connection in enumerate(sides):
            started_ns = thread_cpu_ns()
            try:
                connection.do_handshake()
                finished[side] = True
            except ssl.SSLWantReadError:
                pass
            spent_ns[side] += thread_cpu_ns() - started_ns
    verify_server(sides[0], identity.principal)
    return spent_ns[0], spent_ns[1]
