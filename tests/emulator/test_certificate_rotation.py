"""Certificates that live for seconds: a mesh under load rotates them and loses nothing."""

import pytest
from cryptography import x509
from mesh_scenarios import assert_accounted, pair

from emulator.access.identity import Identity
from emulator.clock import unix_s
from emulator.running.harness import emulate
from emulator.running.plan import plan_run
from meshsim.controlplane.certificate_authority import (
    CERTIFICATE_TTL_S,
    ROOT_TTL_S,
    CertificateAuthority,
)
from meshsim.errors import ConfigError
from meshsim.topology import with_values


def test_rotations_under_load_lose_no_request():
    """8 s of load at a lifetime of 4 s: two rotations or three, on connections that are new."""
    serials = {}

    async def look(mesh):
        while mesh.now_s < 7.5:
            for service in ("front", "back"):
                for proxy, chain in (await mesh.certificates(service)).items():
                    certificate = x509.load_pem_x509_certificate(chain.encode())
                    serials.setdefault(proxy, set()).add(certificate.serial_number)
            await mesh.sleep(0.5)

    # Without idle connections that are kept, requests meet the new certificates.
    pools = {name: {"connection_pool": {"idle_timeout": "10ms"}} for name in ("front", "back")}
    result = emulate(
        with_values(pair(), {"policies": pools}),
        "8s",
        1,
        scripts=[look],
        dilation=1.0,
        certificate_ttl="4s",
        progress=False,
    )
    assert_accounted(result)
    assert result.emulation["accounting"]["failed"] == 0
    assert result.emulation["accounting"]["sent"] > 300
    assert serials.keys() == {"front-v1-0", "back-v1-0", "back-v1-1"}
    assert min(len(found) for found in serials.values()) >= 2


def test_the_lifetime_is_of_the_meshs_time():
    assert plan_run(pair(), "1s", 1, dilation=5, certificate_ttl="1h").certificate_ttl_s == 18_000
    assert plan_run(pair(), "1s", 1, dilation=1.0, certificate_ttl=90).certificate_ttl_s == 90
    assert plan_run(pair(), "1s", 1, dilation=1.0).certificate_ttl_s == CERTIFICATE_TTL_S == 86_400
    assert plan_run(pair(), "1s", 1, dilation=1e6).certificate_ttl_s == ROOT_TTL_S


@pytest.mark.parametrize(
    ("ttl", "said"),
    [
        ("1s", "allowed: 2 s of the machine's clock to 3650 days"),
        ("90000h", "allowed: 2 s"),
        ("soon", "certificate_ttl: "),
        (-1, "not a duration"),
        (float("nan"), "not a duration"),
    ],
)
def test_a_lifetime_that_cannot_be_is_refused(ttl, said):
    with pytest.raises(ConfigError, match=r"^certificate_ttl: ") as refused:
        plan_run(pair(), "1s", 1, dilation=1.0, certificate_ttl=ttl)
    assert said in str(refused.value)


def test_the_next_certificate_is_due_at_half_as_in_istio():
    now_s = unix_s()
    authority = CertificateAuthority.create("cluster.local", now_s)
    identity = Identity("spiffe://cluster.local/ns/default/sa/a")
    chain = authority.issue(identity.csr_pem(), identity.principal, now_s)
    identity.install(chain, authority.root_pem, now_s)
    assert not identity.needs_rotation(now_s + 0.49 * 86_400)
    assert identity.needs_rotation(now_s + 0.51 * 86_400)
