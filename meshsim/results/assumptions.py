"""What the mesh assumes where the scenario says nothing, in a few lines.

Rule: of the defaults of a resolved scenario those that a reader of a result must know get one
line for each distinct value: load balancing policy, retries, timeouts, limits of the circuit
breakers, idle connections.  A line names services only where they differ.  The other defaults
are counted, and `meshsim explain` tells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["assumption_lines"]

_NAMES_MAX = 3
#: Policy field -> topic; fields of a topic that share value and source share a line.
_TOPICS = {
    "load_balancing.policy": "load balancing",
    "routes[*].retry.num_retries": "retries",
    "routes[*].retry.retry_on": "retries",
    "routes[*].timeout": "timeouts",
    "routes[*].retry.per_try_timeout": "timeouts",
    "connection_pool.connect_timeout": "connections",
    "connection_pool.idle_timeout": "connections",
    "circuit_breakers.max_connections": "circuit breakers",
    "circuit_breakers.max_pending_requests": "circuit breakers",
    "circuit_breakers.max_requests": "circuit breakers",
    "circuit_breakers.max_retries": "circuit breakers",
}
#: The field without the service, whose name may contain dots.
_FIELD = re.compile(
    r"policies\.(?P<service>.+)\."
    r"(?P<field>load_balancing\.\w+|circuit_breakers\.\w+|connection_pool\.\w+"
    r"|routes\[\d+\]\.timeout|routes\[\d+\]\.retry\.\w+)"
)
_WORDS = {"timeout": "route timeout", "per_try_timeout": "per-try timeout"}
_UNLIMITED = "(no limit)"
_NONE = "0s"

#: Topic -> its fields -> (value, source), of one service.
_Stated = dict[str, dict[str, tuple[str, str]]]


def assumption_lines(defaults: Mapping[str, str]) -> list[str]:
    """Return the defaults that matter, a line each, and the number of the others.

    Parameters
    ----------
    defaults : mapping of str to str
        Field path -> "value: source" of policies; other paths are only counted.

    Examples
    --------
    >>> assumption_lines({"policies.a.load_balancing.policy": "RANDOM: Istio default (x.go)"})
    ['load balancing RANDOM: Istio default (x.go)']
    """
    services: dict[str, _Stated] = {}
    told = 0
    for path, text in defaults.items():
        match = _FIELD.fullmatch(path)
        if match is None or ".subsets." in match["service"]:
            continue
        field = re.sub(r"\[\d+\]", "[*]", match["field"])
        topic = _TOPICS.get(field)
        if topic is None:
            continue
        value, _, source = text.partition(": ")
        stated = services.setdefault(match["service"], {}).setdefault(topic, {})
        stated[field.rpartition(".")[2]] = (value, source)
        told += 1
    lines = _lines(services)
    others = len(defaults) - told
    if others:
        noun = "default" if others == 1 else "defaults"
        lines.append(f"{others:,} further {noun}: meshsim explain SCENARIO policies")
    return lines


def _lines(services: Mapping[str, _Stated]) -> list[str]:
    """Return a line for each distinct text, topic by topic."""
    lines = []
    for topic in dict.fromkeys(_TOPICS.values()):
        holders: dict[str, list[str]] = {}
        for service, stated in services.items():
            for text in _texts(topic, stated.get(topic, {})):
                holders.setdefault(text, []).append(service)
        for text, names in holders.items():
            everywhere = len(names) == len(services)
            lines.append(text if everywhere else f"{text}, {_named(names)}")
    return lines


def _named(services: list[str]) -> str:
    if len(services) <= _NAMES_MAX:
        return "for " + ", ".join(services)
    return f"for {len(services):,} services"


def _texts(topic: str, stated: dict[str, tuple[str, str]]) -> list[str]:
    """Write what one service takes from its mesh under `topic`."""
    if topic == "retries":
        return _retries(stated)
    texts = []
    # Limits of one value and source are told together.
    alike: dict[tuple[str, str], list[str]] = {}
    for field, told in stated.items():
        alike.setdefault(told, []).append(field)
    for (value, source), fields in alike.items():
        words = " and ".join(_WORDS.get(field, field.replace("_", " ")) for field in fields)
        if topic == "load balancing":
            texts.append(f"load balancing {value}: {source}")
        elif topic == "circuit breakers" and value.endswith(_UNLIMITED):
            texts.append(f"circuit breakers: no limit on {', '.join(fields)}: {source}")
        elif topic == "circuit breakers":
            limits = ", ".join(f"{field} {value}" for field in fields)
            texts.append(f"circuit breakers: {limits}: {source}")
        elif value == _NONE:
            texts.append(f"no {words}: {source}")
        else:
            texts.append(f"{words} {value}: {source}")
    return texts


def _retries(stated: dict[str, tuple[str, str]]) -> list[str]:
    """Write number and conditions of retries; the one that is stated is not a default."""
    number, source = stated.get("num_retries", ("", ""))
    conditions, conditions_source = stated.get("retry_on", ("", ""))
    conditions = conditions.strip("[]")
    if number == "0":
        return [f"no retries: {source}"]
    if not number:
        return [f"retries on {conditions}: {conditions_source}"] if conditions else []
    noun = "retry" if number == "1" else "retries"
    if conditions:
        return [f"{number} {noun} on {conditions}: {source}"]
    return [f"{number} {noun}: {source}"]
