"""The requests that workloads and load generators send: bytes ready but for what varies.

Rule: a request carries what the simulator knows of it.  ``x-meshsim-traffic``, ``-number`` and
``-arrival`` name the root request, ``x-meshsim-operation`` and ``-response-bytes`` what is asked
for, ``x-meshsim-key`` the draw key of this exchange; ``x-meshsim-parent`` is there only for
requests that are sampled as traces and names the exchange whose server calls, "0" for a root.
The headers of the traffic class travel along the whole call path, and a call adds its own.  The
deadline that the caller's proxy set (``x-meshsim-deadline``) goes on where a workload propagates
it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meshsim.rng import key_uniform, mix, mix_in
from meshsim.topology.compiled import CompiledTopology
from meshsim.topology.compiled.programs import CallSite
from meshsim.topology.compiled.users import name_of_user, naming_headers
from meshsim.topology.model import Call, Topology, TrafficClass

__all__ = ["DEADLINE", "CallTemplate", "RootTemplate", "call_templates", "decimal", "hexadecimal"]

#: Passed on as received, beside the headers of the class.
_CONTEXT = (
    b"x-request-id",
    b"traceparent",
    b"x-meshsim-traffic",
    b"x-meshsim-number",
    b"x-meshsim-arrival",
)
#: When whoever waits for a request gives up [model ns].
DEADLINE = b"x-meshsim-deadline"
_KEY_MAX_DIGITS = 16


def decimal(value: bytes | None) -> int:
    """Return a header's whole number >= 0, or -1 if it is absent or something else."""
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else -1


def hexadecimal(value: bytes | None) -> int:
    """Return a header's draw key, below 2**64; 0 if it is absent or something else."""
    try:
        return int(value or b"0", 16) if len(value or b"") <= _KEY_MAX_DIGITS else 0
    except ValueError:
        return 0


def _lines(headers: Mapping[str, str]) -> bytes:
    return b"".join(
        f"{name.lower()}: {value}\r\n".encode("latin-1") for name, value in headers.items()
    )


def _head(call: Call | TrafficClass, service: str, headers: Mapping[str, str]) -> bytes:
    """Return the part of a head that all requests of one call share."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%bx-meshsim-operation: %b\r\n%b" % (
        call.method.encode(),
        call.path.encode("latin-1"),
        service.encode(),
        _lines(headers),
        call.operation.encode(),
        b"x-meshsim-response-bytes: %d\r\ncontent-length: %d\r\n"
        % (call.response_bytes, call.request_bytes),
    )


class CallTemplate:
    """The requests of one call of a workload.

    Parameters
    ----------
    call : Call
    class_headers : mapping of bytes to tuple of bytes
        Names of the headers of each traffic class, in lower case.
    propagates : bool
        Whether the deadline of the request that is served goes with it.
    """

    def __init__(
        self,
        call: Call,
        class_headers: Mapping[bytes, tuple[bytes, ...]],
        propagates: bool = False,
    ) -> None:
        own = {name.lower().encode("latin-1") for name in call.headers}
        self.method = call.method.encode()
        self._head = _head(call, call.service, call.headers)
        self._tail = b"\r\n" + b"x" * call.request_bytes
        self._context = (*_CONTEXT, DEADLINE) if propagates else _CONTEXT
        self._passed_on = {
            traffic: (*self._context, *(name for name in names if name not in own))
            for traffic, names in class_headers.items()
        }

    def request(self, received: Mapping[bytes, bytes], key: int) -> bytes:
        """Return one request.

        Parameters
        ----------
        received : mapping of bytes to bytes
            Headers of the request that is being served.
        key : int
            Draw key of the call's exchange.
        """
        names = self._passed_on.get(received.get(b"x-meshsim-traffic", b""), self._context)
        lines = [b"%b: %b\r\n" % (name, received[name]) for name in names if name in received]
        if b"x-meshsim-parent" in received:
            parent = received.get(b"x-meshsim-key", b"0")
            lines.append(b"x-meshsim-parent: %b\r\n" % parent)
        return b"%b%bx-meshsim-key: %016x\r\n%b" % (self._head, b"".join(lines), key, self._tail)


def call_templates(compiled: CompiledTopology) -> list[CallTemplate | None]:
    """Return the template of each CALL row; None for the entry of a traffic class."""
    class_headers = {
        name.encode(): tuple(header.lower().encode("latin-1") for header in traffic.headers)
        for name, traffic in compiled.topology.traffic.items()
    }
    return [
        CallTemplate(site.call, class_headers, _propagates(compiled, site))
        if isinstance(site.call, Call)
        else None
        for site in compiled.sites
    ]


def _propagates(compiled: CompiledTopology, site: CallSite) -> bool:
    """Return whether the caller at `site` passes deadlines on."""
    assert site.workload is not None
    place = compiled.layout.workloads[site.workload]
    workload = compiled.topology.services[place.service].workloads[place.workload]
    return workload.deadline.propagate


class RootTemplate:
    """The requests of one traffic class.

    Parameters
    ----------
    topology : Topology
    name : str
        Of the class.
    class_key : int
        Draw key of the class.
    """

    def __init__(self, topology: Topology, name: str, class_key: int) -> None:
        traffic = topology.traffic[name]
        self.method = traffic.method.encode()
        self._class_key = mix(np.uint64(class_key))
        self._users = traffic.users
        self._classes = len(topology.traffic)
        self._index = list(topology.traffic).index(name)
        hashed = naming_headers(topology) if traffic.users is not None else set()
        fixed = {
            header: value
            for header, value in traffic.headers.items()
            if header.lower() not in hashed
        }
        self._per_user = [
            (header.lower().encode("latin-1"), value)
            for header, value in traffic.headers.items()
            if header.lower() in hashed
        ]
        self._head = (
            _head(traffic, traffic.to, fixed) + b"x-meshsim-traffic: %b\r\n" % name.encode()
        )
        self._tail = b"\r\n" + b"x" * traffic.request_bytes

    def request(self, number: int, arrived_ns: int, key: int, *, sampled: bool) -> bytes:
        """Return one request.

        Parameters
        ----------
        number : int
            Of the request within its class, from 0.
        arrived_ns : int
            When it was meant to be sent [model ns].
        key : int
            Draw key of its exchange.
        sampled : bool
            Whether to trace it.
        """
        trace = b"%016x%016x" % (int(mix(np.uint64(key))), key)
        lines = b"x-meshsim-parent: 0\r\n" if sampled else b""
        if self._per_user:
            lines += self._user_lines(number)
        return (
            b"%b%bx-meshsim-number: %d\r\nx-meshsim-arrival: %d\r\nx-meshsim-key: %016x\r\n"
            b"x-request-id: %b\r\ntraceparent: 00-%b-%016x-%02d\r\n%b"
        ) % (
            *(self._head, lines, number, arrived_ns, key),
            *(_request_id(trace), trace, key, int(sampled), self._tail),
        )

    def _user_lines(self, number: int) -> bytes:
        """Return the headers that say which user asks; drawn as the simulator does."""
        trace_number = number * self._classes + self._index
        uniform = key_uniform(np.uint64(mix_in(np.uint64(self._class_key), trace_number)))
        user = int(uniform * (self._users or 1))
        return b"".join(
            b"%b: %b\r\n" % (header, name_of_user(value, user).encode("latin-1"))
            for header, value in self._per_user
        )


def _request_id(trace: bytes) -> bytes:
    """Return 32 hexadecimal digits in the form of a UUID."""
    return b"-".join((trace[:8], trace[8:12], trace[12:16], trace[16:20], trace[20:]))
