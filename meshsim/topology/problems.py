"""Pydantic's errors in plain English, with places in the file.

Rule: a person reads what was found, what is allowed and what they may have meant; names of our
classes and of pydantic's error types never appear.  To report the mistakes *between* fields in
the same run as the mistakes *of* fields, `without_errors` cuts the wrong parts out of the
input, so that the rest can still be checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meshsim.errors import ConfigError, Problem
from meshsim.yamlfile import Document, FieldPath, capped, did_you_mean, field_path

__all__ = [
    "Reading",
    "annotation_at",
    "read_model",
    "refuse",
    "show",
    "translate",
    "unwrapped",
    "without_errors",
]

ModelType = TypeVar("ModelType", bound=BaseModel)

#: Longest rendering of a found value [characters].
_SHOWN_MAX = 60
#: Rounds of cutting; each removes at least one part, a second round is rare.
_ROUNDS_MAX = 10

#: What is wanted, by pydantic's error type.
_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (quote it)",
    "string_unicode": "text without lone surrogates",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("too small", "> {gt}"),
    "greater_than_equal": ("too small", ">= {ge}"),
    "less_than": ("too large", "< {lt}"),
    "less_than_equal": ("too large", "<= {le}"),
    "too_short": ("too few entries", "at least {min_length}"),
    "too_long": ("too many entries", "at most {max_length}"),
}


def show(value: Any) -> str:
    """Return `value` as YAML on one line, cut to a readable length.

    Examples
    --------
    >>> show({"exponential": "14ms"})
    '{exponential: 14ms}'
    """
    if isinstance(value, (dict, list, tuple)) and len(value) > 20:
        return f"{'a mapping' if isinstance(value, dict) else 'a list'} of {len(value)} entries"
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    except yaml.YAMLError:
        text = repr(value)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def unwrapped(annotation: Any) -> Any:
    """Return an annotation without Annotated and without ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            annotation = next(item for item in get_args(annotation) if item is not type(None))
        else:
            return annotation


