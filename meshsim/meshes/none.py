"""No mesh: applications call each other directly.

There is no proxy, so a hop costs no proxy CPU.  kube-proxy sends each new connection to a
random ready endpoint; HTTP clients open many short-lived or pooled connections, so the model
picks an endpoint at random for each request (a single long-lived connection would pin a caller
to one endpoint, which this profile does not show).  Nothing is retried, limited or timed out
unless the scenario says so; what a scenario file itself states is carried out by the caller's
client library, at no proxy cost.  Policies read from a mesh's configuration are dropped by
`meshsim.meshes.resolve`: a client without a proxy never sees them.

References
----------
kubernetes/kubernetes pkg/proxy/iptables/proxier.go (statistic mode random);
Linux Documentation/networking/ip-sysctl.rst (tcp_syn_retries 6: about 127 s).
"""

from __future__ import annotations

from meshsim.meshes.defaults import (
    ENVOY_BALANCERS,
    ENVOY_RETRY_BUDGET,
    UNLIMITED,
    PolicyDefaults,
    from_source,
)
from meshsim.topology.profile import MeshProfile, ProxyCost
from meshsim.units import NS_PER_S

__all__ = ["DEFAULTS", "PROFILE"]

_NO_PROXY = "no mesh: no proxy sets it"

PROFILE = MeshProfile(
    name="none",
    sidecars=False,
    cost=ProxyCost(),
    references=("kubernetes/kubernetes pkg/proxy/iptables/proxier.go",),
)

_UNLIMITED = from_source(
    _NO_PROXY,
    max_connections=UNLIMITED,
    max_pending_requests=UNLIMITED,
    max_requests=UNLIMITED,
    max_retries=UNLIMITED,
)

DEFAULTS = PolicyDefaults(
    load_balancing={
        **ENVOY_BALANCERS,
        **from_source("no mesh: kube-proxy picks an endpoint at random", policy="RANDOM"),
        **from_source(_NO_PROXY, healthy_panic_threshold=0.0, update_merge_window=0),
    },
    circuit_breakers=_UNLIMITED,
    high_priority=_UNLIMITED,
    retry_budget=ENVOY_RETRY_BUDGET,
    connection_pool={
        **from_source(
            "no mesh: Linux gives up connecting (tcp_syn_retries 6)",
            connect_timeout=127 * NS_PER_S,
        ),
        **from_source(_NO_PROXY, idle_timeout=0, max_requests_per_connection=0),
    },
    route=from_source(_NO_PROXY, timeout=0),
    retry={
        **from_source(
            _NO_PROXY,
            num_retries=0,
            retry_on=(),
            retriable_status_codes=(),
            per_try_timeout=0,
            previous_hosts=False,
            host_selection_retry_max_attempts=1,
        ),
        **from_source("Envoy default (route_components.proto)", base_interval=25_000_000),
        **from_source("Envoy (backoff_strategy.cc): full jitter", jitter="FULL"),
    },
    # A client library that was told to retry: Envoy's rules for a policy without details.
    retry_stated=from_source(
        "no mesh: a stated retry policy retries once (as Envoy's route_components.proto)",
        num_retries=1,
        retry_on=("connect-failure", "refused-stream", "reset"),
    ),
)
