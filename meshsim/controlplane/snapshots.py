"""Snapshots: what every proxy should hold, in versions, and what a proxy is missing.

Rule: a resource (one type of one proxy) gets a new version only when its body changed; the
version is the number of the snapshot that changed it, and at least one more than before.  A
proxy says which versions it holds and the digest of each body.  What it holds with the wanted
digest it keeps; everything else is sent.  A control plane that starts anew counts from 1 again:
where a proxy holds a higher version, the resource is numbered past it, or the proxy would
refuse it as old (nobody but that proxy is affected by what it claims).

References
----------
istio/istio pilot/pkg/model/push_context.go (the immutable snapshot); Envoy,
docs/root/api-docs/xds_protocol.rst (versions by type; a client states on each connect
what it holds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshsim.controlplane.configuration import TYPES, ProxyConfiguration, Resource

__all__ = ["Held", "Snapshots", "canonical", "digest_of"]

#: Bits of a body's digest that travel: chance meetings are out of question, and the digest
#: decides only what is sent again, never what is trusted.
_DIGEST_HEX = 32


class Held(NamedTuple):
    """What a proxy says it holds of one type."""

    version: int
    digest: str


def canonical(value: Any) -> bytes:
    """Return JSON-able data as the one sequence of bytes that stands for it.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(body: Any) -> str:
    """Return the digest of a resource's body."""
    return hashlib.sha256(canonical(body)).hexdigest()[:_DIGEST_HEX]


@dataclass(frozen=True)
class _Entry:
    body: Any
    digest: str
    version: int
    changed_ns: int


class Snapshots:
    """The wanted state of every proxy.

    Parameters
    ----------
    configurations : mapping of str to ProxyConfiguration
        By proxy.
    now_ns : int
        When they became true at the source [ns].
    """

    def __init__(self, configurations: Mapping[str, ProxyConfiguration], now_ns: int) -> None:
        #: Number of the latest snapshot.
        self.version = 0
        self._entries: dict[str, dict[str, _Entry]] = {}
        self.update(configurations, now_ns)

    @property
    def proxies(self) -> frozenset[str]:
        """Proxies that have a configuration."""
        return frozenset(self._entries)

    def update(
        self, configurations: Mapping[str, ProxyConfiguration], now_ns: int
    ) -> dict[str, frozenset[str]]:
        """Replace the wanted state; return the changed types by proxy, unchanged proxies left out.

        Proxies that are not in `configurations` are forgotten.
        """
        self.version += 1
        # Replicas share their parts: each is written out once.
        written: dict[tuple[str, int, int], tuple[Any, str]] = {}
        entries: dict[str, dict[str, _Entry]] = {}
        changed: dict[str, frozenset[str]] = {}
        for proxy, configuration in configurations.items():
            before = self._entries.get(proxy, {})
            entries[proxy] = {
                kind: self._entry(before.get(kind), _written(written, configuration, kind), now_ns)
                for kind in TYPES
            }
            types = frozenset(
                kind for kind, entry in entries[proxy].items() if before.get(kind) is not entry
            )
            if types:
                changed[proxy] = types
        self._entries = entries
        return changed

    def _entry(self, before: _Entry | None, content: tuple[Any, str], now_ns: int) -> _Entry:
        body, digest = content
        if before is None:
            return _Entry(body, digest, self.version, now_ns)
        if before.digest == digest:
            return before
        return _Entry(body, digest, max(self.version, before.version + 1), now_ns)

    def resource(self, proxy: str, kind: str) -> Resource:
        """Return what `proxy` should hold of type `kind`.

        Raises
        ------
        KeyError
            If the proxy or the type is unknown.
        """
        entry = self._entries[proxy][kind]
        return {"proxy": proxy, "type": kind, "version": entry.version, "body": entry.body}

    def wanted(self, proxy: str, kind: str) -> Held:
        """Return version and digest of what `proxy` should hold of type `kind`."""
        entry = self._entries[proxy][kind]
        return Held(entry.version, entry.digest)

    def changed_ns(self, proxy: str, kind: str) -> int:
        """Return when the wanted version became true at the source [ns]."""
        return self._entries[proxy][kind].changed_ns

    def on_held(self, proxy: str, held: Mapping[str, Held]) -> frozenset[str]:
        """Take in what `proxy` says it holds; return the types it is missing.

        Versions move past those the proxy holds.  An unknown proxy is missing nothing.
        """
        entries = self._entries.get(proxy, {})
        missing = set()
        for kind, entry in entries.items():
            has = held.get(kind)
            version = entry.version
            if has is None or has.digest != entry.digest:
                missing.add(kind)
                if has is not None and has.version >= version:
                    version = has.version + 1
            else:
                version = max(version, has.version)
            if version != entry.version:
                entries[kind] = _Entry(entry.body, entry.digest, version, entry.changed_ns)
        return frozenset(missing)


def _written(
    written: dict[tuple[str, int, int], tuple[Any, str]],
    configuration: ProxyConfiguration,
    kind: str,
) -> tuple[Any, str]:
    """Return body and digest of type `kind`; `written` remembers those of shared parts."""
    if kind == "routes":
        key = (kind, id(configuration.routes), id(configuration.labels))
    else:
        key = (kind, id(getattr(configuration, kind)), 0)
    if key not in written:
        body = configuration.body(kind)
        written[key] = body, digest_of(body)
    return written[key]
