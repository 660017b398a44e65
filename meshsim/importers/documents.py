"""Manifests out of a folder: which documents there are, and what each of them is.

Rule: every ``.yaml``, ``.yml`` and ``.json`` file below the folder is read, in the order of its
path, and every document of it; ``kind: List`` is its items.  A manifest is identified by
(group, kind, namespace, name): the version is ignored, a missing namespace is ``default``.  If
one identity appears twice the last one wins, as with ``kubectl apply``, and the reader is told.
What meshes know beside Kubernetes has an identity of its own form: Kuma's ``type`` and ``name``,
Consul's ``Kind`` and ``Name``.
Files whose name starts with a dot, and YAML that is no manifest, are left out, the latter with
a notice.  All unreadable files are reported together.

References
----------
Kubernetes API concepts: groups, kinds, namespaces, names; kubectl apply -R -f.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.topology.access.reading import OWN_KINDS
from meshsim.yamlfile import Document, FieldPath, capped, read_yaml

__all__ = ["FILES_MAX", "Manifest", "read_manifests"]

#: Most files of one folder; beyond it the folder is refused.
FILES_MAX = 10_000
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True)
class Manifest:
    """One Kubernetes object as written.

    Parameters
    ----------
    group, kind, namespace, name : str
        Its identity; the core group is "".
    value : dict
        The whole object, ``apiVersion`` included.
    document : Document
        Where it stands.
    path : FieldPath
        Of the object within the document; ``()`` unless it is an item of a list.
    """

    group: str
    kind: str
    namespace: str
    name: str
    value: dict[str, Any]
    document: Document
    path: FieldPath = ()

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Group, kind, namespace, name."""
        return (self.group, self.kind, self.namespace, self.name)

    @property
    def title(self) -> str:
        """Kind and name, e.g. ``VirtualService default/reviews``."""
        return f"{self.kind} {self.namespace}/{self.name}"

    def position(self, path: FieldPath = ()) -> tuple[int, int]:
        """Return line and column of the key at `path`, or of its nearest parent."""
        at = (*self.path, *path)
        while at:
            place = self.document.keys.get(at) or self.document.positions.get(at)
            if place is not None:
                return place
            at = at[:-1]
        return self.document.positions.get((), (0, 0))

    def place(self, path: FieldPath = ()) -> str:
        """Return ``file:line`` of the value at `path`."""
        return f"{self.document.file}:{self.position(path)[0]}"


def read_manifests(
    directory: str | Path, leave_out: Collection[Path] = ()
) -> tuple[list[Manifest], list[str]]:
    """Read every manifest of a folder.

    Parameters
    ----------
    directory : str or Path
        A folder, or one file.
    leave_out : collection of Path
        Files of it that are something else (the traffic file).

    Returns
    -------
    list of Manifest
        At least one; of equal identities only the last.
    list of str
        What was left out, and why.

    Raises
    ------
    ConfigError
        If the folder is missing or holds no manifest, or files of it cannot be read; with the
        problems of all files.
    """
    problems: list[Problem] = []
    notices: list[str] = []
    found: dict[tuple[str, str, str, str], Manifest] = {}
    files = _files(Path(directory), {path.resolve() for path in leave_out})
    for file in files:
        try:
            documents = read_yaml(file, strict_scalars=False)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        for document in documents:
            for manifest in _manifests(document, document.value, (), problems, notices):
                earlier = found.pop(manifest.identity, None)
                if earlier is not None:
                    notices.append(
                        f"{manifest.place()}: {manifest.title} replaces the one of "
                        f"{earlier.place()}; the last one wins"
                    )
                found[manifest.identity] = manifest
    if problems:
        raise ConfigError(capped(problems))
    if not found:
        message = f"no Kubernetes manifest in {len(files)} files"
        raise ConfigError([Problem(message, str(directory), allowed="apiVersion, kind, metadata")])
    return list(found.values()), notices


def _own_form(value: Any) -> tuple[str, str, str] | None:
    """Return kind, namespace and name of an object in a mesh's own form, None if it has none.

    Kuma's have ``type`` and ``name``, Consul's config entries ``Kind`` and ``Name``, and neither
    has an ``apiVersion``.
    """
    if not isinstance(value, dict) or "apiVersion" in value:
        return None
    for kind_key, name_key in (("type", "name"), ("Kind", "Name")):
        kind, name = value.get(kind_key), value.get(name_key)
        if kind in OWN_KINDS and isinstance(name, str) and name:
            namespace = value.get("Namespace")
            return kind, namespace if isinstance(namespace, str) else "default", name
    return None


def _files(directory: Path, leave_out: set[Path]) -> list[Path]:
    """Return the files to read, sorted; raises `ConfigError` if there are none or too many."""
    if directory.is_file():
        return [directory]
    if not directory.is_dir():
        raise ConfigError([Problem("folder not found", str(directory))])
    files: list[Path] = []
    for path in sorted(directory.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if hidden or path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        if path.resolve() not in leave_out:
            files.append(path)
        if len(files) > FILES_MAX:
            raise ConfigError([Problem(f"more than {FILES_MAX} files", str(directory))])
    if not files:
        message = "the folder holds no manifest"
        allowed = "*.yaml, *.yml, *.json"
        raise ConfigError([Problem(message, str(directory), allowed=allowed)])
    return files


def _manifests(
    document: Document,
    value: Any,
    path: FieldPath,
    problems: list[Problem],
    notices: list[str],
) -> Iterator[Manifest]:
    """Yield the manifests of one document, the items of a list one by one."""
    kind = value.get("kind") if isinstance(value, dict) else None
    version = value.get("apiVersion") if isinstance(value, dict) else None
    own = _own_form(value)
    if own is not None:
        yield Manifest("", *own, value, document, path)
        return
    if not isinstance(kind, str) or not isinstance(version, str):
        line = document.positions.get(path, (0, 0))[0]
        notices.append(f"{document.file}:{line}: not a Kubernetes manifest; left out")
        return
    items = value.get("items")
    if kind.endswith("List") and isinstance(items, list):
        for index, item in enumerate(items):
            yield from _manifests(document, item, (*path, "items", index), problems, notices)
        return
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or not name:
        message = f"{kind} has no name"
        problems.append(document.problem(message, (*path, "metadata", "name"), allowed="text"))
        return
    if not isinstance(namespace, str) or not namespace:
        namespace = "default"
    group = version.partition("/")[0] if "/" in version else ""
    yield Manifest(group, kind, namespace, name, value, document, path)
