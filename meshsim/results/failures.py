"""Why requests fail: response flags by traffic class and by edge, and a sentence on the worst.

Rule: a failure is told where Envoy would log it: the flag of the response at the proxy that
made it.  A caller that passes the error on answers without a flag ("-"), so what a class lacks
is looked for on the edges that its requests can reach: the flag and the edge with the most
responses, and of equal ones the deepest, where the error began.

References
----------
Envoy, docs/root/configuration/observability/access_log/usage.rst (RESPONSE_FLAGS).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshsim.results.wording import NAMES_MAX, WITHHELD, percent

if TYPE_CHECKING:
    import pandas as pd

    from meshsim.results.result import Result

__all__ = ["flag_counts", "rows", "sentences"]

#: Below this share of good responses a class is said to fail under the verdict.
_GOOD_SHARE_MINIMUM = 0.5
_DELAYED = "DI"
_MEANING = {
    "UH": "no healthy upstream",
    "UF": "upstream connection failure",
    "UO": "a circuit breaker is open",
    "NR": "no route",
    "URX": "retry limit reached",
    "UT": "upstream request timeout",
    "LR": "local reset",
    "UR": "remote reset",
    "UC": "upstream connection termination",
    "DC": "downstream connection termination",
    "NC": "no cluster",
    "RL": "rate limited",
    "DI": "delay injected",
    "FI": "abort injected",
}

#: Response flag -> responses, most frequent first.
Flags = dict[str, int]


def flag_counts(table: pd.DataFrame) -> dict[tuple[str, str], Flags]:
    """Return the flags of `Result.flags` by (caller, service); service "" is a traffic class."""
    counts: dict[tuple[str, str], Flags] = {}
    ordered = table.sort_values("responses", ascending=False, kind="stable")
    columns = (ordered[name] for name in ("caller", "service", "flag", "responses"))
    for caller, service, flag, responses in zip(*columns, strict=True):
        counts.setdefault((str(caller), str(service)), {})[str(flag)] = int(responses)
    return counts


def rows(result: Result) -> list[list[str]]:
    """Return place, failed share and response flags of the classes and edges that fail."""
    counts = flag_counts(result.flags())
    traffic, edges = result.traffic(), result.edges()
    places = [((str(name), ""), row["success"]) for name, row in traffic.iterrows()]
    places += [((row["caller"], row["service"]), row["success"]) for _, row in edges.iterrows()]
    return [
        [" → ".join(filter(None, place)), percent(1 - success), _written(counts.get(place, {}))]
        for place, success in places
        if place in counts or success < 1
    ]


def _written(flags: Flags) -> str:
    """Write the flags and how often they occurred."""
    return ", ".join(f"{flag} {count:,}" for flag, count in flags.items()) or WITHHELD


def sentences(result: Result) -> list[str]:
    """Return one sentence for each class of which less than half ends well, at most a few."""
    # A delay that was injected is no reason to fail.
    counts = {
        place: {flag: count for flag, count in flags.items() if flag != _DELAYED}
        for place, flags in flag_counts(result.flags()).items()
    }
    counts = {place: flags for place, flags in counts.items() if flags}
    table = result.traffic()
    failing = table[table["goodput_rps"] < _GOOD_SHARE_MINIMUM * table["completed_rps"]]
    told = [
        f"{_share(row['goodput_rps'] / row['completed_rps'])} of the requests of {name} succeeded: "
        f"{_cause(_reachable(str(name), result.catalog.edges), counts)}."
        for name, row in failing.head(NAMES_MAX).iterrows()
    ]
    more = len(failing) - len(told)
    noun = "class" if more == 1 else "classes"
    return told + ([f"and less than half of those of {more:,} more {noun}."] if more else [])


def _share(good: float) -> str:
    return f"only {percent(good)}" if good else "none"


def _cause(edges: list[tuple[str, str]], counts: dict[tuple[str, str], Flags]) -> str:
    """Name the most frequent flag and its edge; of equally frequent ones the deepest."""
    found = [(edge, *next(iter(counts[edge].items()))) for edge in edges if edge in counts]
    if not found:
        return "no proxy made these errors: the services answer them"
    (caller, service), flag, _ = max(reversed(found), key=lambda item: item[2])
    meaning = f" ({_MEANING[flag]})" if flag in _MEANING else ""
    return f"most often {flag}{meaning} on {caller} → {service}"


def _reachable(traffic: str, edges: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Return the edges that requests of a class may take, the nearest first."""
    callees: dict[str, list[str]] = {}
    for caller, service in edges:
        callees.setdefault(caller, []).append(service)
    found: list[tuple[str, str]] = []
    callers = [traffic]
    seen = {traffic}
    for caller in callers:  # grows on the way
        for service in callees.get(caller, ()):
            found.append((caller, service))
            if service not in seen:
                seen.add(service)
                callers.append(service)
    return found
