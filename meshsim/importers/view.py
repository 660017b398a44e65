"""Typed access to a manifest that remembers what was asked for.

Rule: a reader takes every value through a `View`.  A wrong type is a problem with its place and
reading goes on; a key that nobody asked for is told to the user with the nearest key that
would have been read, because Kubernetes silently drops what it does not know and a typo
(``retires:``) then means "default".  Keys of real meaning that this version does not simulate
are named by the reader (`not_simulated`); keys without influence on a simulation are dropped
(`ignore`).

References
----------
istio/istio pilot/pkg/config/kube/crd (unknown fields are allowed); Kubernetes
resource.Quantity; Go time.ParseDuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from meshsim.errors import Problem
from meshsim.importers.documents import Manifest
from meshsim.topology.model import Provenance
from meshsim.units import format_duration, parse_duration
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["Findings", "View", "parse_quantity"]

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(n|u|m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?")
_QUANTITY_UNIT = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    **{unit: 1000.0 ** (power + 1) for power, unit in enumerate("kMGTPE")},
    **{unit + "i": 1024.0 ** (power + 1) for power, unit in enumerate("KMGTPE")},
}


def parse_quantity(text: str) -> float:
    """Read a Kubernetes quantity such as ``250m`` (0.25) or ``64Mi``.

    Raises
    ------
    ValueError
        If `text` is no quantity.

    Examples
    --------
    >>> parse_quantity("250m"), parse_quantity("2"), parse_quantity("1Ki")
    (0.25, 2.0, 1024.0)
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a quantity: {text!r} (write e.g. 250m, 2, 64Mi)")
    return float(match[1]) * _QUANTITY_UNIT[match[2] or ""]


