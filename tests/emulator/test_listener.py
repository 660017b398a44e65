import asyncio
import contextlib
import logging
import socket
import ssl

import pytest
from identities import AUTHORITY, FOREIGN, NOW, RATINGS, REVIEWS, enrolled, rotate, until
from listener_clients import (
    DISABLE,
    GARBAGE,
    PERMISSIVE,
    STRICT,
    Echo,
    Refused,
    ask,
    bare_context,
    client_of,
    distrusting,
    listening,
    old_tls,
    shake_hands,
    stranger_of_our_root,
)

from emulator.access import listener as listener_module
from emulator.access.identity import Identity
from emulator.access.refusals import REASONS, VERIFY_REASONS
from meshsim.controlplane.configuration import ListenerPolicy

RATINGS_ONLY = ListenerPolicy("STRICT", principals=(RATINGS,))
REVIEWS_ONLY = ListenerPolicy("STRICT", principals=(REVIEWS,))


@pytest.mark.parametrize(
    ("policy", "context", "principal"),
    [
        (STRICT, client_of, RATINGS),
        (RATINGS_ONLY, client_of, RATINGS),
        (PERMISSIVE, client_of, RATINGS),
        (PERMISSIVE, lambda: None, None),
        (DISABLE, lambda: None, None),
    ],
)
def test_who_is_admitted(run, policy, context, principal):
    async def scenario():
        async with listening(policy) as (listener, port):
            client = context()
            assert await ask(port, client) == f"{principal}:hello".encode()
            counts = listener.counters()
            assert counts["admitted"] == counts["accepted"] == 1
            assert counts["handshakes"] == (client is not None)
            assert counts["refused"] == 0

    run(scenario())


@pytest.mark.parametrize(
    ("policy", "context", "reason"),
    [
        (STRICT, bare_context, "no_certificate"),
        (PERMISSIVE, bare_context, "no_certificate"),
        (STRICT, lambda: client_of(authority=FOREIGN), "certificate_untrusted"),
        (PERMISSIVE, lambda: client_of(authority=FOREIGN), "certificate_untrusted"),
        (STRICT, lambda: client_of(at=NOW - 7200), "certificate_expired"),
        (STRICT, lambda: client_of(at=NOW + 7200), "certificate_not_yet_valid"),
        (STRICT, stranger_of_our_root, "wrong_trust_domain"),
        (REVIEWS_ONLY, client_of, "principal_refused"),
        (STRICT, lambda: None, "plaintext_refused"),
        (ListenerPolicy("PERMISSIVE", principals=(RATINGS,)), lambda: None, "no_principal"),
        (ListenerPolicy("STRICT", trust_domains=()), client_of, "wrong_trust_domain"),
        (DISABLE, client_of, "tls_refused"),
        (STRICT, old_tls, "handshake_failed"),
        (STRICT, distrusting, "closed_in_handshake"),  # asyncio's clients leave without an alert
    ],
)
def test_who_is_refused_counted_and_logged(run, caplog, policy, context, reason):
    async def scenario():
        async with listening(policy) as (listener, port):
            for _ in range(3):
                with pytest.raises(Refused):
                    await ask(port, context())
            await until(lambda: listener.counters().get(f"refused.{reason}") == 3, reason)
            assert listener.counters()["refused"] == 3
            # Nothing of them reached a protocol, and the next one is served.
            assert Echo.made == 0
            listener.update(policy=PERMISSIVE)
            assert await ask(port) == b"None:hello"

    caplog.set_level(logging.INFO, listener_module.__name__)
    run(scenario())
    records = [r for r in caplog.records if f" {reason} " in r.getMessage()]
    assert [r.levelname for r in records] == ["WARNING", "WARNING", "INFO"]
    assert "PRIVATE" not in caplog.text
    assert "BEGIN" not in caplog.text


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused(run, garbage):
    async def scenario():
        async with listening() as (listener, port):
            with pytest.raises(Refused):
                await ask(port, None, garbage)
            reason = "handshake_failed" if garbage[0] == 0x16 else "plaintext_refused"
            await until(lambda: listener.counters().get(f"refused.{reason}") == 1, reason)
            assert (await ask(port, client_of())).endswith(b"hello")

    run(scenario())


def test_without_a_certificate_tls_is_refused_until_there_is_one(run):
    async def scenario():
        identity = Identity(REVIEWS)
        async with listening(STRICT, identity) as (listener, port):
            with pytest.raises(Refused):
                await ask(port, client_of())
            assert listener.counters()["refused.no_identity"] == 1
            rotate(identity)
            assert (await ask(port, client_of())).endswith(b"hello")

    run(scenario())


def test_a_new_policy_closes_whom_it_does_not_admit(run):
    async def scenario():
        async with listening(PERMISSIVE) as (listener, port):
            plain = await asyncio.open_connection("127.0.0.1", port)
            mutual = await asyncio.open_connection("127.0.0.1", port, ssl=client_of())
            for reader, writer in (plain, mutual):
                writer.write(b"x")
                assert (await reader.read(100)).endswith(b":x")
            listener.update(policy=STRICT)
            assert await plain[0].read() == b""
            assert listener.counters()["refused.withdrawn"] == 1
            mutual[1].write(b"y")
            assert (await mutual[0].read(100)).endswith(b":y")
            with pytest.raises(Refused):
                await ask(port)
            plain[1].close()
            mutual[1].close()

    run(scenario())


async def resume(port, context):
    """Return the answers to two requests, the second on the resumed session of the first."""
    answers, session = [], None
    loop = asyncio.get_running_loop()

    def exchange(session):
        raw = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(raw, session=session) as connection:
            resumable = connection.session
            connection.sendall(b"hello")
            answer = connection.recv(100)
            if answer:
                connection.unwrap()  # else the server forgets the session
            return answer, resumable

    for _ in range(2):
        answer, session = await loop.run_in_executor(None, exchange, session)
        answers.append(answer)
    return answers


def test_a_resumed_session_passes_the_same_questions(run, monkeypatch):
    async def scenario():
        async with listening() as (listener, port):
            context = client_of()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await resume(port, context) == [f"{RATINGS}:hello".encode()] * 2
            assert listener.counters()["resumed"] == 1
            times = iter([NOW + 7200])
            monkeypatch.setattr(listener_module, "unix_s", lambda: next(times))
            with contextlib.suppress(OSError):
                assert (await resume(port, context))[1] == b""
            await until(
                lambda: listener.counters().get("refused.certificate_expired") == 1, "expired"
            )

    run(scenario())


def test_an_expired_server_is_refused_by_its_clients_and_recovers(run):
    async def scenario():
        server = enrolled(REVIEWS)
        async with listening(STRICT, server) as (listener, port):
            client = enrolled(RATINGS)
            server.expire(AUTHORITY.expired(server.certificate_pem, NOW))
            with pytest.raises(Refused, match="SSLCertVerificationError"):
                await ask(port, client.client_context())
            loop = asyncio.get_running_loop()
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.run_in_executor(None, shake_hands, port, client.client_context())
            await until(lambda: listener.counters().get("refused.rejected_by_client") == 1, "alert")
            server.restore()
            assert (await ask(port, client.client_context())).endswith(b"hello")

    run(scenario())


def test_every_reason_is_explained():
    assert all(REASONS.values())
    assert set(VERIFY_REASONS.values()) <= REASONS.keys()
