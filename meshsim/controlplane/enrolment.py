"""Enrolment: who is given a certificate.

Rule: a proxy's first certificate request is proven by its one-time token, a secret it was given
at its start: the proof is an HMAC of the request under the token, so the token itself never
travels, and a request that was overheard proves no other.  The token is spent with the first
request that it proves.  Later requests (rotation) are proven by a signature with the key of the
certificate in use, which only its holder can make.  The same request met again is given the same
certificate again: the first answer may have been lost, and a certificate is of no use to anyone
but the holder of its key.

It issues nothing itself: it decides, and names the reason of a refusal.

References
----------
istio/istio security/pkg/server/ca/server.go (a token for the first certificate, the certificate
for later ones); RFC 2104 (HMAC).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import NamedTuple

from meshsim.controlplane.signing import read_json
from meshsim.controlplane.snapshots import canonical
from meshsim.errors import ConfigError

__all__ = [
    "CertificateRequest",
    "Enrolment",
    "proof_by_token",
    "read_request",
    "request_id",
    "signed_content",
    "write_request",
]

_REQUEST_BYTES_MAX = 64 * 1024
_PREFIX = b"meshsim certificate request 1\x00"


class CertificateRequest(NamedTuple):
    """A request for a certificate.

    Parameters
    ----------
    csr : str
        PKCS #10, PEM.
    proof : str
        Hexadecimal: HMAC-SHA256 under the token, or signature by the key of `certificate`.
    certificate : str
        The certificate in use, PEM; empty in a first request.
    """

    csr: str
    proof: str
    certificate: str = ""


def signed_content(mesh: str, proxy: str, csr: str) -> bytes:
    """Return what the proof of a request covers."""
    return _PREFIX + canonical([mesh, proxy, csr])


def proof_by_token(token: str, mesh: str, proxy: str, csr: str) -> str:
    """Return the proof of a first request."""
    return hmac.new(token.encode(), signed_content(mesh, proxy, csr), hashlib.sha256).hexdigest()


def request_id(csr: str) -> str:
    """Return what an answer names the request by."""
    return hashlib.sha256(csr.encode()).hexdigest()


def write_request(request: CertificateRequest) -> bytes:
    """Return `request` as a message."""
    return canonical(request._asdict())


def read_request(payload: bytes) -> CertificateRequest:
    """Return the request in `payload`.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if len(payload) > _REQUEST_BYTES_MAX:
        raise ConfigError(f"{len(payload)} bytes; allowed: {_REQUEST_BYTES_MAX}")
    content = read_json(payload)
    if not isinstance(content, dict) or content.keys() != set(CertificateRequest._fields):
        raise ConfigError("csr, proof and certificate are wanted")
    if not all(isinstance(value, str) and value.isascii() for value in content.values()):
        raise ConfigError("csr, proof and certificate are ASCII texts")
    return CertificateRequest(**content)


class Enrolment:
    """Decides on certificate requests.

    Parameters
    ----------
    mesh : str
    tokens : mapping of str to str
        One-time token of each proxy that is expected.
    """

    def __init__(self, mesh: str, tokens: Mapping[str, str]) -> None:
        self._mesh = mesh
        self._tokens = dict(tokens)
        #: Last request of each proxy that was granted, and its certificate chain (PEM).
        self._granted: dict[str, tuple[CertificateRequest, str]] = {}

    def expect(self, proxy: str, token: str) -> None:
        """Give `proxy` a fresh token: it was started anew and has lost its key."""
        self._tokens[proxy] = token

    def answered(self, proxy: str, request: CertificateRequest) -> str | None:
        """Return the chain that this very request was already given, or None."""
        granted = self._granted.get(proxy)
        return granted[1] if granted is not None and granted[0] == request else None

    def admit(
        self,
        proxy: str,
        request: CertificateRequest,
        is_signed_by: Callable[[str, bytes, bytes], bool],
    ) -> None:
        """Admit a request of `proxy`, or raise.

        Parameters
        ----------
        is_signed_by : callable
            (certificate PEM, content, signature) -> whether the certificate is one of ours for
            this proxy, still valid, and its key made the signature.

        Raises
        ------
        ConfigError
            If the request is refused.  A token that proves a request is spent, whatever becomes
            of the request.
        """
        if request.certificate:
            content = signed_content(self._mesh, proxy, request.csr)
            try:
                signature = bytes.fromhex(request.proof)
            except ValueError:
                raise ConfigError("proof: not hexadecimal") from None
            if not is_signed_by(request.certificate, content, signature):
                raise ConfigError("renewal: not signed by the holder of a certificate in force")
            return
        token = self._tokens.get(proxy)
        if token is None:
            raise ConfigError("enrolment: no token is open for this proxy")
        proof = proof_by_token(token, self._mesh, proxy, request.csr)
        if not hmac.compare_digest(proof, request.proof):
            raise ConfigError("enrolment: the token does not prove this request")
        del self._tokens[proxy]

    def on_issued(self, proxy: str, request: CertificateRequest, chain: str) -> None:
        """Remember what was issued."""
        self._granted[proxy] = request, chain
