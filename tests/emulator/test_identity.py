import ssl
import stat
from pathlib import Path

import pytest
from identities import AUTHORITY, FOREIGN, NOW, RATINGS, REVIEWS, enrolled, rotate

from emulator.access import identity as identity_module
from emulator.access.identity import (
    Identity,
    PeerRefused,
    handshake_cost,
    peer_expired,
    peer_principal,
    verify_server,
)
from emulator.clock import unix_s
from meshsim.controlplane.certificate_authority import CertificateAuthority, CertificateRefused
from meshsim.errors import ConfigError


def join(client_context, server_context, session=None):
    """Return client and server after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, session=session)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    todo = [client, server]
    for _ in range(10):
        for side in list(todo):
            try:
                side.do_handshake()
                todo.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not todo:
            return client, server
    raise AssertionError("the handshake does not end")


def serial(connection):
    return connection.getpeercert()["serialNumber"]


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048"])
def test_both_sides_know_each_other(key_type):
    client, server = join(
        enrolled(RATINGS, key_type=key_type).client_context(),
        enrolled(REVIEWS, key_type=key_type).server_context(),
    )
    assert client.version() == server.version() == "TLSv1.3"
    assert peer_principal(server) == RATINGS
    assert not peer_expired(server, NOW)
    assert peer_expired(server, NOW + 3601)
    verify_server(client, REVIEWS)
    with pytest.raises(PeerRefused) as caught:
        verify_server(client, RATINGS)
    assert caught.value.reason == "wrong_server"
    assert isinstance(caught.value, ssl.SSLError)


def test_tls_1_2_is_the_least():
    client = enrolled(RATINGS).client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert join(client, enrolled().server_context())[0].version() == "TLSv1.2"
    assert client.minimum_version is ssl.TLSVersion.TLSv1_2
    for context in (enrolled().client_context(), enrolled().server_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_foreign_client_is_refused():
    with pytest.raises(ssl.SSLCertVerificationError):
        join(permissive(enrolled(authority=FOREIGN)), enrolled().server_context())


def test_a_foreign_server_is_refused():
    with pytest.raises(ssl.SSLCertVerificationError):
        join(enrolled().client_context(), enrolled(authority=FOREIGN).server_context())


def permissive(identity):
    """Return a client's context of `identity` that takes any server."""
    context = identity.client_context()
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("at", [NOW - 7200, NOW + 7200], ids=["early", "late"])
@pytest.mark.parametrize("wrong", ["client", "server"])
def test_a_certificate_of_another_time_is_refused(at, wrong):
    client = enrolled(RATINGS, at=at if wrong == "client" else NOW)
    server = enrolled(REVIEWS, at=at if wrong == "server" else NOW)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        join(client.client_context(), server.server_context())
    assert caught.value.verify_code == (10 if at < NOW else 9)


def test_a_client_without_a_certificate_is_refused():
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=AUTHORITY.root_pem.decode())
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        join(bare, enrolled().server_context())
    _, server = join(bare, enrolled().server_context(require_client=False))
    assert peer_principal(server) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_have_no_tickets(version):
    identity = enrolled()
    context = identity.client_context()
    context.maximum_version = version
    client, server = join(context, identity.server_context())
    server.write(b"x")  # in TLS 1.3 tickets arrive with the first data
    assert client.read(1) == b"x"
    assert client.session is None or not client.session.has_ticket


def test_a_resumed_session_still_names_its_client():
    """TLS 1.2 resumes by id without a ticket; the identity comes along and is checked again."""
    identity, context = enrolled(REVIEWS), enrolled(RATINGS).client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first, _ = join(context, identity.server_context())
    session = first.session
    _, server = join(context, identity.server_context(), session)
    assert server.session_reused
    assert peer_principal(server) == RATINGS
    assert peer_expired(server, NOW + 3601)
    rotate(identity)
    _, server = join(context, identity.server_context(), session)
    assert not server.session_reused


def test_rotation_swaps_the_contexts_of_new_connections_alone():
    identity, client = enrolled(), enrolled(RATINGS).client_context()
    before, running = join(client, identity.server_context())
    rotate(identity)
    after, _ = join(client, identity.server_context())
    assert serial(before) != serial(after)
    running.write(b"still here")
    assert before.read(64) == b"still here"


def test_rotation_is_due_at_the_fraction_of_what_is_left():
    identity = Identity(REVIEWS, rotation_fraction=0.75)
    assert identity.needs_rotation(NOW)
    authority = CertificateAuthority.create("cluster.local", NOW, ttl_s=100.0)
    start = float(int(NOW))
    chain = authority.issue(identity.csr_pem(), REVIEWS, start)
    identity.install(chain, authority.root_pem, start)
    assert identity.expires_at == start + 100
    assert not identity.needs_rotation(start + 74.9)
    assert identity.needs_rotation(start + 75)


