"""Who may connect: mutual TLS modes and the rules of workload identity.

Rule (Istio's PeerAuthentication): a listener in mode STRICT takes mutual TLS only, PERMISSIVE
takes mutual TLS and plaintext on the same port, DISABLE takes plaintext only.  Whoever uses TLS
must present a certificate; TLS without an identity is refused in every mode.

Identity (SPIFFE): a *principal* is ``spiffe://<trust domain>/<path>``.  A certificate carries
exactly one URI name, and that is its principal; a certificate with none, with several, or with
one that is not a valid SPIFFE id has no principal.  A principal is admitted if its trust domain
is one of the listener's, and if the listener names no principals or names this one.  An empty
list of trust domains admits nobody: a rule that is missing must not open the door.

A plaintext client has no principal.  A listener that names principals therefore refuses
plaintext, also where its mode would take it (Istio: an AuthorizationPolicy that names principals
needs mutual TLS).

Nothing here knows a socket, a certificate's signature or a clock: the chain of trust and the
validity period are verified by whoever speaks TLS, before these rules are asked.

References
----------
Istio, reference documentation of PeerAuthentication (mtls.mode) and AuthorizationPolicy
(source.principals).  SPIFFE, standards/SPIFFE-ID.md (section 2) and standards/X509-SVID.md
(section 2: exactly one URI name).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

__all__ = [
    "ADMITTED",
    "DISABLE",
    "MODES",
    "NO_PRINCIPAL",
    "PERMISSIVE",
    "PLAINTEXT_REFUSED",
    "PRINCIPAL_REFUSED",
    "STRICT",
    "TLS_REFUSED",
    "UNKNOWN_MODE",
    "WRONG_SERVER",
    "WRONG_TRUST_DOMAIN",
    "admit_connection",
    "admit_server",
    "is_trust_domain",
    "principal_of",
    "spiffe_id",
    "trust_domain_of",
]

STRICT = "STRICT"
PERMISSIVE = "PERMISSIVE"
DISABLE = "DISABLE"
#: Modes of a listener.
MODES = (STRICT, PERMISSIVE, DISABLE)

#: Reasons: the one of admission, then those of refusal.
ADMITTED = "admitted"
PLAINTEXT_REFUSED = "plaintext_refused"
TLS_REFUSED = "tls_refused"
NO_PRINCIPAL = "no_principal"
WRONG_TRUST_DOMAIN = "wrong_trust_domain"
PRINCIPAL_REFUSED = "principal_refused"
WRONG_SERVER = "wrong_server"
UNKNOWN_MODE = "unknown_mode"

_ID_BYTES_MAX = 2048
_TRUST_DOMAIN_BYTES_MAX = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_SCHEME = "spiffe://"


def is_trust_domain(name: str) -> bool:
    """Say whether `name` may be a trust domain: 1 to 255 of ``a-z 0-9 . _ -``."""
    return len(name) <= _TRUST_DOMAIN_BYTES_MAX and _TRUST_DOMAIN.fullmatch(name) is not None


def trust_domain_of(principal: str) -> str | None:
    """Return the trust domain of a workload's SPIFFE id, or None if the id is not valid.

    Parameters
    ----------
    principal : str
        At most 2048 bytes.  The path is not empty and has no empty, ``.`` or ``..`` segment;
        user, port, query, fragment and percent escapes are not allowed.

    Examples
    --------
    >>> trust_domain_of("spiffe://cluster.local/ns/default/sa/reviews-v1")
    'cluster.local'
    >>> trust_domain_of("spiffe://cluster.local:443/ns/default") is None
    True
    """
    if len(principal) > _ID_BYTES_MAX or not principal.startswith(_SCHEME):
        return None
    domain, *segments = principal.removeprefix(_SCHEME).split("/")
    if not segments or not is_trust_domain(domain):
        return None
    if all(_SEGMENT.fullmatch(part) and part not in (".", "..") for part in segments):
        return domain
    return None


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Return the principal of a service account, in the form that Istio gives it.

    Examples
    --------
    >>> spiffe_id("cluster.local", "default", "reviews-v1")
    'spiffe://cluster.local/ns/default/sa/reviews-v1'
    """
    return f"{_SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"


def principal_of(uris: Iterable[str]) -> str | None:
    """Return the principal that the URI names of a verified certificate give, or None.

    Parameters
    ----------
    uris : iterable of str
        All URI names of the certificate.

    Returns
    -------
    str or None
        The one URI if there is exactly one and it is a valid SPIFFE id of a workload.

    Examples
    --------
    >>> principal_of(["spiffe://cluster.local/a"])
    'spiffe://cluster.local/a'
    >>> principal_of(["spiffe://cluster.local/a", "spiffe://cluster.local/b"]) is None
    True
    """
    names = tuple(uris)
    if len(names) == 1 and trust_domain_of(names[0]) is not None:
        return names[0]
    return None


def admit_connection(
    mode: str,
    tls: bool,
    principal: str | None,
    trust_domains: Collection[str],
    principals: Collection[str],
) -> tuple[bool, str]:
    """Decide whether a listener admits a connection.

    Parameters
    ----------
    mode : str
        One of `MODES`; any other refuses everything.
    tls : bool
        Whether the client speaks TLS; its chain and validity period are verified already.
    principal : str or None
        The client's principal (`principal_of`), None without one.
    trust_domains : collection of str
        Trust domains whose workloads may connect by TLS; empty admits none.
    principals : collection of str
        Principals that may connect; empty admits every one of the trust domains.

    Returns
    -------
    allowed : bool
    reason : str
        `ADMITTED`, or the first rule that refuses.

    Examples
    --------
    >>> admit_connection("STRICT", False, None, ["cluster.local"], [])
    (False, 'plaintext_refused')
    >>> admit_connection("PERMISSIVE", False, None, ["cluster.local"], [])
    (True, 'admitted')
    >>> admit_connection("STRICT", True, "spiffe://cluster.local/a", ["cluster.local"], [])
    (True, 'admitted')
    """
    if mode not in MODES:
        return False, UNKNOWN_MODE
    if not tls:
        if mode == STRICT:
            return False, PLAINTEXT_REFUSED
        return (False, NO_PRINCIPAL) if principals else (True, ADMITTED)
    if mode == DISABLE:
        return False, TLS_REFUSED
    domain = None if principal is None else trust_domain_of(principal)
    if domain is None:
        return False, NO_PRINCIPAL
    if domain not in trust_domains:
        return False, WRONG_TRUST_DOMAIN
    if principals and principal not in principals:
        return False, PRINCIPAL_REFUSED
    return True, ADMITTED


def admit_server(presented: str | None, expected: str) -> tuple[bool, str]:
    """Decide whether a client goes on talking to the server that it reached.

    The address says where a server is, not who it is: the principal that it presents must be
    that of the endpoint the load balancer chose.

    Parameters
    ----------
    presented : str or None
        Principal of the server's verified certificate, None without one.
    expected : str
        Principal of the endpoint.

    Returns
    -------
    allowed : bool
    reason : str
        `ADMITTED`, `NO_PRINCIPAL` or `WRONG_SERVER`.
    """
    if presented is None:
        return False, NO_PRINCIPAL
    return (True, ADMITTED) if presented == expected else (False, WRONG_SERVER)
