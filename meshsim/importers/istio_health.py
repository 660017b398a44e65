"""Istio's outlierDetection and warmup of a DestinationRule.

Rule: an outlierDetection block, even an empty one, switches Envoy's outlier detection on for every
client proxy, without the success rate, and panic off (`minHealthPercent` 0).  Runs of 5xx eject
unless ``consecutive5xxErrors`` is 0; runs of gateway errors and of local origin failures eject
only if they are stated.  Warmup is Envoy's slow start.

References
----------
istio/istio pilot/pkg/networking/core/cluster_traffic_policy.go (applyOutlierDetection,
setSlowStartConfig); istio/api networking/v1alpha3/destination_rule.proto.
"""

from __future__ import annotations

from meshsim.importers.assembly import Branch
from meshsim.importers.view import View

__all__ = ["switch_off_outliers", "write_outlier_detection", "write_warmup"]

_SPLIT = "splitExternalLocalOriginErrors"


def write_outlier_detection(branch: Branch, view: View) -> None:
    """Write the outlierDetection `view` under the policy of a service or subset."""
    target = branch.at("outlier_detection").touch()
    if view.has("consecutiveErrors"):
        view.notice("was removed from Istio and has no effect", "consecutiveErrors")
    view.not_simulated("outlierDetectionHttpErrorCodes")
    _write_run(target, "consecutive_5xx", view, "consecutive5xxErrors")
    _write_run(target, "consecutive_gateway_failure", view, "consecutiveGatewayErrors")
    split = view.boolean(_SPLIT)
    target.put("split_external_local_origin_errors", split, view.place(_SPLIT))
    local = view.integer("consecutiveLocalOriginFailures")
    if split and local:
        place = view.place("consecutiveLocalOriginFailures")
        target.put("consecutive_local_origin_failure", local, place)
    for name, key in (("interval", "interval"), ("base_ejection_time", "baseEjectionTime")):
        target.put(name, view.duration(key), view.place(key))
    share = view.integer("maxEjectionPercent", 0, 100)
    target.put("max_ejection_percent", share or None, view.place("maxEjectionPercent"))
    least = view.integer("minHealthPercent", 0, 100)
    if least is not None:
        balancing = branch.at("load_balancing").touch()
        place = view.place("minHealthPercent")
        balancing.put("healthy_panic_threshold", float(least), place)


def _write_run(target: Branch, name: str, view: View, key: str) -> None:
    """Write a run of errors that ejects if it is stated and not 0."""
    length = view.integer(key, 0, 2**31 - 1)
    target.put(name, length, view.place(key))
    if length is not None:
        target.put(f"enforcing_{name}", 100 if length else 0, view.place(key))


def switch_off_outliers(branch: Branch, view: View) -> None:
    """Let nothing be ejected where the block that is left out would otherwise be inherited."""
    branch.at("outlier_detection").put("consecutive_5xx", 0, view.place())


def write_warmup(target: Branch, view: View) -> None:
    """Write `warmup` (or the older ``warmupDurationSecs``) of the loadBalancer `view`."""
    slow_start = target.at("slow_start")
    warmup = view.view("warmup")
    for source, key in ((view, "warmupDurationSecs"), (warmup, "duration")):
        slow_start.put("slow_start_window", source.duration(key), source.place(key))
    if view.has("warmup") and not warmup.has("duration"):
        warmup.problem("a warmup needs a duration", "duration", allowed="e.g. 60s")
        return
    least = warmup.number("minimumPercent", 0, 100)
    slow_start.put("min_weight_percent", least, warmup.place("minimumPercent"))
    aggression = warmup.number("aggression", 1, 100)
    slow_start.put("aggression", aggression, warmup.place("aggression"))
