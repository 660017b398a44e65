"""Why a connection is turned away, in one word for the counters and a sentence for the log.

Rule: OpenSSL says what was wrong with a certificate by a number, and with a handshake by a name;
both become a reason here.  A client that refuses *us* sends an alert, or just leaves: asyncio's
clients leave (``closed_in_handshake``), most others alert (``rejected_by_client``).

References
----------
OpenSSL, include/openssl/x509_vfy.h (X509_V_ERR_...), include/openssl/sslerr.h (SSL_R_...).
"""

from __future__ import annotations

import ssl

__all__ = ["REASONS", "VERIFY_REASONS", "Refused", "reason_of"]

#: Reasons besides those of `meshsim.policy.authentication`.
REASONS = {
    "silent": "no first byte in time",
    "closed_early": "the client left before its first byte",
    "no_identity": "the proxy has no certificate yet",
    "no_certificate": "the client presented none",
    "certificate_expired": "the client's certificate has expired",
    "certificate_not_yet_valid": "the client's certificate is not valid yet",
    "certificate_untrusted": "no trusted root signed the client's certificate",
    "certificate_invalid": "the client's certificate is wrong in another way",
    "rejected_by_client": "the client did not take our certificate or settings",
    "handshake_failed": "not TLS, or no version and suite in common",
    "handshake_timeout": "the handshake did not end in time",
    "closed_in_handshake": "the client left during the handshake",
    "silent_after_handshake": "no request after the handshake in time",
    "too_many_connections": "max_connections are admitted",
    "too_many_pending": "max_pending are not admitted yet; this one was silent, or the oldest",
    "accept_failed": "the machine has no socket left",
    "withdrawn": "the new policy does not admit it",
}

#: OpenSSL's verify results (include/openssl/x509_vfy.h) by our reason.
VERIFY_REASONS = {
    **dict.fromkeys((2, 18, 19, 20, 21), "certificate_untrusted"),
    7: "certificate_untrusted",  # signature failure: the name of a trusted root, not its key
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
}


class Refused(Exception):
    """A connection that goes no further.

    Parameters
    ----------
    reason : str
        One of `REASONS` or of `meshsim.policy.authentication`.
    detail : str
        For the log; nothing secret.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)


def reason_of(error: OSError) -> str:
    """Return the reason of a handshake that failed.

    Parameters
    ----------
    error : OSError
        As `loop.connect_accepted_socket` raised it; `ssl.SSLError` is one.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return VERIFY_REASONS.get(error.verify_code, "certificate_invalid")
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason)
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "no_certificate"
        return "rejected_by_client" if "ALERT" in reason else "handshake_failed"
    if isinstance(error, ConnectionAbortedError):
        return "handshake_timeout"
    return "closed_in_handshake"
