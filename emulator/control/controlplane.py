"""The control plane's server: from a change at the source to every proxy it concerns.

Rule: `update` states what every proxy should hold.  Changes are debounced, become one snapshot,
and each proxy whose resources changed is pushed to, in the order of the push queue and as many
at once as its throttle allows; types go in the order in which they may be used.  Every push is
signed.  An acknowledgement ends the wait for it; what is not acknowledged in time is pushed
again.  A proxy that says what it holds (on each of its connections, and when the control plane
says hello on its own) is sent what it lacks.  So nothing depends on any single message.

Certificate requests are decided by `meshsim.controlplane.enrolment` and answered, signed, with a
certificate or the reason of the refusal.

All decisions are made in `meshsim.controlplane`; this module waits and sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emulator.clock import ModelClock, unix_s
from emulator.control.bus import Bus, BusError, BusSettings, Credential
from meshsim.controlplane.acknowledgement import (
    ACK_TIMEOUT_NS,
    Ledger,
    read_acknowledgements,
    read_held,
)
from meshsim.controlplane.configuration import TYPES, ProxyConfiguration
from meshsim.controlplane.debounce import Debounce
from meshsim.controlplane.enrolment import CertificateRequest, Enrolment, read_request, request_id
from meshsim.controlplane.push_queue import PushQueue, PushRequest
from meshsim.controlplane.signing import Signer
from meshsim.controlplane.snapshots import Snapshots
from meshsim.controlplane.topics import Topics
from meshsim.errors import ConfigError
from meshsim.state.codes import NEVER_NS

__all__ = ["CertificateIssuer", "ControlPlane"]

_LOG = logging.getLogger("meshsim.controlplane")
#: Statements of proxies that may wait to be read: all of a large mesh at once.
_SETTINGS = BusSettings(inbox=100_000)
#: Certificates being issued and sent; beyond it a proxy has to ask again.
_CERTIFICATES_MAX = 1000


class CertificateIssuer(Protocol):
    """What is needed of `meshsim.controlplane.certificate_authority.CertificateAuthority`."""

    @property
    def root_pem(self) -> bytes:
        """The certificate every other one can be traced to."""

    def issue(self, csr_pem: bytes, principal: str, now_unix_s: float) -> bytes:
        """Return the chain for `principal`; raise ConfigError to refuse."""

    def verify_signature(
        self,
        certificate_pem: bytes,
        principal: str,
        data: bytes,
        signature: bytes,
        now_unix_s: float,
    ) -> bool:
        """Say whether the holder of a certificate in force for `principal` signed `data`."""


class ControlPlane:
    """Serves configuration and certificates to the proxies of one mesh.

    Parameters
    ----------
    bus_url : str
    credential : Credential
        Of `meshsim.controlplane.topics.CONTROL_PLANE`.
    mesh : str
    configurations : mapping of str to ProxyConfiguration
        By proxy; `update` replaces them.
    key : Ed25519PrivateKey
        Signs what is sent; proxies are given `public_key`.
    clock : ModelClock
    certificate_authority : CertificateIssuer, optional
    principals : mapping of str to str, optional
        SPIFFE id by proxy (`meshsim.controlplane.configuration.principals_of`).
    tokens : mapping of str to str, optional
        One-time enrolment token by proxy.
    debounce : Debounce, optional
    push_queue : PushQueue, optional
    ledger : Ledger, optional
    retain : bool
        Leave configuration on the broker as retained messages (Mosquitto).
    settings : BusSettings, optional
    """

    def __init__(
        self,
        bus_url: str,
        credential: Credential,
        mesh: str,
        configurations: Mapping[str, ProxyConfiguration],
        key: Ed25519PrivateKey,
        clock: ModelClock,
        *,
        certificate_authority: CertificateIssuer | None = None,
        principals: Mapping[str, str] | None = None,
        tokens: Mapping[str, str] | None = None,
        debounce: Debounce | None = None,
        push_queue: PushQueue | None = None,
        ledger: Ledger | None = None,
        retain: bool = False,
        settings: BusSettings = _SETTINGS,
    ) -> None:
        self._clock = clock
        self._topics = Topics(mesh)
        self._signer = Signer(key, mesh)
        self._authority = certificate_authority
        self._principals = dict(principals or {})
        self.enrolment = Enrolment(mesh, tokens or {})
        self._debounce = Debounce() if debounce is None else debounce
        self._queue = PushQueue() if push_queue is None else push_queue
        # A lost message is lost by the machine, so the wait for its answer is real time.
        timeout_ns = round(ACK_TIMEOUT_NS / clock.dilation)
        self.ledger = Ledger(timeout_ns) if ledger is None else ledger
        self._retain = retain
        self._snapshots = Snapshots(configurations, clock.now_ns())
        #: How many proxies each snapshot concerned, by its number.
        self.concerned = {self._snapshots.version: len(configurations)}
        self._next: tuple[Mapping[str, ProxyConfiguration], int] | None = None
        self.bus = Bus(
            bus_url,
            credential,
            subscriptions=self._topics.control_plane_grant.subscribe,
            on_message=self._on_message,
            on_connect=self._on_connect,
            settings=settings,
        )
        #: Statements of unknown proxies, unreadable ones, pushes the bus did not take, and
        #: certificates issued and refused.
        self.counters = {
            "unknown": 0,
            "malformed": 0,
            "unsent": 0,
            "certificates": 0,
            "certificates_refused": 0,
        }
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._certificates = 0

    @property
    def public_key(self) -> bytes:
        """What a proxy is given to know this control plane by, 32 bytes."""
        return self._signer.public_key

    @property
    def version(self) -> int:
        """Number of the snapshot that is being pushed."""
        return self._snapshots.version

    @property
    def is_settled(self) -> bool:
        """Whether every change was pushed and every push answered."""
        return not (self._next or self._queue.running or len(self._queue) or self.ledger.awaited)

    async def settled(self) -> None:
        """Return when every change was pushed and every push answered."""
        while not self.is_settled:
            self._settled.clear()
            await self._settled.wait()

    def update(
        self,
        configurations: Mapping[str, ProxyConfiguration],
        principals: Mapping[str, str] | None = None,
    ) -> int:
        """State what every proxy should hold; return the number of the snapshot it will be in.

        Changes that are debounced together share a snapshot, and its age is that of the first.
        """
        now_ns = self._clock.now_ns()
        if principals is not None:
            self._principals = dict(principals)
        changed_ns = self._next[1] if self._next is not None else now_ns
        self._next = configurations, changed_ns
        self._debounce.on_change(now_ns)
        self._wake.set()
        return self._snapshots.version + 1

    def propagation(self) -> list[dict[str, Any]]:
        """Return how each acknowledged version reached its proxy, one row each [model ns].

        Columns: proxy, type, version, changed_ns, published_ns, effective_ns.
        """
        return [item._asdict() for item in self.ledger.propagations]

    async def run(self) -> None:
        """Serve until `stop` or cancellation."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (self.bus.run(), self._drive())]
            try:
                await self._stopped.wait()
            finally:
                for task in (*tasks, *self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    async def clear_retained(self) -> None:
        """Retain nothing more, and take what was off the broker, if that can be reached."""
        if not self._retain:
            return
        self._retain = False
        pushing = list(self._tasks)
        for task in pushing:
            task.cancel()
        await asyncio.gather(*pushing, return_exceptions=True)
        await asyncio.gather(*(self._clear_retained(name) for name in self._snapshots.proxies))

    # --- Pushing ---

    async def _drive(self) -> None:
        """Start what is due, wait for what comes next."""
        if self._retain:  # for proxies that come while the control plane is away
            for proxy in self._snapshots.proxies:
                self._enqueue(proxy, frozenset(TYPES), self._clock.now_ns())
        while True:
            now_ns = self._clock.now_ns()
            if self._debounce.on_timer(now_ns):
                self._take_snapshot()
            for proxy, types in self.ledger.overdue(now_ns).items():
                self._enqueue(proxy, types, now_ns)
            while self.bus.is_connected and (taken := self._queue.take()) is not None:
                self._start(self._push(*taken))
            if self.is_settled:
                self._settled.set()
            deadline_ns = min(self._debounce.deadline_ns, self.ledger.deadline_ns)
            wait_s = None
            if deadline_ns != NEVER_NS:
                wait_s = max(self._clock.real_s(deadline_ns - self._clock.now_ns()), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def _take_snapshot(self) -> None:
        """Make a snapshot of the newest configurations, and queue the pushes it asks for."""
        pushes = True
        while pushes and self._next is not None:
            configurations, changed_ns = self._next
            self._next = None
            before = self._snapshots.proxies
            changed = self._snapshots.update(configurations, changed_ns)
            self.concerned[self._snapshots.version] = len(changed)
            gone = before - self._snapshots.proxies
            self._queue.keep_only(self._snapshots.proxies)
            for proxy in gone:
                self.ledger.forget(proxy)
                if self._retain:
                    self._start(self._clear_retained(proxy))
            for proxy, types in changed.items():
                self._enqueue(proxy, types, changed_ns)
            pushes = self._debounce.on_pushed(self._clock.now_ns())

    def _enqueue(self, proxy: str, types: frozenset[str], changed_ns: int) -> None:
        if types:
            self._queue.add(proxy, PushRequest(types, changed_ns))
            self._wake.set()

    async def _push(self, proxy: str, request: PushRequest) -> None:
        """Send what `request` names; what the bus does not take stays awaited."""
        try:
            for kind in TYPES:
                if kind in request.types and proxy in self._snapshots.proxies:
                    await self._push_type(proxy, kind)
        except BusError:
            self.counters["unsent"] += 1
        except ConfigError as error:  # too long to be sent
            self.counters["unsent"] += 1
            _LOG.error("%s: not pushed: %s", proxy, error)
        finally:
            self._queue.done(proxy)
            self._wake.set()

    async def _push_type(self, proxy: str, kind: str) -> None:
        resource = self._snapshots.resource(proxy, kind)
        changed_ns = self._snapshots.changed_ns(proxy, kind)
        message = self._signer.seal(resource)
        # Before it is sent: the answer may be faster than the broker's confirmation.
        self.ledger.on_published(proxy, kind, resource["version"], changed_ns, self._clock.now_ns())
        await self.bus.publish(self._topics.config(proxy, kind), message, self._retain)

    async def _clear_retained(self, proxy: str) -> None:
        """Take a proxy's configuration off the broker."""
        with contextlib.suppress(BusError):
            for kind in TYPES:
                await self.bus.publish(self._topics.config(proxy, kind), b"", True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- What proxies say ---

    async def _on_connect(self) -> None:
        await self.bus.publish(self._topics.hello, b"")
        self._wake.set()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        del retained  # nobody retains statements
        family, proxy, _ = self._topics.read(topic) or ("", "", "")
        if proxy not in self._snapshots.proxies:
            self.counters["unknown"] += 1
            return
        now_ns = self._clock.now_ns()
        try:
            self.ledger.on_heard(proxy, now_ns)
            if family == "state":
                self._enqueue(proxy, self._snapshots.on_held(proxy, read_held(payload)), now_ns)
            elif family == "ack":
                for answer in read_acknowledgements(payload):
                    self.ledger.on_answer(proxy, answer, now_ns)
                    if answer.reason:
                        _LOG.warning("%s refused %s: %s", proxy, answer.kind, answer.reason)
            elif family == "csr":
                self._on_request(proxy, read_request(payload))
        except ConfigError as error:
            self.counters["malformed"] += 1
            _LOG.warning("%s: %s: %s", proxy, family, error)
        if self.is_settled:
            self._settled.set()

    # --- Certificates ---

    def _on_request(self, proxy: str, request: CertificateRequest) -> None:
        if self._certificates >= _CERTIFICATES_MAX:
            return
        refused, chain = "", self.enrolment.answered(proxy, request)
        if chain is None:
            try:
                chain = self._issue(proxy, request)
            except ConfigError as error:
                refused, chain = str(error)[:500], ""
                self.counters["certificates_refused"] += 1
                _LOG.warning("%s: certificate refused: %s", proxy, error)
        root = self._authority.root_pem.decode() if self._authority is not None else ""
        body = {
            "request": request_id(request.csr),
            "refused": refused,
            "chain": chain,
            "root": root,
        }
        self._start(self._send_certificate(proxy, body))

    def _issue(self, proxy: str, request: CertificateRequest) -> str:
        """Return a certificate chain.

        Raises
        ------
        ConfigError
            If the request is refused.
        """
        authority, principal = self._authority, self._principals.get(proxy)
        if authority is None or principal is None:
            raise ConfigError("no certificates for this proxy")
        now_unix_s = unix_s()

        def is_signed_by(certificate: str, content: bytes, signature: bytes) -> bool:
            return authority.verify_signature(
                certificate.encode(), principal, content, signature, now_unix_s
            )

        self.enrolment.admit(proxy, request, is_signed_by)
        chain = authority.issue(request.csr.encode(), principal, now_unix_s).decode()
        self.enrolment.on_issued(proxy, request, chain)
        self.counters["certificates"] += 1
        return chain

    async def _send_certificate(self, proxy: str, body: dict[str, str]) -> None:
        resource = {"proxy": proxy, "type": "certificate", "version": 1, "body": body}
        self._certificates += 1
        try:
            message = self._signer.seal(resource)
            await self.bus.publish(self._topics.of("certificate", proxy), message)
        except BusError:
            self.counters["unsent"] += 1  # the proxy asks again
        finally:
            self._certificates -= 1
