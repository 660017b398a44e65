"""Istio VirtualService: which rules a client proxy routes a service's requests by.

Rule: rules are tried top to bottom and the first match wins; the entries of ``match`` are
alternatives, the conditions within one entry must all hold.  A prefix is a raw string prefix, a
regex must match fully, header names ignore case.  An entry that can hold for no request here
(it needs a gateway, another port, a condition this version cannot express) is left out with a
notice; if none of a rule's entries remain the rule is left out, as Istio does for a client whose
labels exclude it.  Requests that no rule matches are answered 404.

A service obeys one VirtualService: the one with the most specific host, and of equals the
oldest.  Those bound to gateways only are not seen by sidecars.

``retries`` without attempts (or 0) disables retries.  Integers in retryOn are status codes.
An expired perTryTimeout is a reset to Envoy: it is retried only under ``5xx``,
``gateway-error`` or ``reset``, which Istio's default does not have (measured on Envoy 1.40.0).

References
----------
istio/api networking/v1alpha3/virtual_service.proto;
istio/istio pilot/pkg/networking/core/route/route.go, .../route/retry/retry.go,
pilot/pkg/model/push_context.go (virtual services of a host).
"""

from __future__ import annotations

from typing import get_args

from meshsim.importers.assembly import Assembly, Branch, ServiceRecord, host_specificity
from meshsim.importers.istio_destination import age
from meshsim.importers.istio_filters import write_fault, write_mirrors, write_redirect
from meshsim.importers.istio_match import Conditions, read_match
from meshsim.importers.registry import Stage, reads
from meshsim.importers.view import View
from meshsim.topology.model import RetryOn
from meshsim.yamlfile import did_you_mean

__all__ = ["read_virtual_services"]

_RETRY_ON = get_args(RetryOn)
_MESH = "mesh"
#: Keys of a rule that change a simulation but are not carried out yet.
_LATER = ("corsPolicy", "headers", "delegate")
_UINT32_MAX = 2**32 - 1
#: Conditions under which Envoy retries a try that it reset because its time was up.
_RETRIES_TIMEOUTS = frozenset({"5xx", "gateway-error", "reset"})


@reads("networking.istio.io", "VirtualService", family="istio", stage=Stage.ROUTES)
def read_virtual_services(views: list[View], assembly: Assembly) -> None:
    """Write the routes of every service from the VirtualService that governs it."""
    meshed = [view for view in views if _is_for_sidecars(view)]
    hosts = {id(view): _hosts(view, assembly) for view in meshed}
    governing: set[int] = set()
    for record in assembly.services.values():
        graded = [
            (
                max((host_specificity(host, record.host) for host in hosts[id(view)]), default=0),
                view,
            )
            for view in meshed
        ]
        best = max((grade for grade, _ in graded), default=0)
        rivals = sorted((view for grade, view in graded if grade == best and best), key=age)
        for view in rivals[1:]:
            view.notice(f"not used for {record.key}: {rivals[0].manifest.title} is older")
        if rivals:
            governing.add(id(rivals[0]))
            governing.update(id(view) for view in rivals[1:])
            _write_routes(rivals[0], record, assembly)
    for view in meshed:
        if hosts[id(view)] and id(view) not in governing:
            wanted = ", ".join(view.view("spec").texts("hosts"))
            view.notice(f"no service has host {wanted}; its rules are not used")


def _is_for_sidecars(view: View) -> bool:
    spec = view.view("spec")
    spec.not_simulated("exportTo", "tcp", "tls")
    gateways = spec.texts("gateways")
    spec.ignore("hosts", "http")
    if gateways and _MESH not in gateways:
        spec.notice("holds at gateways only, which are not simulated yet", "gateways")
        return False
    return True


def _hosts(view: View, assembly: Assembly) -> list[str]:
    spec = view.view("spec")
    hosts = spec.texts("hosts")
    if not hosts:
        spec.notice("has no hosts: it only holds as a delegate, which is not simulated yet")
    return [assembly.expand_host(host, view.manifest.namespace) for host in hosts]


def _write_routes(view: View, record: ServiceRecord, assembly: Assembly) -> None:
    branch = assembly.root("policies", record.key, "routes")
    index = 0
    caught_all_at = ""
    for rule in view.view("spec").views("http"):
        if caught_all_at:
            rule.notice(f"unreachable: the rule at {caught_all_at} takes every request")
        target = branch.at(index)
        entries = rule.views("match")
        found = [_write_entry(entry, target, record, assembly) for entry in entries]
        kept = [conditions for conditions in found if conditions is not None]
        if entries and not kept:
            rule.notice("left out: none of its match entries can hold here")
            rule.ignore_rest()
            continue
        if not entries or any(_holds_always(conditions) for conditions in kept):
            caught_all_at = caught_all_at or rule.manifest.place(rule.path)
        _write_rule(rule, target, record, assembly)
        index += 1


