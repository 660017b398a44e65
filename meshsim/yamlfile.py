"""YAML text to plain values with a position for each of them, and YAML's traps taken out.

Rule: the text is read as a stream of parser events, so that limits hold while reading and not
after it; nothing is built before its size is known.  Every key is text, as written.  A plain
(unquoted) scalar is resolved by one of two tables:

- strict (`strict_scalars=True`, our own files): null, true/false, decimal numbers and text.
  What YAML 1.1 and 1.2 read differently is an error that says what to write instead: the bare
  words yes/no/on/off/y/n, ``010``, ``0x1f``, ``1_000``, ``12:30``, ``.inf``, dates.  Exactly one
  document; tags other than ``!!str`` are refused.
- Kubernetes manifests (`strict_scalars=False`): YAML 1.1 as kubectl reads it (yes/no/on/off are
  booleans, ``010`` is 8, ``12:30`` is text); many documents, empty ones dropped; a value with an
  unknown tag ``!Tag`` becomes ``{"!Tag": value}``.

In both, duplicate keys are errors, anchors, aliases and merge keys (``<<``) work within the
limits below, and a Helm or Go template is refused with the advice to render it first.
Every problem of a text is reported at once; a syntax error ends the reading.

Limits: `FILE_BYTES_MAX`, `NODES_MAX` values after expansion of aliases, `DEPTH_MAX` levels,
`PROBLEMS_MAX` problems listed.

References
----------
YAML 1.1 (2005) and 1.2.2 (2021) type repositories; go-yaml v2 resolve.go, which
sigs.k8s.io/yaml (kubectl) uses.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meshsim.errors import ConfigError, Problem

__all__ = [
    "DEPTH_MAX",
    "FILE_BYTES_MAX",
    "NODES_MAX",
    "PROBLEMS_MAX",
    "Document",
    "FieldPath",
    "capped",
    "did_you_mean",
    "field_path",
    "parse_scalar",
    "parse_yaml",
    "read_text",
    "read_yaml",
]

#: Largest file that is read [bytes].
FILE_BYTES_MAX = 16_000_000
#: Most values (scalars, sequences, mappings) of one file after its aliases are expanded.
NODES_MAX = 1_000_000
#: Deepest nesting, aliases expanded.
DEPTH_MAX = 100
#: Most problems listed of one file; the rest is counted.
PROBLEMS_MAX = 100

#: Keys and sequence indices (from 0) that lead to a value.
FieldPath = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_TRUE_11 = _TRUE | {"yes", "Yes", "YES", "on", "On", "ON", "y", "Y"}
_FALSE_11 = _FALSE | {"no", "No", "NO", "off", "Off", "OFF", "n", "N"}

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INTEGER_11 = re.compile(
    r"(?P<sign>[-+]?)(?:0b(?P<binary>[01_]+)|0x(?P<hexadecimal>[0-9a-fA-F_]+)"
    r"|0o?(?P<octal>[0-7_]+)|(?P<decimal>0|[1-9][0-9_]*))"
)
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
#: What two YAML versions read differently: pattern, and what a reader may take it for.
_TRAPS = (
    (re.compile(r"[-+]?0[0-9_]+"), "read as an octal number by YAML 1.1 and decimal by 1.2"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "a number in base 16, 8 or 2, or text"),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"),
        "read in base 60 by YAML 1.1",
    ),
    (re.compile(r"[-+]?[0-9][0-9.]*_[0-9_.]*"), "a number to YAML 1.1 and text to 1.2"),
    (_INFINITE, "not a finite number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?"), "read as a date by YAML 1.1"),
)
#: Longest number read as such; int() of a longer text takes quadratic time.
_NUMBER_LENGTH_MAX = 300
_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
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


class _Stop(Exception):
    """Reading cannot go on: carries the one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Node:
    """A value while it is read; an aliased one is shared, its size counted each time."""

    __slots__ = (
        "children",
        "closed",
        "column",
        "depth",
        "line",
        "mapping",
        "plain",
        "size",
        "tag",
        "text",
    )

    def __init__(self, event: Any, text: str | None, plain: bool) -> None:
        mark = event.start_mark
        self.line: int = mark.line + 1
        self.column: int = mark.column + 1
        self.tag: str | None = event.tag
        self.text = text
        self.plain = plain
        self.mapping = isinstance(event, yaml.MappingStartEvent)
        self.children: list[_Node] = []
        self.size = 1
        self.depth = 1
        self.closed = text is not None


def field_path(path: Iterable[str | int]) -> str:
    """Write a path as people do.

    Examples
    --------
    >>> field_path(("policies", "reviews", "routes", 0, "timeout"))
    'policies.reviews.routes[0].timeout'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the choice nearest to `word`, or "" if none is near.

    Examples
    --------
    >>> did_you_mean("replcias", ["replicas", "concurrency"])
    'replicas'
    """
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower()[:200], by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else ""


def capped(problems: list[Problem]) -> list[Problem]:
    """Return at most `PROBLEMS_MAX` problems; a last one counts those left out."""
    if len(problems) <= PROBLEMS_MAX:
        return problems
    left_out = len(problems) - PROBLEMS_MAX
    return [*problems[:PROBLEMS_MAX], Problem(f"{left_out} more problems are not listed")]


