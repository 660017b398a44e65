"""JSON Schema (draft 2020-12) of the topology file, for editors.

Rule: the schema is derived from the model, with the short forms added: a bare duration for a
distribution, a name for a call, a text for an exact match, a number for a Poisson rate.  It
knows what single values may be; what must hold between them is `meshsim.topology.validate`'s.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from meshsim.topology.base import Duration
from meshsim.topology.generate import GeneratedScenario
from meshsim.topology.model import Topology

__all__ = ["json_schema"]

_TEXT = {"type": "string"}
_NUMBER = {"type": "number", "minimum": 0, "maximum": 1e9}
#: Elements of which exactly one field is set.
_ONE_OF = ("Distribution", "Arrivals")


def json_schema() -> dict[str, Any]:
    """Return the schema of a topology file.

    Examples
    --------
    >>> schema = json_schema()
    >>> schema["$schema"]
    'https://json-schema.org/draft/2020-12/schema'
    >>> [form["$ref"] for form in schema["anyOf"]]
    ['#/$defs/Topology', '#/$defs/GeneratedScenario']
    """
    adapter: TypeAdapter[Any] = TypeAdapter(Topology | GeneratedScenario)
    schema = adapter.json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    topology = definitions["Topology"]["properties"]
    for name in [name for name, info in Topology.model_fields.items() if info.exclude]:
        del topology[name]
    definitions.pop("Provenance", None)
    for name in _ONE_OF:
        definitions[name] |= {"minProperties": 1, "maxProperties": 1}
    duration = TypeAdapter(Duration).json_schema()
    short_forms = {
        "Distribution": duration,
        "Constant": duration,
        "Exponential": duration,
        "Poisson": _NUMBER,
        "Call": _TEXT,
        "StringMatch": _TEXT,
    }
    for name, short in short_forms.items():
        definitions[name] = {"anyOf": [short, definitions[name]]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "meshsim topology",
        **schema,
    }
