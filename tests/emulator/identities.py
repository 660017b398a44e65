"""Identities for tests: one authority of the mesh, a foreign one, and how to get in."""

import asyncio

from emulator.access.identity import Identity
from emulator.clock import unix_s
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.policy.authentication import spiffe_id

DOMAIN = "cluster.local"
REVIEWS = spiffe_id(DOMAIN, "default", "reviews-v1")
RATINGS = spiffe_id(DOMAIN, "default", "ratings-v1")

NOW = unix_s()
AUTHORITY = CertificateAuthority.create(DOMAIN, NOW, ttl_s=3600.0)
#: Another authority that calls itself the same.
FOREIGN = CertificateAuthority.create(DOMAIN, NOW, ttl_s=3600.0)


def enrolled(principal=REVIEWS, *, authority=AUTHORITY, at=NOW, key_type="ecdsa-p256"):
    """Return an identity with a certificate issued at the time `at`."""
    identity = Identity(principal, key_type)
    chain = authority.issue(identity.csr_pem(), principal, at)
    identity.install(chain, authority.root_pem, at)
    return identity


def rotate(identity, authority=AUTHORITY):
    """Give `identity` its next certificate."""
    now = unix_s()
    chain = authority.issue(identity.csr_pem(), identity.principal, now)
    identity.install(chain, authority.root_pem, now)


async def until(condition, what, deadline_s=10.0):
    """Wait for `condition`; fail with `what` after the deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110  the condition is anybody's
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s: {what}") from None
