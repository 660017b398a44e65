"""Subsets of a cluster: which hosts a request that asks for labels may go to.

Rule (Envoy's subset load balancer): a route asks for labels.  Their names must be exactly those
of a selector, and a host must have all their values; hosts that do are the subset, which has a
balancer of its own.  If there is no such subset, the selector's own fallback holds, or else the
cluster's:

NO_FALLBACK     no host
ANY_ENDPOINT    all hosts
DEFAULT_SUBSET  hosts with the labels of `default_subset`
KEYS_SUBSET     (of a selector) as if only the labels `fallback_keys_subset` were asked for

A subset that exists but has no healthy host answers "no host": the fallback is for subsets that
are not there.  With METADATA FALLBACK_LIST a route names several sets of labels, each put over
those it asks for; they are tried in turn until one has a host.  A request that asks for nothing
goes by the cluster's fallback.  With `panic_mode_any` all hosts are tried where the fallback has
none.

Labels do not change while a proxy holds a configuration, so all of this is worked out once into a
*chain*: lanes (`meshsim.state.locality`) to be tried in order.

References
----------
Envoy, source/extensions/load_balancing_policies/subset/subset_lb.cc (chooseHost,
chooseHostIteration, chooseHostForSelectorFallbackPolicy);
api/envoy/extensions/load_balancing_policies/subset/v3/subset.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshsim.jit import kernel_jit
from meshsim.policy.load_balancing import pick_host
from meshsim.state.codes import NO_HOST

__all__ = ["Selector", "SubsetRule", "pick_in_chain", "subset_chain"]

Labels = Mapping[str, str]
#: Positions of hosts, in order.
Hosts = tuple[int, ...]


@dataclass(frozen=True)
class Selector:
    """Names of labels that make subsets, and what holds where a subset is not there.

    Parameters
    ----------
    keys : frozenset of str
    fallback_policy : str
        "NOT_DEFINED": the cluster's.
    fallback_keys : frozenset of str
        For KEYS_SUBSET: some of `keys`.
    """

    keys: frozenset[str]
    fallback_policy: str = "NOT_DEFINED"
    fallback_keys: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SubsetRule:
    """Envoy's LbSubsetConfig.

    Parameters
    ----------
    selectors : tuple of Selector
    fallback_policy : str
    default_subset : mapping of str to str
    fallback_list : bool
        Whether routes may name several sets of labels (METADATA FALLBACK_LIST).
    panic_mode_any : bool
    """

    selectors: tuple[Selector, ...]
    fallback_policy: str = "NO_FALLBACK"
    default_subset: Labels | None = None
    fallback_list: bool = False
    panic_mode_any: bool = False


def subset_chain(
    rule: SubsetRule,
    hosts: Sequence[Labels],
    asked: Labels,
    fallback_list: Sequence[Labels] = (),
) -> tuple[Hosts, ...]:
    """Return the sets of hosts to be tried in order.

    Parameters
    ----------
    rule : SubsetRule
    hosts : sequence of mapping
        Labels of each host of the cluster.
    asked : mapping
        Labels that the route asks for.
    fallback_list : sequence of mapping
        Sets of labels of the route, each put over `asked`; ignored unless the rule allows it.

    Examples
    --------
    >>> rule = SubsetRule((Selector(frozenset(["version"])),), "ANY_ENDPOINT")
    >>> hosts = [{"version": "v1"}, {"version": "v2"}]
    >>> subset_chain(rule, hosts, {"version": "v2"}), subset_chain(rule, hosts, {"version": "v3"})
    (((1,),), ((0, 1),))
    """
    if not (rule.fallback_list and fallback_list):
        return _one_chain(rule, hosts, asked)
    chains = (_one_chain(rule, hosts, {**asked, **labels}) for labels in fallback_list)
    return tuple(dict.fromkeys(part for chain in chains for part in chain))


def _one_chain(rule: SubsetRule, hosts: Sequence[Labels], asked: Labels) -> tuple[Hosts, ...]:
    """Return the sets of hosts for one set of labels: a subset, or the fallback."""
    keys = frozenset(asked)
    selector = next((item for item in rule.selectors if item.keys == keys), None)
    if selector is not None:
        found = _with(hosts, asked)
        if found:
            return (found,)
        if selector.fallback_policy == "KEYS_SUBSET":
            fewer = {key: value for key, value in asked.items() if key in selector.fallback_keys}
            return _one_chain(rule, hosts, fewer)
        if selector.fallback_policy != "NOT_DEFINED":
            return _fallback(rule, selector.fallback_policy, hosts)
    chain = _fallback(rule, rule.fallback_policy, hosts)
    if rule.panic_mode_any and rule.fallback_policy != "NO_FALLBACK":
        chain = tuple(dict.fromkeys((*chain, tuple(range(len(hosts))))))
    return chain


def _with(hosts: Sequence[Labels], labels: Labels) -> Hosts:
    """Return the hosts that have all of `labels`."""
    return tuple(row for row, has in enumerate(hosts) if labels.items() <= has.items())


def _fallback(rule: SubsetRule, policy: str, hosts: Sequence[Labels]) -> tuple[Hosts, ...]:
    if policy == "ANY_ENDPOINT":
        return (tuple(range(len(hosts))),)
    if policy == "DEFAULT_SUBSET":
        return (_with(hosts, rule.default_subset or {}),)
    return ()


@kernel_jit
def pick_in_chain(
    hosts: Any,
    members: Any,
    clusters: Any,
    first_lane: int,
    configs: Any,
    table: Any,
    memory: Any,
    chains: Any,
    chain: int,
    hash_key: Any,
    attempt_number: int,
    now_ns: int,
    rng: Any,
) -> int:
    """Return the HOST of a pick on the first lane of a chain that has one, or `NO_HOST`.

    Parameters
    ----------
    first_lane : int
        CLUSTER row from which lanes are counted.
    chains : ndarray[int32], shape (n_words,)
        ``chains[chain]`` lanes follow.  Read only.
    chain : int
        See `chains`.

    Notes
    -----
    The others are those of `meshsim.policy.load_balancing.pick_host`.
    """
    for place in range(chain + 1, chain + 1 + chains[chain]):
        lane = first_lane + chains[place]
        position = pick_host(
            hosts,
            members,
            clusters,
            lane,
            configs,
            table,
            memory,
            hash_key,
            attempt_number,
            now_ns,
            rng,
        )
        if position != NO_HOST:
            return int(members[clusters["member_start"][lane] + position])
    return NO_HOST
