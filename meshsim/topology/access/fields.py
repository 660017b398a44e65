"""Typed access to an object of a mesh family, which remembers what was not understood.

Rule: a reader takes every value through `Fields`.  A wrong type is a remark with its path, and
reading goes on; a key that nobody asked for is a notice, because these objects silently drop
what they do not know.  Consul writes one key in three ways (``path_exact``, ``PathExact``,
``pathExact``): with `fold` they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meshsim.topology.access.model import LabelExpression, WorkloadSelector
from meshsim.yamlfile import FieldPath, did_you_mean, field_path

__all__ = ["Fields", "Remark", "one_or_more"]

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


@dataclass(frozen=True)
class Remark:
    """Something a reader has to say of one object.

    Parameters
    ----------
    document : int
        Index of the object.
    path : FieldPath
        Within the object.
    message, found, allowed : str
    notice : bool
        Whether reading may go on as if nothing were wrong.
    """

    document: int
    path: FieldPath
    message: str
    found: str = ""
    allowed: str = ""
    notice: bool = False


def one_or_more(parts: Iterable[Any]) -> list[Any]:
    """Return `parts`, or one None where there are none, to build alternatives from."""
    return list(parts) or [None]


class Fields:
    """A mapping within an object.

    Parameters
    ----------
    value : object
        The mapping; None is an empty one.
    remarks : list of Remark
        Where remarks go.
    document : int
        Index of the object.
    path : FieldPath
        Of the mapping.
    fold : bool
        Whether case and underscores of keys do not count.
    """

    def __init__(
        self,
        value: Any,
        remarks: list[Remark],
        document: int = 0,
        path: FieldPath = (),
        fold: bool = False,
    ) -> None:
        self.remarks = remarks
        self.document = document
        self.path = path
        self.fold = fold
        self._value: dict[str, tuple[str, Any]] = {}
        self._asked: set[str] = set()
        self._children: dict[str, list[Fields]] = {}
        if isinstance(value, dict):
            self._value = {self._key(str(key)): (str(key), item) for key, item in value.items()}
        elif value is not None:
            self._wrong_here("a mapping", value)

    def _key(self, key: str) -> str:
        return key.replace("_", "").lower() if self.fold else key

    # --- Remarks ----------------------------------------------------------------------------

    def problem(self, message: str, key: str | None = None, allowed: str = "") -> None:
        """Record a mistake."""
        path = self.path if key is None else (*self.path, self._written(key))
        found = "" if key is None else repr(self._get(key))[:60]
        self.remarks.append(Remark(self.document, path, message, found, allowed))

    def notice(self, message: str, key: str | None = None) -> None:
        """Record something that the user should know."""
        path = self.path if key is None else (*self.path, self._written(key))
        self.remarks.append(Remark(self.document, path, message, notice=True))

    def _wrong_here(self, allowed: str, value: Any) -> None:
        found = repr(value)[:60]
        self.remarks.append(Remark(self.document, self.path, "wrong value", found, allowed))

    def _wrong(self, key: str, allowed: str) -> None:
        self.problem("wrong value", key, allowed)

    def close(self) -> None:
        """Add a notice for each key, here and below, that nobody asked for."""
        for folded, (key, value) in self._value.items():
            if folded not in self._asked and value is not None:
                near = did_you_mean(folded, self._asked - set(self._value))
                hint = f"; did you mean {near}?" if near else ""
                self.notice(f"{field_path((*self.path, key))} is not read{hint}", key)
        for children in self._children.values():
            for child in children:
                child.close()

    # --- Values -----------------------------------------------------------------------------

    def _written(self, key: str) -> str:
        return self._value.get(self._key(key), (key, None))[0]

    def _get(self, key: str) -> Any:
        self._asked.add(self._key(key))
        return self._value.get(self._key(key), (key, None))[1]

    def has(self, key: str) -> bool:
        """Say whether `key` has a value; null is none."""
        return self._get(key) is not None

    def keys(self) -> list[str]:
        """Return the keys as written."""
        return [key for key, _ in self._value.values()]

    def ignore(self, *keys: str) -> None:
        """Leave keys out that cannot change an answer."""
        for key in keys:
            self._get(key)

    def text(self, key: str) -> str:
        """Return the text at `key`; "" if it is absent or none."""
        value = self._get(key)
        if value is None or isinstance(value, str):
            return value or ""
        self._wrong(key, "text")
        return ""

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts at `key`; numbers are taken as texts."""
        value = self._get(key)
        if value is None:
            return ()
        plain = (str, int)
        if not isinstance(value, list) or not all(isinstance(item, plain) for item in value):
            self._wrong(key, "a list of texts")
            return ()
        return tuple(str(item) for item in value)

    def boolean(self, key: str) -> bool:
        """Return the truth value at `key`; false if it is absent or none."""
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self._wrong(key, "true or false")
        return False

    def port(self, key: str) -> str:
        """Return the port at `key`, a number or a name, as text; "" if it is absent or none."""
        value = self._get(key)
        if value is None or (isinstance(value, (str, int)) and not isinstance(value, bool)):
            return "" if value is None else str(value)
        self._wrong(key, "a port number or name")
        return ""

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """Return the text at `key`, one of `choices`, whatever the case if keys fold."""
        value = self.text(key)
        if not value:
            return default
        for choice in choices:
            if value == choice or (self.fold and value.lower() == choice.lower()):
                return choice
        self._wrong(key, ", ".join(choices))
        return default

    def labels(self, key: str) -> dict[str, str]:
        """Return the mapping of text to text at `key`."""
        value = self._get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self._wrong(key, "a mapping of text to text")
            return {}
        return {str(name): text for name, text in value.items()}

    def fields(self, key: str) -> Fields:
        """Return the mapping at `key`; an empty one if it is absent or none.

        Asking again returns the same, so that what was read of it adds up.
        """
        if key not in self._children:
            path = (*self.path, self._written(key))
            self._children[key] = [self._child(self._get(key), path)]
        return self._children[key][0]

    def items(self, key: str) -> list[Fields]:
        """Return the mappings of the list at `key`; an entry that is null is an empty one."""
        if key not in self._children:
            value = self._get(key)
            if value is not None and not isinstance(value, list):
                self._wrong(key, "a list")
                value = None
            path = (*self.path, self._written(key))
            found = enumerate(value or ())
            self._children[key] = [self._child(item, (*path, index)) for index, item in found]
        return list(self._children[key])

    def _child(self, value: Any, path: FieldPath) -> Fields:
        return Fields(value, self.remarks, self.document, path, self.fold)

    # --- Kubernetes -------------------------------------------------------------------------

    def expressions(self) -> tuple[LabelExpression, ...]:
        """Return the matchExpressions of this label selector."""
        found = []
        for item in self.items("matchExpressions"):
            operator = item.choice("operator", _OPERATORS, "")
            if item.text("key") and operator:
                values = item.texts("values")
                found.append(
                    LabelExpression.model_validate(
                        {"key": item.text("key"), "operator": operator, "values": values}
                    )
                )
            else:
                item.problem("an expression has a key and an operator")
        return tuple(found)

    def selector(self, namespace: str = "") -> WorkloadSelector:
        """Return this label selector as one of workloads, of `namespace` if there is one."""
        return WorkloadSelector(
            namespaces=(namespace,) if namespace else (),
            labels=self.labels("matchLabels"),
            expressions=self.expressions(),
        )
