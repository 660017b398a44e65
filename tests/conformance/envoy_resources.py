"""A policy of ours as Envoy's resources, in the JSON form of a static bootstrap.

Rule: what a policy leaves unsaid stays unsaid, so that Envoy's own default is what ours is
compared with; "no limit" of ours is Envoy's largest number.
"""

import math
from itertools import groupby

from meshsim.controlplane.configuration import EndpointLocality, destinations, mirror_names

_TYPE = "type.googleapis.com/envoy."
_EXTENSIONS = f"{_TYPE}extensions."
_UNLIMITED = 2**32 - 1
_MILLION = 1_000_000
_REDIRECTS = {
    301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}  # fmt: skip
#: Access log: a line a request, its number and its response flags.  (A header would come too
#: early: some flags are set after the response has been sent.)
ACCESS_LOG = "access"
#: Header with the number of a request.
NUMBER = "x-number"
#: Name of the listener, and prefix of its counters.
OUTBOUND = "out"
#: Name of the cluster of the caller's own kind.
OWN_KIND = "a"


def seconds(duration_ns):
    return f"{duration_ns / 1e9:.9f}s"


def extension(name, kind, **fields):
    """Return a typed extension; `kind` is its message below ``envoy.extensions``."""
    return {"name": name, "typed_config": {"@type": _EXTENSIONS + kind, **fields}}


def percent(share):
    return {"numerator": round(share * _MILLION / 100), "denominator": "MILLION"}


def address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def _stated(model, *names):
    """Return the fields of `model` that were said, of `names` if any are given."""
    values = {name: getattr(model, name) for name in names or type(model).model_fields}
    return {name: value for name, value in values.items() if value is not None}


# --- Clusters -------------------------------------------------------------------------------


def cluster(name, policy, endpoints, merge_window=None):
    """Return a cluster of `endpoints` (EndpointAddress) under a `ClusterPolicy`.

    Changes of the hosts' health reach the workers at once if the last such change is longer ago
    than `merge_window`, else together at its end; by default Envoy's own, a second.
    """
    balancing = policy.load_balancing
    common = {} if merge_window is None else {"update_merge_window": merge_window}
    if balancing.healthy_panic_threshold is not None:
        common["healthy_panic_threshold"] = {"value": balancing.healthy_panic_threshold}
    if balancing.hash_balance_factor is not None:
        common["consistent_hashing_lb_config"] = {
            "hash_balance_factor": balancing.hash_balance_factor
        }
    assignment = {"cluster_name": name, "endpoints": _localities(endpoints)}
    if policy.locality is not None:
        common |= _spreading(policy.locality)
        factor = policy.locality.overprovisioning_factor
        if factor is not None:
            assignment["policy"] = {"overprovisioning_factor": factor}
    resource = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "common_lb_config": common,
        "load_assignment": assignment,
        **_balancing(balancing),
        **_breakers(policy.circuit_breakers),
    }
    if policy.outlier_detection is not None:
        resource["outlier_detection"] = _outliers(policy.outlier_detection)
    if policy.health_check is not None:
        resource["health_checks"] = [_health_check(policy.health_check)]
    if policy.subset_config is not None:
        resource["lb_subset_config"] = _subsets(policy.subset_config)
    return resource


def _place(item):
    """Return priority, zone and weight of the locality that an endpoint is in."""
    locality = item.locality or EndpointLocality()
    return locality.priority, item.zone, locality.weight


def _localities(endpoints):
    return [
        {
            "priority": priority,
            "locality": {"zone": zone},
            "load_balancing_weight": weight,
            "lb_endpoints": [_endpoint(item) for item in group],
        }
        for (priority, zone, weight), group in groupby(sorted(endpoints, key=_place), key=_place)
    ]


def _spreading(locality):
    if locality.locality_weighted:
        return {"locality_weighted_lb_config": {}}
    if locality.zone_aware is None:
        return {}
    fields = _stated(locality.zone_aware, "min_cluster_size", "fail_traffic_on_panic")
    if locality.zone_aware.routing_enabled is not None:
        fields["routing_enabled"] = {"value": locality.zone_aware.routing_enabled}
    return {"zone_aware_lb_config": fields}


