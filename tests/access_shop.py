"""A shop of four workloads with access objects of the meshes, to be asked who may ask whom."""

import yaml

from meshsim.policy.authorization import Request, labels_of
from meshsim.topology import loads_topology
from meshsim.topology.access import read_documents
from meshsim.topology.compiled.access import AccessMap

SHOP = """\
name: shop
services:
  web: {workloads: {v1: {labels: {app: web}}}}
  api: {workloads: {v1: {labels: {app: api, tier: back}}}}
  db: {workloads: {v1: {labels: {app: db, tier: back}}}}
  plain: {workloads: {v1: {meshed: false, labels: {app: plain}}}}
access:
  services:
    web: {namespace: front, service_account: web}
    api: {namespace: back, service_account: api}
    db: {namespace: back, service_account: db}
    plain: {namespace: front}
"""


class Mesh:
    """The shop with documents, to be asked."""

    def __init__(self, text, **access):
        topology = loads_topology(SHOP)
        self.documents = [item for item in yaml.safe_load_all(text) if item]
        update = {"documents": tuple(self.documents), **access}
        merged = topology.access.model_copy(update=update)
        self.map = AccessMap(topology.model_copy(update={"access": merged}), sidecars=True)

    def ask(self, caller, target, http=True, headers=None, **request):
        stated = {"port": 80, "host": target, **request}
        asked = Request(http=http, headers=labels_of(headers or {}), **stated)
        return self.map.decide(self.map.workload(caller, "v1"), target, "v1", asked)

    def allowed(self, *callers, target="db", **request):
        """Return those of `callers` who may ask `target`."""
        return [name for name in callers if self.ask(name, target, **request).allowed]


EVERYONE = ("web", "api", "db", "plain")


def remarks(text, notice=True):
    found = read_documents([item for item in yaml.safe_load_all(text) if item]).remarks
    return [remark.message for remark in found if remark.notice == notice]
