"""The policy engine: every decision a mesh proxy takes, as a pure function.

Rule: a policy decides from what is passed in: state rows first, then configuration, then
`now_ns` and a random stream.  Nothing here knows a clock, a socket, an event queue or the true
state of a server, so the kernel (virtual time) and a live proxy (real time) call the same
compiled functions and decide alike.

- `request`: the per-request machine that composes the others; `step` is its one entry.
- `load_balancing`: which host; `hashing` hashes keys as Envoy does.
- `locality`: which part of a cluster, by `priority` and `zone_aware`; `subsets`: by labels.
- `routing`: which route, and which destination of a split.
- `retry`, `timeout`, `circuit_breakers`: whether to try again, until when, and how many at once.
- `fault`, `rate_limit`, `global_rate_limit`, `adaptive_concurrency`: what filters hold back or
  refuse, at either end.
- `custom`: policies of the user's, by the decorators `load_balancer`, `retry_policy` and
  `admission_policy`, which are names of this package too.
- `health`: which hosts may be picked, by `outlier_detection`, `outlier_sweep`, `failure_accrual`,
  `health_check` and `panic`.

Strings are matched in plain Python once per configuration; compiled code reads integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsim.policy.custom import admission_policy as admission_policy
    from meshsim.policy.custom import load_balancer as load_balancer
    from meshsim.policy.custom import retry_policy as retry_policy

__all__ = ["admission_policy", "load_balancer", "retry_policy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from meshsim.policy import custom

    return getattr(custom, name)
