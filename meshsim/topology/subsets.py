"""What a scenario says of Envoy's subset load balancer.

Rule: a cluster with `subset_config` picks among the hosts whose workload has the labels that the
route asks for (`WeightedCluster.metadata_match`); see `meshsim.policy.subsets`.  Unlike the named
`subsets` of a service, which are clusters of their own as in Istio, all subsets here share one
cluster with its limits and counters.

References
----------
Envoy, api/envoy/config/cluster/v3/cluster.proto (LbSubsetConfig).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from meshsim.policy.subsets import Selector, SubsetRule
from meshsim.topology.base import Boolean, Model

__all__ = ["SubsetConfig", "SubsetSelector"]


class SubsetSelector(Model):
    """Names of labels that make subsets, and what holds for them where one is not there."""

    keys: tuple[str, ...] = Field(min_length=1)
    fallback_policy: Literal[
        "NOT_DEFINED", "NO_FALLBACK", "ANY_ENDPOINT", "DEFAULT_SUBSET", "KEYS_SUBSET"
    ] = "NOT_DEFINED"
    fallback_keys_subset: tuple[str, ...] = ()


class SubsetConfig(Model):
    """Envoy's LbSubsetConfig; its defaults are Envoy's."""

    subset_selectors: tuple[SubsetSelector, ...] = ()
    fallback_policy: Literal["NO_FALLBACK", "ANY_ENDPOINT", "DEFAULT_SUBSET"] = "NO_FALLBACK"
    default_subset: dict[str, str] = Field(default_factory=dict)
    metadata_fallback_policy: Literal["METADATA_NO_FALLBACK", "FALLBACK_LIST"] = (
        "METADATA_NO_FALLBACK"
    )
    panic_mode_any: Boolean = False

    def rule(self) -> SubsetRule:
        """Return what the policy engine reads."""
        return SubsetRule(
            tuple(
                Selector(
                    frozenset(item.keys),
                    item.fallback_policy,
                    frozenset(item.fallback_keys_subset),
                )
                for item in self.subset_selectors
            ),
            self.fallback_policy,
            self.default_subset,
            self.metadata_fallback_policy == "FALLBACK_LIST",
            self.panic_mode_any,
        )