def annotation_at(model: type[BaseModel], path: Iterable[str | int]) -> Any:
    """Return the annotation of the value at `path` below `model`, or None if there is none."""
    annotation: Any = model
    for part in path:
        inner = unwrapped(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            info = inner.model_fields.get(str(part))
            annotation = info.annotation if info else None
        elif get_origin(inner) is dict:
            annotation = get_args(inner)[1]
        elif get_origin(inner) is tuple:
            annotation = get_args(inner)[0]
        else:
            return None
    return unwrapped(annotation) if annotation is not None else None


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _within(path: FieldPath, value: Any) -> FieldPath:
    """Return the longest beginning of `path` that exists in `value` as written.

    Short forms make pydantic's paths longer than the file's: ``compute: 3x`` fails at
    ``compute.constant.value``.
    """
    for depth, part in enumerate(path):
        if not _has(value, part):
            return path[:depth]
        value = value[part]
    return path


def translate(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Return the problems of a document that pydantic refused as `model`."""
    return [_translated(detail, document, model) for detail in error.errors(include_url=False)]


def _translated(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> Problem:
    path, kind = detail["loc"], detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    at = _within(path, document.value)
    found = show(detail["input"])
    if kind == "extra_forbidden":
        return _unknown_field(path, document, annotation_at(model, path[:-1]))
    if kind == "missing":
        missing = document.problem("is required", at)
        return Problem(
            missing.message, missing.file, missing.line, missing.column, field_path((*at, path[-1]))
        )
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = did_you_mean(str(detail["input"]), choices)
        allowed = ", ".join(choices)
        return document.problem("unknown value", at, found=found, allowed=allowed, suggestion=near)
    if kind in _BOUNDS:
        message, allowed = _BOUNDS[kind]
        numbers = {
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in context.items()
        }
        return document.problem(message, at, found=found, allowed=allowed.format(**numbers))
    if kind in _WANTED:
        return document.problem(f"must be {_WANTED[kind]}", at, found=found)
    if kind == "value_error":
        return document.problem(str(context["error"]), at, found=found)
    return document.problem(detail["msg"], at, found=found)


def _unknown_field(path: FieldPath, document: Document, annotation: Any) -> Problem:
    known: list[str] = []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        known = [name for name, info in annotation.model_fields.items() if info.exclude is not True]
    name = str(path[-1])
    near = did_you_mean(name, known)
    at = _within(path, document.value)
    line, column = document.keys.get(at, document.positions.get(at, (0, 0)))
    allowed = ", ".join(known)
    return Problem(
        "unknown field", document.file, line, column, field_path(path), name, allowed, near
    )


def without_errors(
    value: dict[str, Any], error: ValidationError, model: type[BaseModel]
) -> tuple[Any, dict[FieldPath, Any]]:
    """Return a copy of `value` without the parts that `error` complains about, and these.

    A wrong number is replaced by one that is allowed; what else is wrong is cut, and where a
    field is missing the element that lacks it (at the top an empty text is put in).
    """
    cuts: dict[FieldPath, Any] = {}
    filled = dict(value)
    for detail in error.errors(include_url=False, include_input=False):
        path = _within(detail["loc"], value)
        if path:
            cuts[path] = _stand_in(detail, annotation_at(model, detail["loc"]))
        elif detail["type"] == "missing":
            filled[str(detail["loc"][0])] = ""
    return _cut(filled, (), cuts), cuts


def _stand_in(detail: ErrorDetails, annotation: Any) -> Any:
    """Return a number for a wrong one, or None if the value is to be cut."""
    bounds = detail.get("ctx", {})
    if detail["type"] in ("greater_than_equal", "less_than_equal"):
        return bounds.get("ge", bounds.get("le"))
    if detail["type"] == "greater_than":
        return bounds["gt"] + 1
    if annotation not in (int, float):
        return None
    # A duration or a size is refused by its own reader; "0" is both.
    return "0" if detail["type"] == "value_error" else 1


def _cut(value: Any, path: FieldPath, cuts: dict[FieldPath, Any]) -> Any:
    if path in cuts and path:
        return cuts[path]
    if isinstance(value, dict):
        return {
            key: _cut(item, (*path, key), cuts)
            for key, item in value.items()
            if cuts.get((*path, key), key) is not None
        }
    if isinstance(value, list):
        return [
            _cut(item, (*path, index), cuts)
            for index, item in enumerate(value)
            if cuts.get((*path, index), index) is not None
        ]
    return value


@dataclass(frozen=True)
class Reading(Generic[ModelType]):
    """What could be read of a document.

    Parameters
    ----------
    element : BaseModel or None
        If there are problems, without the wrong parts; None if nothing could be read.
    problems : list of Problem
        Empty if the document is right.
    rounds : tuple of dict
        What was cut (None) or replaced (by what), round by round; paths as before the round.
    """

    element: ModelType | None
    problems: list[Problem]
    rounds: tuple[dict[FieldPath, Any], ...] = ()

    def written(self, path: FieldPath) -> FieldPath:
        """Return the path in the document of what is at `path` in the element.

        Entries of a list have moved up where others were cut.
        """
        return _moved_back(path, self.rounds)

    def judges(self, path: FieldPath, refers: FieldPath) -> bool:
        """Return whether a finding about `path`, which looked up `refers`, is to be believed.

        Not if something was cut out of what it looked up, or of what it is about.
        """
        for number, cuts in enumerate(self.rounds):
            for cut in cuts:
                at = _moved_back(cut, self.rounds[:number])
                if refers and at[: len(refers)] == refers[: len(at)]:
                    return False
                if at[: len(path)] == path[: len(at)]:
                    return False
        return True


def _moved_back(path: FieldPath, rounds: tuple[dict[FieldPath, Any], ...]) -> FieldPath:
    for cuts in reversed(rounds):
        back: FieldPath = ()
        for part in path:
            if isinstance(part, int):
                for index in _cut_entries(back, cuts):
                    part += index <= part
            back = (*back, part)
        path = back
    return path


def _cut_entries(path: FieldPath, cuts: dict[FieldPath, Any]) -> list[int]:
    """Return the indices of the entries that were cut out of the list at `path`, ascending."""
    return sorted(
        cut[-1]
        for cut, stand_in in cuts.items()
        if stand_in is None and cut[:-1] == path and isinstance(cut[-1], int)
    )


def read_model(document: Document, model: type[ModelType]) -> Reading[ModelType]:
    """Read a document as `model`, as far as it is right."""
    value = document.value
    if not isinstance(value, dict):
        return Reading(None, [document.problem("must be a mapping", found=show(value))])
    problems: list[Problem] = []
    rounds: tuple[dict[FieldPath, Any], ...] = ()
    for _ in range(_ROUNDS_MAX):
        try:
            return Reading(model.model_validate(value), problems, rounds)
        except ValidationError as error:
            problems = problems or translate(error, document, model)
            shorter, cuts = without_errors(value, error, model)
            if shorter == value:
                break
            rounds = (*rounds, cuts)
            value = shorter
    return Reading(None, problems)


def refuse(problems: list[Problem]) -> None:
    """Raise `ConfigError` if there are problems, in the order of the file."""
    if problems:
        ordered = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
        raise ConfigError(capped(ordered))
