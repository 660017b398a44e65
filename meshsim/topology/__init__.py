"""The declarative topology: read, check, write, edit, generate, look at."""

from meshsim.topology.edit import with_values
from meshsim.topology.generate import generate
from meshsim.topology.graph import to_networkx
from meshsim.topology.load import (
    TrafficFile,
    dump_topology,
    load_topology,
    load_traffic,
    loads_topology,
)
from meshsim.topology.model import Provenance, Topology
from meshsim.topology.schema import json_schema
from meshsim.topology.validate import provenance_at, validated

__all__ = [
    "Provenance",
    "Topology",
    "TrafficFile",
    "dump_topology",
    "generate",
    "json_schema",
    "load_topology",
    "load_traffic",
    "loads_topology",
    "provenance_at",
    "to_networkx",
    "validated",
    "with_values",
]
