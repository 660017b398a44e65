"""Istio with sidecars: two Envoys on every hop, and what Istio makes of an unset field.

Where proxies sit: one Envoy beside every application replica and one at each traffic source
(the gateway); a request and its response pass the caller's and the callee's.  Load-balancer
state is one per proxy, not one per worker thread.  Traffic classes share no gateway: each has
one of its own, with its own workers, connections and memory, where a cluster may have a single
Deployment for all.

Proxy cost: `pass_ns` and `wakeup_ns` are the two ends of a measurement (`data/envoy_cpu.csv`,
Envoy 1.40.0, HTTP/1.1, two plain Envoys, small bodies): 54 us of CPU a request with 32
connections kept busy, 151 us with one.  A request makes two passes, so

    2 * pass = 54 us            pass = 27 us
    2 * (pass + wakeup) = 151 us    wakeup = 48.5 us

`byte_ns` is the rise of the client Envoy's cost from 75 to 90 us with bodies of 64 KiB:
15 us / 65,536 bytes.  Measured without the filters Istio adds (they cost 2 to 20 us more in the
same measurement); Istio's own figure, 0.20 vCPU per 1,000 requests/s and proxy, was taken on
other hardware with telemetry on.

A new connection costs each of its two proxies `handshake_ns`: a full TLS 1.3 handshake with
RSA-2048 keys, which Istio's agent asks for unless told otherwise, took 1,027 us at the client and
953 us at the server (`data/envoy_handshake.csv`); both get the mean.  Istio's workloads in a mesh
speak mutual TLS by default (enableAutoMtls).

Memory: Istio documents 60 MB a proxy for its test mesh of 1,000 services (40 to 60 MB over the
releases); an Envoy that has no configuration holds 13.7 MB of its own (USS, measured with the
above).  The larger figure is used: it is what a namespace without scoping has to provide for.
What a connection adds was not measured and is left out.

References
----------
istio/istio pilot/pkg/networking/core/route/retry/retry.go,
pilot/pkg/networking/core/cluster_traffic_policy.go, pkg/config/mesh/mesh.go,
pilot/pkg/features (EXCLUDE_UNSAFE_503_FROM_DEFAULT_RETRY);
istio.io v1.24, docs/ops/deployment/performance-and-scalability.
"""

from __future__ import annotations

from meshsim.meshes.defaults import (
    ENVOY_BALANCERS,
    ENVOY_OUTLIER_DETECTION,
    ENVOY_RETRY_BUDGET,
    UNLIMITED,
    PolicyDefaults,
    from_source,
)
from meshsim.topology.profile import MeshProfile, ProxyCost
from meshsim.units import NS_PER_S

__all__ = ["DEFAULTS", "PROFILE"]

_RETRY_SOURCE = "Istio default (pilot/pkg/networking/core/route/retry/retry.go)"
_CLUSTER_SOURCE = "Istio default (pilot/pkg/networking/core/cluster_traffic_policy.go)"

PROFILE = MeshProfile(
    name="istio-sidecar",
    sidecars=True,
    envoy_release="1.40",
    cost=ProxyCost(
        pass_ns=27_000,
        wakeup_ns=48_500,
        byte_ns=0.23,
        handshake_ns=990_000,
        # Istio's fixed default before it was derived from the CPU limit (proxyConfig.concurrency).
        workers=2,
        memory_bytes=60e6,
    ),
    references=(
        "CPU: measured on Envoy 1.40.0, two plain Envoys, HTTP/1.1 (data/envoy_cpu.csv)",
        "handshake: measured on Envoy 1.40.0, TLS 1.3, RSA-2048 (data/envoy_handshake.csv)",
        "keys: Istio's agent asks for RSA-2048 (istio/istio pilot/cmd/pilot-agent/options)",
        "workers: Istio's former default concurrency of 2 (istio/api mesh/v1alpha1/proxy.proto)",
        "memory: istio.io v1.24 docs/ops/deployment/performance-and-scalability (60 MB a proxy)",
    ),
)

DEFAULTS = PolicyDefaults(
    load_balancing={
        **ENVOY_BALANCERS,
        **from_source(_CLUSTER_SOURCE, policy="LEAST_REQUEST", minimum_ring_size=1024),
    },
    circuit_breakers=from_source(
        _CLUSTER_SOURCE,
        max_connections=UNLIMITED,
        max_pending_requests=UNLIMITED,
        max_requests=UNLIMITED,
        max_retries=UNLIMITED,
    ),
    retry_budget=ENVOY_RETRY_BUDGET,
    outlier_detection={
        **ENVOY_OUTLIER_DETECTION,
        **from_source(
            "Istio (cluster_traffic_policy.go, applyOutlierDetection: no success rate)",
            enforcing_success_rate=0,
            enforcing_local_origin_success_rate=0,
        ),
    },
    panic_watched=from_source(
        "Istio default with outlier detection (cluster_traffic_policy.go: minHealthPercent 0)",
        healthy_panic_threshold=0.0,
    ),
    connection_pool={
        **from_source(
            "Istio default (meshConfig.connectTimeout, pkg/config/mesh/mesh.go)",
            connect_timeout=10 * NS_PER_S,
        ),
        **from_source("Envoy default (protocol.proto idle_timeout)", idle_timeout=3600 * NS_PER_S),
        **from_source(
            "Istio default (maxRequestsPerConnection: no limit)", max_requests_per_connection=0
        ),
    },
    route=from_source("Istio default (VirtualService timeout: disabled)", timeout=0),
    retry={
        **from_source(
            _RETRY_SOURCE,
            num_retries=2,
            retry_on=(
                "connect-failure",
                "refused-stream",
                "unavailable",
                "cancelled",
                "retriable-status-codes",
            ),
            previous_hosts=True,
            host_selection_retry_max_attempts=5,
        ),
        **from_source(
            "Istio default (EXCLUDE_UNSAFE_503_FROM_DEFAULT_RETRY: no status codes)",
            retriable_status_codes=(),
        ),
        **from_source("Istio default (no per-try timeout: the route's holds)", per_try_timeout=0),
        **from_source("Envoy default (route_components.proto)", base_interval=25_000_000),
        **from_source("Envoy (backoff_strategy.cc): full jitter", jitter="FULL"),
    },
    retry_hashed=from_source(
        "Istio default with consistent hash "
        "(pilot/pkg/networking/core/route/retry/retry.go: DefaultConsistentHashPolicy)",
        previous_hosts=False,
    ),
)
