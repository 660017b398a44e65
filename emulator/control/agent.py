"""The agent: a proxy's side of the control plane.

Rule: on each connection, and whenever the control plane says hello, the proxy says which
versions it holds and repeats its last acknowledgements.  A resource counts only if the control
plane signed it for this proxy (key pinned at the start); it takes effect when it is newer and
fits (`meshsim.controlplane.acknowledgement.Holding`), and is answered with ACK, or NACK with the
reason.  Whatever the bus does (dies, stalls, repeats, reorders, lies), the last good
configuration keeps serving.

The agent asks for the proxy's certificate with its one-time token, and for the next one, when
`Identity` says it is time, with a signature by the current key.  A request is repeated until it
is answered.

What is said waits in a place of its own, the newest of each kind: a bus that is down delays it
and piles nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from emulator.clock import ModelClock, unix_s
from emulator.control.bus import Bus, BusError, BusSettings, Credential, backoff_s
from meshsim.controlplane.acknowledgement import (
    Acknowledgement,
    Holding,
    write_acknowledgements,
    write_held,
)
from meshsim.controlplane.configuration import TYPES, ProxyConfiguration
from meshsim.controlplane.enrolment import (
    CertificateRequest,
    proof_by_token,
    request_id,
    signed_content,
    write_request,
)
from meshsim.controlplane.signing import Verifier
from meshsim.controlplane.topics import Topics
from meshsim.errors import ConfigError

__all__ = ["Agent", "CertificateHolder"]

_LOG = logging.getLogger("meshsim.agent")
#: What a proxy holds is said again this often while it lacks something [real s].
_REMIND_S = 5.0
#: How often the need of a new certificate is looked at [real s].
_CERTIFICATE_LOOK_S = 0.5
#: First and longest wait for a certificate before the request is repeated.
_CERTIFICATE_WAIT = BusSettings(backoff_base_s=2.0, backoff_max_s=60.0)
#: What is held is said at most this often, whoever asks [real s].
_SAY_HELD_S = 0.25


class CertificateHolder(Protocol):
    """What the agent needs of `emulator.access.identity.Identity`."""

    @property
    def certificate_pem(self) -> bytes | None:
        """The chain in use."""

    def csr_pem(self) -> bytes:
        """Return a request for the next certificate."""

    def install(self, chain_pem: bytes, root_pem: bytes, now_unix_s: float) -> None:
        """Use a new certificate; raise ConfigError if it is not right."""

    def needs_rotation(self, now_unix_s: float) -> bool:
        """Say whether it is time for the next certificate."""

    def sign(self, data: bytes) -> bytes:
        """Sign with the key in use."""


class Agent:
    """Keeps one proxy configured.

    Parameters
    ----------
    proxy, mesh : str
    bus_url : str
    credential : Credential
        Of the proxy on the bus.
    control_plane_key : bytes
        Ed25519 public key, 32 bytes: the only one it believes.
    clock : ModelClock
    identity : CertificateHolder, optional
        Without one no certificate is asked for.
    token : str
        One-time enrolment token.
    on_configuration : callable, optional
        Called with each configuration before it counts as effective; a ConfigError refuses it.
    settings : BusSettings, optional
    """

    def __init__(
        self,
        proxy: str,
        mesh: str,
        bus_url: str,
        credential: Credential,
        control_plane_key: bytes,
        clock: ModelClock,
        *,
        identity: CertificateHolder | None = None,
        token: str = "",
        on_configuration: Callable[[ProxyConfiguration], None] | None = None,
        settings: BusSettings | None = None,
    ) -> None:
        self.proxy = proxy
        self._mesh = mesh
        self._topics = Topics(mesh)
        self._verifier = Verifier(control_plane_key, mesh, proxy)
        self._holding = Holding(proxy, on_configuration)
        self._clock = clock
        self._identity = identity
        self._token = token
        self.bus = Bus(
            bus_url,
            credential,
            subscriptions=self._topics.proxy_grant(proxy).subscribe,
            on_message=self._on_message,
            on_connect=self._on_connect,
            settings=settings,
        )
        #: Resources taken, refused, of old versions left on the broker, and of no concern.
        self.counters = {"taken": 0, "refused": 0, "stale": 0, "stray": 0}
        #: Why the last resource or certificate was refused.
        self.last_refusal = ""
        self._say_held = False
        self._held_said_s = float("-inf")
        self._held_timer: asyncio.TimerHandle | None = None
        self._answers: dict[tuple[str, bool], Acknowledgement] = {}
        self._request: CertificateRequest | None = None
        self._say_request = False
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def configuration(self) -> ProxyConfiguration:
        """The configuration in effect."""
        return self._holding.effective

    @property
    def is_ready(self) -> bool:
        """Whether every type is in effect, and a certificate installed if one is wanted."""
        has_certificate = self._identity is None or self._identity.certificate_pem is not None
        return self._holding.is_complete and has_certificate

    async def ready(self) -> None:
        """Return when the proxy can serve."""
        while not self.is_ready:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Keep the proxy configured until `stop` or cancellation."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work)
                for work in (self.bus.run(), self._speak(), self._remind(), self._certify())
            ]
            try:
                await self._stopped.wait()
            finally:
                for task in tasks:
                    task.cancel()
                if self._held_timer is not None:
                    self._held_timer.cancel()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    # --- What is heard ---

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        family, proxy, kind = self._topics.read(topic) or ("", "", "")
        if family == "hello":
            self._say_held_soon()
        elif family == "config" and proxy == self.proxy and kind in TYPES and payload:
            self._on_resource(kind, payload, retained)
        elif family == "certificate" and proxy == self.proxy:
            self._on_certificate(payload)
        else:
            self.counters["stray"] += 1

    def _on_resource(self, kind: str, payload: bytes, retained: bool) -> None:
        version = 0
        held = self._holding.held.get(kind)
        try:
            resource = self._verifier.open(payload, kind)
            version = resource["version"] if isinstance(resource.get("version"), int) else 0
            if retained and held is not None and version <= held.version:
                self.counters["stale"] += 1  # what a broker keeps may be old: no replay
                return
            answers = self._holding.on_resource(resource, self._clock.now_ns())
        except ConfigError as error:
            self._refuse(kind, version, str(error), is_old=held is not None and version > 0)
            return
        self.counters["taken"] += 1
        for answer in answers:
            self._answers[answer.kind, False] = answer
        self._wake.set()
        self._progress.set()

    def _refuse(self, kind: str, version: int, reason: str, *, is_old: bool) -> None:
        self.counters["refused"] += 1
        self.last_refusal = reason
        _LOG.warning("%s: %s version %d refused: %s", self.proxy, kind, version, reason)
        answer = Acknowledgement(kind, max(version, 0), self._clock.now_ns(), reason)
        self._answers[kind, True] = answer
        if is_old:
            self._say_held_soon()  # the control plane may have lost count
        self._wake.set()

    def _on_certificate(self, payload: bytes) -> None:
        request, identity = self._request, self._identity
        try:
            body: Any = self._verifier.open(payload, "certificate").get("body")
            if request is None or identity is None or not _is_answer(body, request):
                self.counters["stray"] += 1
                return
            if body["refused"]:
                raise ConfigError(f"certificate: {body['refused']}")
            identity.install(body["chain"].encode(), body["root"].encode(), unix_s())
        except ConfigError as error:
            self.counters["refused"] += 1
            self.last_refusal = str(error)
            _LOG.warning("%s: %s", self.proxy, error)
            return
        self._request = None
        self._progress.set()

    # --- What is said ---

    async def _on_connect(self) -> None:
        self._say_held_now()
        for kind, answer in self._holding.acknowledgements.items():
            self._answers.setdefault((kind, False), answer)
        self._say_request = self._request is not None
        self._wake.set()

    def _say_held_soon(self) -> None:
        """Say what is held, now or when the last time is long enough ago."""
        if self._held_timer is None:
            loop = asyncio.get_running_loop()
            when_s = max(self._held_said_s + _SAY_HELD_S, loop.time())
            self._held_timer = loop.call_at(when_s, self._say_held_now)

    def _say_held_now(self) -> None:
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        self._held_said_s = asyncio.get_running_loop().time()
        self._say_held = True
        self._wake.set()

    async def _speak(self) -> None:
        """Say what is due; what cannot be said now is due again on the next connection."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._say_due()
            except BusError:
                await self.bus.wait_connected()

    async def _say_due(self) -> None:
        if self._say_held:
            self._say_held = False
            await self._publish("state", write_held(self._holding.held))
        if self._answers:
            answers = list(self._answers.values())
            self._answers.clear()
            await self._publish("ack", write_acknowledgements(answers))
        if self._say_request and self._request is not None:
            self._say_request = False
            await self._publish("csr", write_request(self._request))

    async def _publish(self, family: str, payload: bytes) -> None:
        await self.bus.publish(self._topics.of(family, self.proxy), payload)

    async def _remind(self) -> None:
        """Say again what is held while something is lacking: a message may have been lost."""
        while True:
            await asyncio.sleep(_REMIND_S)
            if not self._holding.is_complete and self.bus.is_connected:
                self._say_held_soon()

    # --- Certificates ---

    async def _certify(self) -> None:
        """Ask for a certificate whenever one is needed; repeat until it comes."""
        identity = self._identity
        while identity is not None:
            if identity.certificate_pem is not None and not identity.needs_rotation(unix_s()):
                await asyncio.sleep(_CERTIFICATE_LOOK_S)
                continue
            self._request = await asyncio.to_thread(self._new_request, identity)
            attempts = 0
            while self._request is not None:
                self._say_request = True
                self._wake.set()
                attempts += 1
                await self._wait_certificate(backoff_s(self.proxy, attempts, _CERTIFICATE_WAIT))

    async def _wait_certificate(self, patience_s: float) -> None:
        """Wait until the request is answered, or for `patience_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._request is not None:
                    self._progress.clear()
                    await self._progress.wait()

    def _new_request(self, identity: CertificateHolder) -> CertificateRequest:
        csr = identity.csr_pem().decode()
        current = identity.certificate_pem
        if current is None:
            return CertificateRequest(
                csr, proof_by_token(self._token, self._mesh, self.proxy, csr), ""
            )
        signature = identity.sign(signed_content(self._mesh, self.proxy, csr))
        return CertificateRequest(csr, signature.hex(), current.decode())


def _is_answer(body: Any, request: CertificateRequest) -> bool:
    """Decide whether `body` is a well-formed answer to `request`."""
    return (
        isinstance(body, dict)
        and body.keys() == {"request", "refused", "chain", "root"}
        and all(isinstance(value, str) for value in body.values())
        and body["request"] == request_id(request.csr)
    )
