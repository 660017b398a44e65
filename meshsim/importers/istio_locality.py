"""Istio localityLbSetting: shares by zone, and which zones come after the client's own.

Rule: the setting of a DestinationRule replaces the mesh's, which is on and says nothing.
``distribute`` holds by itself.  Failover, by ``failover``, ``failoverPriority`` or just by zone
and region, needs outlierDetection: without it Envoy would never leave the first priority, so
Istio sets no priorities at all.  Localities are weighted only with ``distribute`` or a stated
failover.

References
----------
istio/istio pilot/pkg/networking/core/loadbalancer/loadbalancer.go (GetLocalityLbSetting,
ApplyLocalityLoadBalancer), pilot/pkg/networking/core/cluster_traffic_policy.go
(applyLocalityLoadBalancer).
"""

from __future__ import annotations

from meshsim.importers.assembly import Branch
from meshsim.importers.view import View

__all__ = ["write_locality"]


def write_locality(branch: Branch, balancer: View | None, outliers: View | None) -> None:
    """Write the `locality` of a cluster under its policy.

    Parameters
    ----------
    branch : Branch
        Of the service or subset.
    balancer, outliers : View or None
        Its blocks loadBalancer and outlierDetection.
    """
    target = branch.at("locality")
    if balancer is None or not balancer.has("localityLbSetting"):
        if outliers is not None:
            target.put("failover", {}, outliers.place())
        return
    setting = balancer.view("localityLbSetting")
    if setting.boolean("enabled") is False:
        setting.ignore_rest()
        target.touch()  # of a subset: not its service's
        return
    if setting.has("distribute"):
        _write_distribute(target.touch(), setting)
        for key in ("failover", "failoverPriority"):
            if setting.has(key):
                setting.problem("distribute, failover and failoverPriority exclude each other", key)
        return
    if outliers is None:
        for key in ("failover", "failoverPriority"):
            if setting.has(key):
                setting.notice(f"{key} has no effect without outlierDetection", key)
        return
    _write_failover(target, setting)


def _write_distribute(target: Branch, setting: View) -> None:
    shares = target.at("distribute")
    known: set[str] = set()
    for entry in setting.views("distribute"):
        source = entry.text("from") or "*"
        if source in known:
            entry.notice(f"an earlier entry holds for {source!r}", "from")
            entry.ignore_rest()
            continue
        known.add(source)
        _tell_subzone(entry, source)
        to = entry.view("to")
        for locality in to.value:
            _tell_subzone(to, locality)
            share = to.integer(locality, 0, 100)
            shares.at(source).put(locality, share, to.place(locality))
    target.put("locality_weighted", True, setting.place("distribute"))


def _write_failover(target: Branch, setting: View) -> None:
    labels = setting.texts("failoverPriority")
    if labels:
        target.put("failover_priority", labels, setting.place("failoverPriority"))
    regions = target.at("failover")
    if setting.has("failover") or not labels:
        regions.touch()
    entries = setting.views("failover")
    for entry in entries:
        source, region = entry.text("from"), entry.text("to")
        if source and region:
            regions.put(source, region, entry.place())
    if labels or entries:
        key = "failoverPriority" if labels else "failover"
        target.put("locality_weighted", True, setting.place(key))


def _tell_subzone(view: View, locality: str) -> None:
    """Tell that a locality below a zone is nowhere."""
    if locality.count("/") > 1 and not locality.endswith(("/", "/*")):
        view.notice(f"{locality!r}: subzones are not modelled; no endpoint is there")
