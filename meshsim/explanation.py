"""Why a value is what it is: "2 retries? Istio default (pilot/.../retry.go)".

Rule: the topology is filled with its mesh's defaults, the path is walked, and the value is
answered with where it came from: a place in a file, a mesh's default, or the model's own
default.  A path to something larger answers with all values below it.  ``*`` stands for every
key or index.  Short forms for people: ``reviews.retries``, ``reviews.timeout``,
``reviews.replicas`` and ``reviews.<policy block>`` (``SHORT_FORMS``), and those that
`meshsim.topology.edit` sets: ``services.reviews.replicas``, ``traffic.browse.rate``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from meshsim.errors import ConfigError, Problem
from meshsim.meshes import resolve
from meshsim.topology.edit import written_out
from meshsim.topology.model import Provenance, ServicePolicy, Topology
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["SHORT_FORMS", "Explanation", "explain"]

#: What may follow the name of a service, and the path it stands for.
SHORT_FORMS = {
    "retries": "policies.{service}.routes[*].retry",
    "timeout": "policies.{service}.routes[*].timeout",
    "replicas": "services.{service}.workloads.*.replicas",
    "workloads": "services.{service}.workloads",
    "port": "services.{service}.port",
    **{name: f"policies.{{service}}.{name}" for name in ServicePolicy.model_fields},
}
#: The largest uint32, which Envoy and Istio use for "no limit".
_UNLIMITED = 2**32 - 1
_MODEL_DEFAULT = Provenance(default="meshsim default (meshsim.topology.model)")
_FROM_PYTHON = Provenance(default="stated, without a file")
#: Fields that tell about the topology rather than of the mesh.
_NOT_EXPLAINED = frozenset({"provenance", "notices"})


@dataclass(frozen=True)
class Explanation:
    """An answer to "why is this so?".

    Parameters
    ----------
    path : str
        Of the value, in full.
    value : object
        As people write it (durations with units); for a path to something larger, the plain
        mapping or list.
    provenance : Provenance
        Where the value comes from; of something larger, of its first value.
    parts : tuple of Explanation
        The values below; empty for a single value.
    """

    path: str
    value: Any
    provenance: Provenance
    parts: tuple[Explanation, ...] = ()

    @property
    def text(self) -> str:
        """One line a value: path, value and origin."""
        if self.parts:
            return "\n".join(part.text for part in self.parts)
        return f"{self.path} = {_written(self.value)}: {self.provenance}"

    def __str__(self) -> str:
        return self.text


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if value is True or value is False:
        return str(value).lower()
    if value == _UNLIMITED:
        return f"{_UNLIMITED} (no limit)"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return str(value) or "''"


def explain(topology: Topology, path: str) -> Explanation:
    """Answer where the value at `path` comes from.

    Parameters
    ----------
    topology : Topology
        Resolved or not.
    path : str
        E.g. ``policies.reviews.routes[0].retry.num_retries`` or ``reviews.retries``.

    Returns
    -------
    Explanation
        Of one value, or of everything below the path.

    Raises
    ------
    ConfigError
        If there is nothing at the path; with the nearest name.

    Examples
    --------
    >>> one = Topology.model_validate(
    ...     {"name": "one", "services": {"a": {"workloads": {"v1": {}}}}})
    >>> explain(one, "policies.a.routes[0].retry.num_retries").value
    2
    """
    resolved = resolve(topology)
    plain = resolved.model_dump()
    wanted = _in_full(path.strip(), resolved)
    parts = [
        leaf
        for whole in written_out(resolved, wanted)
        for found, value in _walk(plain, whole, (), path)
        for leaf in _leaves(found, value, resolved)
    ]
    if not parts:
        raise ConfigError([Problem("nothing is stated there", path=path)])
    if len(parts) == 1:
        return parts[0]
    value = {part.path: part.value for part in parts}
    return Explanation(wanted, value, parts[0].provenance, tuple(parts))


def _in_full(path: str, topology: Topology) -> str:
    """Return the path a short form stands for; others unchanged."""
    first = re.split(r"[.\[]", path, maxsplit=1)[0]
    if first in type(topology).model_fields:
        return path
    # The longest name first, so that a service called "reviews.prod" is found.
    for service in sorted(topology.services, key=len, reverse=True):
        if path == service:
            return f"policies.{service}"
        if path.startswith(f"{service}."):
            rest = path[len(service) + 1 :]
            word = re.split(r"[.\[]", rest, maxsplit=1)[0]
            if word not in SHORT_FORMS:
                raise _nothing(path, word, SHORT_FORMS)
            return SHORT_FORMS[word].format(service=service) + rest[len(word) :]
    return path


def _nothing(path: str, name: str, choices: Any) -> ConfigError:
    """Return the error for a `name` of a `path` that is none of `choices`."""
    names = [str(choice) for choice in choices]
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    near = did_you_mean(name, names)
    problem = Problem("no such field", path=path, found=name, allowed=listed, suggestion=near)
    return ConfigError([problem])


def _walk(value: Any, rest: str, at: FieldPath, path: str) -> Iterator[tuple[FieldPath, Any]]:
    """Yield every place that `rest` leads to from `value`, which is at `at`."""
    if not rest:
        yield at, value
        return
    if isinstance(value, dict):
        rest = rest.removeprefix(".")
        names = [name for name in value if not (at == () and name in _NOT_EXPLAINED)]
        if re.match(r"\*(?=[.\[]|$)", rest):
            chosen, rest = names, rest[1:]
        else:
            # Names may contain dots; the longest that fits is meant.
            fitting = [name for name in names if re.match(re.escape(name) + r"(?=[.\[]|$)", rest)]
            if not fitting:
                raise _nothing(path, re.split(r"[.\[]", rest, maxsplit=1)[0], names)
            chosen = [max(fitting, key=len)]
            rest = rest[len(chosen[0]) :]
        for name in chosen:
            yield from _walk(value[name], rest, (*at, name), path)
    elif isinstance(value, (list, tuple)):
        match = re.match(r"\[(\d+|\*)\]", rest)
        indices = range(len(value))
        if match is None or (match[1] != "*" and int(match[1]) not in indices):
            raise _nothing(path, rest, [f"[{index}]" for index in indices])
        for index in indices if match[1] == "*" else [int(match[1])]:
            yield from _walk(value[index], rest[match.end() :], (*at, index), path)
    else:
        raise _nothing(path, rest, [])


def _leaves(at: FieldPath, value: Any, topology: Topology) -> Iterator[Explanation]:
    """Yield the values at and below a place; empty mappings and lists are values."""
    single = isinstance(value, (list, tuple)) and not any(
        isinstance(item, (dict, list, tuple)) for item in value
    )
    if isinstance(value, (dict, list, tuple)) and value and not single:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if item is not None:
                yield from _leaves((*at, key), item, topology)
        return
    yield Explanation(field_path(at), value, _origin(at, topology))


def _origin(at: FieldPath, topology: Topology) -> Provenance:
    """Return the place of the value or of what it was written in, else whose default it is."""
    known = topology.provenance
    text = field_path(at)
    for written in (text, f"{text}[0]"):  # A list may be placed item by item.
        if written in known:
            return known[written]
    if not _is_stated(at, topology):
        return _MODEL_DEFAULT
    # Short forms (``poisson: 100``) and mappings of labels are placed as a whole.
    above = (field_path(at[:length]) for length in range(len(at) - 1, 0, -1))
    return next((known[path] for path in above if path in known), _FROM_PYTHON)


def _is_stated(at: FieldPath, topology: Topology) -> bool:
    """Say if every model field on the path was set rather than left to its default."""
    element: Any = topology
    for part in at:
        if isinstance(element, BaseModel):
            if part not in element.model_fields_set:
                return False
            element = getattr(element, str(part))
        else:
            element = element[part]
    return True