def own_kind(endpoints):
    """Return the cluster of the caller's own kind, as the endpoints' localities tell of it.

    Nobody asks it; it is there for how many of its members stand in which zone.
    """
    shares = {item.zone: item.locality.clients for item in endpoints}
    common = math.gcd(*shares.values())
    localities = [
        {
            "locality": {"zone": zone},
            "lb_endpoints": [
                {"endpoint": {"address": address(f"127.0.{row}.{number + 1}", 1)}}
                for number in range(share // common)
            ],
        }
        for row, (zone, share) in enumerate(shares.items())
    ]
    assignment = {"cluster_name": OWN_KIND, "endpoints": localities}
    return {"name": OWN_KIND, "type": "STATIC", "load_assignment": assignment}


def own_zone(endpoints):
    """Return what a bootstrap says of the caller, whose zone is the endpoints' local one."""
    (zone,) = {item.zone for item in endpoints if item.locality.local}
    return {
        "node": {"id": OWN_KIND, "cluster": OWN_KIND, "locality": {"zone": zone}},
        "cluster_manager": {"local_cluster_name": OWN_KIND},
    }


def _subsets(config):
    fields = {
        "fallback_policy": config.fallback_policy,
        "metadata_fallback_policy": config.metadata_fallback_policy,
        "panic_mode_any": config.panic_mode_any,
        "subset_selectors": [
            {
                "keys": item.keys,
                "fallback_policy": item.fallback_policy,
                "fallback_keys_subset": item.fallback_keys_subset,
            }
            for item in config.subset_selectors
        ],
    }
    return {**fields, "default_subset": config.default_subset} if config.default_subset else fields


def _endpoint(item):
    metadata = {"hash_key": item.name, **(item.labels or {})}
    return {
        "endpoint": {"address": address(item.host, item.port)},
        "load_balancing_weight": item.weight,
        "metadata": {"filter_metadata": {"envoy.lb": metadata}},
    }


def _balancing(settings):
    if settings.policy == "LEAST_REQUEST":
        fields = _stated(settings, "choice_count", "selection_method")
        if settings.active_request_bias is not None:
            bias = {"default_value": settings.active_request_bias, "runtime_key": "bias"}
            fields["active_request_bias"] = bias
        kind = "load_balancing_policies.least_request.v3.LeastRequest"
        item = {"typed_extension_config": extension("least_request", kind, **fields)}
        return {"load_balancing_policy": {"policies": [item]}}
    resource = {"lb_policy": settings.policy}
    if settings.policy == "RING_HASH":
        fields = _stated(settings, "minimum_ring_size", "maximum_ring_size")
        resource["ring_hash_lb_config"] = fields
    if settings.policy == "MAGLEV":
        resource["maglev_lb_config"] = _stated(settings, "table_size")
    if settings.slow_start is not None:
        start = settings.slow_start
        fields = {"slow_start_window": seconds(start.slow_start_window)}
        if start.aggression is not None:
            fields["aggression"] = {"default_value": start.aggression, "runtime_key": "aggression"}
        if start.min_weight_percent is not None:
            fields["min_weight_percent"] = {"value": start.min_weight_percent}
        resource["round_robin_lb_config"] = {"slow_start_config": fields}
    return resource


def _breakers(breakers):
    thresholds = [_thresholds(breakers)]
    if breakers.high is not None:
        thresholds.append({"priority": "HIGH", **_thresholds(breakers.high)})
    return {"circuit_breakers": {"thresholds": thresholds}}


def _thresholds(breakers):
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    limits = {name: getattr(breakers, name) for name in names}
    fields = {name: _UNLIMITED if limit is None else limit for name, limit in limits.items()}
    if breakers.retry_budget is not None:
        fields["retry_budget"] = {
            "budget_percent": {"value": breakers.retry_budget.budget_percent},
            "min_retry_concurrency": breakers.retry_budget.min_retry_concurrency,
        }
    return fields


def _outliers(rule):
    durations = ("interval", "base_ejection_time", "max_ejection_time", "max_ejection_time_jitter")
    fields = _stated(rule)
    return {name: seconds(value) if name in durations else value for name, value in fields.items()}


def _health_check(rule):
    numbers = ("interval_jitter_percent", "unhealthy_threshold", "healthy_threshold")
    fields = {
        name: value if name in numbers else seconds(value)
        for name, value in _stated(rule).items()
        if name != "path"
    }
    return {**fields, "http_health_check": {"path": rule.path}}


# --- Routes ---------------------------------------------------------------------------------


def routes(service, table, policies):
    """Return the route table of `service`; `policies` are those of the clusters by name."""
    return [
        {"match": matched, **_action(service, route, policies), **_filters(route)}
        for route in table
        for matched in ([_match(item) for item in route.match] or [{"prefix": "/"}])
    ]


def _string(match):
    if match.regex is not None:
        return {"safe_regex": {"regex": match.regex}}
    kind = "exact" if match.exact is not None else "prefix"
    return {kind: getattr(match, kind)}


def _condition(name, match, value="string_match"):
    """Return the matcher of a header or of a query parameter."""
    fields = {"present_match": match.present} if match.present is not None else {}
    fields = fields or {value: _string(match)}
    if match.invert:
        fields["invert_match"] = True
    return {"name": name, **fields}


def _match(item):
    matched = {"prefix": "/"}
    if item.path is not None:
        ((kind, text),) = _string(item.path).items()
        matched = {"path" if kind == "exact" else kind: text}
    if item.ignore_case:
        matched["case_sensitive"] = False
    headers = {":method": item.method, ":authority": item.authority, **item.headers}
    conditions = [_condition(name, match) for name, match in headers.items() if match is not None]
    query = [_condition(name, match) for name, match in item.query.items()]
    return {**matched, "headers": conditions, "query_parameters": query}


def _action(service, route, policies):
    if route.direct_response is not None:
        return {"direct_response": {"status": route.direct_response}}
    if route.redirect is not None:
        redirect = {"response_code": _REDIRECTS[route.redirect.response_code]}
        if route.redirect.host is not None:
            redirect["host_redirect"] = route.redirect.host
        if route.redirect.path is not None:
            redirect["path_redirect"] = route.redirect.path
        return {"redirect": redirect}
    names = list(destinations(service, route))
    action = {"timeout": seconds(route.timeout or 0), "priority": route.priority}
    if len(names) == 1:
        action["cluster"] = names[0]
        asked = _asked(route.split)
        if asked:
            action["metadata_match"] = {"filter_metadata": {"envoy.lb": asked}}
    else:
        weights = [item.weight for item in route.split]
        clusters = [{"name": n, "weight": w} for n, w in zip(names, weights, strict=True)]
        action["weighted_clusters"] = {"clusters": clusters}
    if route.retry is not None:
        action["retry_policy"] = _retry(route.retry)
    if route.hedge_policy is not None:
        action["hedge_policy"] = _stated(route.hedge_policy, "hedge_on_per_try_timeout")
    if route.mirrors:
        action["request_mirror_policies"] = [
            {
                "cluster": name,
                "runtime_fraction": {"default_value": percent(mirror.percentage)},
            }
            for mirror, name in zip(route.mirrors, mirror_names(service, route), strict=True)
        ]
    header = policies[names[0]].load_balancing.hash_header
    if header is not None:
        action["hash_policy"] = [{"header": {"header_name": header}}]
    return {"route": action}


def _asked(split):
    """Return the labels that a route of one destination asks for."""
    asked = {}
    for destination in split:
        asked |= destination.metadata_match
        if destination.fallback_list:
            asked["fallback_list"] = list(destination.fallback_list)
    return asked


def _retry(retry):
    fields = _stated(retry, "num_retries", "retriable_status_codes")
    fields["retry_on"] = ",".join(retry.retry_on or ())
    if retry.per_try_timeout is not None:
        fields["per_try_timeout"] = seconds(retry.per_try_timeout)
    if retry.base_interval is not None:
        intervals = {"base_interval": seconds(retry.base_interval)}
        if retry.max_interval is not None:
            intervals["max_interval"] = seconds(retry.max_interval)
        fields["retry_back_off"] = intervals
    limited = retry.rate_limited_retry_back_off
    if limited is not None:
        headers = [{"name": item.name, "format": item.format} for item in limited.reset_headers]
        longest = {"max_interval": seconds(limited.max_interval)} if limited.max_interval else {}
        fields["rate_limited_retry_back_off"] = {"reset_headers": headers, **longest}
    if retry.previous_hosts:
        kind = "retry.host.previous_hosts.v3.PreviousHostsPredicate"
        name = "envoy.retry_host_predicates.previous_hosts"
        fields["retry_host_predicate"] = [extension(name, kind)]
        fields["host_selection_retry_max_attempts"] = retry.host_selection_retry_max_attempts or 1
    return fields


def _filters(route):
    filters = {}
    if route.fault is not None:
        filters["envoy.filters.http.fault"] = _fault(route.fault)
    if route.rate_limit is not None:
        filters["envoy.filters.http.local_ratelimit"] = _rate_limit(route.rate_limit)
    return {"typed_per_filter_config": filters} if filters else {}


def _fault(fault):
    fields = {"@type": f"{_EXTENSIONS}filters.http.fault.v3.HTTPFault"}
    if fault.delay is not None:
        delay = seconds(fault.delay.fixed_delay)
        fields["delay"] = {"fixed_delay": delay, "percentage": percent(fault.delay.percentage)}
    if fault.abort is not None:
        status = fault.abort.http_status
        fields["abort"] = {"http_status": status, "percentage": percent(fault.abort.percentage)}
    if fault.max_active_faults is not None:
        fields["max_active_faults"] = fault.max_active_faults
    return fields


def _rate_limit(limit):
    bucket = limit.token_bucket
    fields = {
        "@type": f"{_EXTENSIONS}filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limit",
        "token_bucket": {
            "max_tokens": bucket.max_tokens,
            "tokens_per_fill": bucket.tokens_per_fill or 1,
            "fill_interval": seconds(bucket.fill_interval),
        },
    }
    for name in ("filter_enabled", "filter_enforced"):
        share = getattr(limit, name)
        fields[name] = {"default_value": percent(100 if share is None else share)}
    if limit.local_rate_limit_per_downstream_connection:
        fields["local_rate_limit_per_downstream_connection"] = True
    return fields


def local_rate_limit(limit):
    """Return the HTTP filter of a `LocalRateLimit` of the whole listener."""
    return {"name": "limit-of-the-listener", "typed_config": _rate_limit(limit)}


def adaptive_concurrency(stated):
    """Return the HTTP filter of an `AdaptiveConcurrency` whose fields are filled."""
    limits, least = stated.concurrency_limit_params, stated.min_rtt_calc_params
    fields = {
        "sample_aggregate_percentile": {"value": stated.sample_aggregate_percentile},
        "concurrency_limit_params": {
            "max_concurrency_limit": limits.max_concurrency_limit,
            "concurrency_update_interval": seconds(limits.concurrency_update_interval),
        },
        "min_rtt_calc_params": {
            "interval": seconds(least.interval),
            "request_count": least.request_count,
            "jitter": {"value": least.jitter},
            "min_concurrency": least.min_concurrency,
            "buffer": {"value": least.buffer},
        },
    }
    return extension(
        "envoy.filters.http.adaptive_concurrency",
        "filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
        gradient_controller_config=fields,
        enabled={"default_value": True, "runtime_key": "adaptive"},
    )


# --- Listeners ------------------------------------------------------------------------------


def listener(table, workers=1, filters=(), transport=None):
    """Return the listener ``out`` with a table of Envoy routes, and its HTTP filters."""
    chain = [
        *filters,
        extension("envoy.filters.http.fault", "filters.http.fault.v3.HTTPFault"),
        extension(
            "envoy.filters.http.local_ratelimit",
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="unlimited",
        ),
        extension("envoy.filters.http.router", "filters.http.router.v3.Router"),
    ]
    hosts = {"name": "all", "domains": ["*"], "routes": table}
    noted = {"inline_string": f"%REQ({NUMBER})% %RESPONSE_FLAGS%\n"}
    log = extension(
        "envoy.access_loggers.file",
        "access_loggers.file.v3.FileAccessLog",
        path=ACCESS_LOG,
        log_format={"text_format_source": noted},
    )
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=OUTBOUND,
        route_config={"virtual_hosts": [hosts]},
        access_log=[log],
        http_filters=chain,
    )
    accepted = {"filters": [manager]}
    if transport is not None:
        accepted["transport_socket"] = transport
    return {
        "name": OUTBOUND,
        "address": address("127.0.0.1", 0),
        # With one worker nobody else may bind the port beside this process.
        "enable_reuse_port": workers > 1,
        "filter_chains": [accepted],
    }
