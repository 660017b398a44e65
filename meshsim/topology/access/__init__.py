"""Access in the topology: the model, and readers of the meshes' own objects."""

from meshsim.topology.access.model import (
    Access,
    AccessCondition,
    AccessIdentity,
    AccessOperation,
    AccessPolicy,
    AccessRule,
    AccessSource,
    LabelExpression,
    PeerAuthenticationPolicy,
    ServiceIdentity,
    WorkloadSelector,
)
from meshsim.topology.access.reading import AccessReading, read_documents

__all__ = [
    "Access",
    "AccessCondition",
    "AccessIdentity",
    "AccessOperation",
    "AccessPolicy",
    "AccessReading",
    "AccessRule",
    "AccessSource",
    "LabelExpression",
    "PeerAuthenticationPolicy",
    "ServiceIdentity",
    "WorkloadSelector",
    "read_documents",
]
