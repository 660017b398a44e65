"""What a push of weights names: the rows of splits, and the delay of each proxy."""

from __future__ import annotations

from collections.abc import Mapping

from meshsim.errors import ConfigError, Problem
from meshsim.kernel.owner import Kernel
from meshsim.units import NS_PER_S

__all__ = ["delays_ns", "split_rows"]


def _proxy_names(kernel: Kernel) -> list[str]:
    """Return the names of the PROXY rows, those of replicas added since included."""
    declared = len(kernel.compiled.layout.endpoint_names)
    gateways = [f"gateway-{name}" for name in kernel.compiled.catalog.traffic]
    return kernel.endpoint_names[:declared] + gateways + kernel.endpoint_names[declared:]


def delays_ns(kernel: Kernel, delays: Mapping[str, float] | float) -> list[int]:
    """Return the delay of each PROXY row [ns], of delays [s] by name, or of one for all.

    Raises
    ------
    ConfigError
        If one is missing or negative.
    """
    names = _proxy_names(kernel)
    if isinstance(delays, Mapping):
        missing = [name for name in names if name not in delays]
        if missing:
            raise ConfigError([Problem("no delay is stated", found=", ".join(missing[:20]))])
        values = [delays[name] for name in names]
    else:
        values = [delays] * len(names)
    if min(values) < 0:
        raise ConfigError([Problem("a delay is >= 0", found=str(min(values)))])
    return [round(value * NS_PER_S) for value in values]


def split_rows(kernel: Kernel, service: str, weights: dict[str, int]) -> list[tuple[int, int, str]]:
    """Return (ROUTE, SPLIT, subset) of the newest version that `weights` speaks of.

    Raises
    ------
    ConfigError
        If no split has these subsets, or the weights are negative or all 0.
    """
    rows = [
        (route, split, subset)
        for route, split, routed, subset in kernel.splits
        if routed == service and subset
    ]
    unknown = set(weights) - {subset for _, _, subset in rows}
    if unknown or not rows:
        found = ", ".join(sorted(unknown)) or service
        raise ConfigError([Problem("no weighted split has these subsets", found=found)])
    if sum(weights.values()) <= 0 or min(weights.values()) < 0:
        raise ConfigError([Problem("weights are >= 0 and not all 0", found=str(weights))])
    return rows
