"""Topology files: YAML in and out, without loss.

Rule: a file is read once, and either becomes a `Topology` or a `ConfigError` that lists every
problem in it with file, line and column.  Writing uses the short forms and leaves out what
equals the model's default, so that ``loads_topology(dump_topology(t)) == t``; the one thing it
cannot write is text that looks like a Helm template, which reading refuses.

A file may say ``generate:`` (see `meshsim.topology.generate`) instead of ``services:``;
``recorded: {file: ...}`` is read beside the scenario at load.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from meshsim.errors import ConfigError, Problem
from meshsim.topology.base import Model
from meshsim.topology.checks import Finding
from meshsim.topology.generate import GeneratedScenario, generate_scenario
from meshsim.topology.model import (
    Access,
    Arrivals,
    Call,
    Distribution,
    Network,
    Node,
    Provenance,
    StringMatch,
    TimedFault,
    Topology,
    TrafficClass,
    Workload,
)
from meshsim.topology.problems import Reading, read_model, refuse
from meshsim.topology.validate import find
from meshsim.workload.recorded import read_times_ns
from meshsim.yamlfile import (
    FILE_BYTES_MAX,
    Document,
    FieldPath,
    field_path,
    parse_scalar,
    parse_yaml,
    read_text,
)

__all__ = [
    "TrafficFile",
    "dump_topology",
    "load_topology",
    "load_traffic",
    "loads_topology",
    "to_plain",
]


class TrafficFile(Model):
    """What manifests do not say: the traffic, and what the workloads do.

    `services` maps a service to workload names (``"*"``: all of them) and these to what is
    known of the workload; only the fields that are written count (`model_fields_set`).
    `access` is added to what the manifests say of it.
    """

    name: str = ""
    question: str = ""
    references: tuple[str, ...] = ()
    traffic: dict[str, TrafficClass] = Field(min_length=1)
    services: dict[str, dict[str, Workload]] = Field(default_factory=dict)
    nodes: dict[str, Node] = Field(default_factory=dict)
    network: Network = Network()
    access: Access = Access()
    faults: tuple[TimedFault, ...] = ()
    provenance: dict[str, Provenance] = Field(default_factory=dict, exclude=True, repr=False)


def load_topology(path: str | Path) -> Topology:
    """Read a topology file.

    Parameters
    ----------
    path : str or Path
        A YAML file (UTF-8, at most 16 MB).

    Returns
    -------
    Topology
        With the provenance of every value and the notices of its check.

    Raises
    ------
    ConfigError
        With every problem of the file.
    """
    return loads_topology(read_text(path), str(path))


def loads_topology(text: str, file: str = "<string>") -> Topology:
    r"""Read a topology from YAML text; `file` names it in problems and places its neighbours.

    Raises
    ------
    ConfigError
        With every problem of the text.

    Examples
    --------
    >>> topology = loads_topology("name: one\nservices: {a: {workloads: {v1: {replicas: 3}}}}")
    >>> topology.services["a"].workloads["v1"].replicas
    3
    >>> str(topology.provenance["services.a.workloads.v1.replicas"])
    '<string>:2:43 services.a.workloads.v1.replicas'
    """
    misread: list[Problem] = []
    (document,) = parse_yaml(text, file, collect=misread)
    if isinstance(document.value, dict) and "generate" in document.value:
        reading = read_model(document, GeneratedScenario)
        refuse(_together(misread, reading.problems))
        assert reading.element is not None
        generated = generate_scenario(reading.element)
        provenance = generated.provenance | _provenance(document)
        return generated.model_copy(update={"provenance": provenance})
    problems, recorded = _read_recorded(document)
    topology = read_model(document, Topology)
    problems += topology.problems
    if topology.element is None:
        refuse(_together(misread, problems))
        raise AssertionError("a document that cannot be read has problems")
    breaches, notices = _placed(find(topology.element), document, topology)
    refuse(_together(misread, problems + breaches))
    provenance = _provenance(document) | recorded
    return topology.element.model_copy(update={"provenance": provenance, "notices": tuple(notices)})


def load_traffic(path: str | Path) -> TrafficFile:
    """Read the traffic file that goes with manifests.

    Raises
    ------
    ConfigError
        With every problem of the file; names of services are checked when the manifests are
        known.
    """
    misread: list[Problem] = []
    (document,) = parse_yaml(read_text(path), str(path), collect=misread)
    problems, recorded = _read_recorded(document)
    reading = read_model(document, TrafficFile)
    refuse(_together(misread, problems + reading.problems))
    assert reading.element is not None
    return reading.element.model_copy(update={"provenance": _provenance(document) | recorded})


def _together(misread: list[Problem], problems: list[Problem]) -> list[Problem]:
    """Return all problems; what is said of a value that YAML misread would be said twice."""
    places = {(problem.line, problem.column) for problem in misread}
    return misread + [item for item in problems if (item.line, item.column) not in places]


def _placed(
    findings: list[Finding], document: Document, reading: Reading[Topology]
) -> tuple[list[Problem], list[str]]:
    """Return the believable findings as problems, and the notices."""
    problems: list[Problem] = []
    notices: list[str] = []
    for finding in findings:
        path = reading.written(finding.path)
        if not reading.judges(path, finding.refers):
            continue
        problem = document.problem(
            finding.message,
            path,
            found=finding.found,
            allowed=finding.allowed,
            suggestion=finding.suggestion,
        )
        if finding.notice:
            notices.append(str(problem))
        else:
            problems.append(problem)
    return problems, notices


def _provenance(document: Document) -> dict[str, Provenance]:
    """Return the place of every value of a document that is not itself a mapping or list."""
    result: dict[str, Provenance] = {}
    for path in _leaves(document.value, ()):
        if path not in document.positions:
            continue  # a recorded time, which comes from another file
        line, column = document.positions[path]
        text = field_path(path)
        result[text] = Provenance(file=document.file, line=line, column=column, field=text)
    return result


def _leaves(value: Any, path: FieldPath) -> Iterator[FieldPath]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


# --- Recorded arrivals ----------------------------------------------------------------------


def _read_recorded(document: Document) -> tuple[list[Problem], dict[str, Provenance]]:
    """Put the times of ``recorded: {file: ...}`` into the document, in place.

    Returns
    -------
    problems : list of Problem
        Of the files, with their lines.
    provenance : dict
        The file of each list of times that was read.
    """
    problems: list[Problem] = []
    provenance: dict[str, Provenance] = {}
    value = document.value
    classes = value.get("traffic") if isinstance(value, dict) else None
    for name, traffic in classes.items() if isinstance(classes, dict) else ():
        arrivals = traffic.get("arrivals") if isinstance(traffic, dict) else None
        recorded = arrivals.get("recorded") if isinstance(arrivals, dict) else None
        if not isinstance(recorded, dict) or not isinstance(recorded.get("file"), str):
            continue
        path: FieldPath = ("traffic", name, "arrivals", "recorded")
        if "times" in recorded:
            problems.append(document.problem("either file or times, not both", path))
            continue
        source = Path(document.file).parent / recorded["file"]
        try:
            times = _recorded_times(source)
        except ConfigError as error:
            problems.append(document.problem("the file cannot be used", (*path, "file")))
            problems.extend(error.problems)
        else:
            del recorded["file"]
            recorded["times"] = [f"{time_ns}ns" for time_ns in times]
            field = field_path((*path, "times"))
            provenance[field] = Provenance(file=str(source), line=1, field=field)
    return problems, provenance


def _recorded_times(source: Path) -> tuple[int, ...]:
    try:
        too_large = source.is_file() and source.stat().st_size > FILE_BYTES_MAX
    except (OSError, ValueError):
        too_large = False
    if too_large:
        limit = f"at most {FILE_BYTES_MAX // 1_000_000} MB"
        raise ConfigError([Problem("the file is too large", str(source), allowed=limit)])
    try:
        return read_times_ns(source)
    except ValueError as error:
        raise ConfigError([Problem(f"cannot be read: {error}", str(source))]) from None


# --- YAML out -------------------------------------------------------------------------------


def dump_topology(topology: Topology) -> str:
    r"""Return `topology` as YAML, in short forms and without defaults.

    Examples
    --------
    >>> text = "name: one\nservices:\n  a:\n    workloads:\n      v1: {}\n"
    >>> dump_topology(loads_topology(text)) == text
    True
    """
    return str(
        yaml.dump(
            to_plain(topology), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )
    )


def to_plain(element: BaseModel) -> dict[str, Any]:
    """Return an element of the model as a person would write it: dicts, lists and scalars."""
    plain = _plain(element, element.model_dump())
    assert isinstance(plain, dict)
    return plain


def _plain(element: Any, dumped: Any) -> Any:
    """Return `element` in short form; `dumped` is the same with scalars as they are written."""
    if isinstance(element, BaseModel):
        fields = {
            name: _plain(getattr(element, name), dumped[name])
            for name, info in type(element).model_fields.items()
            if not info.exclude
            and (
                info.is_required()
                or getattr(element, name) != info.get_default(call_default_factory=True)
            )
        }
        return _shortened(element, fields)
    if isinstance(element, dict):
        return {key: _plain(item, dumped[key]) for key, item in element.items()}
    if isinstance(element, tuple):
        return [_plain(item, text) for item, text in zip(element, dumped, strict=True)]
    if isinstance(dumped, float) and dumped.is_integer() and abs(dumped) < 1e15:
        return int(dumped)
    return dumped


def _shortened(element: BaseModel, fields: dict[str, Any]) -> Any:
    if isinstance(element, Distribution):
        if element.constant is not None:
            return fields["constant"]["value"]
        if element.exponential is not None:
            return {"exponential": fields["exponential"]["mean"]}
    if isinstance(element, Arrivals) and element.poisson is not None:
        return {"poisson": fields["poisson"]["rate"]}
    if isinstance(element, Call) and list(fields) == ["service"]:
        return fields["service"]
    if isinstance(element, StringMatch) and list(fields) == ["exact"]:
        return fields["exact"]
    return fields


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes text so that our reader reads it as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    try:
        plain = parse_scalar(text) == text and text == text.strip()
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)
