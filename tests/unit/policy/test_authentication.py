import pytest

from meshsim.policy.authentication import (
    MODES,
    admit_connection,
    admit_server,
    principal_of,
    spiffe_id,
    trust_domain_of,
)

DOMAIN = "cluster.local"
REVIEWS = spiffe_id(DOMAIN, "default", "reviews-v1")
STRANGER = spiffe_id("evil.local", "default", "reviews-v1")


@pytest.mark.parametrize(
    ("mode", "tls", "principal", "reason"),
    [
        ("STRICT", True, REVIEWS, "admitted"),
        ("STRICT", True, None, "no_principal"),
        ("STRICT", True, STRANGER, "wrong_trust_domain"),
        ("STRICT", False, None, "plaintext_refused"),
        ("PERMISSIVE", True, REVIEWS, "admitted"),
        ("PERMISSIVE", True, None, "no_principal"),
        ("PERMISSIVE", True, STRANGER, "wrong_trust_domain"),
        ("PERMISSIVE", False, None, "admitted"),
        ("DISABLE", True, REVIEWS, "tls_refused"),
        ("DISABLE", False, None, "admitted"),
        ("strict", True, REVIEWS, "unknown_mode"),
        ("", False, None, "unknown_mode"),
    ],
)
def test_modes(mode, tls, principal, reason):
    expected = (reason == "admitted", reason)
    assert admit_connection(mode, tls, principal, (DOMAIN,), ()) == expected


@pytest.mark.parametrize(
    ("principals", "reason"),
    [
        ((), "admitted"),
        ((REVIEWS,), "admitted"),
        ((REVIEWS + "0",), "principal_refused"),
        ((REVIEWS[:-1],), "principal_refused"),
        ((REVIEWS.upper(),), "principal_refused"),
    ],
)
def test_named_principals_match_exactly(principals, reason):
    assert admit_connection("STRICT", True, REVIEWS, (DOMAIN,), principals)[1] == reason


@pytest.mark.parametrize("mode", ["PERMISSIVE", "DISABLE"])
def test_plaintext_has_no_principal_to_match_a_name(mode):
    assert admit_connection(mode, False, None, (DOMAIN,), (REVIEWS,)) == (False, "no_principal")


@pytest.mark.parametrize("mode", MODES)
def test_no_trust_domain_admits_nobody_by_tls(mode):
    assert admit_connection(mode, True, REVIEWS, (), ()) != (True, "admitted")


def test_a_trust_domain_is_not_a_suffix_or_prefix():
    for domains in (("local",), ("cluster",), ("cluster.local.evil",), ("cluster.local/ns",)):
        assert admit_connection("STRICT", True, REVIEWS, domains, ()) == (
            False,
            "wrong_trust_domain",
        )


@pytest.mark.parametrize(
    "principal",
    [
        "",
        "spiffe://",
        "spiffe:///ns/default",
        "spiffe://cluster.local",  # a trust domain, not a workload
        "spiffe://cluster.local/",
        "spiffe://cluster.local/ns/",
        "spiffe://cluster.local//ns",
        "spiffe://cluster.local/ns/../admin",
        "spiffe://cluster.local/./ns",
        "spiffe://Cluster.local/ns",
        "SPIFFE://cluster.local/ns",
        "https://cluster.local/ns",
        "spiffe://user@cluster.local/ns",
        "spiffe://cluster.local:443/ns",
        "spiffe://cluster.local/ns?query",
        "spiffe://cluster.local/ns#fragment",
        "spiffe://cluster.local/%6es",
        "spiffe://cluster.local/ns\n",
        "spiffe://cluster.local\n/ns",
        "spiffe://cluster.local/ns\x00.evil",
        "spiffe://clüster.local/ns",
        "spiffe://" + "a" * 256 + "/ns",
        "spiffe://cluster.local/" + "a" * 2048,
    ],
)
def test_what_is_no_spiffe_id_has_no_trust_domain(principal):
    assert trust_domain_of(principal) is None
    assert principal_of([principal]) is None
    assert admit_connection("STRICT", True, principal, (DOMAIN, ""), ()) == (False, "no_principal")


def test_a_certificate_has_one_name_or_no_principal():
    assert principal_of([]) is None
    assert principal_of([REVIEWS]) == REVIEWS
    assert principal_of([REVIEWS, REVIEWS]) is None
    assert principal_of([REVIEWS, "https://cluster.local"]) is None


def test_a_server_is_who_the_endpoint_is():
    assert admit_server(REVIEWS, REVIEWS) == (True, "admitted")
    assert admit_server(STRANGER, REVIEWS) == (False, "wrong_server")
    assert admit_server(None, REVIEWS) == (False, "no_principal")
