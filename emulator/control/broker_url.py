"""What a broker's URL says beside the address: password and certificates.

Rule: ``mqtts://`` is mutual TLS, so the URL names the certificate of the broker's authority and
our own certificate and key, as files: ``mqtts://host:8883?ca=FILE&cert=FILE&key=FILE``.  A
password in the URL (``mqtt://:PASSWORD@host``) is that of every user; users are named as the
proxies are.
"""

from __future__ import annotations

import ssl
from urllib.parse import parse_qs, unquote, urlsplit

from emulator.control.bus import Bus, Credential
from meshsim.errors import ConfigError

__all__ = ["check_broker", "credential_for", "password_in"]

_FILES = ("ca", "cert", "key")


def password_in(url: str) -> str:
    """Return the password that `url` states, or nothing.

    Examples
    --------
    >>> password_in("mqtt://:secret@10.0.0.1:1883"), password_in("mqtt://10.0.0.1")
    ('secret', '')
    """
    return unquote(urlsplit(url).password or "")


def credential_for(url: str, user: str, password: str) -> Credential:
    """Return the credential of `user` on the broker at `url`.

    Raises
    ------
    ConfigError
        If the URL asks for TLS and does not name its files, or they cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme != "mqtts":
        return Credential(user, password)
    named = parse_qs(parts.query)
    if set(named) != set(_FILES):
        raise ConfigError(
            f"broker: found {url!r}, allowed: mqtts://host?ca=FILE&cert=FILE&key=FILE"
        )
    ca, cert, key = (named[name][-1] for name in _FILES)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: {error}: {ca}, {cert}, {key}") from None
    context.check_hostname = False  # the authority is the bus' own; its names are no host names
    return Credential(user, password, context)


def check_broker(url: str) -> None:
    """Raise ConfigError if `url` names no broker that could be used."""
    Bus(url, credential_for(url, "nobody", ""), subscriptions=(), on_message=lambda *_: None)
