"""What one client proxy believes of the health of its hosts."""

from __future__ import annotations

__all__ = ["BY_DISCOVERY", "HEALTHY", "PANICKING", "UNHEALTHY"]

# What a host's `healthy` says.
UNHEALTHY = 0  # excluded
HEALTHY = 1
PANICKING = 2  # unhealthy, and selectable because its cluster is in panic

# Why a host is unhealthy: bits of its `unhealthy`.
BY_DISCOVERY = 1 << 0  # the control plane said so (EDS health status)
