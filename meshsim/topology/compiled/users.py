"""Users of a traffic class: which headers name them, and what requests of each look like.

Rule: a class with `users` carries that many values, named ``<value>-<number>``, in every header
that a consistent hash reads, as far as the class states it; the header of a call holds for all of
them.  Which user asks belongs to the request, so all that it causes is that user's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from meshsim.policy.routing import RequestAttributes
from meshsim.topology.compiled.programs import CallSite, attributes_of
from meshsim.topology.model import Topology, TrafficClass

__all__ = ["name_of_user", "naming_headers", "requests_by_user", "telling_headers"]


def name_of_user(value: str, number: int) -> str:
    """Return what a header that names users says of user `number`."""
    return f"{value}-{number}"


def naming_headers(topology: Topology) -> set[str]:
    """Return the names of all headers that a consistent hash reads, in lower case."""
    return {
        cluster.load_balancing.hash_header.lower()
        for policy in topology.policies.values()
        for cluster in (policy, *policy.subsets.values())
        if cluster.load_balancing is not None and cluster.load_balancing.hash_header
    }


def telling_headers(
    site: CallSite, traffic: TrafficClass, naming: Collection[str]
) -> dict[str, str]:
    """Return the headers that differ between the users of `traffic` at `site`, as it states them.

    Parameters
    ----------
    site : CallSite
    traffic : TrafficClass
    naming : collection of str
        What `naming_headers` returns.
    """
    of_call = () if site.workload is None else {name.lower() for name in site.call.headers}
    return {
        name: value
        for name, value in traffic.headers.items()
        if traffic.users is not None and name.lower() in naming and name.lower() not in of_call
    }


def requests_by_user(
    site: CallSite, traffic: TrafficClass, naming: Collection[str], read: Collection[str]
) -> list[RequestAttributes]:
    """Return what the requests of each user look like; one of all, if they look alike.

    Parameters
    ----------
    site : CallSite
        Where they are made.
    traffic : TrafficClass
    naming : collection of str
        What `naming_headers` returns.
    read : collection of str
        Headers that are looked at, in lower case.
    """
    request = attributes_of(site, traffic)
    telling = telling_headers(site, traffic, naming)
    if traffic.users is None or not any(name.lower() in read for name in telling):
        return [request]
    return [
        replace(request, headers={**request.headers, **_names(telling, number)})
        for number in range(traffic.users)
    ]


def _names(telling: Mapping[str, str], number: int) -> dict[str, str]:
    return {name: name_of_user(value, number) for name, value in telling.items()}
