"""Only the control plane's messages, to this proxy, of this type."""

import json

import pytest
from bus_fakes import KEY, MESH, configuration
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshsim.controlplane.signing import MESSAGE_BYTES_MAX, Signer, Verifier
from meshsim.errors import ConfigError

RESOURCE = configuration("a").to_json("routes") | {"version": 3}
SIGNER = Signer(KEY, MESH)
MESSAGE = SIGNER.seal(RESOURCE)


def verifier(mesh=MESH, proxy="a"):
    return Verifier(SIGNER.public_key, mesh, proxy)


def test_what_was_sealed_is_opened():
    assert verifier().open(MESSAGE, "routes") == RESOURCE


@pytest.mark.parametrize("index", [0, 63, 64, 100, len(MESSAGE) - 1])
def test_one_changed_bit_is_noticed(index):
    message = bytearray(MESSAGE)
    message[index] ^= 1
    with pytest.raises(ConfigError, match="bad signature"):
        verifier().open(bytes(message), "routes")


def test_another_key_signs_in_vain():
    foreign = Signer(Ed25519PrivateKey.generate(), MESH)
    with pytest.raises(ConfigError, match="bad signature"):
        verifier().open(foreign.seal(RESOURCE), "routes")


@pytest.mark.parametrize(
    ("opener", "kind", "word"),
    [
        (verifier(proxy="b"), "routes", "proxy"),
        (verifier(mesh="other"), "routes", "mesh"),
        (verifier(), "clusters", "type"),
        (verifier(), "certificate", "type"),
    ],
)
def test_a_message_meant_for_another_is_refused(opener, kind, word):
    with pytest.raises(ConfigError, match=word):
        opener.open(MESSAGE, kind)


@pytest.mark.parametrize("message", [b"", b"x" * 64, b"x" * (MESSAGE_BYTES_MAX + 1)])
def test_lengths_are_checked_first(message):
    with pytest.raises(ConfigError, match="bad signature"):
        verifier().open(message, "routes")


@pytest.mark.parametrize("payload", [b"[" * 100_000, b"3", b"\xff", b'{"mesh": NaN}'])
def test_even_a_signed_message_must_be_a_mapping(payload):
    signature = KEY.sign(b"meshsim control plane 1\x00" + payload)
    with pytest.raises(ConfigError):
        verifier().open(signature + payload, "routes")


def test_a_message_that_is_too_long_is_not_sealed():
    body = {"labels": {"x": "y" * MESSAGE_BYTES_MAX}}
    with pytest.raises(ConfigError, match="bytes"):
        SIGNER.seal(RESOURCE | {"body": body})


def test_the_signature_comes_first_and_the_rest_is_json():
    assert json.loads(MESSAGE[64:]) == RESOURCE | {"mesh": MESH}