def read_text(path: str | Path) -> str:
    """Return the text of a file.

    Raises
    ------
    ConfigError
        If it is missing, a directory, larger than `FILE_BYTES_MAX`, binary or not UTF-8.
    """
    path = Path(path)
    name = str(path)
    try:
        if path.is_dir():
            raise ConfigError([Problem("is a directory; a file is wanted", name)])
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        siblings = (item.name for item in path.parent.iterdir()) if path.parent.is_dir() else ()
        near = did_you_mean(path.name, siblings)
        raise ConfigError([Problem("file not found", name, suggestion=near)]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(f"cannot be read: {reason}", name)]) from None
    return _decode(data, name)


def _decode(data: bytes, name: str) -> str:
    if len(data) > FILE_BYTES_MAX:
        limit = f"at most {FILE_BYTES_MAX // 1_000_000} MB"
        raise ConfigError([Problem("the file is too large", name, allowed=limit)])
    if b"\0" in data:
        raise ConfigError([Problem("is a binary file; UTF-8 text is wanted", name)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text (byte 0x{data[error.start]:02x} in line {line})"
        raise ConfigError([Problem(message, name, line)]) from None


def read_yaml(path: str | Path, *, strict_scalars: bool = True) -> list[Document]:
    """Read a YAML file; see `parse_yaml`.

    Raises
    ------
    ConfigError
        As `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path), str(path), strict_scalars=strict_scalars)


def parse_yaml(text: str, file: str = "<string>", *, strict_scalars: bool = True) -> list[Document]:
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
        roots = _compose(text, file)
        builder = _Builder(file, strict_scalars)
        documents = [builder.document(root) for root in roots]
    except _Stop as stop:
        template = _TEMPLATE.search(text)
        problem = stop.problem if template is None else _template_problem(text, template, file)
        raise ConfigError([problem]) from None
    problems = builder.problems
    if strict_scalars and not problems:
        problems = _one_document(roots, documents, file)
    if problems:
        raise ConfigError(capped(problems))
    return [document for document in documents if strict_scalars or document.value is not None]


def parse_scalar(text: str) -> Any:
    """Return the value of one plain scalar by the strict table.

    Raises
    ------
    ValueError
        If the text is one of YAML's traps.

    Examples
    --------
    >>> parse_scalar("3"), parse_scalar("14ms"), parse_scalar("true")
    (3, '14ms', True)
    """
    return _strict_scalar(text.strip())


def _one_document(roots: list[_Node], documents: list[Document], file: str) -> list[Problem]:
    if not documents or (len(documents) == 1 and documents[0].value is None):
        return [Problem("the file is empty", file)]
    if len(documents) > 1:
        line, column = roots[1].line, roots[1].column
        message = f"has {len(documents)} documents; one is wanted (remove the second '---')"
        return [Problem(message, file, line, column)]
    return []


def _template_problem(text: str, match: re.Match[str], file: str) -> Problem:
    line = text.count("\n", 0, match.start()) + 1
    column = match.start() - text.rfind("\n", 0, match.start())
    message = "is a template; render it first (e.g. helm template) and give the result"
    return Problem(message, file, line, column, found=match[0][:60].strip())


# --- Text to nodes --------------------------------------------------------------------------


def _events(text: str, file: str) -> Iterator[Any]:
    """Yield the events of the YAML parser; its errors become `_Stop`."""
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_event():
            yield loader.get_event()
    except yaml.YAMLError as error:
        raise _Stop(_syntax_problem(error, text, file)) from None
    except (UnicodeError, ValueError) as error:
        raise _Stop(Problem(f"is not text that YAML allows: {error}", file)) from None
    finally:
        if loader is not None:
            loader.dispose()


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    if mark is None:
        return Problem(f"is not YAML: {reason}", file)
    lines = text.split("\n")
    written = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in written[: mark.column + 1]:
        reason = "a tab stands where YAML allows only spaces; indent with spaces"
    context = getattr(error, "context", None)
    message = f"is not YAML: {reason}" + (f" ({context})" if context else "")
    return Problem(message, file, mark.line + 1, mark.column + 1, found=written.strip()[:60])


def _compose(text: str, file: str) -> list[_Node]:
    """Return the root nodes of the documents; sizes and depths are within the limits."""
    roots: list[_Node] = []
    open_nodes: list[_Node] = []
    anchors: dict[str, _Node] = {}
    count = 0
    for event in _events(text, file):
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(event, event.value, event.implicit[0])
        elif isinstance(event, yaml.AliasEvent):
            node = _aliased(event, anchors, file)
        elif isinstance(event, yaml.CollectionStartEvent):
            node = _Node(event, None, False)
            open_nodes.append(node)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
            node.closed = True
        elif isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
            continue
        else:
            continue
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            count += 1
            if event.anchor:
                anchors[event.anchor] = node
        if node.closed:
            _attach(node, open_nodes, roots, file)
        _check_limits(node, count, len(open_nodes), file)
    return roots


def _aliased(event: Any, anchors: dict[str, _Node], file: str) -> _Node:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    node = anchors.get(event.anchor)
    if node is None:
        message = "the alias names no anchor"
        near = did_you_mean(event.anchor, anchors)
        raise _Stop(Problem(message, file, line, column, "", f"*{event.anchor}", suggestion=near))
    if not node.closed:
        message = "the alias stands inside what it repeats"
        raise _Stop(Problem(message, file, line, column, "", f"*{event.anchor}"))
    return node


def _attach(node: _Node, open_nodes: list[_Node], roots: list[_Node], file: str) -> None:
    if not open_nodes:
        roots.append(node)
        return
    parent = open_nodes[-1]
    parent.children.append(node)
    parent.size += node.size
    parent.depth = max(parent.depth, node.depth + 1)
    _check_limits(parent, parent.size, parent.depth, file)


def _check_limits(node: _Node, count: int, depth: int, file: str) -> None:
    if max(count, node.size) > NODES_MAX:
        message = "too many values, counting what aliases repeat"
        allowed = f"at most {NODES_MAX:,} values"
        raise _Stop(Problem(message, file, node.line, node.column, allowed=allowed))
    if max(depth, node.depth) > DEPTH_MAX:
        allowed = f"at most {DEPTH_MAX} levels"
        raise _Stop(Problem("nested too deeply", file, node.line, node.column, allowed=allowed))


# --- Nodes to values ------------------------------------------------------------------------


class _Builder:
    """Builds the values of a file's documents and collects its problems."""

    def __init__(self, file: str, strict: bool) -> None:
        self.file = file
        self.strict = strict
        self.problems: list[Problem] = []
        self.positions: dict[FieldPath, tuple[int, int]] = {}
        self.keys: dict[FieldPath, tuple[int, int]] = {}

    def document(self, root: _Node) -> Document:
        self.positions = {}
        self.keys = {}
        value = self._value(root, ())
        return Document(value, self.positions, self.file, self.keys)

    def _problem(self, message: str, node: _Node, path: FieldPath, **details: str) -> None:
        line, column = node.line, node.column
        self.problems.append(Problem(message, self.file, line, column, field_path(path), **details))

    def _value(self, node: _Node, path: FieldPath) -> Any:
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

    def _scalar(self, node: _Node, path: FieldPath) -> Any:
        text = node.text or ""
        if "{{" in text and "\n" not in text and (match := _HELM.search(text)):
            message = "is a template; render it first (e.g. helm template) and give the result"
            self._problem(message, node, path, found=match[0][:60])
            return text
        if not node.plain or node.tag == _STRING_TAG:
            return text
        if not self.strict:
            return _manifest_scalar(text)
        try:
            return _strict_scalar(text)
        except ValueError as error:
            self._problem(
                str(error), node, path, found=text[:60], allowed=f"quoted text: {text[:60]!r}"
            )
            return text

    def _mapping(self, node: _Node, path: FieldPath) -> dict[str, Any]:
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
                key = _manifest_key(key)
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

    def _key_problem(self, key_node: _Node, path: FieldPath) -> None:
        message = "a key must be text, not a list or mapping"
        where = (self.file, key_node.line, key_node.column, field_path(path))
        # ``replicas: {{ .Values.n }}`` reads as a mapping whose key is a mapping.
        raise _Stop(Problem(message, *where))

    def _merge(self, node: _Node, path: FieldPath) -> dict[str, tuple[_Node, tuple[int, int]]]:
        """Return the pairs of ``<<: *anchor`` (or a list of them); the first of a list wins."""
        pairs: dict[str, tuple[_Node, tuple[int, int]]] = {}
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


def _strict_scalar(text: str) -> Any:
    """Resolve a plain scalar of our own files; ValueError says why it is refused."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _TRUE_11 or text in _FALSE_11:
        instead = "true" if text in _TRUE_11 else "false"
        raise ValueError(
            f"a bare {text} is a boolean to some readers; write {instead}, or quote it"
        )
    if len(text) > _NUMBER_LENGTH_MAX:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    for pattern, reason in _TRAPS:
        if pattern.fullmatch(text):
            raise ValueError(f"{reason}; write a decimal number, or quote it")
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large")
        return number
    return text


def _manifest_scalar(text: str) -> Any:
    """Resolve a plain scalar as kubectl does (go-yaml v2)."""
    if text in _NULL:
        return None
    if text in _TRUE_11 or text in _FALSE_11:
        return text in _TRUE_11
    if len(text) > _NUMBER_LENGTH_MAX:
        return text
    match = _INTEGER_11.fullmatch(text)
    if match:
        for name, base in (("binary", 2), ("hexadecimal", 16), ("octal", 8), ("decimal", 10)):
            digits = (match[name] or "").replace("_", "")
            if digits:
                return int(match["sign"] + digits, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _manifest_key(text: str) -> str:
    """Return a key as sigs.k8s.io/yaml makes it text: ``on`` is read as a boolean, "true"."""
    value = _manifest_scalar(text)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else text
