"""What a broker's URL says beside the address: password and certificates.

Rule: ``mqtts://`` is mutual TLS, so the URL names the certificate of the broker's authority and
our own certificate and key, as files: ``mqtts://host:8883?ca=FILE&cert=FILE&key=FILE``.  A
password in the URL (``mqtt://:PASSWORD@host``) is that of every user; users are named as the
proxies are, so the URL names none.

The embedded broker has one mesh.  On a broker that others use too each run is a mesh of its
own name, which its topics and its client ids begin with: two runs do not meet.
"""

from __future__ import annotations

import os
import ssl
from urllib.parse import parse_qs, unquote, urlsplit

from emulator.control.bus import Bus, Credential, public_url
from meshsim.controlplane.topics import encoded
from meshsim.errors import ConfigError, Problem

__all__ = ["EMBEDDED_MESH", "check_broker", "credential_for", "new_mesh", "password_in"]

#: Name of the mesh on the embedded broker.
EMBEDDED_MESH = "mesh"
_FILES = ("ca", "cert", "key")


def new_mesh() -> str:
    """Return the name of a run's mesh on a broker that others use too."""
    return f"run-{os.urandom(6).hex()}"


def password_in(url: str) -> str:
    """Return the password that `url` states, or nothing.

    Examples
    --------
    >>> password_in("mqtt://:secret@10.0.0.1:1883"), password_in("mqtt://10.0.0.1")
    ('secret', '')
    """
    return unquote(urlsplit(url).password or "")


def credential_for(url: str, user: str, password: str, mesh: str = EMBEDDED_MESH) -> Credential:
    """Return the credential of `user` of `mesh` on the broker at `url`.

    Raises
    ------
    ConfigError
        If the URL asks for TLS and does not name its files, or they cannot be read.
    """
    client_id = encoded(user) if mesh == EMBEDDED_MESH else f"{encoded(mesh)}/{encoded(user)}"
    parts = urlsplit(url)
    if parts.scheme != "mqtts":
        return Credential(user, password, None, client_id)
    named = parse_qs(parts.query)
    if set(named) != set(_FILES):
        allowed = "mqtts://host?ca=FILE&cert=FILE&key=FILE"
        raise ConfigError(
            [Problem("files are wanted", path="broker", found=public_url(url), allowed=allowed)]
        )
    ca, cert, key = (named[name][-1] for name in _FILES)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker: {error}: {ca}, {cert}, {key}") from None
    context.check_hostname = False  # the authority is the bus' own; its names are no host names
    return Credential(user, password, context, client_id)


def check_broker(url: str) -> None:
    """Raise ConfigError if `url` names no broker that could be used."""
    Bus(url, credential_for(url, "nobody", ""), subscriptions=(), on_message=lambda *_: None)
    if urlsplit(url).username:
        message = "names a user: users are named as the proxies are"
        allowed = "mqtt://:PASSWORD@host, the password of all of them"
        raise ConfigError([Problem(message, path="broker", found=public_url(url), allowed=allowed)])
