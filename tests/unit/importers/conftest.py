"""Folders of inline manifests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshsim.importers import load_manifests
from meshsim.topology.model import Topology

TRAFFIC = """\
name: inline
traffic:
  all: {to: web, arrivals: {poisson: 10}}
services:
  web:
    "*": {steps: [{compute: 1ms}]}
"""

#: Service web with versions v1 (two replicas) and v2.
WEB = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web, version: v1}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v2}
spec:
  template:
    metadata: {labels: {app: web, version: v2}}
"""

Load = Callable[..., Topology]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the manifests of web, and beside it a traffic file."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "a-web.yaml").write_text(WEB)
    (tmp_path / "traffic.yaml").write_text(TRAFFIC)
    return manifests


@pytest.fixture
def load(folder: Path) -> Load:
    """Load web together with further manifests and, if given, another traffic file."""

    def load(*texts: str, traffic: str = TRAFFIC) -> Topology:
        for index, text in enumerate(texts):
            (folder / f"b{index}.yaml").write_text(text)
        (folder.parent / "traffic.yaml").write_text(traffic)
        return load_manifests(folder, folder.parent / "traffic.yaml")

    return load
