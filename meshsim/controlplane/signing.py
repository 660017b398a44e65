"""Signatures: a proxy believes its control plane and nobody who happens to hold the bus.

Rule: a message is an Ed25519 signature (64 bytes) followed by the canonical JSON of mesh, proxy,
type, version and body; the signature covers every byte of it and a prefix that no other use of
the key shares.  The proxy checks the signature before it parses anything, with the public key it
was given at its start; then that the message is of its mesh, for itself, and of the type of the
topic it came on.  So a message cannot be forged, altered, sent to another proxy, or passed off
as another type; an old one is told by its version (`meshsim.controlplane.acknowledgement`).

References
----------
RFC 8032 (Ed25519); RFC 8785 motivates canonical JSON (here: sorted keys, no spaces, ASCII).
"""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshsim.controlplane.configuration import Resource
from meshsim.controlplane.snapshots import canonical
from meshsim.errors import ConfigError, Problem

__all__ = ["MESSAGE_BYTES_MAX", "Signer", "Verifier", "read_json"]

#: No message is longer [bytes]; a configuration of 10,000 endpoints has about 2 MB.
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
_SIGNATURE_BYTES = 64
_PREFIX = b"meshsim control plane 1\x00"


def read_json(payload: bytes) -> Any:
    """Return the JSON value in `payload`.

    Raises
    ------
    ConfigError
        If there is none, or it is nested too deeply.
    """
    try:
        return json.loads(payload.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {str(error)[:100]}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


class Signer:
    """Seals messages of one mesh.

    Parameters
    ----------
    key : Ed25519PrivateKey
    mesh : str
        Name of the mesh.
    """

    def __init__(self, key: Ed25519PrivateKey, mesh: str) -> None:
        self._key = key
        self._mesh = mesh

    @property
    def public_key(self) -> bytes:
        """The key that proxies are given at their start, 32 bytes."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def seal(self, resource: Resource) -> bytes:
        """Return `resource` (proxy, type, version, body) as a signed message.

        Raises
        ------
        ConfigError
            If it is longer than `MESSAGE_BYTES_MAX`.
        """
        payload = canonical({"mesh": self._mesh, **resource})
        if len(payload) + _SIGNATURE_BYTES > MESSAGE_BYTES_MAX:
            name = f"{resource['proxy']}/{resource['type']}"
            raise ConfigError(f"{name}: {len(payload)} bytes, allowed: {MESSAGE_BYTES_MAX}")
        return self._key.sign(_PREFIX + payload) + payload


class Verifier:
    """Opens messages to one proxy.

    Parameters
    ----------
    public_key : bytes
        Of the control plane, 32 bytes.
    mesh, proxy : str
        Who it opens messages for.
    """

    def __init__(self, public_key: bytes, mesh: str, proxy: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public_key)
        self._mesh = mesh
        self._proxy = proxy

    def open(self, message: bytes, kind: str) -> Resource:
        """Return the resource in `message`, which came as type `kind`.

        Raises
        ------
        ConfigError
            If it is not signed by the control plane, or not meant for this proxy and type.
        """
        if not _SIGNATURE_BYTES < len(message) <= MESSAGE_BYTES_MAX:
            raise ConfigError(f"bad signature: a message of {len(message)} bytes")
        signature, payload = message[:_SIGNATURE_BYTES], message[_SIGNATURE_BYTES:]
        try:
            self._key.verify(signature, _PREFIX + payload)
        except InvalidSignature:
            raise ConfigError("bad signature") from None
        content = read_json(payload)
        wanted = {"mesh": self._mesh, "proxy": self._proxy, "type": kind}
        if not isinstance(content, dict):
            raise ConfigError("not a mapping")
        problems = [
            Problem("another's", path=name, found=repr(content.get(name))[:60], allowed=value)
            for name, value in wanted.items()
            if content.get(name) != value
        ]
        if problems:
            raise ConfigError(problems)
        del content["mesh"]
        return content