def test_a_request_that_is_repeated_is_for_the_same_key():
    identity = enrolled()
    first, second = identity.csr_pem(), identity.csr_pem()
    rotate(identity)
    AUTHORITY.issue(first, REVIEWS, unix_s())
    later = unix_s() + 60
    late = AUTHORITY.issue(second, REVIEWS, later)
    identity.install(late, AUTHORITY.root_pem, later)


def refused(identity, chain, root=AUTHORITY.root_pem, now=NOW):
    before = identity.certificate_pem
    with pytest.raises(CertificateRefused) as caught:
        identity.install(chain, root, now)
    assert identity.certificate_pem is before
    return caught.value.reason


def test_what_is_not_ours_is_not_installed():
    identity, other = enrolled(), Identity(REVIEWS)
    good = AUTHORITY.issue(identity.csr_pem(), REVIEWS, NOW)
    stray = AUTHORITY.issue(other.csr_pem(), REVIEWS, NOW)
    assert refused(identity, stray) == "wrong_key"
    assert refused(identity, good, FOREIGN.root_pem) == "bad_signature"
    assert refused(identity, good, now=NOW + 7200) == "not_valid_now"
    assert refused(identity, good, now=NOW - 7200) == "not_valid_now"
    assert refused(identity, b"garbage") == "malformed"
    assert refused(identity, good + stray) == "bad_signature"
    identity.install(good, AUTHORITY.root_pem, NOW)


def test_an_old_answer_does_not_replace_a_newer_one():
    identity = Identity(REVIEWS)
    csr = identity.csr_pem()
    old, new = (AUTHORITY.issue(csr, REVIEWS, at) for at in (NOW - 600, NOW))
    identity.install(new, AUTHORITY.root_pem, NOW)
    assert refused(identity, old) == "stale"


def test_without_a_certificate_there_is_no_context():
    identity = Identity(REVIEWS)
    assert identity.certificate_pem is None
    for use in (identity.client_context, identity.server_context, lambda: identity.sign(b"")):
        with pytest.raises(ConfigError):
            use()


def test_bad_settings():
    for principal, fraction in (("reviews", 0.5), (REVIEWS, 0.0), (REVIEWS, 1.1)):
        with pytest.raises(ConfigError):
            Identity(principal, rotation_fraction=fraction)
    with pytest.raises(ConfigError):
        Identity(REVIEWS, "rsa-1024")


def test_expire_presents_an_expired_certificate_until_restored():
    identity, client = enrolled(), enrolled(RATINGS).client_context()
    identity.expire(AUTHORITY.expired(identity.certificate_pem, NOW))
    assert not identity.needs_rotation(NOW + 3600)
    for _ in range(2):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            join(client, identity.server_context())
        assert caught.value.verify_code == 10
        rotate(identity)  # kept back
    identity.restore()
    join(client, identity.server_context())
    assert identity.needs_rotation(NOW + 3600)


def test_signatures_prove_the_installed_key():
    identity = enrolled()
    signature = identity.sign(b"next, please")
    verify = AUTHORITY.verify_signature
    assert verify(identity.certificate_pem, REVIEWS, b"next, please", signature, NOW)
    identity.csr_pem()  # a pending key does not sign
    assert identity.sign(b"x") is not None
    assert verify(identity.certificate_pem, REVIEWS, b"x", identity.sign(b"x"), NOW)


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048"])
def test_the_key_lies_in_a_private_sealed_file_for_a_moment(monkeypatch, tmp_path, key_type):
    monkeypatch.setattr(identity_module.tempfile, "tempdir", str(tmp_path))
    seen, load = [], ssl.SSLContext.load_cert_chain

    def watch(self, certfile, keyfile=None, password=None):
        path = Path(certfile)
        text = path.read_text()
        mode, folder_mode = (stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent))
        seen.append((mode, folder_mode, "ENCRYPTED" in text, text.count("PRIVATE KEY")))
        load(self, certfile, keyfile, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    identity = enrolled(key_type=key_type)
    assert seen == [(0o600, 0o700, True, 2)] * 3
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE" not in repr(vars(identity))


def test_the_file_is_removed_when_loading_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(identity_module.tempfile, "tempdir", str(tmp_path))

    def fail(self, certfile, keyfile=None, password=None):
        raise OSError("no")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", fail)
    with pytest.raises(OSError, match="no"):
        enrolled()
    assert list(tmp_path.iterdir()) == []


def test_the_cost_of_a_handshake_is_measured():
    ecdsa, rsa = handshake_cost("ecdsa-p256", repeats=15), handshake_cost("rsa-2048", repeats=15)
    for cost in (ecdsa, rsa):
        # No machine of today signs and verifies twice in 10 us, or needs 100 ms for it.
        assert 1e-5 < cost.client_s < 0.1
        assert 1e-5 < cost.server_s < 0.1
        assert cost.total_s == cost.client_s + cost.server_s
    # An RSA-2048 signature costs more than ten of P-256 (openssl speed), and each side signs.
    assert rsa.total_s > ecdsa.total_s
    with pytest.raises(ConfigError):
        handshake_cost(repeats=0)
