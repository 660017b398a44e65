"""Scenarios out of other people's configuration: Kubernetes and Istio manifests.

`documents` finds manifests, `view` reads them with a memory of what was asked for, `registry`
says who reads which kind, `assembly` is the mesh being put together; then one module or two a
family.
"""

from __future__ import annotations

from meshsim.importers.load import load_manifests

__all__ = ["load_manifests"]