class Findings:
    """What a reading turned up: mistakes that end it, and notices that do not."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self._views: list[View] = []

    def open(self, manifest: Manifest) -> View:
        """Return the view of a whole manifest; identity and status are not listed as unread."""
        view = self.child(manifest, manifest.value, ())
        view.ignore("apiVersion", "kind", "status")
        view.view("metadata").ignore_rest()
        return view

    def child(self, manifest: Manifest, value: dict[str, Any], path: FieldPath) -> View:
        """Return a view that is remembered for `report_unread`."""
        view = View(self, manifest, value, path)
        self._views.append(view)
        return view

    def report_unread(self) -> None:
        """Add a notice for each key that no reader asked for."""
        for view in self._views:
            for key in view.unread():
                near = did_you_mean(key, view.asked - set(view.value))
                hint = f"; did you mean {near}?" if near else ""
                view.notice(f"{field_path((*view.path, key))} is not read{hint}", key)
        self._views.clear()


class View:
    """A mapping of a manifest.

    Parameters
    ----------
    findings : Findings
        Where problems and notices go.
    manifest : Manifest
        The object the mapping belongs to.
    value : dict
        The mapping; empty if absent.
    path : FieldPath
        Of the mapping within the manifest.
    """

    def __init__(
        self, findings: Findings, manifest: Manifest, value: dict[str, Any], path: FieldPath
    ) -> None:
        self.findings = findings
        self.manifest = manifest
        self.value = value
        self.path = path
        self.asked: set[str] = set()
        self._all_read = False
        self._children: dict[str, View] = {}

    # --- Presence ---------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Say if `key` has a value (null is none); counts as asked for."""
        self.asked.add(key)
        return self.value.get(key) is not None

    def unread(self) -> list[str]:
        """Return the keys that nobody asked for."""
        return [] if self._all_read else [key for key in self.value if key not in self.asked]

    def ignore(self, *keys: str) -> None:
        """Drop keys that cannot change a simulation."""
        self.asked.update(keys)

    def ignore_rest(self) -> None:
        """Drop all keys that were not asked for."""
        self._all_read = True

    def not_simulated(self, *keys: str) -> None:
        """Tell the user of each present key that it has no effect here yet."""
        for key in keys:
            if self.has(key):
                self.notice(f"{field_path((*self.path, key))} is not simulated yet", key)

    # --- Reports ----------------------------------------------------------------------------

    def place(self, key: str | None = None) -> Provenance:
        """Return the provenance of the value of `key`, or of this mapping."""
        path = self.path if key is None else (*self.path, key)
        line, column = self.manifest.position(path)
        return Provenance(
            file=self.manifest.document.file, line=line, column=column, field=field_path(path)
        )

    def notice(self, message: str, key: str | None = None) -> None:
        """Record a sentence with its place."""
        path = self.path if key is None else (*self.path, key)
        self.findings.notices.append(
            f"{self.manifest.place(path)}: {self.manifest.title}: {message}"
        )

    def problem(self, message: str, key: str | None = None, **details: str) -> None:
        """Record a mistake with its place."""
        place = self.place(key)
        self.findings.problems.append(
            Problem(message, place.file, place.line, place.column, place.field, **details)
        )

    def _wrong(self, key: str, allowed: str) -> None:
        found = self.value[key]
        self.problem("wrong value", key, found=repr(found)[:60], allowed=allowed)

    # --- Values -----------------------------------------------------------------------------

    def view(self, key: str) -> View:
        """Return the mapping at `key`; an empty one if it is absent or no mapping.

        Asking again returns the same view, so that what was read of it adds up.
        """
        if key in self._children:
            return self._children[key]
        value = self.value.get(key) if self.has(key) else {}
        if not isinstance(value, dict):
            self._wrong(key, "a mapping")
            value = {}
        self._children[key] = self.findings.child(self.manifest, value, (*self.path, key))
        return self._children[key]

    def views(self, key: str) -> list[View]:
        """Return the mappings of the list at `key`; none if it is absent or no list."""
        result = []
        for index, value in enumerate(self._list(key)):
            path = (*self.path, key, index)
            if value is None:
                value = {}
            if not isinstance(value, dict):
                self._wrong(key, "a list of mappings")
                continue
            result.append(self.findings.child(self.manifest, value, path))
        return result

    def _list(self, key: str) -> list[Any]:
        value = self.value.get(key) if self.has(key) else []
        if not isinstance(value, list):
            self._wrong(key, "a list")
            return []
        return value

    def text(self, key: str) -> str | None:
        """Return the text at `key`, None if absent."""
        if not self.has(key):
            return None
        value = self.value[key]
        if not isinstance(value, str):
            self._wrong(key, "text")
            return None
        return value

    def texts(self, key: str) -> list[str]:
        """Return the list of texts at `key`."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            self._wrong(key, "a list of texts")
            return []
        return values

    def labels(self, key: str) -> dict[str, str]:
        """Return the mapping of text to text at `key`."""
        value = self.value.get(key) if self.has(key) else {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            self._wrong(key, "a mapping of text to text")
            return {}
        return dict(value)

    def boolean(self, key: str) -> bool | None:
        """Return true or false at `key`, None if absent."""
        if not self.has(key):
            return None
        value = self.value[key]
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
            return None
        return value

    def integer(self, key: str, low: int = 0, high: int = 2**31 - 1) -> int | None:
        """Return the integer at `key` within [low, high], None if absent."""
        if not self.has(key):
            return None
        value = self.value[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._wrong(key, f"an integer from {low} to {high}")
            return None
        return value

    def number(self, key: str, low: float, high: float) -> float | None:
        """Return the number at `key` within [low, high], None if absent."""
        if not self.has(key):
            return None
        value = self.value[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not low <= value <= high
        ):
            self._wrong(key, f"a number from {low:g} to {high:g}")
            return None
        return float(value)

    def duration(self, key: str) -> str | None:
        """Return the Go duration at `key` in the topology's spelling, None if absent."""
        text = self.text(key)
        if text is None:
            return None
        try:
            return format_duration(parse_duration(text))
        except ValueError:
            self._wrong(key, "a duration: write e.g. 250ms, 1.5s, 1h")
            return None

    def quantity(self, key: str) -> float | None:
        """Return the Kubernetes quantity at `key`, None if absent."""
        if not self.has(key):
            return None
        try:
            return parse_quantity(str(self.value[key]))
        except ValueError:
            self._wrong(key, "a quantity: write e.g. 250m, 2, 64Mi")
            return None

    def choice(self, key: str, choices: Iterable[str]) -> str | None:
        """Return the text at `key`, one of `choices`; None if absent."""
        text = self.text(key)
        allowed = list(choices)
        if text is None or text in allowed:
            return text
        self.problem(
            "unknown value",
            key,
            found=repr(text)[:60],
            allowed=", ".join(allowed),
            suggestion=did_you_mean(text, allowed),
        )
        return None
