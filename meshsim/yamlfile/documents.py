"""Documents: plain values with positions, and every problem of a text at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsim.errors import ConfigError, Problem
from meshsim.yamlfile.nodes import Node, Stopped, compose
from meshsim.yamlfile.scalars import manifest_key, manifest_scalar, strict_scalar
from meshsim.yamlfile.text import FILE_BYTES_MAX, FieldPath, capped, field_path, read_text

__all__ = ["Document", "parse_yaml", "read_yaml"]

#: A template that does not stand in a comment.
_TEMPLATE = re.compile(r"^[^#\n]*?(\{\{.*?\}\})", re.MULTILINE)
_HELM = re.compile(r"\{\{-?\s*(?:\.Values|\.Release|\.Chart|include\s|template\s|toYaml\s)")
_STRING_TAG = "tag:yaml.org,2002:str"
_CORE_TAGS = frozenset(
    {_STRING_TAG}
    | {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "map", "seq")}
)


@dataclass(frozen=True)
class Document:
    """One YAML document as plain values, and where each of them stands.

    Parameters
    ----------
    value : None, bool, int, float, str, list or dict
        The content; every key of a dict is a str.
    positions : mapping of FieldPath to (int, int)
        Line and column, both from 1, of every value by its path; ``()`` is the document.
        ``positions["spec", "ports", 0, "port"]`` is the position of the number.
    file : str
        Name of the file, as given.
    keys : mapping of FieldPath to (int, int)
        Line and column of the key of every value that stands in a mapping.
    """

    value: Any
    positions: Mapping[FieldPath, tuple[int, int]]
    file: str = "<string>"
    keys: Mapping[FieldPath, tuple[int, int]] = field(default_factory=dict)

    def problem(self, message: str, path: FieldPath = (), **details: str) -> Problem:
        """Return a `Problem` of the value at `path`, placed at it or its nearest parent."""
        at = path
        while at and at not in self.positions:
            at = at[:-1]
        line, column = self.positions.get(at, (0, 0))
        return Problem(message, self.file, line, column, field_path(path), **details)


def read_yaml(path: str | Path, *, strict_scalars: bool = True) -> list[Document]:
    """Read a YAML file; see `parse_yaml`.

    Raises
    ------
    ConfigError
        As `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path), strict_scalars=strict_scalars)


def parse_yaml(
    text: str,
    file: str = "<string>",
    *,
    strict_scalars: bool = True,
    collect: list[Problem] | None = None,
) -> list[Document]:
    r"""Read YAML text as documents with positions.

    Parameters
    ----------
    text : str
        YAML.
    file : str
        Name used in problems.
    strict_scalars : bool
        True for our own files: the traps of YAML are errors and there is exactly one document.
        False for Kubernetes manifests: YAML 1.1 as kubectl reads it, any number of documents,
        empty ones dropped.
    collect : list of Problem, optional
        Takes the problems of single values instead of raising them, so that whoever reads on
        can report them together with its own; such a value is returned as its text.

    Returns
    -------
    list of Document
        One if `strict_scalars`, else zero or more.

    Raises
    ------
    ConfigError
        With every problem of the text; with one if it cannot be parsed.

    Examples
    --------
    >>> document, = parse_yaml("services:\n  reviews: {replicas: 3}\n")
    >>> document.value
    {'services': {'reviews': {'replicas': 3}}}
    >>> document.positions["services", "reviews", "replicas"]
    (2, 23)
    """
    if len(text) > FILE_BYTES_MAX:
        limit = f"at most {FILE_BYTES_MAX // 1_000_000} MB"
        raise ConfigError([Problem("the text is too large", file, allowed=limit)])
    try:
        roots = compose(text, file)
        builder = _Builder(file, strict_scalars)
        documents = [builder.document(root) for root in roots]
    except Stopped as stop:
        template = _TEMPLATE.search(text)
        problem = stop.problem if template is None else _template_problem(text, template, file)
        raise ConfigError([problem]) from None
    problems = builder.problems
    if strict_scalars and (collect is not None or not problems):
        wrong_count = _one_document(roots, documents, file)
        if wrong_count:
            raise ConfigError(capped(problems + wrong_count))
    if collect is not None:
        collect += problems
    elif problems:
        raise ConfigError(capped(problems))
    return [document for document in documents if strict_scalars or document.value is not None]


def _one_document(roots: list[Node], documents: list[Document], file: str) -> list[Problem]:
    if not documents or (len(documents) == 1 and documents[0].value is None):
        return [Problem("the file is empty", file)]
    if len(documents) > 1:
        line, column = roots[1].line, roots[1].column
        message = f"has {len(documents)} documents; one is wanted (remove the second '---')"
        return [Problem(message, file, line, column)]
    return []


def _template_problem(text: str, match: re.Match[str], file: str) -> Problem:
    line = text.count("\n", 0, match.start(1)) + 1
    column = match.start(1) - text.rfind("\n", 0, match.start(1))
    message = "is a template; render it first (e.g. helm template) and give the result"
    return Problem(message, file, line, column, found=match[1][:60])


class _Builder:
    """Builds the values of a file's documents and collects its problems."""

    def __init__(self, file: str, strict: bool) -> None:
        self.file = file
        self.strict = strict
        self.problems: list[Problem] = []
        self.positions: dict[FieldPath, tuple[int, int]] = {}
        self.keys: dict[FieldPath, tuple[int, int]] = {}

    def document(self, root: Node) -> Document:
        self.positions = {}
        self.keys = {}
        value = self._value(root, ())
        return Document(value, self.positions, self.file, self.keys)

    def _problem(self, message: str, node: Node, path: FieldPath, **details: str) -> None:
        line, column = node.line, node.column
        self.problems.append(Problem(message, self.file, line, column, field_path(path), **details))

    def _value(self, node: Node, path: FieldPath) -> Any:
        self.positions[path] = (node.line, node.column)
        tag = node.tag if node.tag not in (None, "!") else ""
        if tag and self.strict and tag != _STRING_TAG:
            self._problem("tags are not used here", node, path, found=_tag_text(tag))
        value: Any
        if node.text is not None:
            value = self._scalar(node, path)
        elif node.mapping:
            value = self._mapping(node, path)
        else:
            value = [self._value(item, (*path, i)) for i, item in enumerate(node.children)]
        return {_tag_text(tag): value} if tag and tag not in _CORE_TAGS else value

    def _scalar(self, node: Node, path: FieldPath) -> Any:
        text = node.text or ""
        if "{{" in text and "\n" not in text and (match := _HELM.search(text)):
            message = "is a template; render it first (e.g. helm template) and give the result"
            self._problem(message, node, path, found=match[0][:60])
            return text
        if not node.plain or node.tag == _STRING_TAG:
            return text
        if not self.strict:
            return manifest_scalar(text)
        try:
            return strict_scalar(text)
        except ValueError as error:
            self._problem(str(error), node, path, found=text[:60])
            return text

    def _mapping(self, node: Node, path: FieldPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        pairs = node.children
        for key_node, value_node in zip(pairs[::2], pairs[1::2], strict=True):
            key = key_node.text
            if key is None:
                self._key_problem(key_node, path)
                continue
            if key == "<<" and key_node.plain:
                merged |= self._merge(value_node, path)
                continue
            if not self.strict and key_node.plain:
                key = manifest_key(key)
            if key in result:
                first = self.keys[*path, key][0]
                self._problem(f"the key is already in line {first}", key_node, (*path, key))
                continue
            self.keys[*path, key] = (key_node.line, key_node.column)
            result[key] = self._value(value_node, (*path, key))
        for key, (value_node, key_position) in merged.items():
            if key not in result:
                self.keys[*path, key] = key_position
                result[key] = self._value(value_node, (*path, key))
        return result

    def _key_problem(self, key_node: Node, path: FieldPath) -> None:
        message = "a key must be text, not a list or mapping"
        where = (self.file, key_node.line, key_node.column, field_path(path))
        # ``replicas: {{ .Values.n }}`` reads as a mapping whose key is a mapping.
        raise Stopped(Problem(message, *where))

    def _merge(self, node: Node, path: FieldPath) -> dict[str, tuple[Node, tuple[int, int]]]:
        """Return the pairs of ``<<: *anchor`` (or a list of them); the first of a list wins."""
        pairs: dict[str, tuple[Node, tuple[int, int]]] = {}
        sources = [node] if node.mapping else node.children
        if node.text is not None:
            self._problem("<< merges mappings", node, path, found=node.text[:60])
        for source in sources:
            if not source.mapping:
                self._problem("<< merges mappings", source, path)
                continue
            for key_node, value_node in zip(
                source.children[::2], source.children[1::2], strict=True
            ):
                if key_node.text is not None and key_node.text not in pairs:
                    position = (key_node.line, key_node.column)
                    pairs[key_node.text] = (value_node, position)
        return pairs


def _tag_text(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!", 1)
