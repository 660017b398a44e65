"""One token, one certificate; afterwards the key in use speaks for the proxy."""

import pytest

from meshsim.controlplane.enrolment import (
    CertificateRequest,
    Enrolment,
    proof_by_token,
    read_request,
    request_id,
    signed_content,
    write_request,
)
from meshsim.errors import ConfigError

MESH = "shop"


def never(*_):
    raise AssertionError("no signature is looked at")


def first(csr="csr", token="secret", proxy="a"):
    return CertificateRequest(csr, proof_by_token(token, MESH, proxy, csr))


@pytest.fixture
def enrolment():
    return Enrolment(MESH, {"a": "secret", "b": "other"})


def test_a_token_is_good_for_one_request(enrolment):
    enrolment.admit("a", first(), never)
    with pytest.raises(ConfigError, match="no token is open"):
        enrolment.admit("a", first("another csr"), never)


def test_the_same_request_is_answered_again(enrolment):
    enrolment.admit("a", first(), never)
    enrolment.on_issued("a", first(), "chain")
    assert enrolment.answered("a", first()) == "chain"
    assert enrolment.answered("a", first("another csr")) is None
    assert enrolment.answered("b", first()) is None


@pytest.mark.parametrize(
    "request_", [first(token="guess"), first(proxy="b"), CertificateRequest("csr", "")]
)
def test_a_wrong_proof_is_refused_and_leaves_the_token_open(enrolment, request_):
    with pytest.raises(ConfigError, match="does not prove"):
        enrolment.admit("a", request_, never)
    enrolment.admit("a", first(), never)


def test_an_overheard_proof_proves_no_other_request(enrolment):
    with pytest.raises(ConfigError, match="does not prove"):
        enrolment.admit("a", CertificateRequest("mine", first().proof), never)


def test_a_proxy_that_starts_anew_is_given_a_new_token(enrolment):
    enrolment.admit("a", first(), never)
    enrolment.expect("a", "fresh")
    enrolment.admit("a", first(token="fresh"), never)


def test_a_renewal_is_signed_with_the_key_in_use(enrolment):
    seen = []

    def is_signed_by(*arguments):
        seen.append(arguments)
        return len(seen) == 1

    renewal = CertificateRequest("csr 2", b"\1\2".hex(), "certificate")
    enrolment.admit("a", renewal, is_signed_by)
    assert seen == [("certificate", signed_content(MESH, "a", "csr 2"), b"\1\2")]
    with pytest.raises(ConfigError, match="renewal"):
        enrolment.admit("a", renewal, is_signed_by)
    with pytest.raises(ConfigError, match="hexadecimal"):
        enrolment.admit("a", renewal._replace(proof="x"), never)
    enrolment.admit("a", first(), never)  # a renewal spends no token


def test_requests_survive_the_wire():
    assert read_request(write_request(first())) == first()
    assert request_id("csr") != request_id("csr ")


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b'{"csr": 1, "proof": "", "certificate": ""}', b'["csr"]', b"x" * 70_000],
)
def test_a_malformed_request_is_refused(payload):
    with pytest.raises(ConfigError):
        read_request(payload)
