"""A topology with some values changed: what ``--set PATH=VALUE`` and sweeps do.

Rule: a path is what the file would say (``policies.reviews.routes[0].timeout``); the result is
checked as a file is, and remembers which values the caller set.  Text is read as a YAML value
(``"3"`` is a number, ``"{exponential: 2ms}"`` a distribution) unless the field is text.

Two paths are short for several: ``services.NAME.FIELD`` for a field of all workloads of the
service, and ``traffic.NAME.rate`` for the mean rate of whatever open-loop arrivals the class
has, which are scaled as a whole.  Of a distribution, or of arrivals, the family named last
replaces the one that was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from meshsim.errors import ConfigError, Problem
from meshsim.topology.model import (
    Arrivals,
    Distribution,
    Provenance,
    Service,
    Topology,
    Workload,
)
from meshsim.topology.problems import annotation_at, refuse, show, translate, unwrapped
from meshsim.topology.rates import rate_path, scaled_arrivals
from meshsim.topology.validate import validated
from meshsim.yamlfile import Document, FieldPath, did_you_mean, field_path, parse_yaml

__all__ = ["with_values", "written_out"]

#: Elements of which exactly one field is set.
_ONE_OF = (Distribution, Arrivals)
#: Mappings to which an edit may add a key, by the name of the field.
_OPEN_MAPPINGS = ("headers", "labels", "weights", "source_labels")
_TOKEN = re.compile(r"\[(\d+)\]")


def with_values(topology: Topology, values: Mapping[str, Any]) -> Topology:
    """Return `topology` with the values at some paths replaced.

    Parameters
    ----------
    topology : Topology
        Read only.
    values : mapping of str to object
        By path; text is read as YAML.

    Returns
    -------
    Topology
        Checked; the provenance of what was set says "set to X by the caller".

    Raises
    ------
    ConfigError
        If a path is unknown, a value is wrong, or the values contradict each other.

    Examples
    --------
    >>> from meshsim.topology.load import loads_topology
    >>> topology = loads_topology("{name: one, services: {a: {workloads: {v1: {}}}}}")
    >>> edited = with_values(topology, {"services.a.replicas": "3"})
    >>> edited.services["a"].workloads["v1"].replicas
    3
    """
    # What nobody stated stays unstated: `explain` tells a default from a value that was set.
    plain = topology.model_dump(exclude_unset=True)
    changes: dict[FieldPath, Any] = {}
    problems: list[Problem] = []
    for text, value in values.items():
        try:
            for path, new in _changes(topology, text, value):
                _put(plain, path, new)
                changes[path] = new
        except ConfigError as error:
            problems.extend(error.problems)
    refuse(problems)
    try:
        edited = Topology.model_validate(plain)
    except ValidationError as error:
        document = Document(_as_lists(plain), {}, "")
        raise ConfigError(translate(error, document, Topology)) from None
    provenance = _provenance(topology, changes)
    kept = {"provenance": provenance, "notices": topology.notices}
    return validated(edited.model_copy(update=kept))


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _provenance(topology: Topology, changes: Mapping[FieldPath, Any]) -> dict[str, Provenance]:
    provenance = dict(topology.provenance)
    for path, new in changes.items():
        field = field_path(path)
        for known in [key for key in provenance if key.startswith((f"{field}.", f"{field}["))]:
            del provenance[known]
        provenance[field] = Provenance(field=field, default=f"set to {show(new)} by the caller")
    return provenance


# --- Paths ----------------------------------------------------------------------------------


def _changes(topology: Topology, text: str, value: Any) -> Iterator[tuple[FieldPath, Any]]:
    """Yield the path and the new plain value of everything that `text` stands for."""
    traffic = _named(text, "traffic", topology.traffic)
    if traffic is not None and traffic[1] == "rate":
        rate = _read(value, float, text)
        yield (
            ("traffic", traffic[0], "arrivals"),
            scaled_arrivals(topology.traffic[traffic[0]], rate, text),
        )
        return
    for whole in written_out(topology, text):
        yield _resolve(topology, whole, value, shown=text)


def written_out(topology: Topology, path: str) -> list[str]:
    """Return the paths that `path` is short for, itself if it is not short.

    Examples
    --------
    >>> from meshsim.topology.load import loads_topology
    >>> topology = loads_topology("{name: one, services: {a: {workloads: {v1: {}, v2: {}}}}}")
    >>> written_out(topology, "services.a.replicas")
    ['services.a.workloads.v1.replicas', 'services.a.workloads.v2.replicas']
    """
    service = _named(path, "services", topology.services)
    if service is not None:
        name, rest = service
        field = re.split(r"[.\[]", rest, maxsplit=1)[0]
        if field in Workload.model_fields and field not in Service.model_fields:
            workloads = topology.services[name].workloads
            return [f"services.{name}.workloads.{workload}.{rest}" for workload in workloads]
    traffic = _named(path, "traffic", topology.traffic)
    if traffic is not None and traffic[1] == "rate":
        return [f"traffic.{traffic[0]}.{rate_path(topology.traffic[traffic[0]])}"]
    return [path]


def _named(text: str, section: str, names: Mapping[str, Any]) -> tuple[str, str] | None:
    """Split ``services.NAME.rest`` into NAME, the longest that is known, and rest."""
    if not text.startswith(f"{section}."):
        return None
    rest = text.removeprefix(f"{section}.")
    fitting = [name for name in names if rest.startswith(f"{name}.")]
    if not fitting:
        return None
    name = max(fitting, key=len)
    return name, rest[len(name) + 1 :]


def _resolve(topology: Topology, text: str, value: Any, shown: str) -> tuple[FieldPath, Any]:
    """Return the path that `text` writes, and the plain value to put there."""
    annotation: Any = Topology
    here: Any = topology
    path: FieldPath = ()
    rest = text
    if not rest:
        raise ConfigError([Problem("the path is empty", found=show(value))])
    while rest:
        inner = unwrapped(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            fields = {key: info for key, info in inner.model_fields.items() if not info.exclude}
            part, rest = _take(rest, fields, shown, "field")
            annotation = fields[part].annotation
            here = getattr(here, part, None)
        elif get_origin(inner) is dict:
            known = here if isinstance(here, dict) else {}
            if path == ("policies",):
                known = dict.fromkeys(topology.services) | known
            part, rest = _take(rest, known, shown, "name", path[-1] in _OPEN_MAPPINGS)
            annotation = get_args(inner)[1]
            here = known.get(part)
        elif get_origin(inner) is tuple:
            index, rest = _take_index(rest, len(here or ()), shown)
            annotation, here = get_args(inner)[0], here[index]
            path = (*path, index)
            continue
        else:
            message = f"has no fields; {field_path(path)} is a single value"
            raise ConfigError([Problem(message, path=shown)])
        path = (*path, part)
    return path, _read(value, unwrapped(annotation), shown)


def _take(
    rest: str, known: Mapping[str, Any], shown: str, what: str, is_open: bool = False
) -> tuple[str, str]:
    """Split the first part off `rest`: the longest known one, for names may have dots."""
    fitting = [name for name in known if re.match(rf"{re.escape(name)}(?=[.\[]|$)", rest)]
    if fitting:
        part = max(fitting, key=len)
    else:
        part = re.split(r"[.\[]", rest, maxsplit=1)[0]
        if not is_open or not part:
            near = did_you_mean(part, known)
            suggestion = (
                f"{shown[: len(shown) - len(rest)]}{near}{rest[len(part) :]}" if near else ""
            )
            allowed = ", ".join(list(known)[:40]) or "none"
            message = f"unknown {what} {part!r} in the path"
            raise ConfigError(
                [Problem(message, path=shown, allowed=allowed, suggestion=suggestion)]
            )
    return part, rest[len(part) :].removeprefix(".")


def _take_index(rest: str, length: int, shown: str) -> tuple[int, str]:
    match = _TOKEN.match(rest)
    if match is None or len(match[1]) > 9 or int(match[1]) >= length:
        allowed = f"[0] to [{length - 1}]" if length else "the list is empty"
        found = re.split(r"[.]", rest, maxsplit=1)[0]
        raise ConfigError(
            [Problem("no such entry of the list", path=shown, found=found, allowed=allowed)]
        )
    return int(match[1]), rest[match.end() :].removeprefix(".")


def _read(value: Any, annotation: Any, shown: str) -> Any:
    """Return the plain value of what the caller gave."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()  # a numpy number
    if annotation is str:
        return value
    if isinstance(value, str):
        try:
            (document,) = parse_yaml(value, "")
        except ConfigError as error:
            raise ConfigError(
                [
                    Problem(p.message, path=shown, found=value, allowed=p.allowed)
                    for p in error.problems
                ]
            ) from None
        value = document.value
    if annotation is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
            raise ConfigError(
                [Problem("not a rate", path=shown, found=show(value), allowed="0 to 1e9")]
            )
        return float(value)
    return value


def _put(plain: Any, path: FieldPath, value: Any) -> None:
    """Set the value at `path` in the dump of a topology, in place."""
    for depth, part in enumerate(path):
        if annotation_at(Topology, path[:depth]) in _ONE_OF:
            for name in plain.keys() - {part}:
                del plain[name]
        if depth < len(path) - 1:
            plain = _child(plain, part)
        else:
            plain[part] = value


def _child(plain: Any, part: str | int) -> Any:
    """Return the part of a dump to be changed: lists instead of tuples, mappings for None."""
    child = plain.get(part) if isinstance(plain, dict) else plain[part]
    if child is None:
        child = {}
    elif isinstance(child, tuple):
        child = list(child)
    elif not isinstance(child, (dict, list)):
        child = {}
    plain[part] = child
    return child
