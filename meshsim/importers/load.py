"""A folder of manifests and a traffic file, made into one scenario.

Rule: what the cluster is (services, pods, policies) comes from the manifests; what they cannot
say (the traffic, and what each workload does and calls) comes from the traffic file; every
value keeps its place.  What the folder contains and this version does not use is listed in the
notices of the topology; mistakes of all files are reported together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meshsim.errors import ConfigError, Problem

# Importing a family registers the kinds it reads.
from meshsim.importers import access, istio_destination, istio_routes, kubernetes
from meshsim.importers.assembly import Assembly
from meshsim.importers.documents import read_manifests
from meshsim.importers.registry import read_all
from meshsim.topology.access import Access
from meshsim.topology.load import TrafficFile, load_traffic
from meshsim.topology.model import Provenance, Topology, Workload
from meshsim.topology.problems import refuse, translate
from meshsim.topology.validate import validated
from meshsim.yamlfile import Document, did_you_mean, field_path

__all__ = ["load_manifests"]

FAMILIES = (kubernetes, istio_destination, istio_routes, access)
#: The workload name of a traffic file that stands for all of a service.
_ALL = "*"


def load_manifests(directory: str | Path, traffic: str | Path | TrafficFile) -> Topology:
    """Read Kubernetes and Istio manifests and the traffic that goes with them.

    Parameters
    ----------
    directory : str or Path
        Folder of YAML or JSON manifests, read with its subfolders.
    traffic : str, Path or TrafficFile
        The traffic file; its own file is left out if it lies in the folder.

    Returns
    -------
    Topology
        Unresolved: unset policies stay None (see `meshsim.meshes.resolve`).  Its
        `policy_origin` is the mesh family the policies belong to.

    Raises
    ------
    ConfigError
        With every problem of every file: an unreadable or missing file, a template, a wrong
        value, a reference to a service or workload that is not there.
    """
    problems: list[Problem] = []
    leave_out = [Path(traffic)] if isinstance(traffic, (str, Path)) else []
    try:
        file = traffic if isinstance(traffic, TrafficFile) else load_traffic(traffic)
    except ConfigError as error:
        problems.extend(error.problems)
        file = None
    try:
        manifests, notices = read_manifests(directory, leave_out)
    except ConfigError as error:
        refuse([*problems, *error.problems])
        raise AssertionError("an unreadable folder has problems") from error
    assembly = Assembly()
    assembly.findings.notices.extend(notices)
    families = read_all(manifests, assembly)
    access.write_access(assembly, Access() if file is None else file.access)
    if file is not None:
        _add_behaviour(file, assembly)
    problems += dict.fromkeys(assembly.findings.problems)
    refuse(problems)
    assert file is not None
    return _topology(Path(directory), file, assembly, families)


def _topology(
    directory: Path, file: TrafficFile, assembly: Assembly, families: set[str]
) -> Topology:
    """Check the whole tree at once; complaints are placed where the value came from."""
    tree = {
        **assembly.plain_tree(),
        "name": file.name or directory.resolve().name,
        "question": file.question,
        "references": file.references,
        "traffic": file.traffic,
        "nodes": file.nodes,
        "network": file.network,
        "faults": file.faults,
        "policy_origin": next(iter(sorted(families)), ""),
    }
    if not assembly.services:
        refuse([Problem("no Service in the manifests", str(directory), allowed="kind: Service")])
    try:
        topology = Topology.model_validate(tree)
    except ValidationError as error:
        document = Document(tree, {}, "")
        refuse([_placed(item, assembly) for item in translate(error, document, Topology)])
        raise AssertionError("a refused tree has problems") from error
    topology = topology.model_copy(
        update={
            "provenance": {**assembly.provenance, **_own_provenance(file)},
            "notices": tuple(dict.fromkeys(assembly.findings.notices)),
        }
    )
    return validated(topology)


def _placed(problem: Problem, assembly: Assembly) -> Problem:
    """Return `problem` at the place of its value or of the nearest value with one."""
    path = problem.path
    while path and path not in assembly.provenance:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    place = assembly.provenance.get(path, Provenance())
    return Problem(
        problem.message,
        place.file,
        place.line,
        place.column,
        problem.path,
        problem.found,
        problem.allowed,
        problem.suggestion,
    )


def _own_provenance(file: TrafficFile) -> dict[str, Provenance]:
    """Return the places of what the traffic file says outside `services`."""
    return {
        path: place for path, place in file.provenance.items() if not path.startswith("services.")
    }


# --- What the workloads do ------------------------------------------------------------------


def _add_behaviour(file: TrafficFile, assembly: Assembly) -> None:
    """Write the workload fields of the traffic file over those of the manifests."""
    places = _Places(file)
    for service, overrides in file.services.items():
        if service not in assembly.services:
            path = f"services.{service}"
            _unknown("service", path, service, assembly.services, places, assembly)
            continue
        workloads = assembly.services[service].workloads
        for name in overrides:
            if name != _ALL and name not in workloads:
                path = f"services.{service}.{name}"
                _unknown(f"workload of {service}", path, name, workloads, places, assembly)
        for name in workloads:
            _override(service, name, overrides, places, assembly)
    for key, record in assembly.services.items():
        told = file.services.get(key, {})
        for name in record.workloads:
            stated = [told[source] for source in (_ALL, name) if source in told]
            if not any(workload.steps or workload.operations for workload in stated):
                record.view.notice(
                    f"the traffic file says nothing of what {name} does: it answers at once"
                )


def _override(
    service: str, name: str, overrides: dict[str, Workload], places: _Places, assembly: Assembly
) -> None:
    """Write each field of one workload from its own entry, else from the one for all."""
    branch = assembly.root("services", service, "workloads", name)
    sources: dict[str, str] = {}
    for source in (_ALL, name):
        if source in overrides:
            sources |= dict.fromkeys(overrides[source].model_fields_set, source)
    for field, source in sorted(sources.items()):
        path = f"services.{service}.{source}.{field}"
        value: Any = getattr(overrides[source], field)
        branch.put(field, value, Provenance(field=path))
        target = field_path((*branch.path, field))
        for rest, place in places.below(path):
            assembly.provenance[target + rest] = place


class _Places:
    """The places of a traffic file's values, found by the start of their path."""

    def __init__(self, file: TrafficFile) -> None:
        self.provenance = file.provenance
        self.paths = sorted(file.provenance)

    def below(self, path: str) -> Iterator[tuple[str, Provenance]]:
        """Yield what follows `path` in each path at or below it, and the place."""
        for index in range(bisect_left(self.paths, path), len(self.paths)):
            known = self.paths[index]
            if not known.startswith(path):
                return
            rest = known[len(path) :]
            if not rest or rest[0] in ".[":
                yield rest, self.provenance[known]


def _unknown(
    what: str, path: str, name: str, known: Collection[str], places: _Places, assembly: Assembly
) -> None:
    place = next((place for _, place in places.below(path)), Provenance())
    assembly.findings.problems.append(
        Problem(
            f"unknown {what}: not in the manifests",
            place.file,
            place.line,
            path=path,
            found=repr(name),
            allowed=", ".join(known),
            suggestion=did_you_mean(name, known),
        )
    )
