"""What an Istio route does to requests beside routing them: faults, mirrors, redirects.

Rule: the fault filter sits in the caller's proxy before the router: an injected fault is neither
retried nor cut by the same rule's timeout.  A share that is not stated is 0 % for a fault and
100 % for a mirror.  ``percent``, in whole percents, is the older word for ``percentage``; for an
abort Istio reads only the newer one.

References
----------
istio/api networking/v1alpha3/virtual_service.proto (HTTPFaultInjection, HTTPMirrorPolicy,
HTTPRedirect); istio/istio pilot/pkg/networking/core/route/route.go (TranslateFault,
TranslateRequestMirrorPolicy, ApplyRedirect).
"""

from __future__ import annotations

from meshsim.importers.assembly import Assembly, Branch
from meshsim.importers.view import View

__all__ = ["write_fault", "write_mirrors", "write_redirect"]

#: In place of the gRPC status an abort may name: a call that fails for its caller.
_GRPC_FAILED = 503
#: Envoy's RedirectAction.RedirectResponseCode.
_REDIRECTS = (301, 302, 303, 307, 308)


def _percentage(view: View, key: str = "percentage") -> float | None:
    """Return the number at ``{key: {value: ...}}``, None if absent."""
    if not view.has(key):
        return None
    share = view.view(key).number("value", 0, 100)
    return 0.0 if share is None else share


def write_fault(rule: View, target: Branch) -> None:
    """Write the faults of a rule, if it injects any."""
    if not rule.has("fault"):
        return
    fault = rule.view("fault")
    if fault.has("delay"):
        _write_delay(fault.view("delay"), target.at("fault", "delay"))
    if fault.has("abort"):
        _write_abort(fault.view("abort"), target.at("fault", "abort"))


def _write_delay(view: View, target: Branch) -> None:
    view.not_simulated("exponentialDelay")
    duration = view.duration("fixedDelay")
    share = _percentage(view)
    older = view.integer("percent", 0, 100)
    if share is None:
        share = float(older or 0)
    if duration is None:
        view.problem("a delay needs a duration", "fixedDelay", allowed="e.g. 5s")
        return
    place = "percentage" if view.has("percentage") else "percent"
    if not share:
        view.notice("its share is 0 %, or not stated: no request is delayed")
    target.put("fixed_delay", duration, view.place("fixedDelay"))
    target.put("percentage", share, view.place(place if view.has(place) else None))


def _write_abort(view: View, target: Branch) -> None:
    view.not_simulated("http2Error", "percent")
    status = view.integer("httpStatus", 200, 599)
    key = "httpStatus"
    if view.has("grpcStatus"):
        key = "grpcStatus"
        status = _GRPC_FAILED
        view.notice(f"{view.text(key)}: simulated as HTTP status {status}", key)
    if status is None:
        view.problem("an abort needs a status", "httpStatus", allowed="200 to 599")
        return
    share = _percentage(view)
    if not share:
        view.notice("its share is 0 %, or not stated: no request is aborted")
    target.put("http_status", status, view.place(key))
    place = view.place("percentage" if view.has("percentage") else None)
    target.put("percentage", share or 0.0, place)


def write_mirrors(rule: View, target: Branch, assembly: Assembly) -> None:
    """Write the mirrors of a rule: the one of `mirror`, or those of `mirrors`."""
    found: list[tuple[View, float | None]] = []
    share = _percentage(rule, "mirrorPercentage")
    for older in ("mirrorPercent", "mirror_percent"):
        value = rule.integer(older, 0, 100)
        if share is None and value is not None:
            share = float(value)
    if rule.has("mirror"):
        found.append((rule.view("mirror"), share))
    elif share is not None:
        rule.notice("mirrorPercentage without mirror has no effect", "mirrorPercentage")
    found += [(item.view("destination"), _percentage(item)) for item in rule.views("mirrors")]
    for destination, percentage in found:
        key = assembly.destination(destination)
        destination.ignore("port")
        if key is None:
            continue
        branch = target.append("mirrors")
        branch.put("service", key, destination.place("host"))
        subset = destination.text("subset")
        if subset is not None:
            branch.put("subset", subset, destination.place("subset"))
            assembly.need_subset(destination, key, subset)
        branch.put("percentage", percentage, destination.place())


def write_redirect(rule: View, target: Branch) -> None:
    """Write the redirect of a rule."""
    redirect = rule.view("redirect")
    redirect.ignore("scheme", "port", "derivePort")
    code = redirect.integer("redirectCode", 300, 399)
    if code is not None and code not in _REDIRECTS:
        allowed = ", ".join(map(str, _REDIRECTS))
        redirect.problem(
            "Envoy has no such redirect", "redirectCode", found=str(code), allowed=allowed
        )
        code = None
    branch = target.at("redirect").touch()
    branch.put("response_code", code, redirect.place("redirectCode"))
    branch.put("host", redirect.text("authority"), redirect.place("authority"))
    branch.put("path", redirect.text("uri"), redirect.place("uri"))
