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

from meshsim.yamlfile.documents import Document, parse_yaml, read_yaml
from meshsim.yamlfile.nodes import DEPTH_MAX, NODES_MAX
from meshsim.yamlfile.scalars import parse_scalar
from meshsim.yamlfile.text import (
    FILE_BYTES_MAX,
    PROBLEMS_MAX,
    FieldPath,
    capped,
    did_you_mean,
    field_path,
    read_text,
)

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