def _write_entry(
    entry: View, rule: Branch, record: ServiceRecord, assembly: Assembly
) -> Conditions | None:
    """Write one match entry after those the rule has; None if it cannot hold here."""
    namespaces = {item.namespace for item in assembly.workload_records}
    conditions = read_match(entry, record.port, namespaces)
    if conditions is None:
        return None
    target = rule.append("match")
    for path, (value, place) in conditions.items():
        target.at(*path[:-1]).put(path[-1], value, place)
    return conditions


def _holds_always(conditions: Conditions) -> bool:
    """Say if an entry matches every request: no condition, or the path prefix ``/``."""
    values = {path: value for path, (value, _) in conditions.items() if path != ("ignore_case",)}
    return not values or values == {("path", "prefix"): "/"}


def _write_rule(rule: View, target: Branch, record: ServiceRecord, assembly: Assembly) -> None:
    target.touch()
    rule.not_simulated(*_LATER)
    target.put("name", rule.text("name"), rule.place("name"))
    target.put("timeout", rule.duration("timeout"), rule.place("timeout"))
    if rule.has("rewrite"):
        rule.ignore("rewrite")  # The path an application sees does not change its behaviour here.
    if rule.has("retries"):
        _write_retries(rule.view("retries"), target.at("retry").touch())
    write_fault(rule, target)
    direct = rule.view("directResponse")
    if rule.has("redirect"):
        write_redirect(rule, target)
    elif rule.has("directResponse"):
        direct.ignore("body")
        status = direct.integer("status", 200, 599)
        target.put("direct_response", status, direct.place("status"))
        if not direct.has("status"):
            direct.problem("a directResponse needs a status", "status", allowed="200 to 599")
    else:
        _write_split(rule, target, record, assembly)
        write_mirrors(rule, target, assembly)


def _write_split(rule: View, target: Branch, record: ServiceRecord, assembly: Assembly) -> None:
    destinations = rule.views("route")
    if not destinations:
        rule.notice("has no route: its requests go to the service itself")
    weights = []
    for index, view in enumerate(destinations):
        view.not_simulated("headers")
        weight = view.integer("weight", 0, _UINT32_MAX)
        weights.append(weight or 0)
        branch = target.at("split", index).touch()
        if len(destinations) > 1:
            branch.put("weight", weight or 0, view.place("weight"))
        _write_destination(view.view("destination"), branch, record, assembly)
    if len(weights) > 1 and sum(weights) == 0:
        rule.problem(
            "the weights of its destinations sum to zero", "route", allowed="a sum above 0"
        )
    elif len(weights) > 1 and sum(weights) != 100:
        rule.notice(f"the weights sum to {sum(weights)}, not 100; shares are weight / sum", "route")


def _write_destination(
    view: View, target: Branch, record: ServiceRecord, assembly: Assembly
) -> None:
    key = assembly.destination(view)
    if key is None:
        return
    target.put("service", key, view.place("host"))
    port = view.view("port").integer("number", 1, 65_535)
    simulated = assembly.services[key].port if key in assembly.services else port
    if port is not None and port != simulated:
        view.notice(f"port {port} is not the simulated port {simulated} of {key}", "port")
    subset = view.text("subset")
    if subset is not None:
        target.put("subset", subset, view.place("subset"))
        assembly.need_subset(view, key, subset)


def _write_retries(view: View, target: Branch) -> None:
    view.not_simulated("retryRemoteLocalities")
    attempts = view.integer("attempts", 0, 1000)
    if attempts is None:
        view.notice("retries without attempts disables retries")
        target.put("num_retries", 0, view.place())
    target.put("num_retries", attempts, view.place("attempts"))
    per_try = view.duration("perTryTimeout")
    target.put("per_try_timeout", per_try, view.place("perTryTimeout"))
    target.put("base_interval", view.duration("backoff"), view.place("backoff"))
    previous = view.boolean("retryIgnorePreviousHosts")
    target.put("previous_hosts", previous, view.place("retryIgnorePreviousHosts"))
    retry_on = view.text("retryOn")
    conditions = _write_retry_on(retry_on, view, target) if retry_on else []
    if per_try is not None and attempts and not _RETRIES_TIMEOUTS & set(conditions):
        view.notice(
            "an expired perTryTimeout is answered 504 and not retried: retryOn has none of "
            + ", ".join(sorted(_RETRIES_TIMEOUTS)),
            "perTryTimeout",
        )


def _write_retry_on(retry_on: str, view: View, target: Branch) -> list[str]:
    """Split retryOn into conditions and status codes, as Istio's parseRetryOn."""
    conditions: list[str] = []
    codes: list[int] = []
    for part in (item.strip() for item in retry_on.split(",")):
        if part.isdecimal() and 100 <= int(part) <= 599:
            codes.append(int(part))
        elif part in _RETRY_ON:
            conditions.append(part)
        elif part:
            near = did_you_mean(part, _RETRY_ON)
            hint = f"; did you mean {near}?" if near else ""
            view.notice(f"retryOn {part!r} is not simulated{hint}", "retryOn")
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    target.put("retry_on", conditions, view.place("retryOn"))
    target.put("retriable_status_codes", codes, view.place("retryOn"))
    return conditions
