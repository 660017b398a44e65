"""Which function reads which kind.

Rule: a reader registers for (group, kind) and gets *all* manifests of that kind at once,
because precedence is decided between them.  Readers run stage by stage, within a stage in the
order of registration: first the services and workloads of the cluster, then what describes
clusters (subsets, limits, balancing), then what routes to them.  A kind that nobody registered
is told to the user as not read yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from meshsim.importers.assembly import Assembly
from meshsim.importers.documents import Manifest
from meshsim.importers.view import View

__all__ = ["Reader", "Stage", "ignores", "not_read_yet", "read_all", "reads"]

Reader = Callable[[list[View], Assembly], None]


class Stage(IntEnum):
    """When a reader runs."""

    WORKLOADS = 0
    CLUSTERS = 1
    ROUTES = 2


@dataclass(frozen=True)
class _Entry:
    stage: Stage
    family: str
    reader: Reader


_READERS: dict[tuple[str, str], _Entry] = {}
_IGNORED: set[tuple[str, str]] = set()


def reads(
    group: str, *kinds: str, family: str, stage: Stage = Stage.WORKLOADS
) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of `kinds` of an API group.

    Parameters
    ----------
    group : str
        E.g. ``networking.istio.io``; "" is Kubernetes' core group.
    kinds : str
        Each kind is read by its own call.
    family : str
        The mesh that obeys this configuration, e.g. ``istio``.
    stage : Stage
        When it runs.
    """

    def register(reader: Reader) -> Reader:
        for kind in kinds:
            _READERS[group, kind] = _Entry(stage, family, reader)
        return reader

    return register


def ignores(group: str, *kinds: str) -> None:
    """Register kinds that cannot change a simulation; they are not mentioned."""
    _IGNORED.update((group, kind) for kind in kinds)


def read_all(manifests: list[Manifest], assembly: Assembly) -> set[str]:
    """Give every manifest to its reader and report the rest.

    Returns
    -------
    set of str
        Families of the policies that were read; empty if there are only workloads.
    """
    by_kind: dict[tuple[str, str], list[Manifest]] = {}
    for manifest in manifests:
        by_kind.setdefault((manifest.group, manifest.kind), []).append(manifest)
    families = set()
    for stage in Stage:
        for kind, entry in _READERS.items():
            if entry.stage is stage and kind in by_kind:
                views = [assembly.findings.open(manifest) for manifest in by_kind[kind]]
                entry.reader(views, assembly)
                if stage is not Stage.WORKLOADS:
                    families.add(entry.family)
        if stage is Stage.WORKLOADS:
            assembly.join()
    assembly.findings.report_unread()
    for kind, of_kind in by_kind.items():
        if kind not in _READERS and kind not in _IGNORED:
            assembly.findings.notices.append(not_read_yet(of_kind))
    return families


def not_read_yet(manifests: Sequence[Manifest]) -> str:
    """Return the notice that manifests of one kind are not read."""
    places = ", ".join(manifest.place() for manifest in manifests)
    return f"not read yet: {manifests[0].kind} ({manifests[0].group or 'core'}) in {places}"
