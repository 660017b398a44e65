"""What reaches a proxy, and what does not: forgers, repeats, silence, certificates."""

import asyncio
import contextlib
import ssl

import pytest
from bus_fakes import (
    BROKERS,
    CLOCK,
    FAST,
    KEY,
    MESH,
    MOSQUITTO,
    Mosquitto,
    broker,
    bus_certificates,
    configuration,
    make_agent,
    make_control_plane,
    port_of,
    run_clean,
    running,
    until,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emulator.access.identity import Identity
from emulator.clock import unix_s
from emulator.control.agent import Agent
from emulator.control.bus import Bus, Credential
from emulator.control.controlplane import ControlPlane
from meshsim.controlplane.certificate_authority import CertificateAuthority
from meshsim.controlplane.configuration import TYPES, principal_of
from meshsim.controlplane.signing import Signer
from meshsim.controlplane.topics import CONTROL_PLANE, Topics
from meshsim.errors import ConfigError

TOPICS = Topics(MESH)
SIGNER = Signer(KEY, MESH)


class Speaker(Bus):
    """Says anything as the control plane's user: what a broken or bribed broker could do."""

    def __init__(self, url, user=CONTROL_PLANE):
        super().__init__(
            url,
            Credential(user, user),
            subscriptions=[],
            on_message=lambda *_: None,
            settings=FAST,
        )


def messages(version, port, proxy="a", signer=SIGNER):
    """Return the four signed messages of one version by type."""
    whole = configuration(proxy, port)
    return {kind: signer.seal(whole.to_json(kind) | {"version": version}) for kind in TYPES}


@contextlib.asynccontextmanager
async def configured(kind, folder, users=("a", "b")):
    """Run a broker, a speaker, and proxy "a" with version 5 from port 9005."""
    async with broker(kind, folder, users) as bus:
        speaker, agent = Speaker(bus.url), make_agent(bus.url, "a")
        async with running(speaker, agent), asyncio.timeout(25):
            await speaker.wait_connected()
            await agent.bus.wait_connected()
            for item, message in messages(5, 9005).items():
                await speaker.publish(TOPICS.config("a", item), message)
            await agent.ready()
            yield bus, speaker, agent


@pytest.mark.parametrize("kind", BROKERS)
def test_nothing_but_newer_signed_messages_for_itself_change_a_proxy(kind, tmp_path):
    forged = messages(6, 666, signer=Signer(Ed25519PrivateKey.generate(), MESH))
    poison = [
        ("another key", forged["endpoints"], "bad signature"),
        ("no message", b"\x00" * 300, "bad signature"),
        ("cut short", messages(6, 666)["endpoints"][:-1], "bad signature"),
        ("another proxy's", messages(6, 666, proxy="b")["endpoints"], "proxy"),
        ("another type", messages(6, 666)["routes"], "type"),
        ("older", messages(4, 666)["endpoints"], "replay"),
        ("equal", messages(5, 666)["endpoints"], "replay"),
        (
            "malformed",
            SIGNER.seal(
                {"proxy": "a", "type": "endpoints", "version": 6, "body": {"cart": [{"port": 1}]}}
            ),
            "endpoints.cart",
        ),
    ]

    async def work():
        async with configured(kind, tmp_path) as (_, speaker, agent):
            for count, (what, message, reason) in enumerate(poison, 1):
                await speaker.publish(TOPICS.config("a", "endpoints"), message)
                await until(lambda n=count: agent.counters["refused"] == n, what)
                assert reason in agent.last_refusal, what
                assert (port_of(agent), agent.configuration.versions["endpoints"]) == (9005, 5)
            await speaker.publish(TOPICS.config("a", "endpoints"), messages(7, 9007)["endpoints"])
            await until(lambda: port_of(agent) == 9007)

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_duplicates_and_disorder_end_where_order_would(kind, tmp_path):
    async def work():
        async with configured(kind, tmp_path) as (_, speaker, agent):
            later, last = messages(6, 9006), messages(7, 9007)
            for item in (last, later, last, later):
                for name in reversed(TYPES):
                    await speaker.publish(TOPICS.config("a", name), item[name])
            await until(lambda: agent.counters["taken"] + agent.counters["refused"] == 20)
            assert agent.configuration.versions == dict.fromkeys(TYPES, 7)
            assert port_of(agent) == 9007

    run_clean(work())


@pytest.mark.parametrize("kind", BROKERS)
def test_a_proxy_that_publishes_on_anothers_topic_reaches_nobody(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a", "b"]) as bus:
            control = make_control_plane(bus.url, {"a": configuration("a", 9000)})
            agent = make_agent(bus.url, "a")
            intruder, stranger = Speaker(bus.url, "b"), Speaker(bus.url, "nobody")
            async with running(control, agent, intruder, stranger), asyncio.timeout(20):
                await agent.ready()
                await intruder.wait_connected()
                for topic in (
                    TOPICS.config("a", "endpoints"),
                    TOPICS.of("ack", "a"),
                    TOPICS.of("state", "a"),
                    TOPICS.of("csr", "a"),
                    TOPICS.of("certificate", "a"),
                    TOPICS.hello,
                ):
                    await intruder.publish(topic, messages(6, 666)["endpoints"])
                await until(lambda: stranger.counters["failed"] >= 2)
                assert stranger.counters["connected"] == 0
                control.update({"a": configuration("a", 9001)})
                await until(lambda: port_of(agent) == 9001)
                assert agent.counters["refused"] == control.counters["malformed"] == 0
                assert agent.counters["stray"] == 0

    run_clean(work())


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_a_broker_that_stops_reading_is_given_up_and_returned_to(tmp_path):
    async def work():
        async with broker("mosquitto", tmp_path, ["a"]) as bus:
            control = make_control_plane(bus.url, {"a": configuration("a", 9000)})
            agent = make_agent(bus.url, "a")
            async with running(control, agent), asyncio.timeout(40):
                await agent.ready()
                bus.pause()
                control.update({"a": configuration("a", 9001)})
                await until(lambda: not agent.bus.is_connected)
                await until(lambda: not control.bus.is_connected)
                assert port_of(agent) == 9000
                bus.resume()
                await until(lambda: port_of(agent) == 9001)
                await control.settled()

    run_clean(work())


class Cable:
    """Passes bytes between clients and the broker until it is cut; then it swallows them."""

    def __init__(self, port):
        self.port = port
        self.is_cut = False
        self.writers = set()

    async def start(self):
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"mqtt://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _connected(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not self.is_cut:
                    writer.write(data)
        writer.close()

    async def stop(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)


def test_a_partition_of_the_embedded_broker_is_bridged(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a", "b"]) as bus:
            cable = Cable(int(bus.url.rsplit(":", 1)[1]))
            far, near = make_agent(await cable.start(), "a"), make_agent(bus.url, "b")
            names = ("a", "b")
            control = make_control_plane(bus.url, {n: configuration(n, 9000) for n in names})
            async with running(control, far, near), asyncio.timeout(40):
                await asyncio.gather(far.ready(), near.ready())
                cable.is_cut = True
                control.update({name: configuration(name, 9001) for name in names})
                await until(lambda: port_of(near) == 9001)
                await until(lambda: not far.bus.is_connected)
                assert port_of(far) == 9000
                cable.is_cut = False
                await until(lambda: port_of(far) == 9001)
                await control.settled()
            await cable.stop()

    run_clean(work())


def identified(url, principals, proxy="a", token="token", ttl_s=3600.0, **options):
    """Return a control plane with an authority, and an agent that wants a certificate."""
    authority = CertificateAuthority.create("cluster.local", unix_s(), ttl_s=ttl_s)
    control = make_control_plane(
        url,
        {proxy: configuration(proxy, 9000)},
        certificate_authority=authority,
        principals=principals,
        tokens={proxy: "token"},
        **options,
    )
    identity = Identity(principal_of(proxy))
    agent = make_agent(url, proxy, identity=identity, token=token)
    return control, agent, identity


@pytest.mark.parametrize("kind", BROKERS)
def test_a_certificate_is_given_for_a_token_and_renewed_by_its_key(kind, tmp_path):
    async def work():
        async with broker(kind, tmp_path, ["a"]) as bus:
            # Half of the time to live is the moment of rotation.
            control, agent, identity = identified(bus.url, {"a": principal_of("a")}, ttl_s=4.0)
            async with running(control, agent), asyncio.timeout(20):
                await agent.ready()
                first = identity.certificate_pem
                assert control.counters["certificates"] == 1
                await until(lambda: identity.certificate_pem != first)
                assert control.counters["certificates_refused"] == 0
                assert control.counters["certificates"] == 2

    run_clean(work())


def test_a_token_serves_no_second_proxy_process(tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            control, agent, _ = identified(bus.url, {"a": principal_of("a")})
            async with running(control), asyncio.timeout(20):
                async with running(agent):
                    await agent.ready()
                thief = make_agent(
                    bus.url, "a", identity=Identity(principal_of("a")), token="token"
                )
                async with running(thief):
                    await until(lambda: "no token is open" in thief.last_refusal)
                    assert not thief.is_ready
                control.enrolment.expect("a", "fresh")
                reborn = make_agent(
                    bus.url, "a", identity=Identity(principal_of("a")), token="fresh"
                )
                async with running(reborn):
                    await reborn.ready()

    run_clean(work())


@pytest.mark.parametrize(
    ("principals", "token", "reason"),
    [
        ({"a": principal_of("a")}, "guess", "does not prove"),
        ({"a": principal_of("b")}, "token", "one name"),
        ({}, "token", "no certificates"),
    ],
)
def test_a_refused_request_is_answered_with_its_reason(principals, token, reason, tmp_path):
    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            control, agent, identity = identified(bus.url, principals, token=token)
            async with running(control, agent), asyncio.timeout(20):
                await until(lambda: "certificate:" in agent.last_refusal)
                assert reason in agent.last_refusal
                assert identity.certificate_pem is None
                assert control.counters["certificates_refused"] == 1

    run_clean(work())


def test_a_configuration_that_the_proxy_cannot_apply_is_refused(tmp_path):
    applied = []

    def apply(candidate):
        port = candidate.endpoints["cart"][0].port
        if port == 666:
            raise ConfigError("the engine cannot")
        applied.append(port)

    async def work():
        async with broker("embedded", tmp_path, ["a"]) as bus:
            control = make_control_plane(bus.url, {"a": configuration("a", 9000)})
            agent = make_agent(bus.url, "a", on_configuration=apply)
            async with running(control, agent), asyncio.timeout(20):
                await agent.ready()
                control.update({"a": configuration("a", 666)})
                await until(lambda: control.ledger.refusals)
                assert control.ledger.refusals[-1][1].reason == "the engine cannot"
                control.update({"a": configuration("a", 9001)})
                await until(lambda: port_of(agent) == 9001)
            assert applied == [9000, 9001]

    run_clean(work())


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_mutual_tls_guards_the_bus_on_mosquitto(tmp_path):
    authority = CertificateAuthority.create("cluster.local", unix_s())
    files = bus_certificates(tmp_path, authority, "bus")

    def context(with_certificate):
        made = ssl.create_default_context(cadata=authority.root_pem.decode())
        made.check_hostname = False  # SPIFFE names no host; the authority is the mesh's own
        if with_certificate:
            made.load_cert_chain(files[1], files[2])
        return made

    def credential(user, with_certificate=True):
        return Credential(user, user, context(with_certificate))

    async def work():
        bus = Mosquitto(tmp_path, {CONTROL_PLANE: CONTROL_PLANE, "a": "a", "b": "b"}, tls=files)
        await bus.start()
        key = KEY.public_key().public_bytes_raw()
        names = {"a": configuration("a", 9000)}
        control = ControlPlane(
            bus.url, credential(CONTROL_PLANE), MESH, names, KEY, CLOCK, settings=FAST
        )
        agent = Agent("a", MESH, bus.url, credential("a"), key, CLOCK, settings=FAST)
        bare = Agent("b", MESH, bus.url, credential("b", False), key, CLOCK, settings=FAST)
        async with running(control, agent, bare), asyncio.timeout(20):
            await agent.ready()
            await until(lambda: bare.bus.counters["failed"] >= 2)
            assert bare.bus.counters["connected"] == 0
        await bus.stop()

    run_clean(work())
